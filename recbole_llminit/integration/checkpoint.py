"""RecBole's checkpoints: written whole, checked for damage, and read without running what they hold.

RecBole pickles its configuration beside the weights, and a pickle can call any function. Here torch reads it with
``weights_only=True``: numbers, arrays and texts become what they are, a class of RecBole's a name that nothing can
call, and any other class is an error. Where the user says that they trust a file, it is unpickled as a whole.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.sparse
import torch
import yaml

from recbole_llminit.encode.options import check_dataset_name
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, reason, require_file, whole_file
from recbole_llminit.vectors.embeddings import examples

_WHAT = "a checkpoint of RecBole's"
_CONFIG = "recbole.config.configurator.Config"
# A module of RecBole's in other_parameter holds these; its weights stand in the state_dict as well.
_MODELS = ("recbole.model.", "recbole_llminit.models.")
_NAMED_ONLY = ("recbole.", "recbole_llminit.models.", "torch.nn.modules.", "yaml.loader.", "logging.getLogger")
_ENUMS = "recbole.utils.enum_type."
_KEYS = {"model": str, "dataset": str, "data_path": str, "seed": int, "device": torch.device, "topk": list}


@dataclass(frozen=True)
class _Trust:
    """What the user trusts: every pickle that is read, or a model class of their own."""

    pickles: bool = False
    model_class: type | None = None


_trust: ContextVar[_Trust] = ContextVar("trust", default=_Trust())  # noqa: B039  it is frozen
# What this process, or one of its run, has written: by path, the file as it was then.
_own: dict[str, tuple[int, int, int]] = {}


@contextlib.contextmanager
def trusting(pickles: bool, model_class: type | None = None) -> Iterator[None]:
    """Say what is trusted inside: where ``pickles``, files are read whole; a checkpoint may name ``model_class``."""
    token = _trust.set(_Trust(pickles, model_class))
    try:
        yield
    finally:
        _trust.reset(token)


def save(content: Any, path: str | Path, **_: Any) -> None:
    """Write a checkpoint as `torch.save`; the file appears whole or not at all, and what was there stays until then.

    The pickle is of protocol 2, torch's default, whatever RecBole asks for: torch's reader of weights knows no other.

    Raises
    ------
    LLMInitError
        If it cannot be written, as on a full disk.
    """
    path = Path(path)
    try:
        with whole_file(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:
        # torch says of a full disk that a position is unexpected.
        raise LLMInitError(
            f"the checkpoint {path} cannot be written ({reason(error)}): make room or choose another checkpoint_dir; "
            f"what was saved there before is still whole"
        ) from error
    adopt(path)


def require_writable(folder: str | Path) -> None:
    """Raise `LLMInitError` where no checkpoint could be saved, before anything is trained."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise LLMInitError(
            f"checkpoint_dir is {folder}, and nothing can be written there ({reason(error)}): choose another folder"
        ) from error


def adopt(path: str | Path) -> None:
    """Take a file for this run's own, which is read whole until somebody else writes it."""
    _own[os.path.realpath(path)] = _state_of(path)


def _is_trusted(path: Path) -> bool:
    return _trust.get().pickles or _own.get(os.path.realpath(path)) == _state_of(path)


def _state_of(path: str | Path) -> tuple[int, int, int]:
    state = Path(path).stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


@contextlib.contextmanager
def reserved_name(path: str | Path) -> Iterator[Path]:
    """Give a name that no other run takes meanwhile: the one asked for, with a number added where it is taken.

    Two runs that start in the same second would otherwise write one file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        mark = candidate.with_name(f".{candidate.name}.reserved")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            # Another run may have saved and given the name back in between.
            if not (candidate.exists() or candidate.with_suffix(".json").exists()):
                break
            mark.unlink()
        number += 1
    try:
        yield candidate
    finally:
        mark.unlink(missing_ok=True)


def load(path: str | Path, map_location: Any = None, **_: Any) -> Any:
    """Read a checkpoint in the place of `torch.load`, in RecBole's modules: what this run wrote itself is read whole.

    Raises
    ------
    LLMInitError
        As `read_checkpoint`.
    """
    return _read(Path(path), map_location)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of RecBole's trainer onto the CPU, with its configuration; see `trusting`.

    Raises
    ------
    LLMInitError
        If there is none, it is damaged, it is no checkpoint of RecBole's, or it holds a class that is neither RecBole's
        nor trusted.
    """
    path = Path(path)
    checkpoint = _read(path, "cpu")
    _refuse_other_content(checkpoint, path)
    return cast("dict[str, Any]", checkpoint)


def _read(path: Path, map_location: Any) -> Any:
    require_file(path, _WHAT)
    _refuse_damage(path)
    if _is_trusted(path):
        return _read_whole(path, map_location)
    stand_ins = _stand_ins(path)
    with foreign_reader(path, _WHAT), torch.serialization.safe_globals(stand_ins):
        content = torch.load(path, map_location=map_location, weights_only=True)
    return _with_real_classes(content, path)


def _read_whole(path: Path, map_location: Any) -> Any:
    try:
        with foreign_reader(path, _WHAT):
            return torch.load(path, map_location=map_location, weights_only=False)
    except LLMInitError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise LLMInitError(
                f"{path} was trained with a class of the module {error.__cause__.name!r}, which is not on the Python "
                f"path: run this where that module is"
            ) from error
        raise


def _refuse_damage(path: Path) -> None:
    """Raise where a byte is not as it was written: torch writes checksums, and does not look at them itself."""
    with foreign_reader(path, f"{_WHAT}, which it is not, or it is damaged: take another copy of it"):
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            broken = packed[0] if packed else archive.testzip()
        if broken is not None:
            raise LLMInitError(f"{path} is damaged ({broken} is not as it was written): take another copy of it")


class _Named:
    """What stands for a class or function of a checkpoint: a name, which nothing can call into."""

    name: str

    def __new__(cls, *arguments: Any, **__: Any) -> _Named:
        if arguments and cls.name == _CONFIG:
            raise TypeError(f"{cls.name} is called with arguments, which would be evaluated")
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            vars(self).update(state)


def _stand_ins(path: Path) -> list[Any]:
    """Return what torch may take for the names in a checkpoint."""
    # RecBole alone saves in a pickle protocol that torch's reader of weights does not know.
    with foreign_reader(path, f"{_WHAT} as this package lets it save them{_how_to_trust(path)}"):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return [(_stand_in(name, path), name) for name in names]


def _stand_in(name: str, path: Path) -> Any:
    known = _data_classes()
    if name in known:
        return known[name]
    if name.startswith(_ENUMS):
        return getattr(importlib.import_module(_ENUMS[:-1]), name.removeprefix(_ENUMS))
    trusted = _trust.get().model_class
    if (trusted is not None and name == _path_of(trusted)) or name.startswith(_NAMED_ONLY):
        return type(name.rpartition(".")[2], (_Named,), {"name": name})
    raise LLMInitError(f"{path} holds {name}, which could run code when it is read{_how_to_trust(path)}")


def _how_to_trust(path: Path) -> str:
    return (
        f": if you trust whoever made {path.name}, say so with --trust-pickles (in Python trust_pickles=True), "
        f"and it is read whole"
    )


class _TypeCode(str):
    """What stands for one of NumPy's types: its code, and the order of its bytes.

    A type of NumPy's takes over whatever flags its pickle gives it, and then reads numbers as pointers.
    """

    __slots__ = ("order",)

    def __new__(cls, code: str, *_: Any) -> _TypeCode:
        found = str.__new__(cls, code)
        found.order = "="
        return found

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type, made anew."""
        return np.dtype(str(self)).newbyteorder(self.order)


class _Array(np.ndarray[Any, Any]):
    """An array that takes its type from a `_TypeCode`."""

    def __setstate__(self, state: Any) -> None:
        version, shape, code, columns_first, data = state
        np.ndarray.__setstate__(self, (version, shape, code.dtype, columns_first, data))


class _Matrix(np.matrix[Any, Any]):
    """A matrix that does."""

    __setstate__ = _Array.__setstate__


def _number(code: _TypeCode, data: bytes) -> Any:
    return np.frombuffer(data, dtype=code.dtype)[0]


@functools.cache
def _data_classes() -> dict[str, Any]:
    """Return what a checkpoint's data are made of, by name: nothing that does more than hold them."""
    # NumPy 2 renamed the module, and a file may be of either.
    of_numpy = ("numpy.core.multiarray", "numpy._core.multiarray")
    rebuild = np.zeros(1).__reduce__()[0]
    matrices = [getattr(scipy.sparse, f"{form}_matrix") for form in ("csr", "csc", "lil", "coo")]
    return {
        "builtins.object": object,
        "builtins.list": list,
        "copyreg._reconstructor": copyreg._reconstructor,  # type: ignore[attr-defined]
        # torch's reader fills no other dictionary.
        "collections.defaultdict": lambda *_: {},
        "numpy.dtype": _TypeCode,
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


def _path_of(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _with_real_classes(content: Any, path: Path) -> Any:
    """Give a checkpoint its configuration back, and leave out modules, which the model has made itself."""
    if not isinstance(content, dict):
        return content
    config, others = content.get("config"), content.get("other_parameter")
    if isinstance(config, _Named) and config.name == _CONFIG:
        content["config"] = _real_config(vars(config), path)
    if isinstance(others, dict):
        content["other_parameter"] = {key: value for key, value in others.items() if not isinstance(value, _Named)}
        for value in content["other_parameter"].values():
            if scipy.sparse.issparse(value):
                with foreign_reader(path, "a sparse matrix whose indices are inside it"):
                    value.asformat("csr").check_format(full_check=True)
    return content


def _real_config(state: dict[str, Any], path: Path) -> Any:
    """Make RecBole's configuration of its attributes, without its constructor, which evaluates texts as Python."""
    named = state.get("model_class")
    if isinstance(named, type) and issubclass(named, _Named):
        state["model_class"] = _model_of(named.name, path)
    config = object.__new__(importlib.import_module("recbole.config").Config)
    vars(config).update({key: value for key, value in state.items() if not _is_named(value)})
    config.yaml_loader = yaml.FullLoader
    return config


def _is_named(value: Any) -> bool:
    return isinstance(value, _Named) or (isinstance(value, type) and issubclass(value, _Named))


def _model_of(name: str, path: Path) -> type:
    trusted = _trust.get().model_class
    if trusted is not None and name == _path_of(trusted):
        return trusted
    module, _, class_name = name.rpartition(".")
    with foreign_reader(path, f"a model of RecBole's, which {name} is not"):
        if not module.startswith(_MODELS):
            raise ValueError(f"{module} holds no models")
        found = getattr(importlib.import_module(module), class_name)
        if not isinstance(found, type) or not hasattr(found, "type"):
            raise TypeError(f"{found!r} is no model class")
    return found


def _refuse_other_content(checkpoint: Any, path: Path) -> None:
    """Raise where a checkpoint is not what RecBole's trainer saves, or its weights are not numbers."""
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "epoch"} <= checkpoint.keys():
        raise LLMInitError(f"{path} is no checkpoint of RecBole's trainer: expected config, state_dict and epoch in it")
    config, weights = checkpoint["config"], checkpoint["state_dict"]
    settings = vars(config).get("final_config_dict") if hasattr(config, "__dict__") else None
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), kind) for key, kind in _KEYS.items()):
        raise LLMInitError(f"{path} holds a {type(config).__name__} as its config: expected RecBole's configuration")
    if settings["model"] != getattr(vars(config).get("model_class"), "__name__", None):
        raise LLMInitError(
            f"{path} says it is of {settings['model']}, and names another class: take another checkpoint"
        )
    check_dataset_name(settings["dataset"])
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise LLMInitError(f"{path} has no weights in its state_dict: expected tensors by name")
    other = [name for name, value in weights.items() if value.layout != torch.strided or value.is_meta]
    if other:
        raise LLMInitError(f"{path} has sparse weights or none in {examples(other)}: expected a dense tensor each")
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise LLMInitError(
            f"{path} has NaN or infinite numbers in {examples(broken)}: expected the weights of a trained model, take "
            f"another checkpoint"
        )


def unpickle(file: Any) -> Any:
    """Read a dataset or data loaders that RecBole has saved, in the place of `pickle.load`.

    Raises
    ------
    LLMInitError
        If the user has not said that they trust such files, and this run has not written it.
    """
    path = Path(file.name)
    if not _is_trusted(path):
        raise LLMInitError(f"{path} is a pickle, which could run code when it is read{_how_to_trust(path)}")
    with foreign_reader(path, "what RecBole saved with save_dataset or save_dataloaders"):
        return pickle.load(file)  # noqa: S301  the user trusts it


def pickle_into(content: Any, file: Any) -> None:
    """Write a dataset or data loaders as RecBole does, in the place of `pickle.dump`; this run may read them again."""
    pickle.dump(content, file)
    file.flush()
    adopt(file.name)
