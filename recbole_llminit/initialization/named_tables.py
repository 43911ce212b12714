"""The tables that ``init_tables`` names: ``name``, ``name.T`` where users or items are columns, ``name[41:71]``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.embedding_table import EmbeddingTable, Exclusion, Side, model_name, token_slices
from recbole_llminit.initialization.model_exceptions import FURTHER_COLUMNS, NEVER_READ, find_entry
from recbole_llminit.suggest import suggest


class _Label(NamedTuple):
    """An entry of ``init_tables``, parsed."""

    text: str
    name: str
    columns: bool = False
    span: tuple[int, int] | None = None


def read_named_tables(
    model: nn.Module, counts: Mapping[Side, int], fields: Mapping[Side, str], named: Mapping[Side, Sequence[str]]
) -> list[EmbeddingTable]:
    """Return the tables that ``init_tables`` names.

    Parameters
    ----------
    model : torch.nn.Module
        The model, built.
    counts : mapping
        The numbers of users and items, with ``[PAD]``.
    fields : mapping
        The fields of user and item ids in a table of token fields.
    named : mapping
        ``{"user": [...], "item": [...]}``.

    Raises
    ------
    LLMInitError
        If a parameter does not exist or is never read, its rows or columns are not those of the side, or two entries
        overlap.
    """
    # A weight that two modules share has two names.
    every = model.named_parameters(remove_duplicate=False)
    parameters = {name: weight for name, weight in every if weight.dim() == 2}
    slices = token_slices(model, fields)
    tables: list[EmbeddingTable] = []
    for side, labels in named.items():
        for text in dict.fromkeys(labels):
            label = _parse(text, parameters)
            _check_parameter(model, label, parameters)
            table = _place(model, label, side, parameters[label.name], counts, slices)
            for other in tables:
                if other.weight is table.weight and _overlap(other, table):
                    raise LLMInitError(f"init_tables names {text!r} and {other.label!r}, which overlap: leave one out")
            tables.append(table)
    return tables


def _parse(text: str, parameters: Mapping[str, nn.Parameter]) -> _Label:
    """Split ``name.T[41:71]`` into its parts; the name of a parameter is taken as it is."""
    parts = re.fullmatch(r"(?P<name>.+?)(?P<columns>\.T)?(\[(?P<first>\d+):(?P<stop>\d+)\])?", text)
    if text in parameters or parts is None:
        return _Label(text, text)
    span = None if parts["first"] is None else (int(parts["first"]), int(parts["stop"]))
    return _Label(text, parts["name"], parts["columns"] is not None, span)


def _check_parameter(model: nn.Module, label: _Label, parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise where the parameter does not exist or is never read."""
    if label.name not in parameters:
        known = [f"{path}.T" if label.columns else path for path in parameters]
        raise LLMInitError(
            f"init_tables names {label.text!r}, which {model_name(model)} does not have"
            f"{suggest(label.text, known, cutoff=0.7)} (it has {', '.join(parameters) or 'no table'})"
        )
    if find_entry(NEVER_READ, type(model), label.name):
        raise LLMInitError(
            f"init_tables names {label.text!r}, but {Exclusion.NEVER_READ.value}: name another table, or remove "
            f"init_strategy"
        )


def _place(
    model: nn.Module,
    label: _Label,
    side: Side,
    weight: nn.Parameter,
    counts: Mapping[Side, int],
    slices: Mapping[str, Mapping[Side, int]],
) -> EmbeddingTable:
    """Find where a side's rows begin in the parameter, and raise where they do not fit."""
    name, count = label.name, counts[side]
    if label.span is not None:
        first, stop = label.span
        if stop - first != count or stop > weight.shape[1 if label.columns else 0]:
            raise LLMInitError(
                f"init_tables names {label.text!r} as a table of {side}s: expected {count:,} rows or columns of its "
                f"{tuple(weight.shape)}, one for each of the {side}s"
            )
        return EmbeddingTable(name, side, weight, count, first, label.columns)
    if name in slices and not label.columns:
        if side not in slices[name]:
            raise LLMInitError(
                f"init_tables names {label.text!r} as a table of {side}s, but it holds features and no {side} ids"
            )
        return EmbeddingTable(name, side, weight, count, slices[name][side])
    if not label.columns and weight.shape[0] == counts["user"] + counts["item"]:
        return EmbeddingTable(name, side, weight, count, counts["user"] if side == "item" else 0)
    table = EmbeddingTable(name, side, weight, count, 0, label.columns)
    linear = {id(module.weight): path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not _fits(model, table, linear.get(id(weight)), counts):
        raise _misfit(table, in_linear_layer=id(weight) in linear)
    return table


def _fits(model: nn.Module, table: EmbeddingTable, layer: str | None, counts: Mapping[Side, int]) -> bool:
    """Whether a table has the rows of its side; ``layer`` is the linear layer whose weight it is, if it is one."""
    rows = int(table.weight.shape[1 if table.columns else 0])
    if layer is not None:
        further = table.columns and (model_name(model), layer) in FURTHER_COLUMNS
        return rows == table.rows or (further and rows > table.rows)
    if table.columns:
        return False
    # A mask token or entities may follow; but as many rows as the other side has are the other side's.
    entities = getattr(model, "n_entities", None) if table.side == "item" else None
    other_count = counts["user" if table.side == "item" else "item"]
    return rows == table.rows or (
        rows in (table.rows + 1, entities) and (rows != other_count or table.side in table.name.lower())
    )


def _misfit(table: EmbeddingTable, *, in_linear_layer: bool) -> LLMInitError:
    """Make the error for a table whose numbers of rows and columns say that something else was meant."""
    rows, others = (int(size) for size in (table.weight.shape[::-1] if table.columns else table.weight.shape))
    name, turned = (f"{table.name}.T", table.name) if table.columns else (table.name, f"{table.name}.T")
    some = f", or which, as {name}[0:{table.rows}]" if rows > table.rows else ""
    if in_linear_layer and others == table.rows:
        some += f", or {turned}, which has {others:,}"
    return LLMInitError(
        f"init_tables names {name} as a table of {table.side}s, but it has {rows:,} "
        f"{'columns' if table.columns else 'rows'} for {table.rows:,} {table.side}s: expected one for each{some}"
    )


def _overlap(one: EmbeddingTable, other: EmbeddingTable) -> bool:
    return one.columns != other.columns or max(one.first, other.first) < min(
        one.first + one.rows, other.first + other.rows
    )
