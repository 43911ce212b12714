"""The files of a model: the hash of a local folder, and the commit of a model on the hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from recbole_llminit.encode.model_files import hash_folder, resolve_commit
from recbole_llminit.errors import LLMInitError
from tests.encoders import ended_in


def test_the_commit_of_a_hub_model_is_known(hub: str) -> None:
    assert resolve_commit("org/tiny", "main") == resolve_commit("org/tiny", None) == hub
    assert resolve_commit("org/tiny", "v2") == hub[::-1]
    assert resolve_commit("nobody/nothing", hub) == hub


def test_a_revision_that_nobody_knows(hub: str) -> None:
    with pytest.raises(LLMInitError, match="org/tiny.*revision v3.*llm_revision"):
        resolve_commit("org/tiny", "v3")


@pytest.mark.parametrize("name", ["a b", "a//b", "x" * 300, "--", "a/b/c", "~no-such-user/x"])
def test_names_that_no_model_can_have(hub: str, name: str) -> None:
    with pytest.raises(LLMInitError, match="cannot be loaded.*llm_encoder"):
        resolve_commit(name, None)


def test_a_folder_is_its_content(bert: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bert, tmp_path / "elsewhere")
    (copy / "README.md").write_text("a document")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").touch()
    assert hash_folder(copy) == hash_folder(bert)
    assert hash_folder(bert).startswith("sha256:")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert hash_folder(copy) != hash_folder(bert)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_folder_with_a_pipe_or_a_device_is_refused(bert: Path, tmp_path: Path, kind: str) -> None:
    copy = shutil.copytree(bert, tmp_path / "copy")
    if kind == "pipe":
        os.mkfifo(copy / "vocab.txt")
    else:
        (copy / "vocab.txt").symlink_to("/dev/zero")
    with ended_in(60), pytest.raises(LLMInitError, match="copy/vocab.txt is a pipe or a device.*file of a model"):
        hash_folder(copy)


def test_a_folder_without_a_model_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "huge.bin").touch()
    with pytest.raises(LLMInitError, match=f"{tmp_path}.*no .json file.*folder of a model"):
        hash_folder(tmp_path)
