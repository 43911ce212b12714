"""What is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.users import FromModel
from recbole_llminit.strategies.base import Strategy
from recbole_llminit.strategies.projection import PrincipalComponents
from recbole_llminit.strategies.selection import Random, Uniform, Variance
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings
from tests.initialization.toy_model import ToyModel, initialize, is_unchanged, state_of
from tests.messages import naming

Embed = Callable[..., AlignedEmbeddings]


def test_missing_error_writes_nothing(embed: Embed) -> None:
    model = ToyModel()
    before = state_of(model)
    with pytest.raises(LLMInitError, match=naming("1 of 3 items", "vectors (i2)", "init_missing")):
        initialize(model, embed([1, 2, 3, 4], None, [9, 10, 11, 12]), missing="error")
    assert is_unchanged(model, before)


@pytest.mark.parametrize(
    ("rows", "settings", "half"),
    [
        ([[1, 1, 1e300, 1], [2, 1, 1e300, 1], [1, 1, 1e300, 3]], {}, False),
        ([[1, 1, 1e300, 1], [2, 1, 1e300, 1], [1, 1, 1e300, 3]], {"scale": "score"}, False),
        ([[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 2, 3]], {"scale": 1e300}, False),
        ([[1e5, 1, 2, 3], [1, 2, 3, 4], [4, 3, 2, 1]], {}, True),
    ],
    ids=["float64 vectors", "float64 vectors, score", "scale", "half-precision table"],
)
def test_no_infinity_is_written(
    vectors: AlignedEmbeddings, rows: list[list[float]], settings: dict[str, Any], half: bool
) -> None:
    model = ToyModel().half() if half else ToyModel()
    before = state_of(model)
    wide = ItemEmbeddings(vectors.embeddings.tokens, (np.array(rows),), "vectors", "0").align(vectors.tokens, "toy")
    with pytest.raises(
        LLMInitError,
        match=r"the values for (users|items).weight do not fit its torch.float(16|32)|numbers beyond float32",
    ):
        initialize(model, wide, **settings)
    assert is_unchanged(model, before)


@pytest.mark.parametrize("settings", [{}, {"scale": 0.1}, {"scale": "score"}, {"user": FromModel()}], ids=str)
@pytest.mark.parametrize("row", [[0, 0, 0, 0], [1, 1, 1, 1], [1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize(
    "strategy", [Uniform(), Variance(popular_ratio=1.0), Random(), PrincipalComponents()], ids=repr
)
def test_items_that_would_all_be_initialized_alike(
    embed: Embed, strategy: Strategy, row: list[float], settings: dict[str, Any]
) -> None:
    model = ToyModel()
    before = state_of(model)
    facts = [
        "3 items",
        "check the file" if isinstance(strategy, PrincipalComponents) else "check the vectors in vectors",
    ]
    same = "all equal" if isinstance(strategy, PrincipalComponents) else "the same zero" if not any(row) else "the same"
    with pytest.raises(LLMInitError, match=naming(*facts, same)):
        initialize(model, embed(row, row, row), strategy, **settings)
    assert is_unchanged(model, before)


@pytest.mark.parametrize("factor", [1e-20, 1e-25, 1e-40])
def test_values_that_training_cannot_leave(embed: Embed, factor: float) -> None:
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]) * factor
    model = ToyModel()
    before = state_of(model)
    with pytest.raises(
        LLMInitError, match=naming("users.weight", "standard deviation", "init_scale: raw", "such as 0.05")
    ):
        initialize(model, embed(*rows))
    assert is_unchanged(model, before)
    # What can be brought to a scale is.
    if factor > 1e-30:
        initialize(model, embed(*rows), scale=0.05)
        assert model.items.weight[1:].detach().numpy().std() == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 0])
def test_a_scale_that_leaves_nothing(vectors: AlignedEmbeddings, scale: float) -> None:
    with pytest.raises(LLMInitError, match=naming("users.weight", f"init_scale: {scale}")):
        initialize(ToyModel(), vectors, scale=scale)


def test_too_wide_a_table_is_refused_before_anything_is_written(vectors: AlignedEmbeddings) -> None:
    model = ToyModel(width=5)
    before = state_of(model)
    with pytest.raises(LLMInitError) as caught:
        initialize(model, vectors)
    assert str(caught.value) == (
        "embedding_size 5 is larger than the 4 dimensions of vectors (table users.weight): set embedding_size <= 4, "
        "or use a larger encoder"
    )
    for sizes, message in [
        ({"hidden_size": 5, "n_layers": 2}, "hidden_size 5 is larger than .*: set hidden_size <= 4, or use"),
        (
            {"mlp_hidden_size": [8, 5, 2]},
            r"mlp_hidden_size 5 is larger than .*: set mlp_hidden_size: \[4, 4, 2\], or use",
        ),
    ]:
        with pytest.raises(LLMInitError, match=message):
            initialize(model, vectors, sizes=sizes)
    assert is_unchanged(model, before)


@pytest.mark.parametrize("strategy", [Random(), Uniform(), Variance(1.0)], ids=repr)
def test_a_broken_vector_is_refused_before_anything_is_written(embed: Embed, strategy: Strategy) -> None:
    model = ToyModel()
    before = state_of(model)
    with pytest.raises(LLMInitError, match=naming("vectors of 1 or more items (i2)")):
        initialize(model, embed([1, 2, 3, 4], [np.nan] * 4, [9, 10, 11, 12]), strategy)
    assert is_unchanged(model, before)
