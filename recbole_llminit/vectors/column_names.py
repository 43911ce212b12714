"""Which columns of a table hold the item ids and the vectors: decided by the names of the columns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.tokens import examples

ITEM_ID = "item_id"
"""The column of the ids in stores and in exports."""

_DOCUMENTED_PREFIXES = ("", "dim_")
_DIGITS = "0123456789"
_MOST_DIGITS = 18


def find_id_column(names: Sequence[str], id_field: str, path: Path) -> str:
    """Return the column of the item ids: the dataset's own name for it, otherwise ``item_id``.

    Raises
    ------
    LLMInitError
        If the table has neither.
    """
    found = [name for name in (id_field, ITEM_ID) if name in names]
    if not found:
        raise LLMInitError(
            f"{path} has no column {id_field} (it has {examples(names, 8)}): name the column of the item ids "
            f"{id_field}; row numbers are never taken for ids"
        )
    return found[0]


def require_once(wanted: Sequence[str], names: Sequence[str], path: Path) -> None:
    """Raise `LLMInitError` if one of the wanted columns occurs more than once among all names."""
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise LLMInitError(
            f"{path} has columns more than once ({examples(twice)}): expected each once, remove those that are wrong"
        )


def no_vector_columns(names: Sequence[str], ids: str, path: Path) -> LLMInitError:
    """Make the error for a table in which no column holds a vector."""
    return LLMInitError(
        f"{path} has the columns {examples(names, 8)}: expected {ids} and one column of lists, or a column for each "
        f"number, named 0, 1, ... or dim_0, dim_1, ..."
    )


def find_numbered_columns(names: Sequence[str], path: Path) -> list[str]:
    """Return the columns that are the dimensions of a vector: ``0, 1, ...``, ``dim_0, dim_1, ...`` or another prefix.

    A family of columns is a prefix with the numbers from 0 or from 1 on, each once, in rising order, two or more of
    them. The two prefixes above take precedence over all others.

    Parameters
    ----------
    names : sequence of str
        The names of the columns that may be dimensions.
    path : Path
        The file, for messages.

    Returns
    -------
    list of str
        The columns of the one family. Empty if there is none.

    Raises
    ------
    LLMInitError
        If numbers of the family are missing, repeated or in another order, or there are several families.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        prefix = name.rstrip(_DIGITS)
        if 0 < len(name) - len(prefix) <= _MOST_DIGITS and prefix != "Unnamed: ":
            groups.setdefault(prefix, []).append(name)
    if all(len(group) == 1 for group in groups.values()):
        return []
    faults = {prefix: _find_fault(prefix, group) for prefix, group in groups.items()}
    chosen = _choose_families(groups, {prefix for prefix, fault in faults.items() if fault})
    if len(chosen) > 1:
        raise LLMInitError(
            f"{path} has several families of numbered columns ({examples([f'{prefix}0, ...' for prefix in chosen])}): "
            f"expected one that holds the vectors, keep one, or name its columns dim_0, dim_1, ..."
        )
    if chosen and faults[chosen[0]]:
        raise LLMInitError(
            f"{path} {faults[chosen[0]]}: expected {chosen[0]}0, {chosen[0]}1, ..., each once, in rising order"
        )
    return groups[chosen[0]] if chosen else []


def _choose_families(groups: Mapping[str, Sequence[str]], faulty: Collection[str]) -> list[str]:
    """Return the prefixes of the families that may be the dimensions of a vector."""
    # Years, as in votes2001 and votes2005, are no dimensions.
    meant = [prefix for prefix, group in groups.items() if len(group) > 1 and min(_numbers(prefix, group)) <= 1]
    known = [prefix for prefix in groups if prefix in _DOCUMENTED_PREFIXES]
    documented = [prefix for prefix in known if prefix in meant or prefix == "dim_"]
    if documented or not meant:
        return documented
    # A larger family with a fault is more likely meant than a smaller one without.
    largest = max(meant, key=lambda prefix: (len(groups[prefix]), prefix not in faulty))
    return [largest] if largest in faulty else [prefix for prefix in meant if prefix not in faulty]


def _numbers(prefix: str, names: Sequence[str]) -> list[int]:
    return [int(name[len(prefix) :]) for name in names]


def _find_fault(prefix: str, names: Sequence[str]) -> str | None:
    """Say why the columns of a prefix are not numbered from 0 or 1 on in rising order; None if they are."""
    numbers = _numbers(prefix, names)
    repeated = [number for number, count in Counter(numbers).items() if count > 1]
    if repeated:
        return f"has more than one column {prefix}{repeated[0]}"
    first = min(*numbers, 1)
    missing_count = max(max(numbers) - first + 1, 2) - len(numbers)
    if missing_count:
        known = {*numbers}
        missing = next(number for number in itertools.count(first) if number not in known)
        return f"has no column {prefix}{missing} beside {names[0]} ({missing_count:,} missing)"
    return next(
        (f"has {prefix}{one} before {prefix}{two}" for one, two in itertools.pairwise(numbers) if one > two), None
    )
