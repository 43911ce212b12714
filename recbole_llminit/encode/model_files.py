"""The files of an encoder's model: a local folder and the hash of its content, or the commit of a model on the hub."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, hash_files, is_folder, require_file

COMMIT = re.compile("[0-9a-f]{40}")
"""The form of a commit's name on the hub."""


def local_folder(model: str) -> Path | None:
    """Return the folder whose path is the model's name; None where there is no such folder."""
    # Path.expanduser raises for an unknown user.
    folder = Path(os.path.expanduser(model))  # noqa: PTH111
    return folder if is_folder(folder) else None


def hash_folder(folder: Path) -> str:
    """Hash the names and contents of a local model's files, without documents and hidden files.

    The hash does not depend on where the folder lies.

    Raises
    ------
    LLMInitError
        If it is no folder of a model, or holds a pipe or a device, which could be read without end.
    """
    digest = hashlib.sha256()
    with foreign_reader(folder, "the folder of a model"):
        # Every model has its configuration at the top: a path that ends too early must not have a whole disk read.
        if not any(path.suffix == ".json" for path in folder.iterdir()):
            raise LLMInitError(f"{folder} holds no .json file: expected the folder of a model, with its configuration")
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            hidden = any(part.startswith((".", "__")) for part in relative.parts)
            if hidden or path.suffix.lower() == ".md" or is_folder(path) or not exists(path):
                continue
            require_file(path, "a file of a model")
            digest.update(f"{relative.as_posix()}\0{hash_files([path])}\0".encode())
    return f"sha256:{digest.hexdigest()[:40]}"


def resolve_commit(model: str, revision: str | None) -> str:
    """Return the commit of a model on the Hugging Face hub at a branch or tag.

    The hub is asked first, then its cache on this machine.

    Parameters
    ----------
    model : str
        The model's id. A name without an owner is completed as sentence-transformers does.
    revision : str, optional
        A branch, tag or commit; main where it is None.

    Raises
    ------
    LLMInitError
        If neither the hub nor the cache knows the revision.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    names = [model] if "/" in model else [f"sentence-transformers/{model}", model]
    commit, failures = _ask_hub(names, revision)
    commit = commit or _look_in_cache(names, revision)
    if commit is None:
        raise LLMInitError(
            f"the encoder {model} cannot be loaded: the Hugging Face hub does not give its revision "
            f"{revision or 'main'} ({failures[0]}), and it is not in the hub's cache on this machine; check "
            f"llm_encoder, llm_revision and the network, or give a local folder"
        )
    return commit


def _ask_hub(names: Sequence[str], revision: str | None) -> tuple[str | None, list[str]]:
    """Return the commit that the hub knows for the first of the names, and why the names before it failed."""
    import huggingface_hub

    failures = []
    for name in names:
        try:
            sha = huggingface_hub.HfApi().model_info(name, revision=revision).sha
        except Exception as error:
            failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            return str(sha), failures
    return None, failures


def _look_in_cache(names: Sequence[str], revision: str | None) -> str | None:
    """Return the commit that the hub's cache on this machine has for one of the names."""
    import huggingface_hub

    for name in names:
        for file in ("config.json", "modules.json"):
            # It raises for a text that cannot be the name of a model.
            with contextlib.suppress(ValueError, OSError):
                path = huggingface_hub.try_to_load_from_cache(
                    name, file, cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"), revision=revision
                )
                if isinstance(path, str):
                    return Path(path).parts[Path(path).parts.index("snapshots") + 1]
    return None
