"""How a RecBole model gains the LLM start: a mixin, and the subclass made with it."""

from __future__ import annotations

import functools
from logging import getLogger
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.config import InitOptions, resolve_model_class
from recbole_llminit.initializer import InitReport, initialize_embeddings_
from recbole_llminit.store import read_embeddings


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
        self._llm_init_inputs = (config, dataset)
        self._init_weights()

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
    return type(f"LLMInit{model_class.__name__}", (LLMInitMixin, model_class), namespace)


def get_model(model: str | type) -> type:
    """Return the LLM-initialised subclass of a RecBole model's name, a dotted path or a model class."""
    return with_llm_init(resolve_model_class(model))


def training_interactions(dataset: Any, label_field: str | None) -> csr_matrix:
    """Return the training interactions of a RecBole dataset, 0 or 1, shape ``[n_users, n_items]``.

    Parameters
    ----------
    dataset : recbole.data.dataset.Dataset
        The training split. A sequential dataset's first items, which its augmentation drops, are restored
        (``SequentialDataset.inter_matrix``).
    label_field : str or None
        Where the dataset has this field, rows with label 0 do not count. A pair counts once, however often it stands.
    """
    labelled = label_field is not None and label_field in dataset.inter_feat
    found = dataset.inter_matrix(form="coo", value_field=label_field if labelled else None)
    positive = np.asarray(found.data) > 0
    rows, columns = np.asarray(found.row)[positive], np.asarray(found.col)[positive]
    matrix = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=found.shape)
    matrix.data[:] = 1.0
    return matrix


def _initialize(model: LLMInitMixin, config: Any, dataset: Any) -> InitReport | None:
    options = InitOptions.from_config(config)
    if options.strategy is None:
        return None
    embeddings = read_embeddings(options.locate_embedding(config["dataset"]))
    report = initialize_embeddings_(
        model,  # type: ignore[arg-type]
        embeddings.align(dataset.field2id_token[dataset.iid_field], config["dataset"]),
        training_interactions(dataset, config["LABEL_FIELD"]),
        options.strategy,
        seed=config["seed"],
        scale=options.scale,
        user=options.user,
        missing=options.missing,
        tables=options.tables,
    )
    logger = getLogger()
    logger.info(f"\n{report}")
    for warning in report.warnings:
        logger.warning(warning)
    return report
