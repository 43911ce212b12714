"""Checkpoints are read without running what they hold."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_llminit import inspection, load_data_and_model, run_recbole_llminit
from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.checkpoints import trust
from recbole_llminit.integration.checkpoints.files import save
from recbole_llminit.integration.checkpoints.reader import read_checkpoint
from recbole_llminit.integration.checkpoints.trust import trusting
from tests.all_models import MODELS, prepare, stand_ins
from tests.messages import naming


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that is not there until something hostile was run."""
    return tmp_path / "canary"


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def with_hostile(path: Path, canary: Path, place: str = "optimizer") -> None:
    """Put something hostile into a checkpoint."""
    content = torch.load(path, weights_only=False)
    content[place] = Hostile(canary)
    torch.save(content, path)


def test_what_is_read_is_what_was_saved(saved: Path) -> None:
    whole = torch.load(saved, weights_only=False)
    read = read_checkpoint(saved)
    assert list(read) == list(whole)
    assert type(read["config"]) is type(whole["config"])
    assert read["config"].model_class is whole["config"].model_class
    assert {key: str(value) for key, value in vars(read["config"]).items()} == {
        key: str(value) for key, value in vars(whole["config"]).items()
    }
    assert all(torch.equal(value, whole["state_dict"][name]) for name, value in read["state_dict"].items())
    assert read["best_valid_score"] == whole["best_valid_score"]
    assert str(read["optimizer"]) == str(whole["optimizer"])


@pytest.mark.parametrize(
    "name", ["AsymKNN", "EASE", "ItemKNN", "SLIMElastic", "Pop", "GRU4RecF", "DIEN", "RippleNet", "SGCL", "S3Rec"]
)
def test_what_recboles_models_keep_beside_their_weights(name: str, tmp_path: Path) -> None:
    """Matrices come back as they were; whole modules, which the model has made itself, are left out."""
    with stand_ins():
        config, train_data = prepare(name)
        model = MODELS[name][1](config, train_data._dataset)
        content = {
            "config": config,
            "epoch": 0,
            "state_dict": model.state_dict(),
            "other_parameter": model.other_parameter(),
        }
        save(content, tmp_path / "model.pth")
        trust._own_files.clear()
        others = read_checkpoint(tmp_path / "model.pth")["other_parameter"] or {}
    for key, value in (content["other_parameter"] or {}).items():
        if isinstance(value, torch.nn.Module):
            assert key not in others
        elif scipy.sparse.issparse(value):
            assert (others[key] != value).nnz == 0
        elif isinstance(value, np.ndarray | torch.Tensor):
            np.testing.assert_array_equal(others[key], value)
        else:
            assert (
                str(others[key]).replace("OrderedDict", "")
                == str(value).replace("defaultdict(<class 'list'>, ", "").removesuffix(")")
                or others[key] == value
            )
    model.load_other_parameter(others)


@pytest.mark.parametrize("place", ["optimizer", "config", "other_parameter", "state_dict"])
def test_nothing_in_a_checkpoint_is_run(
    saved: Path, canary: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with_hostile(saved, canary, place)
    for read in (read_checkpoint, load_data_and_model, inspection.inspect_checkpoint):
        with pytest.raises(LLMInitError, match=r"holds pathlib.Path|holds builtins.getattr") as caught:
            read(saved)
        assert "--trust-pickles" in str(caught.value)
        assert "trust_pickles=True" in str(caught.value)
    assert main(["inspect", f"--checkpoint={saved}"]) == 2
    assert "--trust-pickles" in capsys.readouterr().err
    assert not canary.exists()
    with trusting(pickles=True), contextlib.suppress(LLMInitError):
        read_checkpoint(saved)
    assert canary.exists()


def test_a_resumed_checkpoint_is_not_run(saved: Path, tiny: dict[str, Any], canary: Path) -> None:
    with_hostile(saved, canary)
    with pytest.raises(LLMInitError, match="--trust-pickles"):
        run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 5}, resume=saved)
    assert not canary.exists()


def test_the_constructor_of_the_configuration_is_not_called(saved: Path, canary: Path) -> None:
    """It would evaluate the texts in its arguments."""

    class Calls:
        def __reduce__(self) -> Any:
            from recbole.config import Config

            return Config, ("BPR", "ml-100k", None, {"epochs": f"__import__('pathlib').Path({str(canary)!r}).touch()"})

    content = torch.load(saved, weights_only=False)
    content["config"] = Calls()
    torch.save(content, saved)
    with pytest.raises(LLMInitError, match=naming("Config", "arguments", "evaluated")):
        read_checkpoint(saved)
    assert not canary.exists()


def test_pretrained_weights_are_not_run(tiny: dict[str, Any], saved: Path, canary: Path) -> None:
    with_hostile(saved, canary)
    settings = {**tiny, "use_pretrain": True, "mf_pretrain_path": str(saved), "mlp_pretrain_path": str(saved)}
    with pytest.raises(LLMInitError, match="--trust-pickles"):
        run_recbole_llminit("NeuMF", config_dict=settings)
    assert not canary.exists()


def test_a_checkpoint_of_stock_recbole_needs_trust(saved: Path) -> None:
    content = torch.load(saved, weights_only=False)
    torch.save(content, saved, pickle_protocol=4)
    with pytest.raises(LLMInitError, match="--trust-pickles"):
        load_data_and_model(saved)
    assert load_data_and_model(saved, trust_pickles=True)[0]["model"] == "BPR"


def test_a_class_of_ones_own_is_named_and_needs_trust(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_model.py").write_text(
        "from recbole.model.general_recommender import BPR\n\n\nclass Mine(BPR):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**tiny, "epochs": 1}
    run_recbole_llminit("own_model.Mine", config_dict=settings)
    (path,) = Path(tiny["checkpoint_dir"]).glob("*.pth")
    trust._own_files.clear()
    with pytest.raises(LLMInitError, match=r"holds own_model.Mine, .*--trust-pickles"):
        load_data_and_model(path)
    assert load_data_and_model(path, trust_pickles=True)[0].model_class.__name__ == "Mine"
    # Who resumes names the class.
    run_recbole_llminit("own_model.Mine", config_dict={**settings, "epochs": 2}, resume=path)
    capsys.readouterr()
    assert main(["inspect", "--checkpoint", str(path), "--trust-pickles"]) == 0
    assert "user_embedding.weight" in capsys.readouterr().out


def test_a_name_that_is_none(saved: Path, tmp_path: Path) -> None:
    """A null character in the name of RecBole's configuration, with the checksum that belongs to it."""
    broken = tmp_path / "broken.pth"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(broken, "w", zipfile.ZIP_STORED) as changed_archive:
        for entry in whole.infolist():
            content = whole.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"configurator\nConfig" in content
                content = content.replace(b"configurator\nConfig", b"configurator\nCon\0ig")
            changed_archive.writestr(entry, content)
    with pytest.raises(LLMInitError, match="broken.pth cannot be read"):
        read_checkpoint(broken)
