"""Degrees, walks between co-consumed items, and smoothed vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.co_consumption import CoConsumption, item_degrees, smooth
from recbole_llminit.strategies.projection import PrincipalComponents
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.messages import naming
from tests.strategies.toy_data import fit_affine, interactions_of, neighbors

Embed = Callable[..., AlignedEmbeddings]


def values_of(embeddings: AlignedEmbeddings) -> npt.NDArray[np.float64]:
    """The vectors by item id, zero where there is none."""
    found = np.zeros((embeddings.n_items, embeddings.width))
    for items, block in embeddings.blocks():
        found[items] = block
    return found


def test_degrees() -> None:
    assert item_degrees(interactions_of([1, 2], [2], [2, 3], n_items=4)).tolist() == [0, 1, 3, 1, 0]


def test_means_literally(embed: Embed) -> None:
    # Item 1 is with 2 and 3 in a user, and with 2 in another: 1/2 (1/2 x2 + 1/2 x3) + 1/2 x2. Item 4 is alone, 5 unseen.
    embeddings = embed([1, 0], [0, 4], [0, 8], [5, 5], [6, 6])
    walk = CoConsumption(embeddings, interactions_of([1, 2, 3], [1, 2], [4], n_items=5))
    (sums,) = walk.sums()
    assert sums.tolist() == [[0.5, 6], [1, 4]]
    ((items, vectors, means),) = walk.means(embeddings.items, sums)
    assert items.tolist() == [1, 2, 3, 4, 5]
    assert vectors.tolist() == [[1, 0], [0, 4], [0, 8], [5, 5], [6, 6]]
    assert means.tolist() == [[0, 5], [0.75, 2], [0.5, 2], [0, 0], [0, 0]]
    assert walk.has_mean.tolist() == [False, True, True, True, False, False]


def test_smooth_literally(embed: Embed) -> None:
    embeddings = embed([1, 0], [0, 4], [0, 8], [5, 5], [6, 6])
    smoothed = smooth(embeddings, interactions_of([1, 2, 3], [1, 2], [4], n_items=5), 0.5)
    assert values_of(smoothed).tolist() == [[0, 0], [0.5, 2.5], [0.375, 3], [0.25, 5], [5, 5], [6, 6]]
    assert smoothed.embeddings.fingerprint == embeddings.embeddings.fingerprint
    assert values_of(embeddings)[1].tolist() == [1, 0]


def test_items_without_a_vector_are_no_neighbors(embed: Embed) -> None:
    embeddings = embed([1, 0], None, [0, 8])
    smoothed = smooth(embeddings, interactions_of([1, 2, 3], [2, 3], n_items=3), 1.0)
    assert smoothed.items.tolist() == [1, 3]
    assert values_of(smoothed).tolist() == [[0, 0], [0, 8], [0, 0], [1, 0]]


# 1: one entry at a time; 18: three, fewer than a user has items.
@pytest.mark.parametrize(("numbers_at_a_time", "gathered"), [(1 << 20, 1 << 23), (5 * 6, 18), (1, 1)])
def test_equals_the_walk_restated_whatever_the_blocks(
    embed: Embed, monkeypatch: pytest.MonkeyPatch, numbers_at_a_time: int, gathered: int
) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 6)).astype(np.float32)
    dense = (generator.random((30, 41)) < 0.1).astype(np.float32)
    dense[:, 0] = 0
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", numbers_at_a_time)
    monkeypatch.setattr("recbole_llminit.strategies.co_consumption._GATHERED_NUMBERS", gathered)
    embeddings = embed(*rows)
    walk = neighbors(csr_matrix(dense))[1:, 1:]
    alone = walk.sum(axis=1) == 0
    assert 0 < alone.sum() < 40
    expected = np.where(alone[:, None], rows, 0.7 * rows + 0.3 * walk @ rows)
    np.testing.assert_allclose(values_of(smooth(embeddings, csr_matrix(dense), 0.3))[1:], expected, atol=1e-5)
    mean, weights = generator.normal(size=6), generator.random(41)
    expected = ((rows - mean) * (weights[1:] * ~alone)[:, None]).T @ (walk @ rows - mean)
    found = CoConsumption(embeddings, csr_matrix(dense)).moment(mean, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_fit_reads_the_smoothed_vectors(embed: Embed) -> None:
    rows = np.random.default_rng(1).normal(size=(6, 4))
    together = interactions_of([1, 2, 3], [4, 5], [2, 6], n_items=6)
    smoothed = values_of(smooth(embed(*rows), together, 0.4))[1:]
    fit = PrincipalComponents(smooth=0.4).fit(embed(*rows), 2, interactions=together, seed=0)
    assert values_of(fit.embeddings)[1:].tolist() == smoothed.tolist()
    found = fit_affine(PrincipalComponents(smooth=0.4), embed(*rows), 2, together)(smoothed)
    expected = fit_affine(PrincipalComponents(), embed(*smoothed), 2, together)(smoothed)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    embeddings = embed(*rows)
    assert PrincipalComponents().smoothed(embeddings, together) is embeddings
    assert PrincipalComponents().fit(embeddings, 2, interactions=together, seed=0).embeddings is embeddings


def test_no_room_for_the_smoothed_vectors(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_llminit.strategies.co_consumption.tempfile.TemporaryFile", full)
    with pytest.raises(LLMInitError, match=naming("smoothed vectors", "0 MB", "No space left on device", "set TMPDIR")):
        smooth(embed([1, 2], [3, 4]), interactions_of([1, 2], n_items=2), 0.5)
