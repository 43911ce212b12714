"""Checkpoints that are damaged, or are none of RecBole's."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llminit import load_data_and_model, run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.checkpoints.reader import read_checkpoint


def test_a_flipped_byte_is_found(saved: Path, tmp_path: Path) -> None:
    """Anywhere in the weights; torch alone reads it without a word."""
    whole = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        data = next(entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size > 64)
    broken = tmp_path / "broken.pth"
    place = data.header_offset + 30 + len(data.filename) + 200
    whole[place] ^= 0x10
    broken.write_bytes(whole)
    with pytest.raises(LLMInitError, match="broken.pth is damaged"):
        read_checkpoint(broken)


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.99])
def test_a_cut_checkpoint(saved: Path, cut: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(cut if cut >= 1 or cut == 0 else cut * len(whole))])
    with pytest.raises(LLMInitError, match=f"{saved.name} cannot be read"):
        read_checkpoint(saved)


def changed(content: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """The content with other parts; None leaves one out."""
    return {
        **{key: value for key, value in content.items() if parts.get(key, value) is not None},
        **{key: value for key, value in parts.items() if value is not None},
    }


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"config": {"model": "BPR"}}, "holds a dict as its config: expected RecBole's configuration"),
        ({"config": "BPR"}, "holds a str as its config"),
        ({"config": None}, "expected config, state_dict and epoch"),
        ({"state_dict": [1]}, "no weights in its state_dict"),
        ({"state_dict": {"a": 1}}, "no weights in its state_dict"),
        ({"state_dict": {"user_embedding.weight": torch.full((2, 2), torch.nan)}}, "NaN or infinite numbers in user_embedding.weight"),
    ],
    ids=["mapping", "text", "none", "list", "number", "nan"],
)  # fmt: skip
def test_damaged_contents(saved: Path, parts: dict[str, Any], message: str) -> None:
    torch.save(changed(torch.load(saved, weights_only=False), **parts), saved)
    with pytest.raises(LLMInitError, match=message):
        load_data_and_model(saved)


def test_a_resumed_checkpoint_without_its_optimizer(saved: Path, tiny: dict[str, Any]) -> None:
    torch.save(changed(torch.load(saved, weights_only=False), optimizer=None), saved)
    with pytest.raises(LLMInitError, match="no optimizer"):
        run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 5}, resume=saved)


def test_a_configuration_that_names_other_places(saved: Path) -> None:
    content = torch.load(saved, weights_only=False)
    for key, value in {"model": "../../BPR", "dataset": "../x", "device": "cpu", "seed": "abc"}.items():
        changed_config = torch.load(saved, weights_only=False)["config"]
        changed_config[key] = value
        torch.save({**content, "config": changed_config}, saved.with_name("other.pth"))
        with pytest.raises(LLMInitError):
            load_data_and_model(saved.with_name("other.pth"))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "long", "text"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    paths = {
        "folder": tmp_path,
        "pipe": tmp_path / "pipe",
        "device": Path("/dev/zero"),
        "long": Path("x" * 300),
        "text": tmp_path / "text",
    }
    os.mkfifo(paths["pipe"])
    paths["text"].write_text("weights")
    with pytest.raises(LLMInitError, match="checkpoint of RecBole's"):
        read_checkpoint(paths[kind])
