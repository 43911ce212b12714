"""Reading the values of a comparison's keys, each from a YAML value or from the text of an argument."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.cold_start import Drop
from recbole_llminit.integration.recbole_keys import check_values
from recbole_llminit.settings import is_none, read_yaml
from recbole_llminit.strategies.base import get_strategy

MAX_TRIALS = 100_000
"""The most trials that a comparison may have, and so the most seeds."""


def parse_text(key: str, value: Any) -> Any:
    """Parse the text of an argument, ``NAME,NAME`` or YAML; return any other value as it is.

    Parameters
    ----------
    key : str
        The key of the value, for the error message.
    value : object
        What the user gave.

    Raises
    ------
    LLMInitError
        If the text is not YAML.
    """
    if not isinstance(value, str):
        return value
    is_plain_list = "," in value and not re.search(r"[\[\]{}:]", value)
    try:
        return read_yaml(f"[{value}]" if is_plain_list else value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LLMInitError(f"{key} is {value!r}: expected NAME,NAME or YAML ({error})") from error


def reads_vectors(settings: Mapping[str, Any]) -> bool:
    """Whether settings have an ``init_strategy`` that reads vectors.

    Raises
    ------
    LLMInitError
        If the strategy is unknown, or refuses its ``init_args``.
    """
    strategy, arguments = settings.get("init_strategy"), settings.get("init_args")
    if is_none(strategy):
        return False
    return get_strategy(str(strategy), arguments if isinstance(arguments, Mapping) else None).needs_vectors


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, one value as a list of one, and none as an empty list."""
    if is_none(value):
        return []
    return value if isinstance(value, list) else [value]


def read_names(value: Any, key: str) -> dict[str, dict[str, Any]]:
    """Read names, each of which may have configuration keys of its own.

    Parameters
    ----------
    value : str, list of str, or mapping of str to mapping or None
        One name, a list of names, or a mapping of names to their keys.
    key : str
        The key of the value, for the error message.

    Returns
    -------
    dict of str to dict
        The configuration keys of each name; empty where it has none.

    Raises
    ------
    LLMInitError
        If the value has another form.
    """
    value = [value] if isinstance(value, str) else value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    if not isinstance(value, dict) or not all(isinstance(keys, dict | None) for keys in value.values()):
        raise LLMInitError(f"{key} is {value!r}: expected names, or a mapping of names to keys of their own")
    return {str(name): dict(keys or {}) for name, keys in value.items()}


def read_seeds(value: Any, first: Any) -> tuple[int, ...]:
    """Read the key ``seeds``: a list of seeds, or how many there are.

    Parameters
    ----------
    value : int or list of int
        The value of ``seeds``.
    first : int
        The first seed where ``seeds`` is a number; the others count on from it.

    Raises
    ------
    LLMInitError
        If there are no seeds or too many, or one is no seed of RecBole's.
    """
    if isinstance(value, list) and value:
        seeds = tuple(dict.fromkeys(value))
    elif type(value) is not int or not 1 <= value <= MAX_TRIALS:
        raise LLMInitError(f"seeds is {value!r}: expected how many, up to {MAX_TRIALS:,}, or a list of seeds")
    elif type(first) is not int:
        raise LLMInitError(f"seed is {first!r}: expected a whole number, the first of the seeds")
    else:
        seeds = tuple(range(first, first + value))
    for seed in seeds:
        try:
            check_values({"seed": seed}, {})
        except LLMInitError as error:
            raise LLMInitError(f"seeds is {value!r}, and {error}") from error
    return seeds


def read_drops(value: Any) -> tuple[Drop, ...]:
    """Read the key ``cold_start``: the shares of the training interactions to drop, and ``all_but_one``.

    Raises
    ------
    LLMInitError
        If one is neither a share between 0 and 1 nor ``all_but_one``.
    """
    drops = as_list(value)
    shares = [drop for drop in drops if drop != "all_but_one"]
    if not all(isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1 for share in shares):
        raise LLMInitError(
            f"cold_start is {value!r}: expected shares between 0 and 1, and all_but_one, as [0.5, all_but_one]"
        )
    return tuple(dict.fromkeys(drops))


def read_bounds(value: Any, key: str) -> tuple[int, ...]:
    """Read the bounds of strata: rising numbers of training interactions.

    Raises
    ------
    LLMInitError
        If they are no whole numbers above 0, or do not rise.
    """
    bounds = list(value) if isinstance(value, list | tuple) else [value]
    if not all(type(bound) is int and bound > 0 for bound in bounds) or bounds != sorted(set(bounds)):
        raise LLMInitError(f"{key} is {value!r}: expected rising numbers of training interactions, as [5, 20]")
    return tuple(bounds)
