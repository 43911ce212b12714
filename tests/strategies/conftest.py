"""The data that projections are fitted to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from tests.strategies.toy_data import N_ITEMS, WIDTH


@pytest.fixture
def rows() -> npt.NDArray[np.float64]:
    """Correlated columns with a mean far from zero."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(N_ITEMS, WIDTH)) @ generator.normal(size=(WIDTH, WIDTH)) + 3


@pytest.fixture
def interactions() -> csr_matrix:
    """Few interactions at random; some items have none."""
    dense = np.random.default_rng(1).random((60, N_ITEMS + 1)) < 0.05
    dense[:, 0] = dense[0] = False
    return csr_matrix(dense.astype(np.float32))
