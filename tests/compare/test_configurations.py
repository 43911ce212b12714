"""The configurations of a comparison: what is refused before anything is encoded or trained, and the names of trials."""

from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.compare.trial import Trial
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.shard import append_shard, hash_text
from tests.conftest import METADATA

ALONE = {"baselines": "none", "strategies": "none", "controls": "none"}
EVIL = "__import__('pathlib').Path('canary').touch()"


@pytest.fixture
def settings(llm: dict[str, Any]) -> dict[str, Any]:
    # BPR reads no hidden_size.
    del llm["dataset"], llm["init_strategy"], llm["hidden_size"]
    return {**llm, "models": "BPR", "datasets": "tiny", "strategies": ["none", "var"], "baselines": "none"}


def trials_of(settings: dict[str, Any], **others: Any) -> list[Trial]:
    return list(make_plan(CompareOptions.from_settings({**settings, **others})).trials.values())


def names_of(settings: dict[str, Any], **others: Any) -> list[str]:
    return [trial.name for trial in trials_of(settings, **others)]


@pytest.mark.parametrize(
    ("match", "change"),
    [
        (r"'LightGCNN'.*'LightGCN'", {"models": ["BPR", "LightGCNN"]}),
        (r"'EASEE'.*'EASE'", {"baselines": "EASEE"}),
        (r"EASE has no trainable user or item table", {"models": "EASE"}),
        (r"init_args 'ratio' is unknown.*'var'", {"strategies": {"x": {"init_strategy": "var", "init_args": {"ratio": 1}}}}),
        (r"'epochz' is unknown.*'epochs'", {"epochz": 3}),
        (r"'foo_bar_baz' is unknown", {"foo_bar_baz": 2}),
        (r"'foo_bar_baz' is unknown", {"models": {"BPR": {"foo_bar_baz": 2}}}),
        (r"'learning_rat' is unknown.*'learning_rate'", {"learning_rat": 1}),
        (r"'init_scal' is unknown", {"init_scal": 1}),
        (r"no tiny.inter in .*nowhere.*data_path", {"data_path": "nowhere"}),
        (r"dataset is '\.\./x'.*folder", {"datasets": "../x"}),
        (r"topk is .5. for LightGCN and .10. for BPR on tiny.*baselines: none", {"models": {"BPR": {}, "LightGCN": {"topk": [5], "valid_metric": "NDCG@5"}}}),
        (r"eval_args is .* for EASE and .* for SASRec on tiny.*alike", {"models": "SASRec", "baselines": "EASE", "train_neg_sample_args": None}),
        (r"validation.*BPR.*eval_step 0", {"eval_step": 0}),
        (r"validation.*BPR.*eval_step 4, epochs 3", {"eval_step": 4}),
        (r"validation.*split is.*0\.8, 0, 0\.2", {"eval_args": {"split": {"RS": [0.8, 0, 0.2]}}}),
        (r"validation.*split is.*test_only", {"eval_args": {"split": {"LS": "test_only"}}}),
        (r"epochs is 'abc'.*whole number", {"epochs": "abc"}),
        (r"metrics has 'Foo'", {"metrics": ["Recall", "Foo"]}),
        (r"valid_metric is MRR@10.*metrics", {"metrics": ["Recall"]}),
        (r"valid_metric is MRR@10.*topk .5.", {"topk": 5}),
        (r"nothing is there", {"llm_embedding": "nowhere.npy"}),
        (r"ranks all items at test.*mode to full.*BPR", {"eval_args": {"mode": "uni10"}}),
        (r"ranks all items at test", {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"}),
        (r"one process", {"nproc": 2}),
        (r"SASRec is trained on sequences", {"models": "SASRec", "cold_start": [0.5], "train_neg_sample_args": None}),
    ],
)  # fmt: skip
def test_what_is_refused(match: str, change: dict[str, Any], settings: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=match):
        trials_of(settings, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": EVIL}, {"models": {"BPR": {"epochs": EVIL}}}, {"strategies": {"x": {"init_strategy": "var", "epochs": EVIL}}},
        {"strategies": {"x": {"init_strategy": "var", "init_args": EVIL}}}, {"tune": "stock", "tune_grid": {"learning_rate": [EVIL]}},
        {"baselines": {"EASE": {"reg_weight": [EVIL]}}}, {"seeds": EVIL}, {"data_path": EVIL}, {"llm_embedding": EVIL},
    ],
)  # fmt: skip
def test_nothing_in_a_comparison_is_evaluated(settings: dict[str, Any], change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LLMInitError):
        trials_of(settings, **change)
    assert not (tmp_path / "canary").exists()


def test_the_batch_of_users_is_large_where_it_costs_no_memory(settings: dict[str, Any]) -> None:
    trials = trials_of(settings, **ALONE, models=["BPR", "NeuMF", "FISM", "LightGCN"])
    sizes = {trial.model: trial.settings.get("eval_batch_size") for trial in trials}
    assert sizes == {"BPR": 2_000_000, "NeuMF": None, "FISM": 2_000_000, "LightGCN": 2_000_000}
    (trial,) = trials_of(settings, **ALONE, models="BPR", eval_batch_size=7)
    assert trial.settings["eval_batch_size"] == 7
    # SASRec reads none.
    del settings["embedding_size"]
    (trial,) = trials_of(settings, **ALONE, models="SASRec", train_neg_sample_args=None)
    assert "eval_batch_size" not in trial.settings


def test_a_model_in_closed_form_is_validated_after_its_one_epoch(settings: dict[str, Any]) -> None:
    (trial,) = [trial for trial in trials_of(settings, baselines="Pop", eval_step=2) if trial.model == "Pop"]
    assert (trial.epochs, trial.eval_step) == (1, 1)
    assert (trial.settings["epochs"], trial.settings["eval_step"]) == (1, 1)


def test_a_trial_has_one_name(settings: dict[str, Any]) -> None:
    # With a scale for all trials noise is not searched over its own.
    settings["controls"] = "none"
    settings["strategies"] = ["none", "var", "noise"]
    named = names_of(settings)
    assert names_of(settings, init_scale="raw", init_user="mean") == named
    assert names_of(settings, init_scale=0.01) == names_of(settings, init_scale="0.01")
    # What auto takes decides its scale.
    scales = (None, "raw", "score", 0.05)
    assert len({names_of(settings, strategies="auto", init_scale=scale)[1] for scale in scales}) == 4
    # RecBole's own initialization reads no keys of an initialization.
    assert names_of(settings, init_scale=0.01)[0] == named[0]
    # The label of an initialization decides nothing.
    assert names_of(settings, strategies={"mine": {"init_strategy": "var"}})[1] == named[1]
    shuffled = names_of(settings, strategies="var", controls="shuffle")
    assert "var-shuffled" in shuffled[2] and len(set(shuffled)) == 3


def test_a_trials_name_holds_what_changes_its_outcome(
    settings: dict[str, Any], tiny_vectors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    base = names_of(settings)
    same = {"epochs": "3", "data_path": f"{settings['data_path']}/../data", "state": "WARNING", "seeds": [2020]}
    assert names_of(settings, **same) == base
    assert not set(names_of(settings, epochs=4)) & set(base)
    assert not set(names_of(settings, seeds=[2021])) & set(base)
    # Other vectors under another path change all initializations but RecBole's own.
    other = tmp_path / "other.csv"
    rows = [f"{item},{','.join(map(str, vector[:16]))}" for item, vector in tiny_vectors.items()]
    other.write_text("\n".join(["item_id," + ",".join(map(str, range(16))), *rows]) + "\n")
    changed = names_of(settings, llm_embedding=str(other))
    assert changed[0] == base[0] and not set(changed[1:]) & set(base)


def test_a_store_that_has_grown_makes_other_trials(
    settings: dict[str, Any], tiny_vectors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    def grow(part: list[str]) -> list[str]:
        vectors = np.stack([tiny_vectors[item] for item in part])
        append_shard(tmp_path / "grown", part, [hash_text(item) for item in part], vectors, METADATA)
        return names_of(settings, llm_embedding=str(tmp_path / "grown"))

    items = sorted(tiny_vectors)
    begun, finished = grow(items[:10]), grow(items[10:])
    assert finished[0] == begun[0] and not set(finished[1:]) & set(begun)
    # The order in which they were encoded changes nothing.
    assert finished == names_of(settings)


def test_other_data_under_the_same_name_is_another_trial(settings: dict[str, Any], tmp_path: Path) -> None:
    copytree(Path(settings["data_path"]) / "tiny", tmp_path / "tiny")
    assert names_of(settings, data_path=str(tmp_path)) == names_of(settings)
    with (tmp_path / "tiny" / "tiny.inter").open("a") as file:
        file.write(Path(settings["data_path"], "tiny", "tiny.inter").read_text().splitlines()[-1] + "\n")
    assert not set(names_of(settings, data_path=str(tmp_path))) & set(names_of(settings))


def test_users_vectors_are_part_of_a_trials_name(settings: dict[str, Any], tmp_path: Path) -> None:
    def trial(value: float) -> Trial:
        np.save(tmp_path / "users.npy", np.full((2, 80), value, dtype=np.float32))
        (tmp_path / "users.txt").write_text("u1\nu2")
        trials = trials_of(settings, strategies={"var": {"init_user": "users.npy"}}, controls="none")
        return next(trial for trial in trials if "var" in trial.name)

    first, second = trial(1), trial(2)
    assert first.settings["init_user"] == str(tmp_path / "users.npy")
    assert first.name != second.name and trial(1).name == first.name
