"""What a comparison compares, read from arguments, files and mappings."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_llminit.compare.grids import LEARNING_RATES, NOISE_SCALES, WEIGHT_DECAYS
from recbole_llminit.compare.options import CompareOptions, Initialization
from recbole_llminit.errors import LLMInitError

SETTINGS = {"models": "BPR", "datasets": "tiny"}


def options_of(**settings: Any) -> CompareOptions:
    return CompareOptions.from_settings({**SETTINGS, **settings})


def labels_of(options: CompareOptions) -> list[str]:
    return [initialization.label for initialization in options.initializations]


def test_arguments_files_and_settings_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "compare.yaml"
    path.write_text("models: [BPR, LightGCN]\ndatasets: tiny\nseeds: 2\nstrategies: [var, rand]\nepochs: 7\n")
    from_arguments = CompareOptions.from_files(
        [], ["--models=BPR,LightGCN", "--datasets=tiny", "--seeds=2", "--strategies=var,rand", "--epochs=7"]
    )
    from_file = CompareOptions.from_files([path])
    assert from_file.settings == {"epochs": 7} and from_arguments.settings == {"epochs": 7}
    assert from_file.to_dict() == from_arguments.to_dict()
    assert CompareOptions.from_settings(yaml.safe_load(path.read_text())) == from_file
    assert CompareOptions.from_files([path], ["--models=SGL", "--seeds=[7, 9]"]).seeds == (7, 9)


def test_defaults() -> None:
    found = options_of(seed=5, seeds=3)
    assert [(initialization.label, initialization.role) for initialization in found.initializations] == [
        ("none", "stock"), ("rand", "llm"), ("uni", "llm"), ("var", "llm"), ("noise", "control"), ("var shuffled", "control")
    ]  # fmt: skip
    assert found.initializations[-1].settings == {"init_strategy": "var", "init_shuffle": True}
    assert found.seeds == (5, 6, 7)
    assert [baseline.label for baseline in found.baselines] == ["EASE", "ItemKNN", "Pop", "EASE with the vectors"]
    assert found.tune_grid == {"BPR": {"learning_rate": LEARNING_RATES, "weight_decay": WEIGHT_DECAYS}}
    assert (found.tune, found.cold_start, found.settings) == ("none", (), {})


def test_the_file_of_a_single_run_can_be_compared_as_it_is() -> None:
    single = {"model": "BPR", "dataset": "tiny", "init_strategy": "var", "epochs": 3}
    found = CompareOptions.from_settings(single)
    assert (list(found.models), list(found.datasets)) == (["BPR"], ["tiny"])
    both = CompareOptions.from_settings({**single, "models": ["SGL"], "datasets": "other"})
    assert (list(both.models), list(both.datasets)) == (["SGL"], ["other"])
    assert both.settings == {"epochs": 3}


def test_recboles_own_initialization_is_always_there() -> None:
    assert labels_of(options_of(strategies="uni", controls="none")) == ["none", "uni"]


@pytest.mark.parametrize(
    ("settings", "role"),
    [
        ({"init_strategy": None}, "stock"),
        ({"init_strategy": "uni", "init_shuffle": "True"}, "control"),
        ({"init_strategy": "noise"}, "control"),
        ({"init_strategy": "uni", "init_shuffle": False}, "llm"),
    ],
)
def test_the_role_of_an_initialization(settings: dict[str, Any], role: str) -> None:
    assert Initialization("x", settings).role == role


def test_a_strategy_is_the_label_where_no_other_is_given() -> None:
    found = options_of(strategies={"var": {"init_scale": 0.1}})
    assert labels_of(found) == ["none", "var", "noise", "var shuffled"]
    assert found.initializations[1].settings == {"init_strategy": "var", "init_scale": 0.1}


def test_noise_takes_the_vectors_of_the_last_initialization() -> None:
    own = {"init_strategy": "var", "llm_embedding": "vectors.npy", "init_scale": 0.1}
    found = options_of(strategies={"own": own}, controls="noise")
    assert found.initializations[-1] == Initialization(
        "noise", {"llm_embedding": "vectors.npy", "init_strategy": "noise"}, {"init_scale": NOISE_SCALES}
    )
    assert found.vector_keys == {"llm_embedding": "vectors.npy"}


def test_noise_is_searched_over_its_scale_unless_one_is_set() -> None:
    def grid_of_noise(**settings: Any) -> Any:
        return next(one.grid for one in options_of(**settings).initializations if one.label == "noise")

    assert grid_of_noise() == {"init_scale": (0.01, 0.03, 0.1, 0.3)}
    assert grid_of_noise(init_scale=0.1) == {}
    # The user's own noise is what the user says.
    assert grid_of_noise(strategies=["var", "noise"]) == {}
    assert grid_of_noise(strategies={"noise": {"init_scale": [0.2, 0.4]}}) == {"init_scale": [0.2, 0.4]}


def test_a_list_of_scales_is_a_grid_of_the_initialization() -> None:
    found = options_of(strategies={"var": {"init_scale": [0.1, 1.0], "init_user": "mean"}}, controls="shuffle")
    _, var, shuffled = found.initializations
    assert (var.settings, var.grid) == ({"init_strategy": "var", "init_user": "mean"}, {"init_scale": [0.1, 1.0]})
    assert shuffled.grid == var.grid
    assert found.to_dict()["strategies"]["var"]["init_scale"] == [0.1, 1.0]


def test_there_is_no_control_twice_and_none_of_nothing() -> None:
    assert labels_of(options_of(strategies="var,noise", controls="noise")) == ["none", "var", "noise"]
    assert labels_of(options_of(strategies="none", controls="noise,shuffle")) == ["none", "noise"]


@pytest.mark.parametrize(("value", "tune"), [("no", "none"), (None, "none"), ("all", "all")])
def test_tune(value: object, tune: str) -> None:
    assert options_of(tune=value).tune == tune


def test_lists_and_mappings_of_recboles_keys_may_be_yaml() -> None:
    arguments = ["--models=BPR", "--datasets=tiny", "--load_col={inter: [user_id, item_id]}", "--metrics=['Recall']"]
    found = CompareOptions.from_files([], arguments).settings
    assert found == {"load_col": {"inter": ["user_id", "item_id"]}, "metrics": ["Recall"]}


def test_paths_stay_on_this_machine() -> None:
    options = options_of(
        datasets={"tiny": {"data_path": "/home/me/data"}},
        strategies={"v": {"init_strategy": "var", "llm_embedding": "/home/me/vectors"}},
        llm_text_file="/home/me/x.csv",
    )
    assert "/home/me" in str(options) and "/home/me" not in str(options.to_dict())


@pytest.mark.parametrize(
    ("match", "change"),
    [
        (r"no models.*--models=NAME", {"models": None}),
        (r"no datasets.*--datasets=NAME", {"datasets": []}),
        (r"models is 7.*names", {"models": 7}),
        (r"'strategy' is unknown.*'strategies'", {"strategy": "var"}),
        (r"'varr' is unknown.*'var'", {"strategies": "none,varr"}),
        (r"'quick' has no init_strategy.*none or one of rand", {"strategies": {"quick": {"init_scale": 1}}}),
        (r"'none' has init_strategy var.*another name", {"strategies": {"none": {"init_strategy": "var"}}}),
        (r"controls has 'nois'.*noise, shuffle", {"controls": "nois"}),
        (r"controls has 5", {"controls": 5}),
        (r"two initializations.*'var shuffled'.*another name", {"strategies": {"var": None, "var shuffled": {"init_strategy": "var", "init_shuffle": True}}, "controls": "shuffle"}),
        (r"two initializations.*'none tuned'", {"strategies": {"none tuned": {"init_strategy": "none"}}, "tune": "stock"}),
        (r"baselines EASE is.*lists of values", {"baselines": {"EASE": {"reg_weight": []}}}),
        (r"baselines E has the model 3", {"baselines": {"E": {"model": 3}}}),
        (r"'la'", {"baselines": {"E": {"model": "EASE", "init_strategy": "la"}}}),
        (r"two initializations or baselines.*'var'", {"baselines": {"var": {"model": "EASE"}}}),
        (r"strategies var is.*lists of values", {"strategies": {"var": {"init_scale": []}}}),
        (r"tune_grid has a grid for 'SGL'.*BPR", {"tune_grid": {"SGL": {"learning_rate": [1]}}}),
        (r"tune_grid has a grid for 'learning_rate'", {"tune_grid": {"BPR": {"weight_decay": [1]}, "learning_rate": [1]}}),
        (r"tune_grid BPR is.*lists of values", {"tune_grid": {"BPR": {"learning_rate": 1}}}),
        (r"seeds is 0.*how many", {"seeds": 0}),
        (r"seeds is 'two'", {"seeds": "two"}),
        (r"seeds is 1000000.*100,000", {"seeds": 1_000_000}),
        (r"seeds is \[1, 'a'\].*'a'.*whole number", {"seeds": [1, "a"]}),
        (r"seed is None.*whole number", {"seed": None}),
        (r"seed is 'abc'", {"seed": "abc"}),
        (r"[0-9,]+ trials \(100,000 seeds.*100,000 at most", {"seeds": 100_000}),
        (r"tune is 'both'.*none, stock or all", {"tune": "both"}),
        (r"tune_grid is.*lists of values", {"tune_grid": {"learning_rate": []}}),
        (r"cold_start is \[2\].*between 0 and 1", {"cold_start": [2]}),
        (r"cold_start is \[\[0.5\]\]", {"cold_start": [[0.5]]}),
        (r"cold_start is {'a': 1}", {"cold_start": {"a": 1}}),
        (r"user_strata is \[5, 5\].*rising", {"user_strata": [5, 5]}),
        (r"user_strata is None", {"user_strata": None}),
        (r"item_strata is 5\.5", {"item_strata": 5.5}),
        (r"seed is set for models BPR.*use seeds", {"models": {"BPR": {"seed": 7}}}),
        (r"seed is set for tune_grid", {"tune_grid": {"seed": [1, 2]}}),
        (r"drop_train is set for all trials.*use cold_start", {"drop_train": 0.5}),
        (r"init_shuffle is set for all trials.*use controls: shuffle", {"init_shuffle": True}),
    ],
)  # fmt: skip
def test_what_is_refused(match: str, change: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=match):
        options_of(**change)


def test_what_is_no_mapping_is_refused() -> None:
    content: Any = ["BPR"]
    with pytest.raises(LLMInitError, match=r"\['BPR'\].*mapping.*CompareOptions"):
        CompareOptions.from_settings(content)
