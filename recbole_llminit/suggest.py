"""The known name that was probably meant, for an error over an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``": did you mean '...'?"`` for the nearest of the known words, or an empty string."""
    match = nearest(word, known, cutoff)
    return f": did you mean {match!r}?" if match else ""


def nearest(word: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known word most like ``word`` in any case, if one is as like as ``cutoff`` (0 to 1)."""
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[match[0]] if match else None
