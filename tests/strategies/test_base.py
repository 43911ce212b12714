"""The registry, the reductions, and what holds for every strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies import selection
from recbole_llminit.strategies.auto import Auto
from recbole_llminit.strategies.base import (
    Affine,
    Columns,
    Factors,
    Fit,
    Strategy,
    get_strategy,
    list_strategies,
    register_strategy,
    values_by_id,
)
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.strategies.noise import Noise
from recbole_llminit.strategies.projection import Whitening
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.messages import naming
from tests.strategies.toy_data import align

STRATEGIES = [entry.cls() for entry in list_strategies()]


def test_columns_keep_values_and_order() -> None:
    block = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.float16)
    values = Columns((1, 3))(block)
    assert values.dtype == np.float32
    assert values.tolist() == [[2, 4], [6, 8]]
    assert Columns((1, 3)).to_dict() == {"kind": "columns", "dimensions": [1, 3], "unit": False}


def test_registry_lists_the_papers_strategies_and_the_control() -> None:
    assert [entry.name for entry in list_strategies()] == [
        "rand",
        "uni",
        "var",
        "prefix",
        "pca",
        "whiten",
        "cca",
        "rp",
        "lae",
        "auto",
        "noise",
    ]
    assert all(entry.description for entry in list_strategies())


def test_get_strategy_takes_arguments_and_shows_them() -> None:
    assert get_strategy("var", {"popular_ratio": 0.5}) == selection.Variance(popular_ratio=0.5)
    assert repr(get_strategy("var")) == "Variance(popular_ratio=0.2)"


def test_default_scales() -> None:
    scales = {entry.name: entry.cls.default_scale for entry in list_strategies()}
    raw, mixed = ("rand", "uni", "var", "prefix", "noise"), ("pca", "whiten", "rp")
    fitted = {"cca": "score", "lae": "score", "auto": None}
    assert scales == {**dict.fromkeys(raw, "raw"), **dict.fromkeys(mixed, 0.05), **fitted}


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(
        LLMInitError, match=r"init_strategy.*'varience'.*did you mean 'var'.*rand, uni, var, prefix, .*, auto, noise"
    ):
        get_strategy("varience")


def test_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(LLMInitError, match=r"init_args.*'popular_ration'.*'var'.*'popular_ratio'"):
        get_strategy("var", {"popular_ration": 0.2})
    with pytest.raises(LLMInitError, match=naming("'step'", "'uni'", "takes none")):
        get_strategy("uni", {"step": 2})


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'var' is already registered by Variance"):

        @register_strategy("var", "again")
        @dataclass(frozen=True)
        class Again(Strategy):
            def fit(
                self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int
            ) -> Fit:
                return Fit(self, embeddings, n_components, lambda count: Columns((0,)))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_every_strategy_gives_the_width_asked_for_and_leaves_the_random_states(
    strategy: Strategy, embed: Callable[..., AlignedEmbeddings]
) -> None:
    generator = np.random.default_rng(0)
    rows, clicks = generator.normal(size=(30, 24)), generator.random((60, 31)) < 0.3
    clicks[0] = clicks[:, 0] = False
    interactions = csr_matrix(clicks.astype(np.float32))
    torch.manual_seed(1)
    np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for width in (1, 7, 24):
        fit = strategy.fit(embed(*rows), width, interactions=interactions, seed=3)
        values = fit.reduction(width)
        assert values_by_id(fit.embeddings, values, width).shape == (31, width)
        if isinstance(values, Factors):
            assert values.users.shape == (60, width)
            assert values.to_dict() == {"kind": "factors", "width": width}
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize(
    "strategy",
    [*(one for one in STRATEGIES if not isinstance(one, Auto)), Whitening(smooth=0.4, exponent=0.5)],
    ids=repr,
)
def test_one_fit_reduces_to_every_width_as_a_fit_of_that_width(
    strategy: Strategy, rows: npt.NDArray[np.float64], interactions: csr_matrix
) -> None:
    """Bit for bit but for factors, whose products are rounded by their width; auto is what it takes for a width."""
    assert [one for one in STRATEGIES if not one.needs_vectors] == [Noise()]
    wide = strategy.fit(align(rows), 12, interactions=interactions, seed=3)
    for width in (1, 5, 12):
        ours = wide.reduction(width)
        theirs = strategy.fit(align(rows), width, interactions=interactions, seed=3).reduction(width)
        if isinstance(ours, Affine):
            assert isinstance(theirs, Affine) and ours.matrix.shape == (12, width)
            assert np.array_equal(ours.offset, theirs.offset) and np.array_equal(ours.matrix, theirs.matrix)
        elif isinstance(ours, Factors):
            assert isinstance(theirs, Factors) and np.array_equal(ours.items, theirs.items)
            np.testing.assert_allclose(ours.users, theirs.users, atol=1e-5)
        else:
            assert ours == theirs
        # A fit holds nothing of the reductions that were made before.
        assert ours.to_dict() == wide.reduction(width).to_dict()


@pytest.mark.parametrize(
    "strategy",
    [
        *(one for one in STRATEGIES if not isinstance(one, (Auto, LinearAutoencoder))),
        LinearAutoencoder(lam=3, kappa=0),
        LinearAutoencoder(lam=3, kappa=5),
    ],
    ids=repr,
)
def test_a_strategy_that_leaves_nothing_open_is_itself(
    strategy: Strategy, rows: npt.NDArray[np.float64], interactions: csr_matrix
) -> None:
    assert strategy.resolve(align(rows), 4, interactions=interactions, seed=0) is strategy
    assert strategy.fit(align(rows), 4, interactions=interactions, seed=0).strategy is strategy
