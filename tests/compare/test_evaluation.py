"""The test of a trained model, user by user: it is RecBole's test."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_llminit.compare.evaluation import UserEvaluation, evaluate_users
from recbole_llminit.integration.quick_start import load_data_and_model, run_recbole_llminit
from tests.all_models import settings_of

METRICS = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP", "GAUC"]


def evaluate(model: str, settings: dict[str, Any]) -> tuple[dict[str, Any], Path, UserEvaluation]:
    """Train a model and test it user by user; return the result of the run, its checkpoint and the evaluation."""
    result = run_recbole_llminit(model, config_dict=settings)
    (checkpoint,) = Path(settings["checkpoint_dir"]).glob("*.pth")
    return result, checkpoint, evaluate_users(checkpoint)


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MultiDAE", "EASE", "Pop", "SASRec"])
@pytest.mark.parametrize("batch", [60, 100_000])
def test_the_users_average_to_recboles_metrics(model: str, batch: int, llm: dict[str, Any]) -> None:
    strategy = "none" if model in ("EASE", "Pop", "MultiDAE") else "var"
    settings = {**llm, **settings_of(model), "init_strategy": strategy, "epochs": 2, "metrics": METRICS,
                "topk": [3, 7], "valid_metric": "NDCG@7", "metric_decimal_place": 9, "eval_batch_size": batch}  # fmt: skip
    result, _, found = evaluate(model, settings)
    assert found.result == result["test_result"]
    means = found.users.drop(columns=["user_id", "train_interactions"]).mean()
    assert len(means) == 12 and "gauc" not in means
    expected = {name: result["test_result"][name] for name in means.index}
    assert means.round(9).to_dict() == pytest.approx(expected, abs=1e-9)
    assert means["recall@7"] > 0


def test_spectra_are_those_of_the_trained_tables(llm: dict[str, Any]) -> None:
    _, checkpoint, found = evaluate("SASRec", {**llm, "epochs": 1, "train_neg_sample_args": None})
    model = load_data_and_model(checkpoint)[1]
    (table,) = found.spectra
    assert (table.label, table.side) == ("item_embedding.weight", "item")
    expected = np.linalg.svd(model.item_embedding.weight[1:].detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(table.spectrum.singular_values, expected, rtol=1e-4)


def test_a_model_without_a_table_has_no_spectrum(llm: dict[str, Any]) -> None:
    assert evaluate("EASE", {**llm, "init_strategy": "none"})[2].spectra == []


def test_ranks_and_counts_against_the_data(llm: dict[str, Any]) -> None:
    change = {
        "epochs": 2,
        "topk": [5, 20],
        "metrics": ["Recall"],
        "valid_metric": "Recall@5",
        "metric_decimal_place": 9,
    }
    _, checkpoint, found = evaluate("BPR", {**llm, **change})
    _, model, dataset, *data = load_data_and_model(checkpoint)
    train, valid, test = (interactions_of(part) for part in data)
    users = dataset.id2token("user_id", test["user"].to_numpy())
    items = dataset.id2token("item_id", test["item"].to_numpy())
    ranked = zip(found.ranks["user_id"], found.ranks["item_id"], strict=True)
    assert sorted(ranked) == sorted(zip(users, items, strict=True))
    # Scores and masks restated: an item's place among those that the user has not trained or validated on.
    scores = (model.user_embedding.weight @ model.item_embedding.weight.T).detach().numpy()
    scores[:, 0] = -np.inf
    for part in (train, valid):
        scores[part["user"], part["item"]] = -np.inf
    for row in found.ranks.itertuples(index=False):
        user, item = dataset.token2id("user_id", row.user_id), dataset.token2id("item_id", row.item_id)
        rank = 1 + (scores[user] > scores[user, item]).sum()
        assert (rank if rank <= 20 else None) == (None if pd.isna(row.rank) else row.rank)
        assert row.item_interactions == (train["item"] == item).sum()
    per_user = found.ranks.assign(hit=(found.ranks["rank"] <= 5).fillna(False)).groupby("user_id")["hit"].mean()
    by_user = found.users.set_index("user_id")
    assert by_user["recall@5"].to_dict() == pytest.approx(per_user.to_dict())
    assert by_user["train_interactions"].to_dict() == {
        token: (train["user"] == dataset.token2id("user_id", token)).sum() for token in by_user.index
    }
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())


def interactions_of(data: Any) -> pd.DataFrame:
    """The user-item pairs of a part of the data, each once."""
    features = data._dataset.inter_feat
    pairs = {"user": features["user_id"].numpy(), "item": features["item_id"].numpy()}
    return pd.DataFrame(pairs).drop_duplicates()
