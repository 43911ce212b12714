"""Bad checkpoints: damaged ones, pickles that would run code, and saves onto a full disk."""

from __future__ import annotations

import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from recbole.config import Config as StockConfig
from recbole.utils import ensure_dir
from robustness_cases import CANARY, PAYLOAD, Case, Expected, command, run
from robustness_making import Call, both, file, flipped, folder, numbers, pickled_array, zip_of
from robustness_valid import BASE, TOKENS
from robustness_vectors import run_from

from recbole_llminit.cli import main
from recbole_llminit.files import write_text

Change = Callable[[dict[str, Any]], Any]

_INSPECT = ("inspect", "--checkpoint=c.pth")
_RESUME = ("run", "-m", "BPR", "--config_files=base.yaml", "--resume=c.pth", "--epochs=3")
_ERRORS: tuple[Expected, Expected] = ("error", "error")
# Where it is not read.
_RESUMED: tuple[Expected, Expected] = ("either", "error")
_ANY: tuple[Expected, Expected] = ("either", "either")


def cases() -> Iterator[Case]:
    """Yield the table."""
    yield from _damaged()
    yield from _flipped()
    yield from _unfit()
    yield from _pickles()
    yield from _other_pickles()
    yield from _lost()


def _saved(change: Change) -> Callable[[], None]:
    """Return what changes the content of a checkpoint, and saves it as another."""

    def write() -> None:
        content = torch.load("bpr.pth", weights_only=False)
        made = change(content)
        torch.save(content if made is None else made, "c.pth")

    return write


def _put(**entries: Any) -> Change:
    return lambda content: content.update(entries)


def _drop(key: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        del content[key]

    return change


def _setting(key: str, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["config"].final_config_dict[key] = value

    return change


def _weights(make: Callable[[torch.Tensor], Any]) -> Change:
    def change(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        state["item_embedding.weight"] = make(state["item_embedding.weight"])

    return change


def _without_weight(content: dict[str, Any]) -> None:
    del content["state_dict"]["item_embedding.weight"]


def _cut(length: Callable[[int], int]) -> Callable[[], None]:
    def write() -> None:
        whole = Path("bpr.pth").read_bytes()
        Path("c.pth").write_bytes(whole[: length(len(whole))])

    return write


def _legacy() -> None:
    content = torch.load("bpr.pth", weights_only=False)
    torch.save(content, "c.pth", _use_new_zipfile_serialization=False)


_FILES: Mapping[str, tuple[Callable[[], None], tuple[Expected, Expected]]] = {
    "cut to half": (_cut(lambda size: size // 2), _ERRORS),
    "cut by ten bytes": (_cut(lambda size: size - 10), _ERRORS),
    "cut to ten bytes": (_cut(lambda size: 10), _ERRORS),
    "empty": (file("c.pth", b""), _ERRORS),
    "a folder": (folder("c.pth"), _ERRORS),
    "a text": (file("c.pth", "hello"), _ERRORS),
    "a zip": (file("c.pth", zip_of({"a": b"b"})), _ERRORS),
    "a zip of data.pkl": (file("c.pth", zip_of({"x/data.pkl": b"\x80\x02N.", "x/version": b"3"})), _ERRORS),
    "legacy": (_legacy, _ANY),
}
_CHANGES: Mapping[str, tuple[Change, tuple[Expected, Expected]]] = {
    "a tensor": (lambda content: torch.ones(3), _ERRORS),
    "a list": (lambda content: [1], _ERRORS),
    "a word": (lambda content: "x", _ERRORS),
    "a state_dict alone": (lambda content: content["state_dict"], _ERRORS),
    "no config": (_drop("config"), _ERRORS),
    "no state_dict": (_drop("state_dict"), _ERRORS),
    "no epoch": (_drop("epoch"), _RESUMED),
    "no optimizer": (_drop("optimizer"), _RESUMED),
    "no cur_step": (_drop("cur_step"), _RESUMED),
    "no best_valid_score": (_drop("best_valid_score"), _RESUMED),
    "no other_parameter": (_drop("other_parameter"), _ANY),
    "epoch is a text": (_put(epoch="abc"), _RESUMED),
    "epoch is None": (_put(epoch=None), _RESUMED),
    "epoch is -5": (_put(epoch=-5), _ANY),
    "cur_step is a text": (_put(cur_step="abc"), _RESUMED),
    "best_valid_score is a text": (_put(best_valid_score="abc"), _RESUMED),
    "best_valid_score is NaN": (_put(best_valid_score=float("nan")), _ANY),
    "optimizer is None": (_put(optimizer=None), _RESUMED),
    "optimizer is empty": (_put(optimizer={}), _RESUMED),
    "optimizer of other sizes": (_put(optimizer={"state": {}, "param_groups": []}), _RESUMED),
    "config is a dictionary": (_put(config={"model": "BPR", "dataset": "tiny"}), _ERRORS),
    "config is a text": (_put(config="abc"), _ERRORS),
    "config is None": (_put(config=None), _ERRORS),
    "config is empty": (lambda content: content["config"].final_config_dict.clear(), _ERRORS),
    "other_parameter is a text": (_put(other_parameter="abc"), _ERRORS),
    "other_parameter is a list": (_put(other_parameter=[1]), _ERRORS),
    "state_dict is a list": (_put(state_dict=[1]), _ERRORS),
    "state_dict is empty": (_put(state_dict={}), _ERRORS),
    "a weight is missing": (_without_weight, _ERRORS),
    "a weight too many": (lambda content: content["state_dict"].update(x=torch.ones(2)), _ERRORS),
    "NaN weights": (_weights(lambda weight: weight * float("nan")), _ERRORS),
    "infinite weights": (_weights(lambda weight: weight * float("inf")), _ERRORS),
    "weights of another width": (_weights(lambda weight: weight[:, :3]), _ERRORS),
    "weights of another count": (_weights(lambda weight: weight[:5]), _ERRORS),
    "weights are a text": (_weights(lambda weight: "abc"), _ERRORS),
    "weights are whole numbers": (_weights(lambda weight: weight.long()), _ANY),
    "weights on meta": (_weights(lambda weight: weight.to("meta")), _ERRORS),
    "weights sparse": (_weights(lambda weight: weight.to_sparse()), _ERRORS),
    "a model of another kind": (_setting("model", "LightGCN"), _RESUMED),
    "no such model": (_setting("model", "nope"), _RESUMED),
    "no such dataset": (_setting("dataset", "nope"), _RESUMED),
    "no such data_path": (_setting("data_path", "/nowhere/tiny"), ("error", "either")),
    "seed is a text": (_setting("seed", "abc"), _ERRORS),
    "device is a text": (_setting("device", "abc"), ("error", "either")),
    "embedding_size is a text": (_setting("embedding_size", "abc"), ("error", "either")),
    "eval_args is a text": (_setting("eval_args", "abc"), _ERRORS),
    "load_col is a text": (_setting("load_col", "abc"), _ERRORS),
}


def _damaged() -> Iterator[Case]:
    group = "damaged checkpoint"
    table = {**_FILES, **{what: (_saved(change), expected) for what, (change, expected) in _CHANGES.items()}}
    for what, (prepare, expected) in table.items():
        for arguments, own in zip((_INSPECT, _RESUME), expected, strict=True):
            made = command(group, *arguments, expected=own, prepare=both(prepare, _report_beside))
            yield replace(made, what=f"{'resume' if arguments is _RESUME else 'inspect'}, {what}")


def _flipped() -> Iterator[Case]:
    group = "damaged checkpoint"
    for number in range(30):
        weight = bool(number % 2)
        prepare = _flipped_weight(number) if weight else both(_copied_checkpoint, flipped("c.pth", number))
        # A byte between the entries, or of the zip's own, changes nothing that is read.
        expected: Expected = "error" if weight else "either"
        place = "of the weights" if weight else "somewhere"
        made = command(group, *_INSPECT, expected=expected, prepare=prepare)
        yield replace(made, what=f"inspect, a byte flipped {place}, {number}")
        if number < 6:
            made = command(group, *_RESUME, expected=expected, prepare=prepare)
            yield replace(made, what=f"resume, a byte flipped {place}, {number}")


def _unfit() -> Iterator[Case]:
    """Yield whole checkpoints that are resumed with other settings, and what is no checkpoint."""
    group = "damaged checkpoint"
    for name in ("lightgcn.pth", "wide.pth"):
        yield run(group, f"--resume={name}", "--epochs=3", names=name)
    yield run(group, "--resume=bpr.pth", names="epoch")
    yield run(group, "--resume=bpr.pth", "--epochs=3", "--seed=7", names="seed")
    yield run(group, "--resume=bpr.pth", "--epochs=3", "--embedding_size=8")
    yield run("right", "--resume=bpr.pth", "--epochs=2", expected="right")
    for name in ("nowhere.pth", "a_folder", "a_file", "", "x" * 300, "base.yaml", "store", "a\0b"):
        yield command(group, "inspect", f"--checkpoint={name}")
    for name in ("/dev/zero", "a_pipe"):
        yield command("hang", "inspect", f"--checkpoint={name}")


# All of them do no more than make the canary.
_PAYLOADS: Mapping[str, Callable[[], Any]] = {
    "os.system": lambda: Call(os.system, f"touch {CANARY}"),
    "builtins.eval": lambda: Call(eval, PAYLOAD),
    "builtins.exec": lambda: Call(exec, PAYLOAD),
    "builtins.getattr": lambda: Call(getattr, dict, "fromkeys"),
    "a function of RecBole's": lambda: Call(ensure_dir, CANARY),
    "a function of this package": lambda: Call(write_text, CANARY, ""),
    "RecBole's Config, which evaluates texts": lambda: Call(StockConfig, "BPR", "tiny", None, {"epochs": PAYLOAD}),
    "numpy.save": lambda: Call(np.save, CANARY, 1),
    "torch.save": lambda: Call(torch.save, 1, CANARY),
    "pathlib.Path.touch": lambda: Call(Path.touch, Path(CANARY)),
    "pandas.read_pickle": lambda: Call(pd.read_pickle, "evil.pickle"),
    "yaml's loader": lambda: Call(yaml.FullLoader, "a"),
}


def _evil(payload: Callable[[], Any], place: str = "alone", *, zipped: bool = True) -> Callable[[], None]:
    """Return what writes a checkpoint with a payload in one place, ``evil.pth``, and a plain pickle."""

    def write() -> None:
        Path("evil.pickle").write_bytes(pickle.dumps(_PAYLOADS["os.system"]()))
        content = torch.load("bpr.pth", weights_only=False)
        if place == "alone":
            content = payload()
        elif place == "config":
            content["config"].final_config_dict["x"] = payload()
        else:
            content[place] = payload()
        torch.save(content, "evil.pth", _use_new_zipfile_serialization=zipped)

    return write


def _pickles() -> Iterator[Case]:
    """Yield checkpoints that would run code."""
    group = "executed from a pickle"
    resume = (*_RESUME[:4], "--resume=evil.pth", "--epochs=3")
    for what, payload in _PAYLOADS.items():
        # Names of RecBole's become names that nothing can call; yaml's loader does nothing.
        expected: Expected = "either" if what in ("yaml's loader", "a function of RecBole's") else "error"
        for place in ("alone", "optimizer", "config", "other_parameter"):
            for arguments in (("inspect", "--checkpoint=evil.pth"), resume):
                prepare = _evil(payload, place)
                made = command(group, *arguments, expected=expected, prepare=prepare, names="evil.pth")
                yield replace(made, what=f"{arguments[0]}, {what} in {place}")
    legacy = _evil(_PAYLOADS["os.system"], zipped=False)
    for name, prepare in (("evil.pth", legacy), ("evil.pickle", legacy)):
        yield command(group, "inspect", f"--checkpoint={name}", names=name, prepare=prepare)


_READ_PICKLES: Sequence[tuple[str, Sequence[str]]] = (
    ("NeuMF", ("--use_pretrain=True", "--mf_pretrain_path=evil.pth", "--mlp_pretrain_path=evil.pth")),
    ("NAIS", ("--pretrain_path=evil.pth",)),
    ("ConvNCF", ("--train_method=after_pretrain", "--pre_model_path=evil.pth", "--embedding_size=64")),
    ("RaCT", ("--train_stage=critic_pretrain", "--pre_model_path=evil.pth")),
    ("BPR", ("--dataset_save_path=evil.pickle",)),
    ("BPR", ("--dataloaders_save_path=evil.pickle",)),
)


def _other_pickles() -> Iterator[Case]:
    """Yield other files that RecBole unpickles, and vectors that would run code."""
    group = "executed from a pickle"
    system = _PAYLOADS["os.system"]
    for model, arguments in _READ_PICKLES:
        yield replace(run(group, *arguments, model=model, names="evil"), prepare=_evil(system))
    for suffix in (".pt", ".npy", ".safetensors"):
        for zipped in (True, False):
            rename = _renamed(f"v{suffix}")
            write = both(_evil(system, zipped=zipped), rename)
            yield run_from(group, f"vectors, {'zip' if zipped else 'legacy'}", write, f"v{suffix}")
    yield run_from(group, "npy of objects", lambda: pickled_array(system()))
    yield run_from(group, "Arrow extension", _arrow_extension, "v.parquet", expected="either")


def _renamed(name: str) -> Callable[[], object]:
    return lambda: shutil.move("evil.pth", name)


def _arrow_extension() -> None:
    """Write a Parquet file whose column claims to be of a type that Arrow once unpickled."""
    serialized = pickle.dumps(_PAYLOADS["os.system"]())
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": serialized}
    kind = pa.list_(pa.float32())
    schema = pa.schema([pa.field("item_id", pa.string()), pa.field("embedding", kind, metadata=metadata)])
    columns = [pa.array(TOKENS), pa.array(numbers().tolist(), kind)]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), "v.parquet")


def _lost() -> Iterator[Case]:
    group, names = "lost", "written|room|space|full"
    copy = lambda: shutil.copy("wide.pth", "wide.whole")  # noqa: E731  once for all limits
    wide = ("run", "-m", "BPR", "--config_files=base.yaml", "--embedding_size=256")
    for limit in (30_000, 60_000, 100_000, 150_000, 200_000):
        resume = ("--resume=wide.pth", "--epochs=30")
        made = command(group, *wide, *resume, names=names, prepare=copy, spoiled=_changed)
        yield replace(made, late=True, file_limit=limit, what=f"resume, files of at most {limit:,} bytes")
        made = command(group, *wide, names=names, spoiled=_broken)
        yield replace(made, late=True, file_limit=limit, what=f"a first save, files of at most {limit:,} bytes")
    for suffix in ("npy", "parquet"):
        made = command(group, "stores", "--export", "store", f"x.{suffix}", spoiled=_exported)
        yield replace(made, file_limit=2000, what=f"export to {suffix}, files of at most 2,000 bytes")
    for number in range(3):
        what = f"two runs in the same second in one checkpoint_dir, {number}"
        yield Case(group, what, _two_at_once, "right", spoiled=_not_two)


def _changed(place: Path) -> str:
    whole = (place / "wide.pth").read_bytes() == (place / "wide.whole").read_bytes()
    strays = {path.name for path in place.glob("[!.]*.pth*")} - {"wide.pth", "bpr.pth", "lightgcn.pth"}
    return "" if whole and not strays else f"the checkpoint was changed, or left: {sorted(strays)}"


def _broken(place: Path) -> str:
    broken = [path.name for path in (place / "saved").glob("[!.]*.pth") if not zipfile.is_zipfile(path)]
    return f"broken: {broken}" if broken else ""


def _exported(place: Path) -> str:
    left = [path.name for path in place.glob("x.*")]
    return f"left {left}" if left else ""


def _two_at_once() -> int:
    """Begin the same run twice in one second; return 0 where both succeed."""
    time.sleep(1 - time.time() % 1)
    children = []
    for number in range(2):
        process = os.fork()
        if process == 0:
            own = Path(f"own{number}")
            own.mkdir()
            (own / "base.yaml").write_text(BASE)
            os.chdir(own)
            arguments = ["--config_files=base.yaml", "--checkpoint_dir=../saved", f"--seed={number}"]
            os._exit(main(["run", "-m", "BPR", *arguments]))
        children.append(process)
    return max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children)


def _not_two(place: Path) -> str:
    found = [path.name for path in (place / "saved").glob("*.pth")]
    return "" if len(found) == 2 else f"the two runs left {found}"


def _copied_checkpoint() -> None:
    shutil.copy("lightgcn.pth", "c.pth")
    _report_beside()


def _report_beside() -> None:
    """Put the report that a run from vectors has written beside the checkpoint."""
    if Path("lightgcn.json").exists():
        shutil.copy("lightgcn.json", "c.json")


def _flipped_weight(number: int) -> Callable[[], None]:
    """Return what flips a bit inside the weights of a checkpoint that has its report beside it."""

    def write() -> None:
        _copied_checkpoint()
        with zipfile.ZipFile("c.pth") as archive:
            stored = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size > 100]
        entry = stored[number % len(stored)]
        content = bytearray(Path("c.pth").read_bytes())
        # The header of a zip's entry: 30 bytes, of which the last four are the lengths of what follows.
        name, extra = (
            int.from_bytes(content[at : at + 2], "little") for at in (entry.header_offset + n for n in (26, 28))
        )
        content[entry.header_offset + 30 + name + extra + number * 7 % entry.file_size] ^= 1 << (number % 8)
        Path("c.pth").write_bytes(content)

    return write
