"""The closed form of a linear autoencoder with a text prior, restated with matrices in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def text_prior(features: npt.ArrayLike, rho: float) -> Matrix:
    """``C``: EASE with the features of the items in place of the clicks."""
    rows = np.asarray(features, dtype=np.float64)
    inverse = np.linalg.inv(rows @ rows.T + rho * np.eye(len(rows)))
    prior: Matrix = np.eye(len(rows)) - inverse / np.diag(inverse)
    return prior


def item_weights(clicks: npt.ArrayLike, prior: npt.ArrayLike, lam: float, kappa: float) -> Matrix:
    """``B``: the minimum of `objective` with a diagonal of 0."""
    users = np.asarray(clicks, dtype=np.float64)
    gram = users.T @ users
    inverse = np.linalg.inv(gram + (lam + kappa) * np.eye(len(gram)))
    pulled = inverse @ (gram + kappa * np.asarray(prior))
    weights: Matrix = pulled - inverse * (np.diag(pulled) / np.diag(inverse))
    return weights


def objective(weights: Matrix, clicks: npt.ArrayLike, prior: npt.ArrayLike, lam: float, kappa: float) -> float:
    """``|X - X B|^2 + lam |B|^2 + kappa |B - C|^2``."""
    users = np.asarray(clicks, dtype=np.float64)
    error, pull = users - users @ weights, weights - np.asarray(prior)
    return float((error**2).sum() + lam * (weights**2).sum() + kappa * (pull**2).sum())
