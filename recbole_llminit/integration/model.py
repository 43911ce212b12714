"""How a RecBole model is initialized from LLM embeddings: a mixin, and the subclass made with it."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn

from recbole_llminit.initialization.embedding_table import FoundTables
from recbole_llminit.initialization.freeze import freeze_again_, frozen_rows
from recbole_llminit.initialization.model_exceptions import NAMED_AS_STOCK
from recbole_llminit.initialization.report import InitReport
from recbole_llminit.initialization.tables import find_embedding_tables
from recbole_llminit.integration.dataset import id_fields
from recbole_llminit.integration.init_inputs import InitInputs
from recbole_llminit.integration.model_class import resolve_model_class
from recbole_llminit.integration.options import read_tables
from recbole_llminit.integration.patches import compat


@dataclass(frozen=True)
class _Given:
    """Inputs that `build_model_from` hands to the constructor; None for a model that stays as it is."""

    inputs: InitInputs | None


# Not an argument of the constructor: a user's subclass has one of its own, with RecBole's two arguments.
_given: ContextVar[_Given | None] = ContextVar("given", default=None)


class LLMInitMixin:
    """Initializes a RecBole model from LLM embeddings after its own constructor has finished.

    Until then the model is stock: parameters and random state equal the stock model's. Where ``init_strategy`` is
    none or absent nothing follows.

    Attributes
    ----------
    init_report : InitReport or None
        What was written; None for a stock model.
    """

    stock_class: type
    init_report: InitReport | None = None

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        given = _given.get()
        inputs = InitInputs.of_config(config, dataset) if given is None else given.inputs
        if inputs is not None:
            self._llm_init_inputs = inputs
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
        """Write the LLM vectors; with a module (stock models pass it to ``apply``) do what the stock model does."""
        inputs = self.__dict__.pop("_llm_init_inputs", None)
        if module is not None:
            super()._init_weights(module)  # type: ignore[misc]
        elif inputs is None:
            # A model whose own hook takes no module calls it inside its constructor.
            super()._init_weights()  # type: ignore[misc]
        else:
            self.init_report = inputs.initialize_(self)


@functools.cache
def with_llm_init(model_class: type) -> type:
    """Return the subclass of a RecBole model class that is initialized from LLM embeddings, the same at every call."""
    if issubclass(model_class, LLMInitMixin):
        return model_class
    compat.patch_model(model_class)
    namespace = {"__module__": __name__, "__doc__": model_class.__doc__, "stock_class": model_class}
    name = model_class.__name__ if model_class.__name__ in NAMED_AS_STOCK else f"LLMInit{model_class.__name__}"
    return type(name, (LLMInitMixin, model_class), namespace)


def get_model(model: str | type) -> type:
    """Return the LLM-initialized subclass of a RecBole model's name, a dotted path or a model class."""
    return with_llm_init(resolve_model_class(model))


def build_model(config: Any, dataset: Any) -> Any:
    """Build the model of a configuration on its device, initialized as the configuration says.

    Parameters
    ----------
    config : recbole.config.Config
        Names model, device and initialization.
    dataset : recbole.data.dataset.Dataset
        The training split.
    """
    return get_model(config.model_class)(config, dataset).to(config["device"])


def build_model_from(inputs: InitInputs | None, config: Any, dataset: Any) -> Any:
    """Build the model of a configuration on its device, initialized from inputs that were read already.

    Parameters
    ----------
    inputs : InitInputs or None
        What to initialize from. None leaves the model as its own constructor made it, as for a stock run, or for a
        checkpoint that is loaded into it.
    config, dataset
        As in `build_model`.
    """
    token = _given.set(_Given(inputs))
    try:
        return build_model(config, dataset)
    finally:
        _given.reset(token)


def find_tables(model: Any, config: Any, dataset: Any) -> FoundTables:
    """Find the user and item tables of a configuration's built model, as an initialization would.

    Raises
    ------
    LLMInitError
        If there are none, or they cannot be told from others.
    """
    counts = dataset.num(dataset.uid_field), dataset.num(dataset.iid_field)
    return find_embedding_tables(model, *counts, read_tables(config), id_fields(dataset))


def _new(model_class: type, made: bool) -> Any:
    return object.__new__(with_llm_init(model_class) if made else model_class)
