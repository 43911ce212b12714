"""How a RecBole model gains the LLM start: a mixin, and the subclass made with it."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.initialization.freeze import freeze_again_, frozen_rows
from recbole_llminit.initialization.initializer import InitReport, initialize_embeddings_
from recbole_llminit.initialization.tables import FoundTables, Side, find_embedding_tables
from recbole_llminit.integration.model_class import resolve_model_class
from recbole_llminit.integration.options import KEYS, InitOptions, read_tables
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, no_vectors
from recbole_llminit.vectors.readers import read_embeddings

# Not an argument of the constructor: a user's subclass has one of its own, with RecBole's two arguments.
_writing: ContextVar[bool] = ContextVar("writing", default=True)


class LLMInitMixin:
    """Writes the LLM start into a RecBole model after its own constructor has finished.

    Until then the model is stock: parameters and random state equal the stock model's. Where ``init_strategy`` is
    none or absent nothing follows.

    Attributes
    ----------
    init_report : InitReport or None
        What was written; None for a stock start.
    """

    stock_class: type
    init_report: InitReport | None = None

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        if _writing.get():
            self._llm_init_inputs = (config, dataset)
            self._init_weights()

    def __reduce__(self) -> tuple[Any, ...]:
        # The class made by with_llm_init is no attribute of a module, by which pickle would find it.
        made = type(self) is with_llm_init(self.stock_class)
        # object has the method from Python 3.11 on; a model of the user's own may have one.
        state: Any = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        state = {**state, "frozen_rows": frozen_rows(self)}  # type: ignore[arg-type]
        return _new, (self.stock_class if made else type(self), made), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        frozen = state.pop("frozen_rows")
        super().__setstate__(state)  # type: ignore[misc]
        freeze_again_(self, frozen)  # type: ignore[arg-type]

    def other_parameter(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the weights: the stock model's, and which rows are frozen."""
        parameters: dict[str, Any] = super().other_parameter()  # type: ignore[misc]
        frozen = frozen_rows(self)  # type: ignore[arg-type]
        return {**parameters, "frozen_rows": frozen} if frozen else parameters

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Take what `other_parameter` returned: rows that were frozen when a checkpoint was saved are so again."""
        parameters = dict(para or {})
        freeze_again_(self, parameters.pop("frozen_rows", {}))  # type: ignore[arg-type]
        super().load_other_parameter(parameters)  # type: ignore[misc]

    def _init_weights(self, module: nn.Module | None = None) -> None:
        """Write the LLM start; with a module (stock models pass it to ``apply``) do what the stock model does."""
        inputs = self.__dict__.pop("_llm_init_inputs", None)
        if module is not None:
            super()._init_weights(module)  # type: ignore[misc]
        elif inputs is None:
            # A model whose own hook takes no module calls it inside its constructor.
            super()._init_weights()  # type: ignore[misc]
        else:
            self.init_report = _initialize(self, *inputs)


@functools.cache
def with_llm_init(model_class: type) -> type:
    """Return the subclass of a RecBole model class that starts from LLM embeddings; the same one at every call."""
    if issubclass(model_class, LLMInitMixin):
        return model_class
    namespace = {"__module__": __name__, "__doc__": model_class.__doc__, "stock_class": model_class}
    # RecBole's get_flops knows Pop by the name of its class.
    name = "Pop" if model_class.__name__ == "Pop" else f"LLMInit{model_class.__name__}"
    return type(name, (LLMInitMixin, model_class), namespace)


def get_model(model: str | type) -> type:
    """Return the LLM-initialised subclass of a RecBole model's name, a dotted path or a model class."""
    return with_llm_init(resolve_model_class(model))


def build_model(config: Any, dataset: Any, *, write: bool = True) -> Any:
    """Build the LLM-initialised model of a configuration on its device.

    Parameters
    ----------
    config : recbole.config.Config
        Names model, device and start.
    dataset : recbole.data.dataset.Dataset
        The training split.
    write : bool
        False leaves the model as its own constructor made it, for a checkpoint to be loaded into it: no vectors are
        needed.
    """
    token = _writing.set(write)
    try:
        return get_model(config.model_class)(config, dataset).to(config["device"])
    finally:
        _writing.reset(token)


def training_interactions(dataset: Any, config: Any) -> csr_matrix:
    """Return the training interactions of a RecBole dataset, 0 or 1, shape ``[n_users, n_items]``.

    Parameters
    ----------
    dataset : recbole.data.dataset.Dataset
        The training split. A sequential dataset's first items, which its augmentation drops, are restored
        (``SequentialDataset.inter_matrix``); so are the histories of sequences that come split in files of their own
        (``benchmark_filename``), whose items may have no row.
    config : recbole.config.Config
        Where the dataset has the field ``LABEL_FIELD``, rows with label 0 do not count.

    Notes
    -----
    A pair of user and item counts once, however often it stands.
    """
    label = config["LABEL_FIELD"] if config["LABEL_FIELD"] in dataset.inter_feat else None
    found = dataset.inter_matrix(form="coo", value_field=label)
    positive = np.asarray(found.data) > 0
    rows, columns = np.asarray(found.row)[positive], np.asarray(found.col)[positive]
    histories = f"{dataset.iid_field}{config['LIST_SUFFIX']}"
    if config["benchmark_filename"] is not None and histories in dataset.inter_feat:
        items = dataset.inter_feat[histories].numpy()
        users = np.repeat(dataset.inter_feat[dataset.uid_field].numpy(), items.shape[1])
        known = items.ravel() > 0
        rows, columns = np.concatenate([rows, users[known]]), np.concatenate([columns, items.ravel()[known]])
    matrix = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=found.shape)
    matrix.data[:] = 1.0
    return matrix


def id_fields(dataset: Any) -> dict[Side, str]:
    """Return the fields of a RecBole dataset that hold the user and the item ids."""
    return {"user": dataset.uid_field, "item": dataset.iid_field}


def find_tables(model: Any, config: Any, dataset: Any) -> FoundTables:
    """Find the user and item tables of a configuration's built model, as an initialisation would.

    Raises
    ------
    LLMInitError
        If there are none, or they cannot be told from others.
    """
    fields = id_fields(dataset)
    counts = dataset.num(dataset.uid_field), dataset.num(dataset.iid_field)
    return find_embedding_tables(model, *counts, read_tables(config), fields)


def read_vectors(options: InitOptions, config: Any, dataset: Any) -> AlignedEmbeddings:
    """Open the vectors that a start reads, aligned with the dataset's items.

    Raises
    ------
    LLMInitError
        If they are not there, cannot be made, or are not those of these items.
    """
    tokens = dataset.field2id_token[dataset.iid_field]
    if not options.wants_embedding:
        return no_vectors(tokens)
    return read_embeddings(options.provide_embedding(), dataset.iid_field).align(tokens, config["dataset"])


def model_sizes(config: Any) -> dict[str, int | list[int]]:
    """Return the keys of a configuration that RecBole does not know as its own, and that hold sizes."""
    own = {key for keys in config.parameters.values() for key in keys}
    values = {key: value for key, value in config.final_config_dict.items() if key not in own}
    return {
        key: value
        for key, value in values.items()
        if type(value) is int or (isinstance(value, list) and value and all(type(size) is int for size in value))
    }


def _align_users(path: Path, config: Any, dataset: Any) -> AlignedEmbeddings:
    tokens = dataset.field2id_token[dataset.uid_field]
    return read_embeddings(path, dataset.uid_field).align(tokens, config["dataset"], "user")


def _new(model_class: type, made: bool) -> Any:
    return object.__new__(with_llm_init(model_class) if made else model_class)


def _initialize(model: LLMInitMixin, config: Any, dataset: Any) -> InitReport | None:
    options = InitOptions.from_config(config)
    logger = getLogger()
    if options.strategy is None:
        keys = [key for key in KEYS if config[key] is not None]
        if "init_strategy" not in config and keys:
            logger.warning(f"{keys[0]} is set, but init_strategy is not: the model starts as in stock RecBole")
        return None
    report = initialize_embeddings_(
        model,  # type: ignore[arg-type]
        read_vectors(options, config, dataset),
        training_interactions(dataset, config),
        options.strategy,
        seed=config["seed"],
        scale=options.scale,
        user=_align_users(options.user, config, dataset) if isinstance(options.user, Path) else options.user,
        missing=options.missing,
        trainable=options.trainable,
        shuffle=options.shuffle,
        tables=options.tables,
        id_fields=id_fields(dataset),
        sizes=model_sizes(config),
    )
    logger.info(f"\n{report}")
    for warning in report.warnings:
        logger.warning(warning)
    return report
