"""Random projections against SciPy's orthogonal matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.sparse import csr_matrix

from recbole_llminit.strategies.random_projection import RandomProjection
from tests.strategies.toy_data import N_ITEMS, align, fit_affine, project, together


def test_random_directions_are_orthogonal_and_keep_lengths(interactions: csr_matrix) -> None:
    rows = np.random.default_rng(5).normal(size=(N_ITEMS, 200))
    reduction = fit_affine(RandomProjection(), align(rows), 80, interactions, seed=7)
    np.testing.assert_allclose(reduction.matrix.T @ reduction.matrix, np.eye(80) * 200 / 80, atol=1e-10)
    centered = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    assert np.linalg.norm(reduction(rows), axis=1).mean() == pytest.approx(centered.mean(), rel=0.02)
    again = fit_affine(RandomProjection(), align(rows), 80, interactions, seed=8)
    assert np.abs(again.matrix - reduction.matrix).max() > 0.1


def test_random_directions_are_uniform() -> None:
    """Against SciPy's orthogonal matrices of Haar measure: the first number of a direction has the same distribution."""
    rows = np.eye(4)
    ours = [fit_affine(RandomProjection(), align(rows), 4, together(4), seed).matrix[0, 0] for seed in range(800)]
    expected = scipy.stats.ortho_group.rvs(4, size=800, random_state=0)[:, 0, 0]
    assert scipy.stats.ks_2samp(ours, expected).pvalue > 0.01


def test_random_projection_needs_no_rank() -> None:
    rows = np.random.default_rng(8).normal(size=(6, 40))
    values = project(RandomProjection(), 20, together(6), rows)
    assert np.linalg.matrix_rank(values) == 5
