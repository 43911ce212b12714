"""Reads RecBole's checkpoints without running what they hold.

RecBole pickles its configuration beside the weights, and a pickle can call any function. Here torch reads it with
``weights_only=True``: numbers, arrays and texts become what they are; a class of RecBole's becomes a stand-in, which
has its name and its attributes, and whose code is never called; any other class is an error.
"""

from __future__ import annotations

import copyreg
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader
from recbole_llminit.integration.checkpoints.trust import how_to_trust, trusted_model_class

CHECKPOINT = "a checkpoint of RecBole's"
"""What a file is expected to be, for messages."""

_CONFIG = "recbole.config.configurator.Config"
_MODEL_PACKAGES = ("recbole.model.", "recbole_llminit.models.")
# A stand-in takes the place of these. Modules of torch's stand in other_parameter of some models of RecBole's; their
# weights are in the state_dict as well.
_STAND_IN_FOR = ("recbole.", "recbole_llminit.models.", "torch.nn.modules.", "yaml.loader.", "logging.getLogger")
_ENUMS = "recbole.utils.enum_type."


def read_restricted(path: Path, map_location: Any) -> Any:
    """Read a checkpoint as `torch.load`, with RecBole's configuration, and without running what it holds.

    Parameters
    ----------
    path : Path
        The checkpoint.
    map_location
        As in `torch.load`.

    Returns
    -------
    Any
        The content. Its ``other_parameter`` lacks whole modules, which the model's constructor makes itself.

    Raises
    ------
    LLMInitError
        If it holds a class that is neither RecBole's nor trusted, or is no checkpoint.
    """
    stand_ins = _stand_ins(path)
    with foreign_reader(path, CHECKPOINT), torch.serialization.safe_globals(stand_ins):
        content = torch.load(path, map_location=map_location, weights_only=True)
    if isinstance(content, dict):
        _restore_config(content, path)
        _restore_other_parameter(content, path)
    return content


class _StandIn:
    """Stands for an instance of a class, or the result of a function, that a checkpoint names; none of their code runs.

    Each class or function has a subclass of its own.
    """

    name: str

    def __new__(cls, *arguments: Any, **__: Any) -> _StandIn:
        if arguments and cls.name == _CONFIG:
            raise TypeError(f"{cls.name} is called with arguments, which would be evaluated")
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            vars(self).update(state)


def _stand_ins(path: Path) -> list[Any]:
    """Return what torch takes for each of the names in a checkpoint."""
    # torch's reader of weights does not know the pickle protocol in which stock RecBole saves.
    with foreign_reader(path, f"{CHECKPOINT} as this package lets it save them{how_to_trust(path)}"):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return [(_found_for(name, path), name) for name in names]


def _found_for(name: str, path: Path) -> Any:
    known = _data_classes()
    if name in known:
        return known[name]
    if name.startswith(_ENUMS):
        return getattr(importlib.import_module(_ENUMS[:-1]), name.removeprefix(_ENUMS))
    trusted = trusted_model_class()
    if (trusted is not None and name == _path_of(trusted)) or name.startswith(_STAND_IN_FOR):
        return type(name.rpartition(".")[2], (_StandIn,), {"name": name})
    raise LLMInitError(f"{path} holds {name}, which could run code when it is read{how_to_trust(path)}")


def _path_of(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


class _DtypeCode(str):
    """Stands for one of NumPy's dtypes: its code, and the order of its bytes.

    A real dtype takes over whatever flags its pickle gives it, and then reads numbers as pointers.
    """

    __slots__ = ("order",)

    def __new__(cls, code: str, *_: Any) -> _DtypeCode:
        found = str.__new__(cls, code)
        found.order = "="
        return found

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, made anew."""
        return np.dtype(str(self)).newbyteorder(self.order)


class _Array(np.ndarray[Any, Any]):
    """An array that takes its dtype from a `_DtypeCode`."""

    def __setstate__(self, state: Any) -> None:
        version, shape, code, columns_first, data = state
        np.ndarray.__setstate__(self, (version, shape, code.dtype, columns_first, data))


class _Matrix(np.matrix[Any, Any]):
    """A matrix that takes its dtype from a `_DtypeCode`."""

    __setstate__ = _Array.__setstate__


def _number(code: _DtypeCode, data: bytes) -> Any:
    return np.frombuffer(data, dtype=code.dtype)[0]


@functools.cache
def _data_classes() -> dict[str, Any]:
    """Return what takes the place of the classes and functions that make data, by name; none of it does more."""
    # NumPy 2 renamed the module; a file may come from either.
    of_numpy = ("numpy.core.multiarray", "numpy._core.multiarray")
    rebuild = np.zeros(1).__reduce__()[0]
    matrices = [getattr(scipy.sparse, f"{form}_matrix") for form in ("csr", "csc", "lil", "coo")]
    return {
        "builtins.object": object,
        "builtins.list": list,
        "copyreg._reconstructor": copyreg._reconstructor,  # type: ignore[attr-defined]
        # torch's reader fills no other kind of dictionary.
        "collections.defaultdict": lambda *_: {},
        "numpy.dtype": _DtypeCode,
        "numpy.ndarray": _Array,
        "numpy.matrix": _Matrix,
        **{f"{module}.scalar": _number for module in of_numpy},
        **{f"{module}._reconstruct": rebuild for module in of_numpy},
        **{_path_of(matrix): matrix for matrix in matrices},
        **{
            f"{module}.{name}": Path
            for module in ("pathlib", "pathlib._local")
            for name in ("PosixPath", "WindowsPath")
        },
    }


def _restore_config(content: dict[Any, Any], path: Path) -> None:
    """Replace the stand-in for RecBole's configuration by a configuration."""
    config = content.get("config")
    if isinstance(config, _StandIn) and config.name == _CONFIG:
        content["config"] = _real_config(vars(config), path)


def _restore_other_parameter(content: dict[Any, Any], path: Path) -> None:
    """Leave out whole modules, which the model makes itself, and check that sparse matrices are consistent."""
    others = content.get("other_parameter")
    if not isinstance(others, dict):
        return
    content["other_parameter"] = {key: value for key, value in others.items() if not isinstance(value, _StandIn)}
    for value in content["other_parameter"].values():
        if scipy.sparse.issparse(value):
            with foreign_reader(path, "a sparse matrix whose indices are inside it"):
                value.asformat("csr").check_format(full_check=True)


def _real_config(state: dict[str, Any], path: Path) -> Any:
    """Make RecBole's configuration from its attributes, without its constructor, which evaluates texts as Python."""
    named = state.get("model_class")
    if isinstance(named, type) and issubclass(named, _StandIn):
        state["model_class"] = _real_model_class(named.name, path)
    config = object.__new__(importlib.import_module("recbole.config").Config)
    vars(config).update({key: value for key, value in state.items() if not _is_stand_in(value)})
    config.yaml_loader = yaml.FullLoader
    return config


def _is_stand_in(value: Any) -> bool:
    return isinstance(value, _StandIn) or (isinstance(value, type) and issubclass(value, _StandIn))


def _real_model_class(name: str, path: Path) -> type:
    trusted = trusted_model_class()
    if trusted is not None and name == _path_of(trusted):
        return trusted
    module, _, class_name = name.rpartition(".")
    with foreign_reader(path, f"a model of RecBole's, which {name} is not"):
        if not module.startswith(_MODEL_PACKAGES):
            raise ValueError(f"{module} holds no models")
        found = getattr(importlib.import_module(module), class_name)
        if not isinstance(found, type) or not hasattr(found, "type"):
            raise TypeError(f"{found!r} is no model class")
    return found
