"""What an initialization writes into a model, number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import InitSettings, fit_to_tables, initialize_embeddings_
from recbole_llminit.initialization.users import FromModel, FromVectors
from recbole_llminit.strategies.base import RegisteredStrategy, Strategy, list_strategies
from recbole_llminit.strategies.projection import Whitening
from recbole_llminit.strategies.selection import Uniform, Variance
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.initialization.toy_model import INTERACTIONS, ToyModel, initialize, is_unchanged, state_of
from tests.messages import naming

Embed = Callable[..., AlignedEmbeddings]


def test_values_literally(vectors: AlignedEmbeddings) -> None:
    model = ToyModel()
    initialize(model, vectors)
    assert model.items.weight.tolist() == [[-10, -10], [1, 3], [5, 7], [9, 11]]
    # The first user trained on items 1 and 2, the second on none.
    assert model.users.weight.tolist() == [[-1, -1], [3, 5], [-3, -3]]


def test_the_settings_may_be_left_out(vectors: AlignedEmbeddings) -> None:
    model, plain = ToyModel(), ToyModel()
    initialize_embeddings_(model, vectors, INTERACTIONS, Uniform(), seed=1)
    initialize(plain, vectors)
    assert torch.equal(model.items.weight, plain.items.weight) and torch.equal(model.users.weight, plain.users.weight)


def test_an_item_without_a_vector_keeps_its_row_and_is_not_in_the_mean(embed: Embed) -> None:
    model = ToyModel()
    report = initialize(model, embed([1, 2, 3, 4], None, [9, 10, 11, 12]))
    assert model.items.weight.tolist() == [[-10, -10], [1, 3], [-12, -12], [9, 11]]
    assert model.users.weight.tolist() == [[-1, -1], [1, 3], [-3, -3]]
    assert (report.items, report.items_with_vector, report.users, report.users_with_items) == (3, 2, 2, 1)
    assert [(table.rows_written, table.rows_left) for table in report.tables] == [(1, 2), (2, 2)]


def test_missing_mean_writes_the_mean_but_not_into_users(embed: Embed) -> None:
    model = ToyModel()
    initialize(model, embed([1, 2, 3, 4], None, [9, 10, 11, 12]), missing="mean")
    assert model.items.weight.tolist() == [[-10, -10], [1, 3], [5, 7], [9, 11]]
    assert model.users.weight.tolist()[1] == [1, 3]


def test_nothing_to_write_is_refused(vectors: AlignedEmbeddings) -> None:
    with pytest.raises(
        LLMInitError, match=naming("nothing of ToyModel", "init_user: none", "users.weight", "remove init_strategy")
    ):
        initialize(ToyModel(), vectors, user=FromModel(), tables={"user": ["users.weight"]})
    with pytest.raises(
        LLMInitError, match=naming("nothing of ToyModel", "init_user: mean", "init_tables: {'item': []}")
    ):
        initialize(ToyModel(), vectors, tables={"item": []})


def test_each_table_is_reduced_to_its_own_width(vectors: AlignedEmbeddings) -> None:
    model = ToyModel(wide_items=(4, 4), narrow_users=(3, 3))
    report = initialize(model, vectors)
    assert model.items.weight.tolist()[1] == [1, 3]
    assert model.wide_items.weight.tolist()[1] == [1, 2, 3, 4]
    # Of four columns 0, 1 and 2; the mean of the first two items.
    assert model.narrow_users.weight.tolist()[1] == [3, 4, 5]
    assert {width: reduction["dimensions"] for width, reduction in report.reductions.items()} == {
        2: [0, 2],
        4: [0, 1, 2, 3],
        3: [0, 1, 2],
    }


def test_popularity_is_the_training_degree(embed: Embed) -> None:
    # int(0.5 * 4) = 2: items 1 and 2 have training interactions, and there column 3 varies most.
    model = ToyModel(width=1)
    report = initialize(
        model,
        embed([0, 0, 0, 1], [1, 0, 0, 4], [0, 90, 0, 0]),
        Variance(popular_ratio=0.5),
        tables={"item": ["items.weight"]},
    )
    assert report.reductions[1]["dimensions"] == [3]


@pytest.mark.parametrize("entry", list_strategies(), ids=lambda entry: entry.name)
def test_random_states_are_untouched(embed: Embed, entry: RegisteredStrategy) -> None:
    vectors = embed([1, 2, 3, 4], [5, 6, 7, 9], [9, 1, 2, 12])
    together = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1]], dtype=np.float32))
    model, strategy = ToyModel(), entry.cls(**({"popular_ratio": 1.0} if entry.name == "var" else {}))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    initialize(model, vectors, strategy, together)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


class Tables(nn.Module):
    """Tables of two widths for 30 items and 20 users with [PAD]."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.users = nn.Embedding(30, 4), nn.Embedding(20, 4)
        self.wide_items, self.wide_users = nn.Embedding(30, 6), nn.Embedding(20, 6)


FITTED = [
    *(entry.cls() for entry in list_strategies()),
    Whitening(smooth=0.4),
]


@pytest.mark.parametrize(
    ("settings", "own_users"),
    [
        ({}, False),
        ({"scale": "score"}, False),
        ({"missing": "mean"}, False),
        ({"shuffle": True}, False),
        ({"user": FromModel(), "scale": "model"}, False),
        ({}, True),
    ],
    ids=["defaults", "score", "mean", "shuffle", "users of the model", "users of their own"],
)
@pytest.mark.parametrize("to_tables", [False, True], ids=["fit", "fit to tables"])
@pytest.mark.parametrize("strategy", FITTED, ids=repr)
def test_a_fit_writes_what_its_strategy_does(
    embed: Embed, strategy: Strategy, settings: dict[str, Any], own_users: bool, to_tables: bool
) -> None:
    """Bit for bit; also where the vectors are shuffled, which takes another fit than the one that is given."""
    generator = np.random.default_rng(2)
    vectors = embed(*generator.normal(size=(28, 8)), None)
    dense = (generator.random((20, 30)) < 0.2).astype(np.float32)
    dense[0] = dense[:, 0] = 0
    interactions = csr_matrix(dense)
    if own_users and strategy.needs_vectors and strategy.is_reduction:
        settings = {"user": FromVectors(embed(*generator.normal(size=(19, 8))))}
    torch.manual_seed(0)
    model = Tables()
    torch.manual_seed(0)
    expected = Tables()
    theirs = initialize(expected, vectors, strategy, interactions, **settings)
    before = state_of(model)
    if to_tables:
        fit = fit_to_tables(model, vectors, interactions, strategy, seed=1, settings=InitSettings(**settings))
    else:
        fit = strategy.fit(vectors, 6, interactions=interactions, seed=1)
    assert is_unchanged(model, before)
    ours = initialize(model, vectors, fit, interactions, **settings)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert {**ours.to_dict(), "seconds": 0} == {**theirs.to_dict(), "seconds": 0}
    assert len(ours.tables) == (2 if settings.get("user") == FromModel() else 4)


def test_a_fit_to_tables_is_refused_as_an_initialization_is(vectors: AlignedEmbeddings) -> None:
    with pytest.raises(LLMInitError, match=naming("embedding_size 5", "4 dimensions of vectors", "users.weight")):
        fit_to_tables(ToyModel(width=5), vectors, INTERACTIONS, Uniform(), seed=1)


def test_a_fit_for_narrower_tables_is_refused(vectors: AlignedEmbeddings) -> None:
    model = ToyModel(width=3)
    before = state_of(model)
    fit = Uniform().fit(vectors, 2, interactions=INTERACTIONS, seed=1)
    with pytest.raises(LLMInitError, match=naming("Uniform()", "2 components", "users.weight", "3 columns")):
        initialize(model, vectors, fit)
    assert is_unchanged(model, before)


def test_the_defaults_are_those_of_the_configuration() -> None:
    settings = InitSettings()
    assert (settings.scale, settings.user.label, settings.missing) == (None, "mean", "model")
    assert (settings.trainable, settings.shuffle, settings.tables, settings.id_fields) == (True, False, None, None)
