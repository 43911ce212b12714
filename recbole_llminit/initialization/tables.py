"""Find the tables in which a model keeps a row for each user and each item."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.embedding_table import (
    EmbeddingTable,
    Exclusion,
    FoundTables,
    Side,
    SkippedParameter,
    candidate_matrices,
    linear_layers,
    model_name,
    token_slices,
)
from recbole_llminit.initialization.model_exceptions import NEVER_READ, OTHER_MEANING, find_entry
from recbole_llminit.initialization.named_tables import read_named_tables

# What the rows of a table can be, and the sides it then belongs to where no entities come into it.
_Meaning = Literal["user", "item", "entity", "both"]
_SIDES: Mapping[_Meaning, tuple[Side, ...]] = {"user": ("user",), "item": ("item",), "both": ("user", "item")}
_WORDS = {"user": "user", "item": "item", "entity": "(?<![a-z])entit(y|ies)"}
_PLURAL = {"user": "users", "item": "items", "entity": "entities", "both": "users and items together"}


def find_embedding_tables(
    model: nn.Module,
    n_users: int,
    n_items: int,
    named: Mapping[Side, Sequence[str]] | None = None,
    id_fields: Mapping[Side, str] | None = None,
) -> FoundTables:
    """Find the user and item tables of a built model: by their number of rows, or by ``named``.

    The search looks at the trainable weights of ``torch.nn.Embedding`` modules and at two-dimensional parameters that
    a module holds itself. A table belongs to the users or the items if it has a row for each of them. It belongs to
    the items as well if its name says so and it has one row more (a mask token) or a row for each entity
    (``model.n_entities``; the items come first). It belongs to both if it has ``n_users + n_items`` rows (users first)
    or is the table of all token fields of a context-aware model. Entities stand for the items where the items have no
    table of their own. 'user', 'item' and 'entity' in a name rule out the others, and a table whose name says nothing
    is skipped where the names of others say whose they are.

    Parameters
    ----------
    model : torch.nn.Module
        The model, built.
    n_users, n_items : int
        RecBole's counts, with ``[PAD]``.
    named : mapping, optional
        ``{"user": [...], "item": [...]}``, parameter names that replace the search (``init_tables``): ``name``,
        ``name.T`` where users or items are the columns, ``name[41:71]`` where they are these rows.
    id_fields : mapping, optional
        The fields of user and item ids in a table of token fields (``user_id`` and ``item_id`` if left out).

    Raises
    ------
    LLMInitError
        If there is no item table (linear layers are taken only where they are named), if a name does not exist or does
        not fit, or if the numbers of rows and the names do not tell whose a table is.
    """
    counts: dict[Side, int] = {"user": n_users, "item": n_items}
    fields = id_fields or {"user": "user_id", "item": "item_id"}
    if named:
        tables = read_named_tables(model, counts, fields, named)
        written = {table.name for table in tables}
        others = [name for name, _, is_embedding in candidate_matrices(model) if is_embedding and name not in written]
        return FoundTables(tuple(tables), dict.fromkeys(others, Exclusion.NOT_NAMED.of()))
    search = _Search(model, counts, fields)
    search.run()
    if not any(table.side == "item" for table in search.tables):
        raise LLMInitError(_nothing_found(model, counts, search.tables, search.skipped))
    return FoundTables(tuple(search.tables), search.skipped)


class _Search:
    """Sorts a model's matrices into the tables of users and items, and skipped ones with the reason."""

    def __init__(self, model: nn.Module, counts: Mapping[Side, int], fields: Mapping[Side, str]) -> None:
        self._model = model
        self._counts = counts
        self._slices = token_slices(model, fields)
        self._unnamed: list[tuple[str, nn.Parameter, list[_Meaning]]] = []
        self._entities: list[tuple[str, nn.Parameter]] = []
        self.tables: list[EmbeddingTable] = []
        self.skipped: dict[str, SkippedParameter] = {}

    def run(self) -> None:
        """Fill ``tables`` and ``skipped``."""
        for name, weight, is_embedding in candidate_matrices(self._model):
            self._sort(name, weight, is_embedding=is_embedding)
        self._sort_unnamed()
        self._sort_entities()
        for label, side in linear_layers(self._model, self._counts):
            self.skipped[label] = Exclusion.LINEAR.of(side=side)

    def _sort(self, name: str, weight: nn.Parameter, *, is_embedding: bool) -> None:
        """Decide about one matrix, or put it off until all names are known."""
        words = [word for word in ("user", "item", "entity") if re.search(_WORDS[word], name.lower())]
        meanings = _meanings(weight.shape[0], words, self._counts, getattr(self._model, "n_entities", None))
        reason = _exclusion(self._model, name, weight)
        if reason or (name not in self._slices and not meanings):
            if is_embedding:
                whose = f"not those of the {_joined(words)}" if words else "neither users nor items"
                self.skipped[name] = reason or Exclusion.OTHER_ROWS.of(rows=weight.shape[0], whose=whose)
        elif name in self._slices:
            self._place(name, weight, self._slices[name])
            if not self._slices[name]:
                self.skipped[name] = Exclusion.FEATURES.of()
        elif meanings == ["entity"]:
            self._entities.append((name, weight))
        elif words:
            self._place(name, weight, _decided(self._model, name, weight, meanings, self._counts))
        else:
            self._unnamed.append((name, weight, meanings))

    def _sort_unnamed(self) -> None:
        """Take tables whose names say nothing, unless other tables' names say whose they are."""
        names_speak = bool(self.tables or self._entities)
        for name, weight, meanings in self._unnamed:
            if names_speak:
                self.skipped[name] = Exclusion.UNNAMED.of(meanings=_joined(meanings))
            else:
                self._place(name, weight, _decided(self._model, name, weight, meanings, self._counts))

    def _sort_entities(self) -> None:
        """Take the entities for the items where the items have no table of their own."""
        items_have_a_table = any(table.side == "item" for table in self.tables)
        for name, weight in self._entities:
            if items_have_a_table:
                self.skipped[name] = Exclusion.ENTITIES.of()
            else:
                self.tables.append(EmbeddingTable(name, "item", weight, self._counts["item"]))

    def _place(self, name: str, weight: nn.Parameter, offsets: Mapping[Side, int]) -> None:
        for side, first in offsets.items():
            self.tables.append(EmbeddingTable(name, side, weight, self._counts[side], first))


def _exclusion(model: nn.Module, name: str, weight: nn.Parameter) -> SkippedParameter | None:
    """Return why a matrix is no table whatever its number of rows is, if it is none."""
    if find_entry(NEVER_READ, type(model), name):
        return Exclusion.NEVER_READ.of()
    entry = find_entry(OTHER_MEANING, type(model), name)
    if entry is not None:
        return Exclusion.OTHER_MEANING.of(meaning=OTHER_MEANING[entry])
    if not weight.requires_grad:
        return Exclusion.FROZEN.of()
    if weight.shape[1] == 1:
        return Exclusion.BIAS.of()
    return Exclusion.POSITIONS.of() if re.search(r"(?<![a-z])position", name.lower()) else None


def _meanings(rows: int, words: Sequence[str], counts: Mapping[Side, int], n_entities: int | None) -> list[_Meaning]:
    """Return what the rows of a table can be, given their number and the words in its name."""
    n_users, n_items = counts["user"], counts["item"]
    possible: dict[_Meaning, bool] = {
        "user": rows == n_users and words in ([], ["user"], ["user", "item"]),
        "item": (rows == n_items and words in ([], ["item"], ["user", "item"]))
        or (words == ["item"] and rows in (n_items + 1, n_entities)),
        "entity": rows == n_entities and words in ([], ["entity"]),
        "both": rows == n_users + n_items and words in ([], ["user", "item"]),
    }
    return [meaning for meaning, fits in possible.items() if fits]


def _decided(
    model: nn.Module, name: str, weight: nn.Parameter, meanings: Sequence[_Meaning], counts: Mapping[Side, int]
) -> dict[Side, int]:
    """Return where users and items begin in a table; raise where its rows can be more than one thing."""
    if len(meanings) > 1:
        raise LLMInitError(
            f"{model_name(model)} has the table {name} of {weight.shape[0]:,} rows, and there are as many "
            f"{' as '.join(_PLURAL[meaning] for meaning in meanings)}: name its tables, e.g. "
            f"init_tables: {{user: [...], item: [{name}]}}"
        )
    return {side: counts["user"] if (side, meanings[0]) == ("item", "both") else 0 for side in _SIDES[meanings[0]]}


def _joined(words: Sequence[str]) -> str:
    return " and ".join(_PLURAL[word] for word in words)


def _nothing_found(
    model: nn.Module,
    counts: Mapping[Side, int],
    tables: Sequence[EmbeddingTable],
    skipped: Mapping[str, SkippedParameter],
) -> str:
    """Say that a model has no item table, and what can be done about it."""
    name = model_name(model)
    linear = list(linear_layers(model, counts))
    if any(side == "item" for _, side in linear):
        sides: dict[Side, list[str]] = {"user": [table.name for table in tables], "item": []}
        for label, side in linear:
            sides[side].append(label)
        line = ", ".join(f"{side}: [{', '.join(names)}]" for side, names in sides.items() if names)
        return (
            f"{name} has no item embedding table, its items are in linear layers: to initialize those from the vectors "
            f"add init_tables: {{{line}}}, or remove init_strategy"
        )
    layers = ", ".join(
        f"{path}.weight {tuple(module.weight.shape)}"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and set(module.weight.shape) & set(counts.values())
    )
    if layers:
        return (
            f"{name} has no item embedding table, and of its linear layers {layers} it cannot be said which hold items "
            f"({counts['item']:,}; users: {counts['user']:,}): name them, e.g. init_tables: {{item: [NAME, NAME.T]}} "
            f"(.T where items are the columns), or remove init_strategy"
        )
    shapes = {label: tuple(weight.shape) for label, weight, _ in candidate_matrices(model)}
    reasons = {**{table.name: "users" for table in tables}, **{name: str(reason) for name, reason in skipped.items()}}
    others = "; ".join(f"{label} {shapes[label]}: {reason}" for label, reason in reasons.items())
    return (
        f"{name} has no trainable item embedding table ({counts['item']:,} rows; it has {others or 'none'}): "
        f"remove init_strategy, choose a model that has one, or name its tables with init_tables"
    )
