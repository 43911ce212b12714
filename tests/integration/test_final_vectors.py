"""The vectors that RecBole's linear graph models score by, which factors are written to become."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_llminit.initialization.model_exceptions import LINEAR_PROPAGATION
from recbole_llminit.integration.dataset import training_interactions
from recbole_llminit.integration.final_vectors import final_vectors_of
from recbole_llminit.integration.model import get_model
from recbole_llminit.strategies.base import Factors
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.vectors.readers import read_embeddings
from tests.all_models import NEEDS, load

FIXED = {"lam": 5.0, "kappa": 20.0}


def build(name: str, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """An initialized model, its configuration and its training split."""
    config, train_data = load(name, {**settings, **NEEDS.get(name, {})})
    init_seed(config["seed"], config["reproducibility"])
    return get_model(name)(config, train_data._dataset), config, train_data._dataset


def cosine(first: Any, second: Any) -> float:
    first, second = (np.asarray(one, dtype=np.float64).ravel() for one in (first, second))
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("name", sorted(LINEAR_PROPAGATION))
def test_the_vectors_are_those_that_the_model_scores_by(name: str, llm: dict[str, Any]) -> None:
    model, config, _ = build(name, llm)
    ask = final_vectors_of(model, config["device"])
    assert ask is not None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    # SGL draws the graphs of an epoch here.
    model.train()
    attributes = dict(vars(model))
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    vectors = ask()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[1]).all()
    assert model.training and vars(model).keys() == attributes.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction({"user_id": torch.arange(1, 41)})).view(40, -1)
    torch.testing.assert_close(vectors["user"][1:] @ vectors["item"].T, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["BPR", "NGCF", "SASRec"])
def test_other_models_have_none(name: str, llm: dict[str, Any]) -> None:
    settings = {**llm, "train_neg_sample_args": None} if name == "SASRec" else llm
    model, config, _ = build(name, settings)
    assert final_vectors_of(model, config["device"]) is None


@pytest.mark.parametrize("name", sorted(LINEAR_PROPAGATION))
def test_the_factors_are_the_final_vectors(name: str, llm: dict[str, Any]) -> None:
    """Up to the scale of the scores, and what the graph cannot have."""
    settings = {**llm, "init_strategy": "lae", "init_args": FIXED, "embedding_size": 8}
    model, config, dataset = build(name, settings)
    vectors = read_embeddings(llm["llm_embedding"], "item_id").align(dataset.field2id_token["item_id"], "tiny")
    interactions = training_interactions(dataset, config)
    fit = LinearAutoencoder(**FIXED).fit(vectors, 8, interactions=interactions, seed=config["seed"])
    factors = fit.reduction(8)
    assert isinstance(factors, Factors)
    ask = final_vectors_of(model, config["device"])
    assert ask is not None
    found = ask()
    for side, wanted, table in (
        ("user", factors.users, model.user_embedding),
        ("item", factors.items, model.item_embedding),
    ):
        assert cosine(found[side][1:], wanted[1:]) > 0.98
        assert cosine(table.weight.detach()[1:], wanted[1:]) < cosine(found[side][1:], wanted[1:])


@pytest.mark.parametrize("more", [{"init_strategy": "cca"}, {"init_user": "mean"}, {"init_user": "none"}], ids=str)
def test_other_values_are_written_as_they_are(more: dict[str, Any], llm: dict[str, Any]) -> None:
    """Only factors of both sides were fitted to be final vectors: LightGCN's tables are BPR's but for the scale."""
    settings = {**llm, "init_strategy": "lae", "init_args": FIXED, "embedding_size": 8, **more}
    if more.get("init_strategy"):
        settings["init_args"] = None
    graph, plain = (build(name, settings)[0].item_embedding.weight.detach()[1:] for name in ("LightGCN", "BPR"))
    assert cosine(graph, plain) == pytest.approx(1, abs=1e-5)
