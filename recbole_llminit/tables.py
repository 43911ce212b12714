"""Where a model keeps its user and item embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from recbole_llminit.errors import LLMInitError

Side = Literal["user", "item"]


@dataclass(frozen=True)
class EmbeddingTable:
    """A trainable table with one row per user or per item.

    Parameters
    ----------
    name : str
        The parameter's name in the model's ``state_dict``.
    side : {"user", "item"}
        What its rows stand for.
    weight : torch.nn.Parameter
        The parameter itself, shape ``[>= rows, width]``.
    rows : int
        Its first ``rows`` rows are the users or items by RecBole's id.
    """

    name: str
    side: Side
    weight: nn.Parameter
    rows: int

    @property
    def width(self) -> int:
        """The number of columns."""
        return int(self.weight.shape[1])


def find_embedding_tables(
    model: nn.Module, n_users: int, n_items: int, named: Mapping[Side, Sequence[str]] | None = None
) -> list[EmbeddingTable]:
    """Find the user and item tables of a built model: by their number of rows, or by ``named``.

    A table of one column (a bias), one whose name says ``position``, and one whose name says the other side alone
    (NNCF's ``user_neigh_embedding`` has a row per item) are left out: their rows mean something else.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its trainable ``torch.nn.Embedding`` modules are looked at.
    n_users, n_items : int
        RecBole's counts, with ``[PAD]``.
    named : mapping, optional
        ``{"user": [...], "item": [...]}``, parameter names that replace the search (``init_tables``).

    Raises
    ------
    LLMInitError
        If there is no item table, a name does not exist or has too few rows, or ``n_users == n_items`` and the
        parameter's name does not tell which it is.
    """
    counts: dict[Side, int] = {"user": n_users, "item": n_items}
    if named:
        return _named_tables(model, counts, named)
    tables = []
    for name, weight in trainable_embeddings(model).items():
        sides = [side for side, count in counts.items() if weight.shape[0] == count]
        said = [side for side in counts if side in name.lower()]
        if not sides or weight.shape[1] == 1 or "position" in name.lower():
            continue
        if len(said) == 1:
            sides = [side for side in sides if side in said]
        if len(sides) == 2:
            raise LLMInitError(
                f"{model_name(model)} has the table {name} of {n_users:,} rows, and the dataset has as many "
                f"users as items: name its tables, e.g. init_tables: {{user: [...], item: [{name}]}}"
            )
        tables += [EmbeddingTable(name, side, weight, counts[side]) for side in sides]
    if not any(table.side == "item" for table in tables):
        others = ", ".join(f"{name} {tuple(weight.shape)}" for name, weight in trainable_embeddings(model).items())
        raise LLMInitError(
            f"{model_name(model)} has no trainable item embedding table ({n_items:,} rows; it has {others or 'none'}): "
            f"remove init_strategy, choose a model that has one, or name its tables with init_tables"
        )
    return tables


def model_name(model: nn.Module) -> str:
    """Return the name of the user's model, whatever the subclass made of it is called."""
    return str(getattr(model, "stock_class", type(model)).__name__)


def trainable_embeddings(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of the model's trainable embedding modules by parameter name, each parameter once."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        name: weight for name, weight in model.named_parameters() if id(weight) in embeddings and weight.requires_grad
    }


def _named_tables(
    model: nn.Module, counts: Mapping[Side, int], named: Mapping[Side, Sequence[str]]
) -> list[EmbeddingTable]:
    parameters = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    tables = []
    for side, names in named.items():
        for name in names:
            weight = parameters.get(name)
            if weight is None:
                raise LLMInitError(
                    f"init_tables names {name!r}, which {model_name(model)} does not have: "
                    f"expected one of {', '.join(parameters) or 'none (it has no table)'}"
                )
            if weight.shape[0] < counts[side]:
                raise LLMInitError(
                    f"init_tables names {name!r} as a table of {side}s, but it has {weight.shape[0]:,} rows for "
                    f"{counts[side]:,} {side}s: expected a row for each"
                )
            tables.append(EmbeddingTable(name, side, weight, counts[side]))
    return tables
