"""What a comparison is made of, and what is refused before the first trial."""

import numpy as np
import pytest
import yaml

from recbole_llminit.compare.options import BASELINES, CompareOptions, Initialization
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.store import append_shard, hash_text
from tests.conftest import METADATA


@pytest.fixture
def settings(llm):
    del llm["dataset"], llm["init_strategy"]
    return {**llm, "models": "BPR", "datasets": "tiny", "strategies": ["none", "var"], "baselines": "none"}


def lines(plan):
    return [(entry.model, entry.initialization, entry.role, entry.drop, entry.seed) for entry in plan.entries]


def refused(match, **settings):
    with pytest.raises(LLMInitError, match=match):
        make_plan(CompareOptions.from_settings(settings))


def test_arguments_files_and_settings_are_read_alike(tmp_path):
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


def test_defaults():
    found = CompareOptions.from_settings({"models": ["BPR"], "datasets": ["tiny"], "seed": 5, "seeds": 3})
    assert [(initialization.label, initialization.role) for initialization in found.initializations] == [
        ("none", "stock"), ("rand", "llm"), ("uni", "llm"), ("var", "llm"), ("noise", "control"), ("var shuffled", "control")
    ]  # fmt: skip
    assert found.initializations[-1].settings == {"init_strategy": "var", "init_shuffle": True}
    assert found.seeds == (5, 6, 7)
    assert found.baselines == BASELINES
    assert (found.tune, found.cold_start, found.settings) == ("none", (), {})


def test_the_file_of_a_single_run_serves_as_it_is():
    single = {"model": "BPR", "dataset": "tiny", "init_strategy": "var", "epochs": 3}
    found = CompareOptions.from_settings(single)
    assert (list(found.models), list(found.datasets)) == (["BPR"], ["tiny"])
    both = CompareOptions.from_settings({**single, "models": ["SGL"], "datasets": "other"})
    assert (list(both.models), list(both.datasets)) == (["SGL"], ["other"])
    assert both.settings == {"epochs": 3}


def test_the_stock_start_is_always_there():
    found = CompareOptions.from_settings({"models": "BPR", "datasets": "tiny", "strategies": "uni", "controls": "none"})
    assert [initialization.label for initialization in found.initializations] == ["none", "uni"]


def test_starts_models_and_datasets_with_keys_of_their_own(settings):
    options = CompareOptions.from_settings(
        {
            **settings,
            "models": {"BPR": {"learning_rate": 0.1}, "LightGCN": None},
            "datasets": {"tiny": {"train_batch_size": 32}},
            "strategies": {"small": {"init_strategy": "var", "init_scale": 0.01}},
            "controls": ["shuffle"],
        }
    )
    plan = make_plan(options)
    assert lines(plan)[:3] == [("BPR", "none", "stock", None, 2020), ("BPR", "small", "llm", None, 2020),
                               ("BPR", "small shuffled", "control", None, 2020)]  # fmt: skip
    trials = [plan.trials[entry.trials[0]] for entry in plan.entries]
    assert [trial.settings.get("learning_rate") for trial in trials] == [0.1] * 3 + [None] * 3
    assert all(trial.settings["train_batch_size"] == 32 for trial in trials)
    assert trials[2].settings["init_scale"] == 0.01 and trials[2].settings["init_shuffle"]


def test_seed_by_seed_and_level_by_level(settings):
    plan = make_plan(
        CompareOptions.from_settings(
            {**settings, "controls": "none", "seeds": 2, "cold_start": [0.5, "all_but_one"], "baselines": "Pop"}
        )
    )
    assert lines(plan)[:6] == [
        ("BPR", "none", "stock", None, 2020), ("BPR", "var", "llm", None, 2020), ("Pop", "", "baseline", None, 2020),
        ("BPR", "none", "stock", 0.5, 2020), ("BPR", "var", "llm", 0.5, 2020), ("Pop", "", "baseline", 0.5, 2020)
    ]  # fmt: skip
    assert [entry.seed for entry in plan.entries] == [2020] * 9 + [2021] * 9
    assert len(plan.trials) == 18
    assert {trial.settings.get("drop_train") for trial in plan.trials.values()} == {None, 0.5, "all_but_one"}


def test_tuning_adds_a_line_whose_grid_shares_the_untuned_trial(settings):
    tuned = {**settings, "controls": "none", "tune_grid": {"learning_rate": [0.001, 0.01]}}
    plan = make_plan(CompareOptions.from_settings({**tuned, "tune": "stock"}))
    assert [line[1] for line in lines(plan)] == ["none", "none tuned", "var"]
    own, grid = plan.entries[0].trials, plan.entries[1].trials
    # RecBole's default learning rate is 0.001: that point of the grid is the untuned trial.
    assert len(grid) == 2 and grid[0] == own[0]
    assert plan.trials[grid[1]].settings["learning_rate"] == 0.01
    everything = make_plan(CompareOptions.from_settings({**tuned, "tune": "all"}))
    assert [line[1] for line in lines(everything)] == ["none", "none tuned", "var", "var tuned"]


def test_baselines_have_a_grid_and_none_of_our_keys(settings):
    plan = make_plan(
        CompareOptions.from_settings({**settings, "baselines": {"EASE": {"reg_weight": [1.0, 2.0]}, "Pop": None}})
    )
    ease = [entry for entry in plan.entries if entry.model == "EASE"]
    assert [plan.trials[name].settings["reg_weight"] for name in ease[0].trials] == [1.0, 2.0]
    assert not any(key.startswith(("init_", "llm_")) for name in ease[0].trials for key in plan.trials[name].settings)


def test_noise_is_given_the_vectors_so_that_it_starts_the_same_items(settings):
    plan = make_plan(CompareOptions.from_settings(settings))
    by_start = {entry.initialization: plan.trials[entry.trials[0]].settings for entry in plan.entries}
    assert by_start["noise"]["llm_embedding"] == by_start["var"]["llm_embedding"]
    alone = make_plan(CompareOptions.from_settings({**settings, "strategies": "none", "llm_embedding": None}))
    assert [entry.initialization for entry in alone.entries] == ["none", "noise"]


def names(settings, **others):
    return list(make_plan(CompareOptions.from_settings({**settings, **others})).trials)


def test_a_trials_name_holds_what_changes_its_outcome(settings, tiny_vectors, tmp_path):
    base = names(settings)
    assert (
        names(settings, epochs="3", data_path=f"{settings['data_path']}/../data", state="WARNING", seeds=[2020]) == base
    )
    assert not set(names(settings, epochs=4)) & set(base)
    assert not set(names(settings, seeds=[2021])) & set(base)
    # Other vectors under another path change all initializations but the stock one.
    other = tmp_path / "other.csv"
    other.write_text("item_id," + ",".join(map(str, range(16))) + "\n" +
                     "".join(f"{item},{','.join(map(str, vector[:16]))}\n" for item, vector in tiny_vectors.items()))  # fmt: skip
    changed = names(settings, llm_embedding=str(other))
    assert changed[0] == base[0] and not set(changed[1:]) & set(base)


def test_a_store_that_has_grown_makes_other_trials(settings, tiny_vectors, tmp_path):
    def grow(part):
        vectors = np.stack([tiny_vectors[item] for item in part])
        append_shard(tmp_path / "grown", part, [hash_text(item) for item in part], vectors, METADATA)
        return names(settings, llm_embedding=str(tmp_path / "grown"))

    items = sorted(tiny_vectors)
    begun, finished = grow(items[:10]), grow(items[10:])
    assert finished[0] == begun[0] and not set(finished[1:]) & set(begun)
    # In which order they were encoded changes nothing.
    assert finished == names(settings)


def test_other_data_under_the_same_name_is_another_trial(settings, tmp_path):
    from pathlib import Path
    from shutil import copytree

    copytree(Path(settings["data_path"]) / "tiny", tmp_path / "tiny")
    assert names(settings, data_path=str(tmp_path)) == names(settings)
    with (tmp_path / "tiny" / "tiny.inter").open("a") as file:
        file.write(Path(settings["data_path"], "tiny", "tiny.inter").read_text().splitlines()[-1] + "\n")
    assert not set(names(settings, data_path=str(tmp_path))) & set(names(settings))


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("no models are given", {"models": None}),
        ("no datasets are given", {"datasets": []}),
        (r"'LightGCNN' is none of RecBole's: did you mean 'LightGCN'\?", {"models": ["BPR", "LightGCNN"]}),
        (r"init_strategy 'varr' is unknown: did you mean 'var'\?", {"strategies": "none,varr"}),
        (r"init_args 'ratio' is unknown to init_strategy 'var'", {"strategies": {"x": {"init_strategy": "var", "init_args": {"ratio": 1}}}}),
        (r"controls has 'nois': expected noise, shuffle", {"controls": "nois"}),
        ("EASE has no trainable user or item table", {"models": "EASE"}),
        ("baselines EASE is", {"baselines": {"EASE": {"reg_weight": 3}}}),
        (r"'EASEE' is none of RecBole's: did you mean 'EASE'\?", {"baselines": "EASEE"}),
        ("seeds is 0: expected how many", {"seeds": 0}),
        ("seeds is 'two'", {"seeds": "two"}),
        ("tune is 'both': expected none, stock or all", {"tune": "both"}),
        ("user_strata is", {"user_strata": [5, 5]}),
        (r"cold_start is \[2\]: expected shares between 0 and 1", {"cold_start": [2]}),
        (r"the key 'strategy' is unknown: did you mean 'strategies'\?", {"strategy": "var"}),
        (r"the key 'epochz' is unknown.*did you mean 'epochs'\?", {"epochz": 3}),
        ("the key 'foo_bar_baz' is unknown", {"foo_bar_baz": 2}),
        ("the key 'foo_bar_baz' is unknown", {"models": {"BPR": {"foo_bar_baz": 2}}}),
        (r"seeds is 1000000: expected how many, up to 100,000", {"seeds": 1_000_000}),
        (r"these are [0-9,]+ trials \(100,000 seeds.*expected 100,000 at most", {"seeds": 100_000}),
        (r"seeds is \[1, 'a'\], and seed is 'a': expected a whole number", {"seeds": [1, "a"]}),
        (r"the key 'learning_rat' is unknown.*: did you mean 'learning_rate'\?", {"learning_rat": 1}),
        ("the key 'init_scal' is unknown", {"init_scal": 1}),
        ("there is no tiny.inter in .*nowhere", {"data_path": "nowhere"}),
        (r"dataset is '../x': expected the name of a folder", {"datasets": "../x"}),
        ("the initialization 'quick' has no init_strategy: expected none or one of rand", {"strategies": {"quick": {"init_scale": 1}}}),
        ("the initialization 'none' has init_strategy var: give it another name", {"strategies": {"none": {"init_strategy": "var"}}}),
        ("two initializations are called 'var shuffled'", {"strategies": {"var": None, "var shuffled": {"init_strategy": "var", "init_shuffle": True}}, "controls": "shuffle"}),
        ("two initializations are called 'none tuned'", {"strategies": {"none tuned": {"init_strategy": "none"}}, "tune": "stock"}),
        ("seed is set for models BPR: the comparison sets it, use seeds", {"models": {"BPR": {"seed": 7}}}),
        ("drop_train is set for all trials: the comparison sets it, use cold_start", {"drop_train": 0.5}),
        ("init_shuffle is set for all trials: .* use controls: shuffle", {"init_shuffle": True}),
        ("seed is set for tune_grid", {"tune_grid": {"seed": [1, 2]}}),
        ("topk is .5. for LightGCN and .10. for BPR on tiny", {"models": {"BPR": {}, "LightGCN": {"topk": [5], "valid_metric": "NDCG@5"}}}),
        ("eval_args is .* for EASE and .* for SASRec on tiny, and what is compared must be tested alike", {"models": "SASRec", "baselines": "EASE", "train_neg_sample_args": None}),
        ("compare chooses by validation, and BPR would have none: .*eval_step 0", {"eval_step": 0}),
        ("compare chooses by validation", {"eval_step": 4}),
        ("compare chooses by validation", {"eval_args": {"split": {"RS": [0.8, 0, 0.2]}}}),
        ("compare chooses by validation", {"eval_args": {"split": {"LS": "test_only"}}}),
        ("user_strata is None", {"user_strata": None}),
        ("epochs is 'abc': expected a whole number", {"epochs": "abc"}),
        ("metrics has 'Foo', which RecBole does not know", {"metrics": ["Recall", "Foo"]}),
        ("valid_metric is MRR@10, and it is none of metrics", {"metrics": ["Recall"]}),
        ("valid_metric is MRR@10, and it is none of metrics .* at topk .5.", {"topk": 5}),
        ("item_strata is 5.5", {"item_strata": 5.5}),
        ("controls has 5", {"controls": 5}),
        ("cold_start is ..0.5..", {"cold_start": [[0.5]]}),
        ("cold_start is {'a': 1}", {"cold_start": {"a": 1}}),
        ("seed is None: expected a whole number", {"seed": None}),
        ("seed is 'abc'", {"seed": "abc"}),
        ("nothing is there", {"llm_embedding": "nowhere.npy"}),
        ("compare ranks all items at test", {"eval_args": {"mode": "uni10"}}),
        ("compare ranks all items at test", {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"}),
        ("models is 7: expected names", {"models": 7}),
        ("a trial is one process", {"nproc": 2}),
        ("SASRec is trained on sequences", {"models": "SASRec", "cold_start": [0.5], "train_neg_sample_args": None}),
    ],
)  # fmt: skip
def test_what_is_refused(match, change, settings):
    refused(match, **{**settings, **change})


def test_a_trial_has_one_name(settings):
    named = names(settings)
    assert names(settings, init_scale="raw", init_user="mean") == named
    assert names(settings, init_scale=0.01) == names(settings, init_scale="0.01")
    # What auto takes decides its scale.
    assert len({names(settings, strategies="auto", init_scale=scale)[1] for scale in (None, "raw", "score", 0.05)}) == 4
    # Keys of a initialization are none of stock RecBole's.
    assert names(settings, init_scale=0.01)[0] == named[0]
    # What a initialization is called decides nothing.
    assert names(settings, strategies={"mine": {"init_strategy": "var"}})[1] == named[1]
    shuffled = names(settings, controls="shuffle")
    assert "var-shuffled" in shuffled[2] and len(set(shuffled)) == 3


def test_the_seed_is_the_comparisons(settings):
    plan = make_plan(CompareOptions.from_settings({**settings, "seeds": [3, 4]}))
    assert {trial.settings["seed"] for trial in plan.trials.values()} == {3, 4}
    assert len(plan.trials) == len(plan.entries) == 8


def test_a_start_named_as_its_strategy_needs_no_other_word(settings):
    plan = make_plan(CompareOptions.from_settings({**settings, "strategies": {"var": {"init_scale": 0.1}}}))
    assert [line[1:3] for line in lines(plan)] == [
        ("none", "stock"), ("var", "llm"), ("noise", "control"), ("var shuffled", "control")
    ]  # fmt: skip


def test_noise_takes_the_vectors_of_the_last_start(settings, tiny_store):
    del settings["llm_embedding"]
    own = {"init_strategy": "var", "llm_embedding": str(tiny_store)}
    plan = make_plan(CompareOptions.from_settings({**settings, "strategies": {"own": own}, "controls": "noise"}))
    trials = {entry.initialization: plan.trials[entry.trials[0]].settings for entry in plan.entries}
    assert trials["noise"]["llm_embedding"] == str(tiny_store)


def test_the_batch_of_users_is_large_where_it_costs_no_memory(settings):
    others = {"baselines": "none", "strategies": "none", "controls": "none"}
    models = ["BPR", "NeuMF", "FISM", "LightGCN"]
    plan = make_plan(CompareOptions.from_settings({**settings, **others, "models": models}))
    sizes = {trial.model: trial.settings.get("eval_batch_size") for trial in plan.trials.values()}
    assert sizes == {"BPR": 2_000_000, "NeuMF": None, "FISM": 2_000_000, "LightGCN": 2_000_000}
    sequential = {**settings, **others, "models": "SASRec", "train_neg_sample_args": None}
    (trial,) = make_plan(CompareOptions.from_settings(sequential)).trials.values()
    assert "eval_batch_size" not in trial.settings
    own = {**settings, **others, "models": "BPR", "eval_batch_size": 7}
    (trial,) = make_plan(CompareOptions.from_settings(own)).trials.values()
    assert trial.settings["eval_batch_size"] == 7


def test_paths_stay_on_this_machine(settings):
    placed = {**settings, "datasets": {"tiny": {"data_path": settings["data_path"]}}, "llm_text_file": "/home/me/x.csv"}
    options = CompareOptions.from_settings(
        {**placed, "strategies": {"v": {"init_strategy": "var", "llm_embedding": "/a"}}}
    )
    assert not any(text in str(options.to_dict()) for text in ("/home/me", settings["data_path"], "'/a'"))


def test_a_dry_plan_makes_no_vectors(settings, tmp_path, monkeypatch):
    del settings["llm_embedding"]
    settings["llm_cache_dir"] = str(tmp_path / "cache")
    monkeypatch.setattr("recbole_llminit.integration.config.encode_items", None)
    plan = make_plan(CompareOptions.from_settings(settings), make_vectors=False)
    assert [trial.settings.get("llm_embedding") for trial in plan.trials.values()] == [None, "", "", ""]
    assert not (tmp_path / "cache").exists()


def test_the_options_of_a_report_are_those_of_a_comparison(settings):
    asked = {**settings, "controls": ["noise", "shuffle"], "baselines": {"EASE": {"reg_weight": [1.0]}}, "seeds": 2,
             "tune": "stock", "cold_start": [0.5, "all_but_one"]}  # fmt: skip
    options = CompareOptions.from_settings(asked)
    again = yaml.safe_load(yaml.safe_dump(options.to_dict(), sort_keys=False))
    paths = {key: settings[key] for key in ("data_path", "llm_embedding")}
    read = CompareOptions.from_settings({**again, **paths})
    assert read.to_dict() == options.to_dict()
    assert list(make_plan(read).trials) == list(make_plan(options).trials)


def test_lists_and_mappings_of_recboles_keys_may_be_yaml():
    arguments = ["--models=BPR", "--datasets=tiny", "--load_col={inter: [user_id, item_id]}", "--metrics=['Recall']"]
    found = CompareOptions.from_files([], arguments).settings
    assert found == {"load_col": {"inter": ["user_id", "item_id"]}, "metrics": ["Recall"]}


def test_a_key_that_a_model_does_not_read_is_named(settings, caplog):
    make_plan(CompareOptions.from_settings({**settings, "models": ["BPR", "LightGCN"], "n_layers": 2}))
    assert "BPR does not read n_layers" in caplog.text and "LightGCN does not read n_layers" not in caplog.text


def test_a_start_knows_its_role():
    assert Initialization("x", {"init_strategy": None}).role == "stock"
    assert Initialization("x", {"init_strategy": "uni", "init_shuffle": "True"}).role == "control"
    assert Initialization("x", {"init_strategy": "noise"}).role == "control"
    assert Initialization("x", {"init_strategy": "uni", "init_shuffle": False}).role == "llm"


def test_users_vectors_are_part_of_a_trials_name(settings, tmp_path):
    def trial(values):
        np.save(tmp_path / "users.npy", np.full((2, 80), values, dtype=np.float32))
        (tmp_path / "users.txt").write_text("u1\nu2")
        initializations = {"var": {"init_user": "users.npy"}}
        plan = make_plan(CompareOptions.from_settings({**settings, "strategies": initializations, "controls": "none"}))
        return next(trial for trial in plan.trials.values() if "var" in trial.name)

    first, second = trial(1), trial(2)
    assert first.settings["init_user"] == str(tmp_path / "users.npy")
    assert first.name != second.name and trial(1).name == first.name


EVIL = "__import__('pathlib').Path('canary').touch()"


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": EVIL}, {"models": {"BPR": {"epochs": EVIL}}}, {"strategies": {"x": {"init_strategy": "var", "epochs": EVIL}}},
        {"strategies": {"x": {"init_strategy": "var", "init_args": EVIL}}}, {"tune": "stock", "tune_grid": {"learning_rate": [EVIL]}},
        {"baselines": {"EASE": {"reg_weight": [EVIL]}}}, {"seeds": EVIL}, {"data_path": EVIL}, {"llm_embedding": EVIL},
    ],
)  # fmt: skip
def test_nothing_in_a_comparison_is_evaluated(settings, change, tmp_path):
    with pytest.raises(LLMInitError):
        make_plan(CompareOptions.from_settings({**settings, **change}))
    assert not (tmp_path / "canary").exists()
