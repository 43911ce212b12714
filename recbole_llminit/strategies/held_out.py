"""Held-out training interactions: one of each of some users, on which candidates are compared before training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

CUT_OFF = 10
"""The number of items in the list whose quality is measured."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Training interactions without one of each of some users, and those interactions.

    Parameters
    ----------
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions that are left.
    users, items : ndarray of int64, shape [k]
        The held-out interactions; a user has at most one.
    """

    interactions: csr_matrix
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]

    @classmethod
    def of(cls, interactions: csr_matrix, n_users: int, seed: int) -> HeldOut | None:
        """Hold out one interaction, drawn at random, of each of at most ``n_users`` users who have two or more.

        Parameters
        ----------
        interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
            The training interactions.
        n_users : int
            The most users, who are drawn at random as well.
        seed : int
            The seed of the draws' own generator.

        Returns
        -------
        HeldOut or None
            None where no user has two interactions.
        """
        generator = np.random.default_rng(seed)
        lengths = np.diff(interactions.indptr)
        able = np.flatnonzero(lengths > 1)
        if not len(able):
            return None
        users = np.sort(generator.permutation(able)[:n_users])
        places = interactions.indptr[users] + generator.integers(lengths[users])
        kept = np.ones(interactions.nnz, dtype=np.bool_)
        kept[places] = False
        rows = np.repeat(np.arange(interactions.shape[0]), lengths)[kept]
        left = csr_matrix((interactions.data[kept], (rows, interactions.indices[kept])), shape=interactions.shape)
        return cls(left, users.astype(np.int64), interactions.indices[places].astype(np.int64))

    def gains(self, scores: npt.NDArray[np.floating], first: int) -> npt.NDArray[np.float64]:
        """Return the NDCG@10 of some users' held-out items, ranked among the items that they have no click on.

        Parameters
        ----------
        scores : ndarray of float, shape [k, n_items]
            The scores of the users from number ``first`` on. Item 0 is ``[PAD]`` and does not count.
        first : int
            The number of the first of these users in ``users``.

        Notes
        -----
        A user has one relevant item, so that the ideal gain is 1 (Järvelin and Kekäläinen, 2002). An item of the same
        score counts as half an item above: scores that are all equal gain nothing.
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
