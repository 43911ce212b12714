"""Models whose tables the tests search for, and what is found in them, in short."""

from __future__ import annotations

from typing import Any

from torch import nn

from recbole_llminit.initialization.embedding_table import Exclusion, Side
from recbole_llminit.initialization.tables import find_embedding_tables

FoundTable = tuple[str, Side, tuple[int, int], int]


class Net(nn.Module):
    """Embedding tables, given as ``name=(rows, width)``."""

    def __init__(self, **tables: tuple[int, int]) -> None:
        super().__init__()
        for name, (rows, width) in tables.items():
            setattr(self, name, nn.Embedding(rows, width))


class Fields(nn.Module):
    """The token fields of a context-aware model."""

    def __init__(self) -> None:
        super().__init__()
        self.token_field_names = ["user_id", "city", "item_id"]
        self.token_field_dims = [5, 2, 7]
        self.token_embedding_table = Net(embedding=(14, 3))
        self.first_order = Net(embedding=(14, 1))


class AutoEncoder(nn.Module):
    """Items in the columns of one linear layer, with ``further`` columns, and in the rows of another."""

    def __init__(self, n_items: int = 7, further: int = 0) -> None:
        super().__init__()
        self.encoder = nn.Linear(n_items + further, 4)
        self.decoder = nn.Linear(4, n_items)


def found(model: nn.Module, n_users: int = 5, n_items: int = 7, **options: Any) -> list[FoundTable]:
    """The name, side, place and width of each table that is found."""
    tables = find_embedding_tables(model, n_users, n_items, **options).tables
    return [(table.name, table.side, (table.first, table.rows), table.width) for table in tables]


def skipped(model: nn.Module, n_users: int = 5, n_items: int = 7, **options: Any) -> dict[str, tuple[Exclusion, str]]:
    """The kind of reason of each skipped parameter, and the reason in words."""
    search = find_embedding_tables(model, n_users, n_items, **options)
    return {name: (parameter.exclusion, str(parameter)) for name, parameter in search.skipped.items()}
