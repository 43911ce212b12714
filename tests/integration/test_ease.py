"""EASE with the vectors: its scores, its report, its control, and its checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import EASE
from recbole.utils import init_seed

from recbole_llminit import load_data_and_model, run_recbole_llminit
from recbole_llminit.integration.dataset import training_interactions
from recbole_llminit.integration.model import get_model
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.vectors.readers import read_embeddings
from tests.all_models import load
from tests.messages import logged
from tests.strategies.closed_form_oracle import item_weights, text_prior

FIXED = {"lam": 3.0, "kappa": 9.0, "exponent": 1.0}


@pytest.fixture
def ease(llm: dict[str, Any]) -> dict[str, Any]:
    """Settings of EASE with the vectors."""
    return {**llm, "init_strategy": "lae", "init_args": FIXED}


def build(settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The model, its configuration and its training split."""
    config, train_data = load("EASE", settings)
    init_seed(config["seed"], config["reproducibility"])
    return get_model("EASE")(config, train_data._dataset), config, train_data._dataset


def expected_weights(dataset: Any, vectors: dict[str, np.ndarray], config: Any) -> np.ndarray:
    """The formula in float64, for `FIXED`: the features are the centered vectors at length 1."""
    tokens = dataset.field2id_token["item_id"][1:]
    rows = np.stack([vectors[str(token)].astype(np.float64) for token in tokens])
    rows -= rows.mean(axis=0)
    features = np.vstack([np.zeros(rows.shape[1]), rows / np.linalg.norm(rows, axis=1, keepdims=True)])
    clicks = training_interactions(dataset, config).toarray()
    return item_weights(clicks, text_prior(features, 0.3), 3.0, 9.0)


def test_its_scores_are_those_of_the_formula(ease: dict[str, Any], tiny_vectors: dict[str, np.ndarray]) -> None:
    model, config, dataset = build(ease)
    weights = expected_weights(dataset, tiny_vectors, config)
    np.testing.assert_allclose(np.asarray(model.item_similarity), weights, atol=1e-4)
    users = torch.arange(1, 41)
    clicks = training_interactions(dataset, config).toarray()
    found = model.full_sort_predict(Interaction({"user_id": users}))
    np.testing.assert_allclose(found.view(40, -1), (clicks @ weights)[1:], atol=1e-3)
    pairs = Interaction({"user_id": users, "item_id": torch.full((40,), 5)})
    np.testing.assert_allclose(model.predict(pairs).ravel(), (clicks @ weights)[1:, 5], atol=1e-3)
    assert not np.diag(np.asarray(model.item_similarity)).any()


def test_all_but_the_weights_is_the_stock_models(ease: dict[str, Any]) -> None:
    model, config, dataset = build(ease)
    init_seed(config["seed"], config["reproducibility"])
    stock = EASE(config, dataset)
    after = torch.get_rng_state()
    assert set(vars(model)) - set(vars(stock)) == {"init_report"}
    assert type(model.item_similarity) is type(stock.item_similarity)
    assert model.item_similarity.dtype == stock.item_similarity.dtype
    assert model.item_similarity.shape == stock.item_similarity.shape
    assert not np.allclose(model.item_similarity, stock.item_similarity, atol=0.01)
    build(ease)
    assert torch.equal(torch.get_rng_state(), after)


def test_without_a_prior_it_is_recboles_ease_with_lam(ease: dict[str, Any]) -> None:
    model, config, dataset = build({**ease, "init_args": {"lam": 20.0, "kappa": 0}})
    config["reg_weight"] = 20.0
    np.testing.assert_allclose(model.item_similarity, EASE(config, dataset).item_similarity, atol=1e-5)


def test_the_report_says_what_was_done(ease: dict[str, Any], tiny_store: Path) -> None:
    model, _, dataset = build(ease)
    report = model.init_report
    assert report.model == "EASE" and report.strategy == repr(LinearAutoencoder(**FIXED)) and not report.shuffled
    assert report.encoder == "test-encoder" and report.source == str(tiny_store) and report.llm_dim == 80
    assert (report.items, report.items_with_vector, report.users, report.users_with_items) == (29, 29, 40, 40)
    (table,) = report.tables
    assert (table.name, table.shape, table.rows_written, table.rows_left) == ("item_similarity", (30, 30), 29, 1)
    assert table.std_after == pytest.approx(np.asarray(model.item_similarity).std(), rel=1e-5)
    assert table.std_before != pytest.approx(table.std_after, rel=1e-3)
    assert "EASE" in str(report) and "item_similarity" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["strategy"] == report.strategy
    assert dataset.item_num == 30


def test_open_parameters_are_chosen_and_in_the_report(ease: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        model, *_ = build({**ease, "init_args": None})
    assert logged(caplog, "init_strategy lae takes", "160 held-out training clicks")
    assert "lam=None" not in model.init_report.strategy and "kappa=None" not in model.init_report.strategy


def test_a_control_shuffles_the_vectors_after_the_choice(ease: dict[str, Any], tiny_store: Path) -> None:
    model, config, dataset = build({**ease, "init_args": None, "init_shuffle": True})
    plain, *_ = build({**ease, "init_args": None})
    assert model.init_report.shuffled and model.init_report.strategy == plain.init_report.strategy
    vectors = read_embeddings(tiny_store, "item_id").align(dataset.field2id_token["item_id"], "tiny")
    interactions, seed = training_interactions(dataset, config), config["seed"]
    chosen = LinearAutoencoder().resolve(vectors, 80, interactions=interactions, seed=seed)
    assert repr(chosen) == model.init_report.strategy
    assert isinstance(chosen, LinearAutoencoder)
    expected = chosen.solve(vectors.shuffled(seed), interactions, seed)[1].to_dense()
    np.testing.assert_array_equal(np.asarray(model.item_similarity), expected)
    if chosen.kappa:
        assert not np.allclose(model.item_similarity, plain.item_similarity, atol=1e-3)


def test_stock_recbole_reads_its_checkpoint(ease: dict[str, Any], tmp_path: Path) -> None:
    """In a process that cannot import this package, with the same test result; and this package reads it."""
    result = run_recbole_llminit("EASE", config_dict=ease)
    (path,) = (tmp_path / "saved").glob("*.pth")
    script = Path(__file__).parents[1] / "stock_reads_checkpoint.py"
    ran = subprocess.run([sys.executable, script, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    read = json.loads(ran.stdout.splitlines()[-1])
    assert read["result"] == pytest.approx(result["test_result"]) and read["result"]["recall@10"] > 0
    assert not any("llminit" in module for module in read["modules"])
    _, model, *_ = load_data_and_model(path)
    trained, *_ = build(ease)
    np.testing.assert_array_equal(model.item_similarity, trained.item_similarity)
    assert json.loads(path.with_suffix(".json").read_text())["model"] == "EASE"
