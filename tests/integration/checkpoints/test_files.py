"""Checkpoints and pickles that RecBole's modules save and load: whole or not at all, and trusted or refused."""

from __future__ import annotations

import contextlib
import pickle
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from recbole_llminit import run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.checkpoints import trust
from recbole_llminit.integration.checkpoints.files import reserved_name, save
from recbole_llminit.integration.checkpoints.reader import read_checkpoint
from tests.messages import naming


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    save({"weight": torch.ones(3)}, path)
    before = path.read_bytes()

    def fail(content: Any, target: Any, **options: Any) -> NoReturn:
        Path(target).write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        LLMInitError, match=naming("model.pth", "cannot be written", "unexpected pos", "checkpoint_dir")
    ):
        save({"weight": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("log")] == ["model.pth"]


@contextlib.contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond a number of bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with the error.
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 1, 1000, 100_000, 200_000])
def test_a_full_disk_leaves_what_was_there(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save({"epoch": 1, "weight": torch.ones(50_000)}, path)
    with file_size_limit(limit), pytest.raises(LLMInitError, match="the checkpoint"):
        save({"epoch": 2, "weight": torch.zeros(50_000)}, path)
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert [entry.name for entry in tmp_path.glob("*.*") if not entry.name.startswith(".")] == ["model.pth"]


def test_an_interrupted_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    save({"epoch": 1}, path)

    def interrupt(content: Any, target: Any, **options: Any) -> NoReturn:
        Path(target).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_recboles_trainer_saves_so(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose second epoch cannot be saved ends with an error, and its first can be read."""
    written: list[Any] = []

    def save_once(content: Any, target: Any, **options: Any) -> None:
        if written:
            Path(target).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        written.append(target)
        stock_save(content, target, **options)

    stock_save = torch.save
    monkeypatch.setattr(torch, "save", save_once)
    score = iter(range(10))
    monkeypatch.setattr("recbole.trainer.trainer.calculate_valid_score", lambda *_: next(score))
    with pytest.raises(LLMInitError, match="No space left on device"):
        run_recbole_llminit("BPR", config_dict=tiny)
    monkeypatch.undo()
    (path,) = Path(tiny["checkpoint_dir"]).iterdir()
    assert read_checkpoint(path)["epoch"] == 0


def test_names_of_two_runs_in_one_second(tmp_path: Path) -> None:
    path = tmp_path / "saved" / "BPR-now.pth"
    with reserved_name(path) as first, reserved_name(path) as second, reserved_name(path) as third:
        assert [name.name for name in (first, second, third)] == ["BPR-now.pth", "BPR-now-2.pth", "BPR-now-3.pth"]
        second.touch()
    assert [name.name for name in path.parent.iterdir()] == ["BPR-now-2.pth"]
    with reserved_name(path) as again:
        assert again == path
    path.with_suffix(".json").touch()
    with reserved_name(path) as again:
        assert again.name == "BPR-now-3.pth"


def test_two_runs_in_one_second_keep_both(llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole.trainer.trainer.get_local_time", lambda: "now")
    folder = Path(llm["checkpoint_dir"])
    runs = [run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1, "seed": seed}) for seed in (1, 2)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "BPR-now-2.json",
        "BPR-now-2.pth",
        "BPR-now.json",
        "BPR-now.pth",
    ]
    seeds = [read_checkpoint(folder / name)["config"]["seed"] for name in ("BPR-now.pth", "BPR-now-2.pth")]
    assert seeds == [1, 2]
    assert runs[0]["test_result"] != runs[1]["test_result"]


def test_a_folder_that_cannot_be_written_is_found_before_training(
    tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), pytest.raises(LLMInitError, match="checkpoint_dir is /dev/null/saved"):
        run_recbole_llminit("BPR", config_dict={**tiny, "checkpoint_dir": "/dev/null/saved"})
    assert "epoch 0 training" not in caplog.text


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_saved_datasets_are_not_run(tiny: dict[str, Any], tmp_path: Path, key: str) -> None:
    path, canary = tmp_path / "data.pth", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Hostile(canary)))
    with pytest.raises(LLMInitError, match=r"data.pth is a pickle.*--trust-pickles"):
        run_recbole_llminit("BPR", config_dict={**tiny, key: str(path)})
    assert not canary.exists()


def test_a_dataset_that_was_saved_is_read_where_it_is_trusted(tiny: dict[str, Any]) -> None:
    settings = {**tiny, "epochs": 1, "save_dataset": True}
    first = run_recbole_llminit("BPR", config_dict=settings)
    # This run has written it itself.
    assert run_recbole_llminit("BPR", config_dict=settings)["test_result"] == first["test_result"]
    trust._own_files.clear()
    with pytest.raises(LLMInitError, match="tiny-Dataset.pth is a pickle"):
        run_recbole_llminit("BPR", config_dict=settings)
    again = run_recbole_llminit("BPR", config_dict=settings, trust_pickles=True)
    assert again["test_result"] == first["test_result"]
