"""The vectors of the toy model's items."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recbole_llminit.vectors.embeddings import AlignedEmbeddings


@pytest.fixture
def vectors(embed: Callable[..., AlignedEmbeddings]) -> AlignedEmbeddings:
    """The numbers from 1 to 12 in the vectors of three items."""
    return embed([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])
