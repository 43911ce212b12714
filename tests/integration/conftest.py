"""Fixtures of the tests that run RecBole: the trainers of a run, a trained checkpoint, and guards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from recbole.data.dataset import Dataset
from recbole.trainer import Trainer

from recbole_llminit import run_recbole_llminit


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers that are made during the test, in order."""
    made: list[Trainer] = []
    initialize = Trainer.__init__

    def record(self: Trainer, *arguments: Any, **options: Any) -> None:
        made.append(self)
        initialize(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "__init__", record)
    return made


@pytest.fixture
def no_data_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test where RecBole loads a dataset."""
    monkeypatch.setattr(Dataset, "__init__", lambda self, config: pytest.fail("the data was loaded"))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test where RecBole makes a trainer."""
    monkeypatch.setattr(Trainer, "__init__", lambda self, config, model: pytest.fail("training began"))


@pytest.fixture(scope="session")
def frozen_settings(llm_settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of `frozen_run`, without a folder for its checkpoint; not to be changed."""
    return {**llm_settings, "init_trainable": False, "weight_decay": 0.01}


@pytest.fixture(scope="session")
def frozen_run(frozen_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of BPR after three epochs with frozen item rows; tests that change it take `frozen_checkpoint`."""
    folder = tmp_path_factory.mktemp("frozen")
    run_recbole_llminit("BPR", config_dict={**frozen_settings, "checkpoint_dir": str(folder)})
    (checkpoint,) = folder.glob("*.pth")
    return checkpoint


@pytest.fixture
def frozen_checkpoint(frozen_run: Path, tmp_path: Path) -> Path:
    """A copy of `frozen_run` for the test alone."""
    (tmp_path / "saved").mkdir()
    return Path(shutil.copy(frozen_run, tmp_path / "saved"))
