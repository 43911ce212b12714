import contextlib
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_llminit import inspection, load_data_and_model, run_recbole_llminit
from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration import checkpoint
from recbole_llminit.integration.checkpoint import read_checkpoint, reserved_name, save, trusting
from recbole_llminit.integration.compat import apply
from tests.all_models import MODELS, prepare, stand_ins

apply()


@pytest.fixture
def saved(tiny, tmp_path):
    """A checkpoint that another process would have left."""
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 1})
    (path,) = Path(tiny["checkpoint_dir"]).glob("*.pth")
    checkpoint._own.clear()
    return path


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def with_hostile(path, canary, place="optimizer"):
    content = torch.load(path, weights_only=False)
    content[place] = Hostile(canary)
    torch.save(content, path)


# Saving


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save({"weight": torch.ones(3)}, path)
    before = path.read_bytes()

    def fail(content, target, **options):
        Path(target).write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(LLMInitError, match=r"the checkpoint .*model.pth cannot be written .*unexpected pos.*make room"):
        save({"weight": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("log")] == ["model.pth"]


SAVE_AGAIN = """
import resource, signal, sys
import torch
from recbole_llminit.integration.checkpoint import save
from recbole_llminit.errors import LLMInitError
path, limit = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save({"epoch": 2, "weight": torch.zeros(50_000)}, path)
except LLMInitError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("limit", [0, 1, 1000, 100_000, 200_000])
def test_a_full_disk_leaves_what_was_there(limit, tmp_path):
    path = tmp_path / "model.pth"
    save({"epoch": 1, "weight": torch.ones(50_000)}, path)
    ran = subprocess.run(
        [sys.executable, "-c", SAVE_AGAIN, str(path), str(limit)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert ran.stdout.startswith("refused the checkpoint")
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert [entry.name for entry in tmp_path.glob("*.*") if not entry.name.startswith(".")] == ["model.pth"]


def test_an_interrupted_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save({"epoch": 1}, path)

    def interrupt(content, target, **options):
        Path(target).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_recboles_trainer_saves_so(tiny, monkeypatch):
    """A run whose second epoch cannot be saved ends with an error, and its first can be read."""
    written = []

    def save_once(content, target, **options):
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


# Names


def test_names_of_two_runs_in_one_second(tmp_path):
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


def test_two_runs_in_one_second_keep_both(llm, monkeypatch):
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


# Reading


def test_what_is_read_is_what_was_saved(saved):
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
def test_what_recboles_models_keep_beside_their_weights(name, tmp_path):
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
        checkpoint._own.clear()
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
def test_nothing_in_a_checkpoint_is_run(saved, canary, place, capsys):
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


def test_a_resumed_checkpoint_is_not_run(saved, tiny, canary):
    with_hostile(saved, canary)
    with pytest.raises(LLMInitError, match="--trust-pickles"):
        run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 5}, resume=saved)
    assert not canary.exists()


def test_the_constructor_of_the_configuration_is_not_called(saved, canary):
    """It would evaluate the texts in its arguments."""

    class Calls:
        def __reduce__(self):
            from recbole.config import Config

            return Config, ("BPR", "ml-100k", None, {"epochs": f"__import__('pathlib').Path({str(canary)!r}).touch()"})

    content = torch.load(saved, weights_only=False)
    content["config"] = Calls()
    torch.save(content, saved)
    with pytest.raises(LLMInitError, match="Config is called with arguments, which would be evaluated"):
        read_checkpoint(saved)
    assert not canary.exists()


def test_pretrained_weights_are_not_run(tiny, saved, canary):
    with_hostile(saved, canary)
    settings = {**tiny, "use_pretrain": True, "mf_pretrain_path": str(saved), "mlp_pretrain_path": str(saved)}
    with pytest.raises(LLMInitError, match="--trust-pickles"):
        run_recbole_llminit("NeuMF", config_dict=settings)
    assert not canary.exists()


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_saved_datasets_are_not_run(tiny, canary, tmp_path, key):
    path = tmp_path / "data.pth"
    path.write_bytes(pickle.dumps(Hostile(canary)))
    with pytest.raises(LLMInitError, match=r"data.pth is a pickle.*--trust-pickles"):
        run_recbole_llminit("BPR", config_dict={**tiny, key: str(path)})
    assert not canary.exists()


def test_a_dataset_that_was_saved_is_read_where_it_is_trusted(tiny):
    settings = {**tiny, "epochs": 1, "save_dataset": True}
    first = run_recbole_llminit("BPR", config_dict=settings)
    # This run has written it itself.
    assert run_recbole_llminit("BPR", config_dict=settings)["test_result"] == first["test_result"]
    checkpoint._own.clear()
    with pytest.raises(LLMInitError, match="tiny-Dataset.pth is a pickle"):
        run_recbole_llminit("BPR", config_dict=settings)
    again = run_recbole_llminit("BPR", config_dict=settings, trust_pickles=True)
    assert again["test_result"] == first["test_result"]


def test_a_checkpoint_of_stock_recbole_needs_trust(saved):
    content = torch.load(saved, weights_only=False)
    torch.save(content, saved, pickle_protocol=4)
    with pytest.raises(LLMInitError, match="--trust-pickles"):
        load_data_and_model(saved)
    assert load_data_and_model(saved, trust_pickles=True)[0]["model"] == "BPR"


def test_a_class_of_ones_own_is_named_and_needs_trust(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_model.py").write_text(
        "from recbole.model.general_recommender import BPR\n\n\nclass Mine(BPR):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**tiny, "epochs": 1}
    run_recbole_llminit("own_model.Mine", config_dict=settings)
    (path,) = Path(tiny["checkpoint_dir"]).glob("*.pth")
    checkpoint._own.clear()
    with pytest.raises(LLMInitError, match=r"holds own_model.Mine, .*--trust-pickles"):
        load_data_and_model(path)
    assert load_data_and_model(path, trust_pickles=True)[0].model_class.__name__ == "Mine"
    # Who resumes names the class.
    run_recbole_llminit("own_model.Mine", config_dict={**settings, "epochs": 2}, resume=path)
    capsys.readouterr()
    assert main(["inspect", "--checkpoint", str(path), "--trust-pickles"]) == 0
    assert "user_embedding.weight" in capsys.readouterr().out


def test_a_flipped_byte_is_found(saved, tmp_path):
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
def test_a_cut_checkpoint(saved, cut):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: cut if cut >= 1 or cut == 0 else int(cut * len(whole))])
    with pytest.raises(LLMInitError, match=f"{saved.name} cannot be read"):
        read_checkpoint(saved)


def test_a_name_that_is_none(saved, tmp_path):
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


def changed(content, **parts):
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
def test_damaged_contents(saved, parts, message):
    torch.save(changed(torch.load(saved, weights_only=False), **parts), saved)
    with pytest.raises(LLMInitError, match=message):
        load_data_and_model(saved)


def test_a_resumed_checkpoint_without_its_optimizer(saved, tiny):
    torch.save(changed(torch.load(saved, weights_only=False), optimizer=None), saved)
    with pytest.raises(LLMInitError, match="has no optimizer: there is nothing to go on with"):
        run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 5}, resume=saved)


def test_a_configuration_that_names_other_places(saved):
    content = torch.load(saved, weights_only=False)
    for key, value in {"model": "../../BPR", "dataset": "../x", "device": "cpu", "seed": "abc"}.items():
        changed_config = torch.load(saved, weights_only=False)["config"]
        changed_config[key] = value
        torch.save({**content, "config": changed_config}, saved.with_name("other.pth"))
        with pytest.raises(LLMInitError):
            load_data_and_model(saved.with_name("other.pth"))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "long", "text"])
def test_what_is_no_file(kind, tmp_path):
    paths = {
        "folder": tmp_path,
        "pipe": tmp_path / "pipe",
        "device": Path("/dev/zero"),
        "long": Path("x" * 300),
        "text": tmp_path / "text",
    }
    os.mkfifo(paths["pipe"])
    paths["text"].write_text("weights")
    with pytest.raises(LLMInitError, match=r"expected a checkpoint of RecBole's"):
        read_checkpoint(paths[kind])


def test_a_folder_that_cannot_be_written_is_found_before_training(tiny, caplog):
    with caplog.at_level("INFO"), pytest.raises(LLMInitError, match="checkpoint_dir is /dev/null/saved"):
        run_recbole_llminit("BPR", config_dict={**tiny, "checkpoint_dir": "/dev/null/saved"})
    assert "epoch 0 training" not in caplog.text
