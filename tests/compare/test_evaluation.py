"""The test user by user is RecBole's test."""

import numpy as np
import pandas as pd
import pytest

from recbole_llminit.compare.evaluation import evaluate_users
from recbole_llminit.integration.quick_start import load_data_and_model, run_recbole_llminit
from tests.all_models import settings_of

METRICS = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP", "GAUC"]


def evaluated(model, settings, tmp_path):
    result = run_recbole_llminit(model, config_dict=settings)
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    return result, checkpoint, evaluate_users(checkpoint)


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MultiDAE", "EASE", "Pop", "SASRec"])
@pytest.mark.parametrize("batch", [60, 100_000])
def test_the_users_average_to_recboles_figures(model, batch, llm, tmp_path):
    strategy = {} if model in ("EASE", "Pop", "MultiDAE") else {"init_strategy": "var"}
    settings = {**llm, **settings_of(model), "init_strategy": "none", **strategy, "epochs": 2, "metrics": METRICS,
                "topk": [3, 7], "valid_metric": "NDCG@7", "metric_decimal_place": 9, "eval_batch_size": batch}  # fmt: skip
    result, _, found = evaluated(model, settings, tmp_path)
    assert found.result == result["test_result"]
    means = found.users.drop(columns=["user_id", "train_interactions"]).mean()
    assert len(means) == 12 and "gauc" not in means
    assert means.round(9).to_dict() == pytest.approx(
        {name: result["test_result"][name] for name in means.index}, abs=1e-9
    )
    assert means["recall@7"] > 0


def test_spectra_are_those_of_the_trained_tables(llm, tmp_path):
    _, checkpoint, found = evaluated("SASRec", {**llm, "epochs": 1, "train_neg_sample_args": None}, tmp_path)
    model = load_data_and_model(checkpoint)[1]
    (table,) = found.spectra
    assert (table.label, table.side) == ("item_embedding.weight", "item")
    expected = np.linalg.svd(model.item_embedding.weight[1:].detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(table.spectrum.singular_values, expected, rtol=1e-4)


def test_what_has_no_table_has_no_spectrum(llm, tmp_path):
    assert evaluated("EASE", {**llm, "init_strategy": "none"}, tmp_path)[2].spectra == []


def test_ranks_and_counts_against_the_data(llm, tmp_path):
    settings = {
        **llm,
        "epochs": 2,
        "topk": [5, 20],
        "metrics": ["Recall"],
        "valid_metric": "Recall@5",
        "metric_decimal_place": 9,
    }
    _, checkpoint, found = evaluated("BPR", settings, tmp_path)
    _, model, dataset, train_data, valid_data, test_data = load_data_and_model(checkpoint)
    pairs = {}
    for name, data in (("train", train_data), ("valid", valid_data), ("test", test_data)):
        features = data._dataset.inter_feat
        pairs[name] = pd.DataFrame(
            {"user": features["user_id"].numpy(), "item": features["item_id"].numpy()}
        ).drop_duplicates()
    users = dataset.id2token("user_id", pairs["test"]["user"].to_numpy())
    items = dataset.id2token("item_id", pairs["test"]["item"].to_numpy())
    assert sorted(zip(found.ranks["user_id"], found.ranks["item_id"], strict=True)) == sorted(
        zip(users, items, strict=True)
    )
    # Scores and masks restated: an item's place among those that the user has not trained or validated on.
    scores = (model.user_embedding.weight @ model.item_embedding.weight.T).detach().numpy()
    scores[:, 0] = -np.inf
    for name in ("train", "valid"):
        scores[pairs[name]["user"], pairs[name]["item"]] = -np.inf
    train = pairs["train"]
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
