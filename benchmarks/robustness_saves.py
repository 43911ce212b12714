"""Saves of a checkpoint that are cut: at a byte, by SIGKILL, by an exception; the earlier one has to load then."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from robustness_children import Child, limit_files, run_child
from robustness_valid import BASE, TOKENS, values, write_store

from recbole_llminit import load_data_and_model
from recbole_llminit.cli import main
from recbole_llminit.integration import training

_MODELS = ("BPR", "LightGCN")
_LOADS = 60.0


@dataclass(frozen=True)
class Save:
    """One save that was cut.

    Parameters
    ----------
    model : str
        The model that was trained.
    how : str
        What cut it.
    place : str
        Where: after how many bytes, or milliseconds.
    raised : str
        What the save raised; empty where it raised nothing or was killed.
    found : str
        What stands in the checkpoint's place: ``earlier``, ``new`` (a whole one) or another word.
    wrong : str
        What is wrong; empty where nothing is.
    """

    model: str
    how: str
    place: str
    raised: str
    found: str
    wrong: str


class _Saver:
    """A trainer as the package sets it up, after a run of one epoch; lives in one process with its forks."""

    def __init__(self, model: str, folder: Path) -> None:
        os.chdir(folder)
        (folder / "base.yaml").write_text(BASE)
        write_store(folder / "store", TOKENS, values(len(TOKENS), 80))
        made: list[Any] = []
        module: Any = training
        get_trainer = module.get_trainer

        def get(*arguments: Any) -> Callable[..., Any]:
            def make(*inner: Any) -> Any:
                made.append(get_trainer(*arguments)(*inner))
                return made[-1]

            return make

        module.get_trainer = get
        vectors = ["--init_strategy=var", "--llm_embedding=store"]
        with redirect_stderr(io.StringIO()):
            if main(["run", "-m", model, "--config_files=base.yaml", *vectors]) != 0:
                raise RuntimeError(f"{model} was not trained")
        self._trainer = made[-1]
        self.path = Path(self._trainer.saved_model_file).resolve()
        self.whole = self.path.read_bytes()

    def save(self, epoch: int = 7) -> None:
        """Save other weights into the same file, as RecBole's trainer does after a better epoch."""
        with torch.no_grad():
            for parameter in self._trainer.model.parameters():
                parameter.add_(0.125)
        self._trainer._save_checkpoint(epoch, verbose=False)

    def spoil(self, value: Any) -> None:
        """Put a value into what the next save writes."""
        content = self._trainer.model.other_parameter() or {}
        self._trainer.model.other_parameter = lambda: {**content, "x": value}

    def look(self) -> tuple[str, str]:
        """Return what stands in the checkpoint's place, and what is wrong with it."""
        content = self.path.read_bytes() if self.path.exists() else b""
        strays = [
            each.name
            for each in self.path.parent.iterdir()
            if each.suffix not in (".pth", ".json") and each.name[0] != "."
        ]
        strays += [each.name for each in self.path.parent.glob("[!.]*.pth") if each != self.path]
        ending = run_child(lambda: load_data_and_model(self.path) and 0, limit=_LOADS)
        found = (
            "earlier" if content == self.whole else "new" if ending.status == 0 else f"broken, {len(content):,} bytes"
        )
        if ending.status != 0:
            last = next((line for line in reversed(ending.stderr.splitlines()) if line.strip()), "")
            return found, f"it does not load: {last[:200]}"
        return found, f"strays: {strays}" if strays else ""

    def restore(self) -> None:
        """Put the earlier checkpoint back, and remove what else was left."""
        for each in self.path.parent.iterdir():
            if each.suffix != ".json" and each != self.path:
                each.unlink()
        self.path.write_bytes(self.whole)


def cut_saves(cuts: int, seed: int, folder: Path) -> list[Save]:
    """Cut saves of two models: ``cuts`` of each at random bytes and by SIGKILL, and some by an exception."""
    found: list[Save] = []
    for number, model in enumerate(_MODELS):
        place = folder / model
        place.mkdir()
        chance = random.Random(f"{seed} {number}")  # noqa: S311  places, not keys
        written = place / "saves.txt"

        def act(
            model: str = model, place: Path = place, chance: random.Random = chance, written: Path = written
        ) -> int:
            with written.open("w") as file:
                for save in _cut(_Saver(model, place), model, cuts // 2, chance):
                    file.write(json.dumps(asdict(save)) + "\n")
            return 0

        ending = run_child(act, limit=1200)
        if ending.status != 0:
            raise RuntimeError(f"{model}: {ending.stderr[-4000:]}")
        found += [Save(**json.loads(line)) for line in written.read_text().splitlines()]
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _cut(saver: _Saver, model: str, cuts: int, chance: random.Random) -> Iterator[Save]:
    size = len(saver.whole)
    for place in sorted(chance.randrange(size) for _ in range(cuts)):
        raised = _in_child(lambda place=place: _save_limited(saver, place))  # type: ignore[misc]
        yield Save(model, "file size limit", f"{place:,} of {size:,} bytes", raised, *saver.look())
        saver.restore()
    for _ in range(cuts):
        after = chance.uniform(0.0, 0.06)
        _kill(lambda: _save_for_ever(saver), after)
        yield Save(model, "SIGKILL", f"{1000 * after:.1f} ms", "", *saver.look())
        saver.restore()
    for what, action in _exceptions(saver):
        yield Save(model, what, "", _in_child(action), *saver.look())
        saver.restore()


def _save_limited(saver: _Saver, size: int) -> None:
    limit_files(size)
    saver.save()


def _save_for_ever(saver: _Saver) -> int:
    # Something to write all the time.
    saver.spoil(torch.ones(200_000))
    while True:
        saver.save()


def _exceptions(saver: _Saver) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what goes wrong inside a save."""
    for kind in (ValueError, MemoryError, KeyboardInterrupt, RecursionError):
        yield f"{kind.__name__} from what is pickled", lambda kind=kind: _save_raising(saver, kind)  # type: ignore[misc]
    for function in ("replace", "fsync"):
        yield f"OSError from os.{function}", lambda function=function: _save_refused(saver, function)  # type: ignore[misc]
    yield "exit status from what is pickled", lambda: _save_raising(saver, SystemExit)


class _Raising:
    """Raises when it is pickled, after a tensor that has been."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __reduce__(self) -> NoReturn:
        raise self._kind("while the checkpoint is written")


def _save_raising(saver: _Saver, kind: type[BaseException]) -> None:
    saver.spoil({"before": torch.ones(50_000), "value": _Raising(kind)})
    saver.save()


def _save_refused(saver: _Saver, function: str) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setattr(os, function, refuse)
    saver.save()


def _in_child(action: Callable[[], None]) -> str:
    """Run a save in a child; return what it raised."""

    def act() -> int:
        try:
            action()
        except BaseException as error:
            os.write(1, f"{type(error).__name__}: {str(error)[:200]}".encode())
        return 0

    ending = run_child(act, limit=60)
    return ending.stdout.replace("\n", " ") or ("" if ending.status == 0 else f"status {ending.status}")


def _kill(action: Callable[[], int], after: float) -> None:
    """Run an action in a child and kill it once it has begun and some time is over."""
    child = Child(action)
    time.sleep(0.03 + after)
    os.kill(child.process, signal.SIGKILL)
    while child.poll(10) is None:
        time.sleep(0.005)
