"""A model's own scores: as RecBole's evaluation takes them, and without a trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR, LightGCN
from recbole.utils import init_seed
from torch import nn

from recbole_llminit.integration.model import get_model
from recbole_llminit.integration.model_scores import ModelScores
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from tests.all_models import load
from tests.messages import logged

SCORE_STDS = {"lae": LinearAutoencoder.score_std, "cca": CanonicalCorrelation.score_std, "var": 1 / 16}
# A class of one's own does not get the values of its stock model.
OF_LIGHTGCN = {"n_layers": 2, "reg_weight": 1e-5, "require_pow": False}


def build(model: str | type, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """An initialized model, its configuration and its training split."""
    config, train_data = load(model, settings)
    init_seed(config["seed"], config["reproducibility"])
    return get_model(model)(config, train_data._dataset), config, train_data._dataset


def scores_of_all_users(model: Any, dataset: Any) -> np.ndarray:
    """The scores of all items for each user with training clicks, as RecBole's evaluation asks for them."""
    users = np.unique(dataset.inter_feat["user_id"].numpy())
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction({"user_id": torch.from_numpy(users)}))
    return scores.view(len(users), -1)[:, 1:].numpy()


@pytest.mark.parametrize("strategy", ["lae", "cca", "var"])
@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_the_scores_of_an_initialized_model_are_as_wide_as_the_strategy_says(
    model: str, strategy: str, llm: dict[str, Any]
) -> None:
    settings = {**llm, "init_strategy": strategy, "init_scale": "score", "embedding_size": 8}
    built, config, dataset = build(model, settings)
    scores = scores_of_all_users(built, dataset)
    assert scores.std() == pytest.approx(SCORE_STDS[strategy], rel=0.05)
    assert ModelScores(config, dataset).std(built) == pytest.approx(scores.std(), rel=1e-4)
    dots = built.user_embedding.weight[1:] @ built.item_embedding.weight[1:].T
    # A graph model averages over neighbors.
    assert (float(dots.std()) > 1.2 * scores.std()) == (model == "LightGCN")


def test_a_model_that_normalizes_its_values_is_scaled_by_the_dot_products(llm: dict[str, Any]) -> None:
    """NGCF brings each layer's output to length 1."""
    built, *_ = build("NGCF", {**llm, "init_strategy": "lae", "init_scale": "score", "embedding_size": 8})
    dots = built.user_embedding.weight[1:] @ built.item_embedding.weight[1:].T
    assert float(dots.std(correction=0)) == pytest.approx(LinearAutoencoder.score_std, rel=1e-3)


def test_a_sequential_models_scores(llm: dict[str, Any]) -> None:
    """With the histories of the training split."""
    settings = {**llm, "init_strategy": "var", "init_scale": "score", "train_neg_sample_args": None}
    model, config, dataset = build("SASRec", settings)
    scores = ModelScores(config, dataset)
    assert scores.can_ask(model) and np.isfinite(scores.std(model)) and scores.std(model) > 0
    rows = np.array([0, 3, 7])
    (found,) = scores.of_rows(model, rows)
    model.eval()
    with torch.no_grad():
        expected = model.full_sort_predict(dataset.inter_feat[torch.from_numpy(rows)])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("model", "settings", "asked"),
    [
        ("BPR", {}, True),
        ("FM", {"load_col": {"inter": ["user_id", "item_id", "rating"]}, "threshold": {"rating": 3}}, False),
        ("NeuMF", {}, False),
    ],
)
def test_which_models_can_be_asked(model: str, settings: dict[str, Any], asked: bool, llm: dict[str, Any]) -> None:
    """Those that score all items for a user; others are initialized by the dot products."""
    built, config, dataset = build(model, {**llm, **settings, "init_scale": "score"})
    assert ModelScores(config, dataset).can_ask(built) == asked
    assert built.init_report.scale == "score"
    if model == "FM":
        table = built.token_embedding_table.embedding.weight.detach()
        users, items = table[1:41], table[42:71]
        has_clicks = np.unique(dataset.inter_feat["user_id"][dataset.inter_feat["label"] > 0].numpy()) - 1
        assert float((users[has_clicks] @ items.T).std(correction=0)) == pytest.approx(1 / 16, rel=1e-4)


class Restless(LightGCN):
    """Keeps what it has computed, draws random numbers of all kinds, and changes a mode of a module inside."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.inside = nn.Sequential(nn.Dropout(0.5))
        self.drawn: float | None = None

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        torch.rand(3), np.random.rand(3), random.random()
        self.drawn = 1.0
        self.inside.extra = [1]
        self.asked = True
        return super().full_sort_predict(interaction)


def test_a_model_that_is_asked_is_left_as_it_was(llm: dict[str, Any]) -> None:
    model, config, dataset = build(Restless, {**llm, **OF_LIGHTGCN, "init_strategy": "uni"})
    model.train()
    model.inside.eval()
    scores = ModelScores(config, dataset)
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    values = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert scores.std(model) > 0
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert all(module.__dict__[key] is value for key, value in before[name].items())
    assert model.training and not model.inside.training and not model.inside[0].training
    assert model.restore_user_e is None and model.drawn is None and not hasattr(model, "asked")
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]


class Failing(BPR):
    """Cannot be asked after all."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        self.asked = True
        raise ZeroDivisionError("no scores")


def test_a_model_is_left_as_it_was_after_an_error_of_its_own(llm: dict[str, Any]) -> None:
    model, config, dataset = build(Failing, llm)
    model.train()
    with pytest.raises(ZeroDivisionError, match="no scores"):
        ModelScores(config, dataset).std(model)
    assert model.training and not hasattr(model, "asked")


def test_a_model_that_has_no_scores_before_training_is_scaled_by_the_dot_products(
    llm: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**llm, "init_strategy": "lae", "init_scale": "score"}
    model, *_ = build(Failing, settings)
    assert logged(caplog, "Failing", "no scores before its training", "ZeroDivisionError", "init_scale score")
    dots = model.user_embedding.weight[1:] @ model.item_embedding.weight[1:].T
    assert float(dots.std(correction=0)) == pytest.approx(LinearAutoencoder.score_std, rel=1e-3)
    assert not hasattr(model, "asked")


@pytest.mark.parametrize("name", ["LightGCN", Restless])
def test_an_initialization_by_scores_leaves_model_and_random_states(name: str | type, llm: dict[str, Any]) -> None:
    """The stock model's random state after its constructor, no cache, and its mode."""
    settings = {**llm, **OF_LIGHTGCN, "init_strategy": "lae", "init_scale": "score"}
    config, train_data = load(name, settings)
    init_seed(config["seed"], config["reproducibility"])
    stock = (name if isinstance(name, type) else LightGCN)(config, train_data._dataset)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model, *_ = build(name, settings)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    assert model.restore_user_e is None and model.restore_item_e is None and model.training == stock.training
    assert list(model.state_dict()) == list(stock.state_dict())
    assert set(vars(model)) - set(vars(stock)) == {"init_report"}


def test_the_sample_of_users_is_the_same_at_every_call(llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, config, dataset = build("BPR", llm)
    scores = ModelScores(config, dataset)
    whole = scores.std(model)
    monkeypatch.setattr("recbole_llminit.integration.model_scores._SCORES", 30 * 7)
    # All 40 users, seven at a time.
    monkeypatch.setattr("recbole_llminit.integration.model_scores._SAMPLED_USERS", 40)
    rows = scores._sample_rows()
    assert len(rows) == 8 and len(set(dataset.inter_feat["user_id"][torch.from_numpy(rows)].tolist())) == 8
    assert rows.tolist() == scores._sample_rows().tolist()
    assert scores.std(model) == scores.std(model) != whole
    blocks = list(scores.of_rows(model, rows))
    assert [block.shape for block in blocks] == [(7, 30), (1, 30)]
