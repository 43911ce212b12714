"""User values from the values of the items they trained on."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.strategies.co_consumption import item_degrees

Aggregation = Literal["mean", "degree", "idf"]
_BLOCK_USERS = 1 << 16


def aggregate_users(
    item_values: npt.NDArray[np.float32],
    has_value: npt.NDArray[np.bool_],
    interactions: csr_matrix,
    how: Aggregation = "mean",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Give each user a weighted sum of the values of the items they trained on.

    Parameters
    ----------
    item_values : ndarray of float32, shape [n_items, d]
        One row per item; zero for those without a value.
    has_value : ndarray of bool, shape [n_items]
        Which items have a value; the sum runs over these alone.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions; row and column 0 are ``[PAD]``.
    how : {"mean", "degree", "idf"}
        ``mean``: all items weigh alike, and the weights of a user sum to 1. ``degree``: item ``i`` weighs
        ``1 / sqrt(degree_u * degree_i)``, degrees counted in the training interactions. ``idf``: it weighs
        ``ln((1 + n_users) / (1 + degree_i)) + 1``, and the weights of a user are brought to the sum 1.

    Returns
    -------
    user_values : ndarray of float32, shape [n_users, d]
        The sums; zero for a user without any such item.
    has_user_value : ndarray of bool, shape [n_users]
        Which users have at least one such item.

    Notes
    -----
    Source: ``mean``: LLMInit (arXiv 2503.01814), users by mean pooling; the official release divides by zero for a
    user without items. ``degree``: one step of LightGCN's propagation (arXiv 2002.02126, equation 3). ``idf``: the
    smooth inverse document frequency of scikit-learn, users as documents.
    """
    n_users = interactions.shape[0]
    weights = None
    if how == "degree":
        weights = 1 / np.sqrt(np.maximum(item_degrees(interactions), 1))
    elif how == "idf":
        # The first user is [PAD].
        weights = np.log(n_users / (1 + item_degrees(interactions))) + 1
    counted = has_value.astype(np.float32)
    values = np.empty((n_users, item_values.shape[1]), dtype=np.float32)
    has_item = np.empty(n_users, dtype=np.bool_)
    for start in range(0, n_users, _BLOCK_USERS):
        users = slice(start, start + _BLOCK_USERS)
        part = weighted = interactions[users]
        has_item[users] = part @ counted > 0
        if weights is not None:
            weighted = csr_matrix((weights[part.indices], part.indices, part.indptr), shape=part.shape)
        values[users] = weighted @ item_values
        norms = np.sqrt(np.diff(part.indptr)) if how == "degree" else weighted @ counted
        values[users] /= np.where(has_item[users], norms, 1).astype(np.float32)[:, None]
    return values, has_item
