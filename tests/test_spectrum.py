import numpy as np
import pytest
from scipy.stats import entropy

from recbole_llminit.spectrum import Spectrum


def test_a_small_matrix_by_hand() -> None:
    # Orthogonal columns of lengths 4, 2, 2 and 0.
    rows = np.zeros((6, 4))
    rows[0, 0], rows[1, 1], rows[2, 2] = 4, 2, -2
    spectrum = Spectrum.of([rows[:2], rows[2:]], 4)
    assert spectrum.singular_values == pytest.approx((4, 2, 2, 0))
    # Shares 1/2, 1/4, 1/4: an entropy of 1.5 bits.
    assert spectrum.effective_rank == pytest.approx(2**1.5)
    assert spectrum.information_abundance == pytest.approx(2)


def test_equals_numpy_and_scipy() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) + 1
    values = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    spectrum = Spectrum.of(np.array_split(rows, 3), 7)
    np.testing.assert_allclose(spectrum.singular_values, values, rtol=1e-6)
    assert spectrum.effective_rank == pytest.approx(np.exp(entropy(values)))
    assert spectrum.information_abundance == pytest.approx(values.sum() / values.max())


def test_bounds() -> None:
    even, collapsed, nothing = (Spectrum.of([rows], 5) for rows in (np.eye(5), np.ones((9, 5)), np.zeros((3, 5))))
    assert (even.effective_rank, even.information_abundance) == (pytest.approx(5), pytest.approx(5))
    assert (collapsed.effective_rank, collapsed.information_abundance) == (pytest.approx(1, abs=1e-5),) * 2
    assert (nothing.effective_rank, nothing.information_abundance) == (0, 0)
