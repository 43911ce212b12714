"""RecBole's configuration, strict about what RecBole would ignore."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_llminit.encode.options import check_dataset_name
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import reason
from recbole_llminit.integration.recbole_version import check_recbole_version
from recbole_llminit.processes import LAUNCH_KEYS
from recbole_llminit.settings import as_paths, parse_arguments, read_settings, read_values

check_recbole_version()

import recbole.config  # noqa: E402  after the check that it is there

from recbole_llminit import models  # noqa: E402
from recbole_llminit.integration.model_class import is_own_or_recboles, resolve_model_class  # noqa: E402
from recbole_llminit.integration.options import KEYS, PREFIXES, InitOptions  # noqa: E402
from recbole_llminit.integration.patches import compat  # noqa: E402
from recbole_llminit.integration.recbole_keys import (  # noqa: E402
    check_together,
    check_values,
    describe_given,
    nearest_key,
    readers_of,
    unknown_recbole_key,
    unlisted_keys,
)


class Config(recbole.config.Config):
    """RecBole's configuration, independent of ``sys.argv``; what RecBole would silently ignore is an error.

    Parameters
    ----------
    model : str or class, optional
        A RecBole model's name, a model class, or the dotted path of one; wins over the key ``model``.
    dataset : str, optional
        The dataset's name; wins over the key ``dataset``.
    config_file_list : sequence of path, optional
        YAML files; later ones win.
    config_dict : mapping, optional
        Wins over the files. It is not changed.
    arguments : sequence of str, optional
        Command-line arguments ``--key=value``; they win over files and dictionary.
    lenient : bool
        Whether a key that no model of RecBole's reads is accepted, as it is for a model class of the user's own.

    Raises
    ------
    LLMInitError
        If an argument is not ``--key=value``, a file is not YAML, a key is unknown, or a value is none that its key
        can have.

    Notes
    -----
    RecBole evaluates texts as Python; here they are never evaluated. A text that is a literal is read as one
    (`recbole_llminit.settings.read_value`).

    ``config["model"]`` and ``config.model_class`` are the stock model's, and a pickled configuration is a plain
    ``recbole.config.Config``: a checkpoint opens in RecBole without this package, unless the model is one of its own.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        *,
        lenient: bool = False,
    ) -> None:
        compat.apply()
        self._arguments, self._lenient = arguments, lenient
        try:
            super().__init__(model, dataset, as_paths(config_file_list or ()), copy.deepcopy(dict(config_dict or {})))
        except LLMInitError:
            raise
        except Exception as error:
            # RecBole does not check values; it raises whatever its code happens to raise over one.
            given = describe_given(self, getattr(self, "external_config_dict", ()))
            raise LLMInitError(
                f"RecBole refuses the configuration ({reason(error)}): check the values of its keys, lists as "
                f"[Recall, NDCG]{given}"
            ) from error
        del self._arguments, self._lenient
        self._init_options: InitOptions | None = InitOptions.from_config(self)
        check_together(self.final_config_dict, of_recbole=is_own_or_recboles(self.model_class))

    def __reduce__(self) -> tuple[Any, ...]:
        # A checkpoint that several processes have made opens in one.
        alone = {} if self["single_spec"] else {"single_spec": True, "local_rank": 0, **dict.fromkeys(LAUNCH_KEYS)}
        state = {**self.__dict__, "final_config_dict": {**self.final_config_dict, **alone}}
        del state["_init_options"]
        # Stock RecBole reads this without this package; of all functions that pickle can call, this one does the least.
        return copyreg._reconstructor, (recbole.config.Config, object, None), state  # type: ignore[attr-defined]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._init_options = None

    @property
    def init_options(self) -> InitOptions:
        """The ``init_*`` and ``llm_*`` keys, read once; they are read again after a key has been changed."""
        if self._init_options is None:
            self._init_options = InitOptions.from_config(self)
        return self._init_options

    def _load_config_files(self, file_list: Sequence[Path]) -> dict[str, Any]:
        return read_settings(file_list, ())

    def _load_cmd_line(self) -> dict[str, Any]:
        return self._convert_config_dict(dict(parse_arguments(self._arguments)))

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        # RecBole would evaluate the text of a value as Python. Values of this package's keys stay texts.
        return read_values(config_dict, text_prefixes=PREFIXES)

    def _get_final_config_dict(self) -> dict[str, Any]:
        self._refuse_unknown()
        check_values(self.external_config_dict, self.internal_config_dict)
        found: dict[str, Any] = super()._get_final_config_dict()
        return found

    def _refuse_unknown(self) -> None:
        """Raise for a key that nothing reads.

        A key that only other models read is an error on the command line, and none in a file, which may serve several
        models. A model class of the user's own may read any key: there, and where lenient, only a key that is nearly a
        known one is an error.
        """
        own = not is_own_or_recboles(self.model_class)
        known = self.known_keys()
        for key in self.unread_keys():
            argument = key in self.cmd_config_dict
            if own or self._lenient:
                wrong = (argument or self._lenient) and nearest_key(key, known) is not None
            else:
                wrong = argument or not readers_of(key)
            if wrong:
                raise unknown_recbole_key(key, known, self.model)

    def unread_keys(self) -> list[str]:
        """Return the keys given that nothing of RecBole or this package reads for the model."""
        given = self.external_config_dict.keys() - self.known_keys()
        # InitOptions checks these itself.
        return sorted(key for key in given if not key.replace("-", "_").lower().startswith(PREFIXES))

    def known_keys(self) -> set[str]:
        """Return the keys that RecBole, the model and this package read; a model of the user's own may read others."""
        listed = {key for keys in self.parameters.values() for key in keys}
        unlisted = unlisted_keys(self.model, self.external_config_dict.get("transform"))
        # RecBole lists config_file among its keys, but reads it nowhere.
        known = {*KEYS, *self.internal_config_dict, *listed, *unlisted} - {"config_file"}
        return known | {"model", "dataset", "config_files", "resume", "drop_train", *LAUNCH_KEYS, "local_rank"}

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        if model_class is getattr(models, model, None):
            self._update_internal_config_dict(Path(__file__).parents[1] / "properties" / "model" / f"{model}.yaml")

    def _get_model_and_dataset(self, model: str | type | None, dataset: str | None) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        if model is None or dataset is None:
            missing = "model" if model is None else "dataset"
            raise LLMInitError(
                f"no {missing} is given: pass {missing}, set it in a YAML file, or give --{missing}=NAME"
            )
        check_dataset_name(dataset)
        found: tuple[str, type, str] = super()._get_model_and_dataset(resolve_model_class(model), dataset)
        return found
