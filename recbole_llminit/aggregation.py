"""User values from the values of the items they trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix


def aggregate_users(
    item_values: npt.NDArray[np.float32],
    has_value: npt.NDArray[np.bool_],
    interactions: csr_matrix,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Give each user the mean of the values of the items they trained on.

    Parameters
    ----------
    item_values : ndarray of float32, shape [n_items, d]
        One row per item; zero for those without a value.
    has_value : ndarray of bool, shape [n_items]
        Which items have a value; the mean runs over these alone.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.

    Returns
    -------
    user_values : ndarray of float32, shape [n_users, d]
        The means; zero for a user without any such item.
    has_user_value : ndarray of bool, shape [n_users]
        Which users have at least one such item.

    Notes
    -----
    Source: LLMInit (arXiv 2503.01814), users by mean pooling. The official release divides by zero for a user
    without items.
    """
    counts = interactions @ has_value.astype(np.float32)
    means: npt.NDArray[np.float32] = interactions @ item_values
    means /= np.maximum(counts, 1)[:, None]
    return means, counts > 0
