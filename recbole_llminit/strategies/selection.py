"""Strategies that choose columns of the LLM vectors: the three of the LLMInit paper, and the first columns.

Source: LLMInit (arXiv 2503.01814), LLMInit-Rand, -Uni and -Var. "The official release" is DavidZWZ/LLMInit at commit
1241c3c; where a class departs from it, its docstring says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Columns, Fit, Strategy, check_number, register_strategy
from recbole_llminit.strategies.co_consumption import item_degrees
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

# So many numbers are summed in single precision that the error stays below 1e-6 of the sum.
_SUMMED_ROWS = 64


def _columns(dimensions: npt.NDArray[np.int64]) -> Columns:
    return Columns(tuple(int(dimension) for dimension in np.sort(dimensions)))


@register_strategy("rand", "columns chosen at random")
@dataclass(frozen=True)
class Random(Strategy):
    """Keep columns chosen at random, without replacement.

    Notes
    -----
    The official release draws with replacement (``torch.randint``), so that a dimension can stand in a table
    more than once; here the dimensions are distinct.
    """

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Draw distinct columns from the strategy's own generator, seeded by ``seed``."""
        return Fit(
            self,
            embeddings,
            n_components,
            lambda count: _columns(np.random.default_rng(seed).choice(embeddings.width, count, replace=False)),
        )


@register_strategy("uni", "columns at even distances")
@dataclass(frozen=True)
class Uniform(Strategy):
    """Keep columns at even distances over the whole width.

    Notes
    -----
    Equal to the official ``arange(0, D, D // d)[:d]`` where ``d`` divides ``D``; elsewhere that formula crowds
    into the first columns, and this one does not.
    """

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Take the columns ``floor(i * llm_dim / n_components)``."""
        return Fit(self, embeddings, n_components, lambda count: _columns(np.arange(count) * embeddings.width // count))


@register_strategy("var", "columns of the largest variance over the most popular items")
@dataclass(frozen=True)
class Variance(Strategy):
    """Keep the columns that vary most over the most popular items.

    Parameters
    ----------
    popular_ratio : float
        The variance is taken over the ``int(popular_ratio * n_items)`` items of the largest training degree,
        ``n_items`` as RecBole counts it (with ``[PAD]``). ``1.0`` takes all items.

    Notes
    -----
    Equal to the official release where no two items tie at the popularity cut and no two dimensions tie at the
    variance cut. In a tie the lower index comes first. ``[PAD]`` and items without a vector never count.
    """

    popular_ratio: float = 0.2

    def __post_init__(self) -> None:
        check_number("popular_ratio", self.popular_ratio, "in (0, 1]", lambda ratio: 0 < ratio <= 1)

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Rank the columns by their unbiased variance over the popular items, in float64.

        Raises
        ------
        LLMInitError
            If fewer than two items are left to take a variance over.
        """
        count = int(self.popular_ratio * embeddings.n_items)
        degrees = item_degrees(interactions)
        popular = embeddings.items[np.argsort(-degrees[embeddings.items], kind="stable")[:count]]
        if len(popular) < 2:
            raise LLMInitError(
                f"init_strategy 'var' has {len(popular)} items to take a variance over (popular_ratio "
                f"{self.popular_ratio} of {embeddings.n_items}, of which {len(embeddings.items)} have a vector): "
                f"expected at least 2, raise popular_ratio"
            )
        variance = _variance(block for _, block in embeddings.blocks(popular))
        ranked = np.argsort(-variance, kind="stable")
        return Fit(self, embeddings, n_components, lambda count: _columns(ranked[:count]))


@register_strategy("prefix", "the first columns, each row brought to length 1")
@dataclass(frozen=True)
class Prefix(Strategy):
    """Keep the first columns and scale each row to length 1.

    Notes
    -----
    Source: Matryoshka Representation Learning (Kusupati et al., NeurIPS 2022), how the vectors of an encoder trained so
    are shortened. Of any other encoder the first columns are as good as others.
    """

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Take the columns ``0 ... n_components - 1``."""
        return Fit(self, embeddings, n_components, lambda count: Columns(tuple(range(count)), unit=True))


def _variance(blocks: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return the unbiased variance of each column over all rows of the blocks.

    Differences from an approximate mean are squared and summed in the blocks' own precision for some rows, and these
    sums in float64; blocks are merged pairwise (Chan, Golub and LeVeque, 1983).
    """
    count, mean, square = 0, np.float64(0), np.float64(0)
    for block in blocks:
        near = block[:: max(1, len(block) // _SUMMED_ROWS)].mean(axis=0)
        rows = block - near
        total = np.zeros(rows.shape[1])
        block_square = np.zeros(rows.shape[1])
        for first in range(0, len(rows), _SUMMED_ROWS):
            part = rows[first : first + _SUMMED_ROWS]
            total += part.sum(axis=0)
            block_square += np.einsum("ij,ij->j", part, part)
        block_square -= total**2 / len(rows)
        block_mean = near + total / len(rows)
        delta, both = block_mean - mean, count + len(rows)
        square = square + block_square + delta**2 * count * len(rows) / both
        mean, count = mean + delta * len(rows) / both, both
    return np.asarray(square / (count - 1))
