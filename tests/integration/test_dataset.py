"""The data of a run: one error where they cannot be loaded, and the interactions that an initialization counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.data.dataset import Dataset
from scipy.sparse import coo_matrix

from recbole_llminit import run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.dataset import training_interactions
from tests.all_models import load
from tests.encoders import ended_in
from tests.messages import naming
from tests.stock import DATA


def test_a_dataset_to_be_downloaded_is_not_asked_for_texts_before(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: Dataset, config: Any) -> None:
        raise RuntimeError("RecBole downloads the dataset")

    monkeypatch.setattr(Dataset, "__init__", download)
    settings = {**tiny, "data_path": "nowhere", "init_strategy": "var"}
    with pytest.raises(LLMInitError, match=naming("ml-1m", "RuntimeError: RecBole downloads the dataset")):
        run_recbole_llminit("BPR", config_dict={**settings, "dataset": "ml-1m"})
    with pytest.raises(LLMInitError, match=naming("there is no folder", "nowhere/unknown", "the dataset unknown")):
        run_recbole_llminit("BPR", config_dict={**settings, "dataset": "unknown"})


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "settings",
    [{}, {"init_strategy": "noise"}, {"init_strategy": "var", "llm_embedding": "."}],
    ids=["stock", "noise", "vectors"],
)
@pytest.mark.parametrize(
    ("where", "facts"),
    [
        ({"data_path": "nowhere"}, ("no folder", "nowhere/tiny", "data_path")),
        ({"dataset": "tyni"}, ("no folder", "data/tyni", "did you mean 'tiny'", "dataset")),
        ({"benchmark_filename": ["train", "test"]}, ("tiny.train.inter", "benchmark_filename", "train, test")),
    ],
    ids=["folder", "name", "parts"],
)
def test_data_that_is_not_there(
    tiny: dict[str, Any], settings: dict[str, Any], where: dict[str, Any], facts: tuple[str, ...]
) -> None:
    with pytest.raises(LLMInitError, match=naming(*facts)):
        run_recbole_llminit("BPR", config_dict={**tiny, **settings, **where})


def test_a_pipe_among_the_files_of_a_dataset(tiny: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(Path(tiny["data_path"]) / "tiny", tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "tiny.inter").unlink()
    os.mkfifo(tmp_path / "data" / "tiny" / "tiny.inter")
    with ended_in(30), pytest.raises(LLMInitError, match=naming("tiny.inter", "pipe")):
        run_recbole_llminit("BPR", config_dict={**tiny, "data_path": str(tmp_path / "data")})


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"load_col": {"inter": ["user_id"]}}, ("load the dataset tiny", "load_col", "{'inter': ['user_id']}")),
        ({"USER_ID_FIELD": "nope"}, ("load the dataset tiny", "USER_ID_FIELD", "nope")),
        ({"eval_args": {"split": {"XX": [1]}}}, ("load the dataset tiny", "eval_args", "XX")),
        ({"topk": [1000], "valid_metric": "MRR@1000"}, ("topk", "[1000]", "tiny", "29 items")),
    ],
    ids=["load_col", "USER_ID_FIELD", "eval_args", "topk"],
)
def test_what_recbole_finds_wrong_is_one_error_that_names_what_was_given(
    tiny: dict[str, Any], settings: dict[str, Any], facts: tuple[str, ...]
) -> None:
    with pytest.raises(LLMInitError, match=naming(*facts)):
        run_recbole_llminit("BPR", config_dict={**tiny, **settings})


class Interactions:
    """What `training_interactions` asks of a dataset."""

    iid_field = "item_id"

    def __init__(self, users: list[int], items: list[int], labels: list[int] | None = None) -> None:
        self.inter_feat = {"label"} if labels is not None else set()
        self._users, self._items, self._labels = users, items, labels

    def inter_matrix(self, form: str, value_field: str | None) -> coo_matrix:
        """The interactions as RecBole's method of this name gives them."""
        assert form == "coo"
        values = np.ones(len(self._users)) if value_field is None else np.array(self._labels)
        return coo_matrix((values, (self._users, self._items)), shape=(3, 4))


KEYS = {"LABEL_FIELD": "label", "LIST_SUFFIX": "_list", "benchmark_filename": None}


def test_an_interaction_counts_once() -> None:
    matrix = training_interactions(Interactions([1, 1, 2, 1], [2, 2, 3, 1]), KEYS)
    assert matrix.toarray().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]


def test_only_positive_labels_count() -> None:
    matrix = training_interactions(Interactions([1, 1, 2], [2, 3, 3], labels=[1, 0, 1]), KEYS)
    assert matrix.toarray().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_presplit_histories_count(presplit: dict[str, Any], tiny: dict[str, Any]) -> None:
    config, train_data = load("GRU4Rec", {**tiny, **presplit})
    dataset = train_data._dataset
    found = training_interactions(dataset, config)
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    pairs = {(users[row], items[column]) for row, column in zip(*found.nonzero(), strict=True)}
    assert pairs == {("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u2", "b")}
    assert set(found.data) == {1.0}


OF_CONTEXT = {
    "threshold": {"rating": 3}, "train_neg_sample_args": None, "metrics": ["AUC"], "valid_metric": "AUC",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"},
    "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "more", "lowest"),
    [("BPR", {}, None), ("SASRec", {"train_neg_sample_args": None}, None), ("FM", OF_CONTEXT, 3)],
)
def test_only_training_interactions_count(
    model: str, more: dict[str, Any], lowest: float | None, tiny: dict[str, Any]
) -> None:
    """Against the atomic file: every user's last two are held out, the context model's labels are ratings >= 3."""
    settings = {**tiny, "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}, **more}
    config, train_data = load(model, settings)
    dataset = train_data._dataset
    matrix = training_interactions(dataset, config)
    assert set(matrix.data) == {1.0}
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    expected = held_in(lowest)
    found: dict[str, set[str]] = {user: set() for user in expected}
    for row, column in zip(*matrix.nonzero(), strict=True):
        found[users[row]].add(items[column])
    assert found == expected


def held_in(lowest: float | None) -> dict[str, set[str]]:
    """Each user's items but the last two, of those rated so high at least, from the atomic file of the tiny dataset."""
    lines = [line.split("\t") for line in (DATA / "tiny" / "tiny.inter").read_text().splitlines()[1:]]
    mean = np.mean([float(rating) for _, _, rating, _ in lines if rating])
    rows: dict[str, list[tuple[float, str, float]]] = {}
    for user, item, rating, time in lines:
        rows.setdefault(user, []).append((float(time), item, float(rating or mean)))
    return {
        user: {item for _, item, rating in sorted(found)[:-2] if lowest is None or rating >= lowest}
        for user, found in rows.items()
    }
