"""Held-out training interactions, on which candidates are compared before training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

CUT_OFF = 10
"""The number of items in the list whose quality is measured."""

# Of a user's interactions, and of all: without more of them a candidate would be chosen for sparser data.
_SHARE_OF_USER = 0.1
_SHARE = 0.05
# Scores of all held-out interactions, and the fewest and most interactions.
_SCORES = 20_000_000
_FEWEST, _MOST = 200, 2000
_MOST_DRAWS = 4
_BLOCK_SCORES = 1 << 24


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Training interactions without some of them, and those that were held out.

    Parameters
    ----------
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions that are left.
    users, items : ndarray of int64, shape [k]
        The held-out interactions, sorted by user.
    """

    interactions: csr_matrix
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]

    @classmethod
    def of(cls, interactions: csr_matrix, seed: int) -> HeldOut | None:
        """Hold out random interactions: one of each user who has two or more, then further ones of those with many.

        Parameters
        ----------
        interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
            The training interactions.
        seed : int
            The seed of the draws' own generator.

        Returns
        -------
        HeldOut or None
            None where no user has two interactions.

        Notes
        -----
        Of a user's interactions a tenth is held out at most, but one. There are 200 to 2,000 in all, a twentieth of the
        interactions at most (but for 200), the fewer the more items there are, and fewer where users have no more to
        give.
        """
        generator = np.random.default_rng(seed)
        lengths = np.diff(interactions.indptr)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        # Which of its user's interactions each one is, in random order.
        order = np.lexsort((generator.random(interactions.nnz), rows))
        turns = np.empty(interactions.nnz, dtype=np.int64)
        turns[order] = np.arange(interactions.nnz) - np.repeat(interactions.indptr[:-1], lengths)
        most = np.where(lengths > 1, np.maximum(1, _SHARE_OF_USER * lengths), 0)
        places = np.flatnonzero(turns < np.floor(most)[rows])
        if not len(places):
            return None
        count = int(np.clip(min(_SCORES / interactions.shape[1], _SHARE * interactions.nnz), _FEWEST, _MOST))
        places = places[np.lexsort((generator.random(len(places)), turns[places]))][:count]
        places.sort()
        kept = np.ones(interactions.nnz, dtype=np.bool_)
        kept[places] = False
        left = csr_matrix((interactions.data[kept], (rows[kept], interactions.indices[kept])), shape=interactions.shape)
        return cls(left, rows[places].astype(np.int64), interactions.indices[places].astype(np.int64))

    @classmethod
    def several(cls, interactions: csr_matrix, seed: int) -> list[HeldOut]:
        """Return draws of which each holds out other interactions: as many as make 2,000 together, and four at most.

        Parameters
        ----------
        interactions, seed
            As of `of`.

        Returns
        -------
        list of HeldOut
            Empty where no user has two interactions.
        """
        first = cls.of(interactions, seed)
        if first is None:
            return []
        count = min(_MOST_DRAWS, -(-_MOST // len(first.users)))
        return [first, *(other for turn in range(1, count) if (other := cls.of(interactions, seed + turn)) is not None)]

    def blocks(self) -> Iterator[slice]:
        """Yield slices of the held-out interactions, so many at a time that their scores are 64 MB in float32."""
        step = max(1, _BLOCK_SCORES // self.interactions.shape[1])
        for first in range(0, len(self.users), step):
            yield slice(first, min(first + step, len(self.users)))

    def gains(self, scores: npt.NDArray[np.floating], first: int) -> npt.NDArray[np.float64]:
        """Return the NDCG@10 of some held-out interactions, each ranked among the items that its user has not.

        Parameters
        ----------
        scores : ndarray of float, shape [k, n_items]
            The scores for the users of the held-out interactions from number ``first`` on. Item 0 is ``[PAD]`` and does
            not count.
        first : int
            The number of the first of these interactions.

        Notes
        -----
        Each is the one relevant item of its list, so that the ideal gain is 1 (Järvelin and Kekäläinen, 2002). An item
        of the same score counts as half an item above: scores that are all equal gain nothing.
        """
        users, items = self.users[first : first + len(scores)], self.items[first : first + len(scores)]
        found = scores[np.arange(len(users)), items][:, None]
        above = (scores > found).sum(axis=1) + ((scores == found).sum(axis=1) - 1) / 2
        known = self.interactions[users]
        known_rows = np.repeat(np.arange(len(users)), np.diff(known.indptr))
        rows = np.concatenate([known_rows, np.arange(len(users))])
        columns = np.concatenate([known.indices, np.zeros(len(users), dtype=np.int64)])
        others = scores[rows, columns]
        counted = (others > found[rows, 0]) + (others == found[rows, 0]) / 2
        ranks = above - np.bincount(rows, weights=counted, minlength=len(users))
        # A score that is no number is above none, and finds nothing.
        listed = (ranks < CUT_OFF) & np.isfinite(found[:, 0])
        return np.where(listed, 1 / np.log2(np.maximum(ranks, 0) + 2), 0.0)
