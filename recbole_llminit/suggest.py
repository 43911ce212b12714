"""The known name that was probably meant, for the message about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``": did you mean '...'?"`` with the nearest known word, or an empty text if none is near.

    Parameters
    ----------
    word : object
        The unknown word; its `str` is compared.
    known : iterable of str
        The known words.
    cutoff : float
        The least similarity, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    match = nearest(word, known, cutoff)
    return f": did you mean {match!r}?" if match else ""


def nearest(word: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known word nearest to ``word``, ignoring case, or None if no word is near; see `suggest`."""
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[match[0]] if match else None
