"""The files that RecBole's modules save and load: checkpoints, whole or not at all, and pickled datasets.

A file is unpickled as a whole where the user says that they trust it, or this run has written it (`trust`). Any other
checkpoint is read by `restricted_pickle`, which runs nothing that the file holds, and any other pickle is an error.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, reason, require_file, whole_file
from recbole_llminit.integration.checkpoints.restricted_pickle import CHECKPOINT, read_restricted
from recbole_llminit.integration.checkpoints.trust import adopt, how_to_trust, is_trusted


def save(content: Any, path: str | Path, **_: Any) -> None:
    """Write a checkpoint as `torch.save`; the file appears whole or not at all, and the old one stays until then.

    The pickle has protocol 2, torch's default, whatever RecBole asks for: torch's reader of weights knows no other.

    Raises
    ------
    LLMInitError
        If it cannot be written, as on a full disk.
    """
    path = Path(path)
    try:
        with whole_file(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:
        # On a full disk torch raises a RuntimeError about an unexpected position.
        raise LLMInitError(
            f"the checkpoint {path} cannot be written ({reason(error)}): make room or choose another checkpoint_dir; "
            f"what was saved there before is still whole"
        ) from error
    adopt(path)


def load(path: str | Path, map_location: Any = None, **_: Any) -> Any:
    """Read a checkpoint in the place of `torch.load` in RecBole's modules.

    Raises
    ------
    LLMInitError
        If there is none, it is damaged, or it holds a class that is neither RecBole's nor trusted.
    """
    path = Path(path)
    require_file(path, CHECKPOINT)
    _refuse_damage(path)
    return _load_whole(path, map_location) if is_trusted(path) else read_restricted(path, map_location)


def _load_whole(path: Path, map_location: Any) -> Any:
    try:
        with foreign_reader(path, CHECKPOINT):
            return torch.load(path, map_location=map_location, weights_only=False)
    except LLMInitError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise LLMInitError(
                f"{path} was trained with a class of the module {error.__cause__.name!r}, which is not on the Python "
                f"path: run this where that module is"
            ) from error
        raise


def _refuse_damage(path: Path) -> None:
    """Raise where a byte is not as it was written: torch writes checksums, but never compares them."""
    with foreign_reader(path, f"{CHECKPOINT}, which it is not, or it is damaged: take another copy of it"):
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            broken = packed[0] if packed else archive.testzip()
        if broken is not None:
            raise LLMInitError(f"{path} is damaged ({broken} is not as it was written): take another copy of it")


def load_pickle(file: Any) -> Any:
    """Read a dataset or data loaders that RecBole has saved, in the place of `pickle.load` in RecBole's modules.

    Raises
    ------
    LLMInitError
        If the user has not said that they trust such files, and this run has not written it.
    """
    path = Path(file.name)
    if not is_trusted(path):
        raise LLMInitError(f"{path} is a pickle, which could run code when it is read{how_to_trust(path)}")
    with foreign_reader(path, "what RecBole saved with save_dataset or save_dataloaders"):
        return pickle.load(file)  # noqa: S301  the user trusts it


def dump_pickle(content: Any, file: Any) -> None:
    """Write a dataset or data loaders, in the place of `pickle.dump` in RecBole's modules.

    The same run may read the file again.
    """
    pickle.dump(content, file)
    file.flush()
    adopt(file.name)


def require_writable(folder: str | Path) -> None:
    """Raise before anything is trained where no checkpoint could be saved.

    Raises
    ------
    LLMInitError
        If the folder cannot be made, or nothing can be written into it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise LLMInitError(
            f"checkpoint_dir is {folder}, and nothing can be written there ({reason(error)}): choose another folder"
        ) from error


@contextlib.contextmanager
def reserved_name(path: str | Path) -> Iterator[Path]:
    """Reserve the name of a checkpoint, so that no other run takes it while the context lasts.

    It is the name asked for, or, where that is taken, the name with a number. Two runs that begin in the same second
    would otherwise write one file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        mark = candidate.with_name(f".{candidate.name}.reserved")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            # Another run may have saved its checkpoint and released the name in between.
            if not (candidate.exists() or candidate.with_suffix(".json").exists()):
                break
            mark.unlink()
        number += 1
    try:
        yield candidate
    finally:
        mark.unlink(missing_ok=True)
