"""A run that is resumed from a checkpoint: as RecBole's trainer does it, without vectors, and refused where it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model as get_stock_model
from recbole.utils import get_trainer, init_seed

from recbole_llminit import run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from tests import stock
from tests.messages import logged, naming


@pytest.fixture
def resumed(frozen_settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The settings of `frozen_checkpoint`'s run with enough epochs to go on."""
    return {**frozen_settings, "epochs": 9, "checkpoint_dir": str(tmp_path / "saved")}


def test_a_run_is_resumed_without_the_store(
    frozen_checkpoint: Path,
    resumed: dict[str, Any],
    trainers: list[Trainer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    saved = torch.load(frozen_checkpoint, weights_only=False)
    settings = {**resumed, "epochs": 6, "llm_embedding": str(tmp_path / "nothing")}
    with caplog.at_level("INFO"):
        result = run_recbole_llminit("BPR", config_dict=settings, resume=frozen_checkpoint)
    trainer = trainers[0]
    assert sorted(trainer.train_loss_dict) == list(range(saved["epoch"] + 1, 6))
    assert logged(caplog, f"epoch {saved['epoch'] + 1}", str(frozen_checkpoint), "29 frozen rows")
    assert result["init_report"] is None
    assert trainer.saved_model_file == str(frozen_checkpoint)
    model = trainer.model.state_dict()
    assert torch.equal(model["item_embedding.weight"][1:], saved["state_dict"]["item_embedding.weight"][1:])
    assert not torch.equal(model["user_embedding.weight"], saved["state_dict"]["user_embedding.weight"])


def test_a_resumed_run_is_what_recboles_trainer_makes_of_it(
    tiny: dict[str, Any], trainers: list[Trainer], tmp_path: Path
) -> None:
    """A stock run: RecBole's classes, driven to the same point."""
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 2})
    path = Path(trainers[0].saved_model_file)
    copied = shutil.copy(path, tmp_path / "copied.pth")
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 4}, resume=path)

    config = stock.stock_config("BPR", {**tiny, "epochs": 4})
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, get_stock_model("BPR")(config, train_data._dataset))
    trainer.resume_checkpoint(copied)
    trainer.fit(train_data, valid_data, verbose=False)
    assert trainer.train_loss_dict == trainers[1].train_loss_dict
    assert len(trainer.train_loss_dict) == 4 - trainer.start_epoch


def write_other_files(folder: Path) -> None:
    """Files of which none is a checkpoint."""
    (folder / "text.pth").write_text("no checkpoint")
    torch.save({"weights": 1}, folder / "weights.pth")


@pytest.mark.usefixtures("no_data_loaded")
@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("nowhere.pth", ("there is no nowhere.pth", "checkpoint")),
        ("text.pth", ("text.pth", "cannot be read", "checkpoint")),
        ("weights.pth", ("weights.pth", "config", "state_dict", "epoch")),
    ],
)
def test_a_file_that_is_no_checkpoint_stops_before_the_data_is_loaded(
    name: str, facts: tuple[str, ...], resumed: dict[str, Any], tmp_path: Path
) -> None:
    write_other_files(tmp_path)
    with pytest.raises(LLMInitError, match=naming(*facts)):
        run_recbole_llminit("BPR", config_dict=resumed, resume=name)


@pytest.mark.usefixtures("no_data_loaded")
@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 1), ("eval_args", {"order": "TO"}), ("load_col", {"inter": ["user_id", "item_id"]}), ("TIME_FIELD", "rating"),
     ("user_inter_num_interval", "[8,inf)"), ("val_interval", {"rating": "[3,inf)"}), ("rm_dup_inter", "first"),
     ("valid_metric", "Hit@10"), ("learner", "sgd"), ("learning_rate", 0.5)],
)  # fmt: skip
def test_other_data_or_another_optimizer_cannot_be_resumed(
    key: str, value: Any, frozen_run: Path, resumed: dict[str, Any]
) -> None:
    before = frozen_run.read_bytes()
    theirs = torch.load(frozen_run, weights_only=False)["config"][key]
    with pytest.raises(LLMInitError, match=naming(f"{key}: {theirs}", "resume")) as error:
        run_recbole_llminit("BPR", config_dict={**resumed, key: value}, resume=frozen_run)
    given = value["order"] if key == "eval_args" else value
    assert str(given) in str(error.value)
    assert frozen_run.read_bytes() == before


@pytest.mark.usefixtures("no_data_loaded")
def test_what_cannot_be_resumed_stops_before_the_data_is_loaded(frozen_run: Path, resumed: dict[str, Any]) -> None:
    before = frozen_run.read_bytes()
    with pytest.raises(LLMInitError, match=naming("epochs is 1", "more epochs")):
        run_recbole_llminit("BPR", config_dict={**resumed, "epochs": 1}, resume=frozen_run)
    with pytest.raises(LLMInitError, match=naming("model: BPR", "LightGCN")):
        run_recbole_llminit("LightGCN", config_dict=resumed, resume=frozen_run)
    with pytest.raises(LLMInitError, match=naming("resume", "saved=True")):
        run_recbole_llminit("BPR", config_dict=resumed, saved=False, resume=frozen_run)
    assert frozen_run.read_bytes() == before


@pytest.mark.parametrize(
    ("model", "negatives", "facts"),
    [
        ("RecVAE", None, ("RecVAE", "cannot resume", "optimizer")),
        ("Pop", {"distribution": "uniform", "sample_num": 1}, ("Pop", "nothing to resume")),
    ],
)
def test_models_that_recbole_cannot_resume(
    model: str, negatives: dict[str, Any] | None, facts: tuple[str, ...], tiny: dict[str, Any], trainers: list[Trainer]
) -> None:
    settings = {**tiny, "epochs": 1, "train_neg_sample_args": negatives}
    run_recbole_llminit(model, config_dict=settings)
    path = Path(trainers[0].saved_model_file)
    before = path.read_bytes()
    with pytest.raises(LLMInitError, match=naming(*facts)):
        run_recbole_llminit(model, config_dict={**settings, "epochs": 4}, resume=path)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("no_data_loaded")
def test_resume_is_an_argument_as_well(frozen_run: Path, resumed: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=naming(str(frozen_run), "epochs is 1")):
        run_recbole_llminit("BPR", config_dict={**resumed, "epochs": 1}, arguments=[f"--resume={frozen_run}"])
    with pytest.raises(LLMInitError, match=naming("'resum'", "did you mean 'resume'")):
        run_recbole_llminit("BPR", config_dict=resumed, arguments=[f"--resum={frozen_run}"])


def test_where_no_epoch_is_better_the_checkpoints_result_is_given(
    tiny: dict[str, Any], trainers: list[Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    """Training from an epoch whose score was set to 1."""
    run_recbole_llminit("BPR", config_dict=tiny)
    path = trainers[0].saved_model_file
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, "best_valid_score": 1.0, "cur_step": 0}, path)
    with caplog.at_level("INFO"):
        result = run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 6}, resume=path)
    assert logged(caplog, "No epoch was better", str(path))
    assert result["best_valid_score"] == 1.0
    assert 0 < result["best_valid_result"]["ndcg@10"] < 1


def test_other_files_of_the_same_name_are_warned_about(
    frozen_checkpoint: Path, resumed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(stock.DATA / "tiny", copied)
    settings = {**resumed, "epochs": 5, "data_path": str(copied.parent)}
    with caplog.at_level("WARNING"):
        run_recbole_llminit("BPR", config_dict=settings, resume=frozen_checkpoint)
    assert logged(caplog, str(stock.DATA / "tiny"), str(copied))


def test_another_width_cannot_be_resumed(frozen_checkpoint: Path, resumed: dict[str, Any]) -> None:
    before = frozen_checkpoint.read_bytes()
    with pytest.raises(LLMInitError, match=naming("cannot be read", "size mismatch", "model of this configuration")):
        run_recbole_llminit("BPR", config_dict={**resumed, "embedding_size": 8}, resume=frozen_checkpoint)
    assert frozen_checkpoint.read_bytes() == before


def test_rows_are_not_frozen_in_the_middle(llm: dict[str, Any], trainers: list[Trainer]) -> None:
    run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1})
    path = trainers[0].saved_model_file
    with pytest.raises(LLMInitError, match=naming("init_trainable", "False", path, "no frozen rows")):
        run_recbole_llminit("BPR", config_dict={**llm, "epochs": 9, "init_trainable": False}, resume=path)
