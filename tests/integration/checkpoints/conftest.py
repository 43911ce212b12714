"""A checkpoint that a run has left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit import run_recbole_llminit


@pytest.fixture(scope="session")
def trained(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of BPR after one epoch; tests take a copy of it, `saved`."""
    folder = tmp_path_factory.mktemp("trained")
    run_recbole_llminit("BPR", config_dict={**tiny_settings, "epochs": 1, "checkpoint_dir": str(folder)})
    (path,) = folder.glob("*.pth")
    return path


@pytest.fixture
def saved(trained: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, as another process would have left it."""
    (tmp_path / "saved").mkdir()
    return Path(shutil.copy(trained, tmp_path / "saved"))
