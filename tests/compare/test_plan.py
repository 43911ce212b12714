"""The lines of a comparison and their trials; planning never encodes."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import Entry, Plan, check_comparison, make_plan
from recbole_llminit.errors import LLMInitError

Line = tuple[str, str, str, float | str | None, int]


@pytest.fixture
def settings(llm: dict[str, Any]) -> dict[str, Any]:
    # BPR reads no hidden_size.
    del llm["dataset"], llm["init_strategy"], llm["hidden_size"]
    return {**llm, "models": "BPR", "datasets": "tiny", "strategies": ["none", "var"], "baselines": "none"}


def plan_of(settings: dict[str, Any], **others: Any) -> Plan:
    return make_plan(CompareOptions.from_settings({**settings, **others}))


def lines(plan: Plan) -> list[Line]:
    return [(entry.model, entry.initialization, entry.role, entry.drop, entry.seed) for entry in plan.entries]


def test_initializations_models_and_datasets_with_keys_of_their_own(settings: dict[str, Any]) -> None:
    plan = plan_of(
        settings,
        models={"BPR": {"learning_rate": 0.1}, "LightGCN": None},
        datasets={"tiny": {"train_batch_size": 32}},
        strategies={"small": {"init_strategy": "var", "init_scale": 0.01}},
        controls=["shuffle"],
    )
    assert lines(plan)[:3] == [("BPR", "none", "stock", None, 2020), ("BPR", "small", "llm", None, 2020),
                               ("BPR", "small shuffled", "control", None, 2020)]  # fmt: skip
    trials = [plan.trials[entry.trials[0]] for entry in plan.entries]
    assert [trial.settings.get("learning_rate") for trial in trials] == [0.1] * 3 + [None] * 3
    assert all(trial.settings["train_batch_size"] == 32 for trial in trials)
    assert trials[2].settings["init_scale"] == 0.01 and trials[2].settings["init_shuffle"]


def test_seed_by_seed_and_drop_by_drop(settings: dict[str, Any]) -> None:
    plan = plan_of(settings, controls="none", seeds=2, cold_start=[0.5, "all_but_one"], baselines="Pop")
    assert lines(plan)[:6] == [
        ("BPR", "none", "stock", None, 2020), ("BPR", "var", "llm", None, 2020), ("Pop", "", "baseline", None, 2020),
        ("BPR", "none", "stock", 0.5, 2020), ("BPR", "var", "llm", 0.5, 2020), ("Pop", "", "baseline", 0.5, 2020)
    ]  # fmt: skip
    assert [entry.seed for entry in plan.entries] == [2020] * 9 + [2021] * 9
    assert len(plan.trials) == 18
    assert {trial.settings.get("drop_train") for trial in plan.trials.values()} == {None, 0.5, "all_but_one"}


def test_tuning_adds_a_line_whose_grid_shares_the_untuned_trial(settings: dict[str, Any]) -> None:
    tuned = {**settings, "controls": "none", "tune_grid": {"learning_rate": [0.001, 0.01]}}
    plan = plan_of(tuned, tune="stock")
    assert [line[1] for line in lines(plan)] == ["none", "none tuned", "var"]
    own, grid = plan.entries[0].trials, plan.entries[1].trials
    # RecBole's default learning rate is 0.001: that point of the grid is the untuned trial.
    assert len(grid) == 2 and grid[0] == own[0]
    assert plan.entries[1].tuned == ("learning_rate",)
    assert plan.trials[grid[1]].settings["learning_rate"] == 0.01
    assert [line[1] for line in lines(plan_of(tuned, tune="all"))] == ["none", "none tuned", "var", "var tuned"]


def test_options_without_a_grid_take_that_of_the_model(settings: dict[str, Any]) -> None:
    options = CompareOptions.from_settings({**settings, "strategies": "none", "controls": "none", "tune": "stock"})
    assert make_plan(replace(options, tune_grid={})).entries == make_plan(options).entries


def test_baselines_have_a_grid_and_none_of_our_keys(settings: dict[str, Any]) -> None:
    plan = plan_of(settings, baselines={"EASE": {"reg_weight": [1.0, 2.0]}, "Pop": None})
    (ease,) = [entry for entry in plan.entries if entry.model == "EASE"]
    trials = [plan.trials[name].settings for name in ease.trials]
    assert [trial["reg_weight"] for trial in trials] == [1.0, 2.0]
    assert not any(key.startswith(("init_", "llm_")) for trial in trials for key in trial)


def test_a_baseline_with_vectors_is_a_line_of_its_own(settings: dict[str, Any]) -> None:
    """The vectors are those of the last initialization; no other key of an initialization reaches it."""
    keys = {"model": "EASE", "init_strategy": "lae", "init_args": {"lam": 5.0}, "reg_weight": [1.0, 2.0]}
    own = {"init_strategy": "var", "llm_embedding": settings.pop("llm_embedding"), "init_missing": "mean"}
    plan = plan_of(settings, strategies={"own": own}, controls="none", baselines={"with vectors": keys}, init_scale=0.1)
    assert lines(plan)[-1] == ("with vectors", "", "baseline", None, 2020)
    trials = [plan.trials[name] for name in plan.entries[-1].trials]
    assert [(trial.model, trial.settings["reg_weight"]) for trial in trials] == [("EASE", 1.0), ("EASE", 2.0)]
    for trial in trials:
        ours = {key: value for key, value in trial.settings.items() if key.startswith(("init_", "llm_"))}
        vectors = own["llm_embedding"]
        assert ours == {"init_strategy": "lae", "init_args": {"lam": 5.0}, "llm_embedding": vectors}
        assert trial.name.startswith("tiny-EASE-lae-2020_")
    assert plan.entries[-1].tuned == ("reg_weight",)


def test_the_entries_of_a_plan_file() -> None:
    keys = {"dataset": "d", "model": "M", "initialization": "none tuned", "role": "stock", "drop": None, "seed": 1}
    entry = Entry(**keys, trials=("a",), grids=({"x": [1, 2]},))
    assert Entry.from_dict(json.loads(json.dumps(asdict(entry)))) == entry
    # An earlier version wrote the keys alone.
    old = Entry.from_dict({**keys, "trials": ["a"], "tuned": ["x"]})
    assert (old.trials, old.tuned) == (("a",), ("x",))
    assert Entry.from_dict({**keys, "trials": ["a"], "tuned": []}).grids == ()


def test_noise_is_given_the_vectors_so_that_it_initializes_the_same_items(settings: dict[str, Any]) -> None:
    plan = plan_of(settings)
    trials = {entry.initialization: plan.trials[entry.trials[0]].settings for entry in plan.entries}
    assert trials["noise"]["llm_embedding"] == trials["var"]["llm_embedding"] == settings["llm_embedding"]
    alone = plan_of(settings, strategies="none", llm_embedding=None)
    assert [entry.initialization for entry in alone.entries] == ["none", "noise"]
    assert not any("llm_embedding" in trial.settings for trial in alone.trials.values())


def test_the_seed_is_the_comparisons(settings: dict[str, Any]) -> None:
    plan = plan_of(settings, seeds=[3, 4])
    assert {trial.settings["seed"] for trial in plan.trials.values()} == {3, 4}
    # RecBole's own, var, noise at four scales, and var shuffled.
    assert (len(plan.trials), len(plan.entries)) == (2 * 7, 2 * 4)


def test_the_options_of_a_report_are_those_of_a_comparison(settings: dict[str, Any]) -> None:
    asked = {**settings, "controls": ["noise", "shuffle"], "baselines": {"EASE": {"reg_weight": [1.0]}}, "seeds": 2,
             "tune": "stock", "cold_start": [0.5, "all_but_one"]}  # fmt: skip
    options = CompareOptions.from_settings(asked)
    again = yaml.safe_load(yaml.safe_dump(options.to_dict(), sort_keys=False))
    paths = {key: settings[key] for key in ("data_path", "llm_embedding")}
    read = CompareOptions.from_settings({**again, **paths})
    assert read.to_dict() == options.to_dict()
    assert list(make_plan(read).trials) == list(make_plan(options).trials)


@pytest.fixture
def without_vectors(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Settings of a comparison whose vectors are still to be encoded."""
    del settings["llm_embedding"]
    return {**settings, "llm_cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch, tiny_store: Path) -> list[str]:
    """Let a store that is there stand for what is encoded; return the datasets, as they are asked for."""
    asked: list[str] = []

    def provide(embedding: Path | None, options: Any) -> Path:
        if embedding is not None:
            return embedding
        asked.append(options.dataset)
        return tiny_store

    monkeypatch.setattr("recbole_llminit.compare.trial_vectors.provide_vectors", provide)
    return asked


def test_planning_never_encodes(
    without_vectors: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoder in ("encode_items", "SentenceEncoder", "EndpointEncoder"):
        monkeypatch.setattr(f"recbole_llminit.encode.pipeline.{encoder}", None)
    plan = plan_of(without_vectors)
    assert [trial.settings.get("llm_embedding") for trial in plan.trials.values()] == [None, *[""] * 6]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(TypeError, match="NoneType"):
        check_comparison(CompareOptions.from_settings(without_vectors)).make_vectors()


def test_trials_are_named_by_the_vectors_that_were_made(
    without_vectors: dict[str, Any], settings: dict[str, Any], encoded: list[str], tiny_store: Path
) -> None:
    checked = check_comparison(CompareOptions.from_settings({**without_vectors, "seeds": 2}))
    before = checked.plan()
    assert encoded == []
    checked.make_vectors()
    # Once for all trials that ask for the same.
    assert encoded == ["tiny"]
    after = checked.plan(["compare", "--x=y z"])
    assert after.command == "compare '--x=y z'"
    assert list(after.trials) == list(plan_of(settings, llm_embedding=str(tiny_store), seeds=2).trials)
    assert not set(after.trials) & {name for name in before.trials if "-none-" not in name}


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("nothing is there", {"strategies": {"var": None, "own": {"init_strategy": "var", "llm_embedding": "nowhere"}}}),
        ("'LihgtGCN'", {"models": ["BPR", "LihgtGCN"]}),
        ("there is no", {"strategies": {"var": None, "own": {"init_strategy": "var", "llm_text_file": "nowhere.csv"}}}),
        ("cannot be read", {"strategies": {"var": None, "own": {"init_strategy": "var", "llm_embedding": "bad.npy"}}}),
    ],
)  # fmt: skip
def test_what_can_be_refused_is_refused_before_anything_is_encoded(
    without_vectors: dict[str, Any], encoded: list[str], match: str, change: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.npy").write_bytes(b"bad")
    (tmp_path / "bad.txt").write_text("1")
    with pytest.raises(LLMInitError, match=match):
        check_comparison(CompareOptions.from_settings({**without_vectors, **change}))
    assert encoded == []
