"""The parts of a model's parameters that hold a row per user or per item, and why other parameters are skipped."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from recbole_llminit.initialization.model_exceptions import FURTHER_COLUMNS

Side = Literal["user", "item"]


class Exclusion(enum.Enum):
    """Why a parameter is skipped; the value is the text of the reason."""

    OTHER_MEANING = "{meaning}"
    NEVER_READ = "RecBole makes it, and the model never reads it"
    FROZEN = "frozen by the model"
    BIAS = "one number a row"
    POSITIONS = "positions"
    FEATURES = "features, no ids"
    OTHER_ROWS = "{rows:,} rows, {whose}"
    UNNAMED = "as many rows as {meanings}, but other tables' names say whose they are"
    ENTITIES = "entities, beside the items' own table"
    LINEAR = "a linear layer as long as there are {side}s, not named in init_tables"
    NOT_NAMED = "not named in init_tables"
    KEPT = "init_user is none"

    def of(self, **details: Any) -> SkippedParameter:
        """Make the entry of a skipped parameter; ``details`` fill the text's placeholders."""
        return SkippedParameter(self, self.value.format(**details))


@dataclass(frozen=True)
class SkippedParameter:
    """A parameter that an initialization does not write.

    Parameters
    ----------
    exclusion : Exclusion
        The kind of reason.
    reason : str
        The reason in words.
    """

    exclusion: Exclusion
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class EmbeddingTable:
    """The part of a trainable matrix that has one row (or column) per user or per item.

    Parameters
    ----------
    name : str
        The parameter's name in the model's ``state_dict``.
    side : {"user", "item"}
        Whether its rows are users or items.
    weight : torch.nn.Parameter
        The whole parameter, two-dimensional.
    rows : int
        The number of users or items.
    first : int
        The first of their rows: row ``first + i`` is RecBole's id ``i``.
    columns : bool
        Whether the users or items are columns instead of rows, as in the first layer of an autoencoder.
    """

    name: str
    side: Side
    weight: nn.Parameter
    rows: int
    first: int = 0
    columns: bool = False

    @property
    def values(self) -> Tensor:
        """A view of the weight, without gradient, shape ``[rows, width]``."""
        return view(self.weight, self.first, self.rows, columns=self.columns)

    @property
    def label(self) -> str:
        """The part of the parameter, written as in Python: ``name``, ``name.T`` or ``name[41:71]``."""
        name = f"{self.name}.T" if self.columns else self.name
        whole = self.weight.shape[1 if self.columns else 0]
        return name if self.rows == whole else f"{name}[{self.first}:{self.first + self.rows}]"

    @property
    def width(self) -> int:
        """The number of values per user or item."""
        return int(self.weight.shape[0 if self.columns else 1])


@dataclass(frozen=True)
class FoundTables:
    """The tables of a model that an initialization writes, and the parameters that it skips.

    Parameters
    ----------
    tables : tuple of EmbeddingTable
        The tables of users and items.
    skipped : mapping of str to SkippedParameter
        The other tables by name, each with the reason.
    """

    tables: tuple[EmbeddingTable, ...]
    skipped: Mapping[str, SkippedParameter]


def view(weight: Tensor, first: int, rows: int, *, columns: bool) -> Tensor:
    """Return ``rows`` rows (or columns) of a matrix as a view without gradient, shape ``[rows, width]``."""
    whole = weight.detach()
    return (whole.T if columns else whole)[first : first + rows]


def model_name(model: nn.Module) -> str:
    """Return the name of the model's own class, not that of the subclass made of it."""
    return str(getattr(model, "stock_class", type(model)).__name__)


def candidate_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield the matrices that may be tables, and whether each is the weight of an embedding module.

    The others are two-dimensional parameters that a module holds itself; weights of layers are not among them.
    """
    of_embedding = (nn.Embedding, nn.EmbeddingBag)
    own: dict[int, bool] = {}
    for module in model.modules():
        base = next(entry for entry in type(module).__mro__ if entry.__module__.startswith("torch.nn."))
        if base in (*of_embedding, nn.Module, nn.ParameterList, nn.ParameterDict):
            own.update((id(parameter), base in of_embedding) for parameter in module.parameters(recurse=False))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and id(parameter) in own:
            yield name, parameter, own[id(parameter)]


def token_slices(model: nn.Module, fields: Mapping[Side, str]) -> dict[str, dict[Side, int]]:
    """Return where users and items begin in the tables of all token fields, by parameter name.

    Source: ``ContextRecommender`` (``recbole/model/abstract_recommender.py``), ``ContextSeqEmbAbstractLayer``
    (``recbole/model/layers.py``), ``FieldAwareFactorizationMachine`` (``context_aware_recommender/ffm.py``).
    """
    found: dict[str, dict[Side, int]] = {}
    for path, module in model.named_modules():
        names: Any = getattr(module, "token_field_names", None) or getattr(module, "token_feature_names", None)
        sizes: Any = getattr(module, "token_field_dims", None) or getattr(module, "token_feature_dims", None)
        if not names or not sizes:
            continue
        groups = (
            {f"{key}.": (names[key], sizes[key]) for key in names} if isinstance(names, dict) else {"": (names, sizes)}
        )
        for group, (of_group, sizes_of_group) in groups.items():
            offsets = {field: sum(sizes_of_group[:index]) for index, field in enumerate(of_group)}
            slices: dict[Side, int] = {side: offsets[field] for side, field in fields.items() if field in offsets}
            pattern = re.compile(
                re.escape(f"{path}." if path else "") + r"token_embedding(s|_table)\." + re.escape(group)
            )
            for name, weight in model.named_parameters():
                if pattern.match(name) and weight.shape[0] == sum(sizes_of_group):
                    found[name] = slices
    return found


def linear_layers(model: nn.Module, counts: Mapping[Side, int]) -> Iterator[tuple[str, Side]]:
    """Yield the linear layers with a row or a column for each user or item, as ``init_tables`` names them.

    A layer that fits in more than one way is not among them: with as many users as items, or as hidden units.
    """
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not module.weight.requires_grad:
            continue
        sizes = {f"{path}.weight": module.out_features, f"{path}.weight.T": module.in_features}
        fitting = [(label, side) for label, size in sizes.items() for side, count in counts.items() if size == count]
        if len(fitting) == 1:
            yield fitting[0]
        elif (model_name(model), path) in FURTHER_COLUMNS:
            yield f"{path}.weight.T", "item"
