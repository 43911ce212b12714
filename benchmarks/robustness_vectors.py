"""Bad vectors: values that cannot initialize a model, forms that no reader expects, pipes and devices."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from robustness_cases import Case, Expected, command, run
from robustness_making import Vectors, file, flipped, link, numbers, pickled_array, pipe, zip_of
from robustness_valid import TOKENS, values
from robustness_values import FROM_VECTORS
from safetensors.torch import save_file

from recbole_llminit import read_embeddings
from recbole_llminit.errors import LLMInitError

_DIMS = [f"dim_{number}" for number in range(20)]
_CATS = [f"cat{number}" for number in range(30)]
_ROWS = values(len(TOKENS), 20)


def cases() -> Iterator[Case]:
    """Yield the table."""
    yield from _values()
    yield from _arrays()
    yield from _tensors()
    yield from _tables()
    yield from _special_files()


def changed(place: Any, number: float, dtype: Any = np.float32) -> Vectors:
    """Return vectors with another number in some places."""
    vectors: Vectors = numbers().astype(dtype)
    vectors[place] = number
    return vectors


def run_from(
    group: str,
    what: str,
    prepare: Callable[[], object],
    path: str = "v.npy",
    *arguments: str,
    strategy: str = "var",
    expected: Expected = "error",
    names: str = "",
) -> Case:
    """Return the case of a run from vectors that are prepared."""
    given = (f"--init_strategy={strategy}", f"--llm_embedding={path}")
    found = run(group, *given, *arguments, expected=expected, names=names or f"{Path(path).stem}|vectors|{strategy}")
    return replace(found, what=f"{what}: {strategy} {' '.join(arguments)}", prepare=prepare)


# What cannot initialize a model, by every strategy.
_EQUAL: Mapping[str, Callable[[], Vectors]] = {
    "all zeros": lambda: np.zeros((29, 80), np.float32),
    "all ones": lambda: np.ones((29, 80), np.float32),
    "all rows equal": lambda: np.tile(numbers()[:1], (29, 1)),
    "subnormal float32": lambda: numbers() * np.float32(1e-42),
    "1e-300 in float64": lambda: numbers().astype(np.float64) * 1e-300,
    "1e-30": lambda: numbers() * np.float32(1e-30),
    "1e300 in float64": lambda: numbers().astype(np.float64) * 1e300,
    "1e30": lambda: numbers() * np.float32(1e30),
}
_NOT_FINITE: Mapping[str, Callable[[], Vectors]] = {
    "one NaN": lambda: changed((3, 5), np.nan),
    "one infinity": lambda: changed((3, 5), np.inf),
    "a row of NaN": lambda: changed(3, np.nan),
    "a column of NaN": lambda: changed((slice(None), 3), np.nan),
    "all NaN": lambda: changed(slice(None), np.nan),
    "1e39 in float64": lambda: changed((3, 5), 1e39, np.float64),
}


def _values() -> Iterator[Case]:
    group = "silently wrong vectors"
    for what, make in _EQUAL.items():
        for strategy in ("var", "rand", "uni", "prefix", "pca", "whiten", "cca", "rp", "auto"):
            # A mean is taken off, or lengths are brought to a scale: then there may be something left.
            scaled = strategy in ("pca", "whiten", "cca", "rp", "auto") or what == "1e30"
            may = (what.startswith(("1e", "subnormal")) and scaled) or (
                what == "all rows equal" and strategy in ("rand", "uni", "prefix", "rp")
            )
            made = run_from(group, what, npy(make), strategy=strategy, expected="either" if may else "error")
            # Too large values show in the loss.
            yield replace(made, late=what == "1e30")
    for what, make in _NOT_FINITE.items():
        for strategy in ("var", "whiten", "auto"):
            # Not all columns are read by var.
            unread: Expected = "either" if strategy == "var" and what.startswith(("one", "1e39")) else "error"
            yield run_from(group, what, npy(make), strategy=strategy, expected=unread)
    yield run_from(group, "one row of zeros", npy(lambda: changed(3, 0)), expected="either")
    yield run_from(group, "one column of zeros", npy(lambda: changed((slice(None), 3), 0)), expected="right")
    for scale in ("1e-300", "1e-40", "1e-20", "1e30", "1e300"):
        yield run(group, *FROM_VECTORS, f"--init_scale={scale}", names="init_scale|scale")
    yield run(group, "--init_strategy=noise", "--init_args={std: 1e-40}", names="std|standard deviation")
    users = npy(lambda: np.zeros((40, 80), np.float32))
    yield run_from(group, "users' vectors of zeros", users, "store", "--init_user=v.npy", names="init_user|v.npy")


_ARRAYS: Mapping[str, tuple[Callable[[], Any], Expected]] = {
    "width 0": (lambda: np.empty((29, 0), np.float32), "error"),
    "no rows": (lambda: np.empty((0, 80), np.float32), "error"),
    "too narrow": (lambda: values(29, 8), "error"),
    "one dimension": (lambda: numbers()[:, 0], "error"),
    "three dimensions": (lambda: numbers()[None], "error"),
    "a scalar": (lambda: np.float32(1), "error"),
    "whole numbers": (lambda: np.arange(29 * 80).reshape(29, 80), "error"),
    "booleans": (lambda: np.ones((29, 80), bool), "error"),
    "complex": (lambda: numbers().astype(np.complex64), "error"),
    "texts": (lambda: numbers().astype(str), "error"),
    "dates": (lambda: np.zeros((29, 80), "datetime64[s]"), "error"),
    "structured": (lambda: np.zeros((29, 80), [("a", "f4")]), "error"),
    "a row too many": (lambda: values(30, 80), "error"),
    "long double": (lambda: numbers().astype(np.longdouble), "either"),
    "big-endian float32": (lambda: numbers().astype(">f4"), "right"),
    "big-endian float16": (lambda: numbers().astype(">f2"), "right"),
    "big-endian float64": (lambda: numbers().astype(">f8"), "right"),
    "Fortran order": (lambda: np.asfortranarray(numbers()), "right"),
    "float16": (lambda: numbers().astype(np.float16), "right"),
}


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + b"\0" * 100


def _npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, embedding=values(29, 80))
    return content.getvalue()


_CONTENTS: Mapping[str, bytes] = {
    "empty": b"",
    "zip": zip_of({"a.txt": b"x"}),
    "npz": _npz(),
    "text": b"hello\n",
    "broken header": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (29, ",
    "header of another type": b"\x93NUMPY\x01\x00v\x00" + b"[1, 2]".ljust(117) + b"\n",
    "header of version 9": b"\x93NUMPY\x09\x00v\x00" + b"{}".ljust(117) + b"\n",
    "shape of 1e18": _header("(1000000000000000000, 80)"),
    "negative shape": _header("(-29, 80)"),
    "shape of more than the file": _header("(29, 80)"),
    "nested shape": _header("(" * 5000 + ")" * 5000),
}
_SUFFIXES = (".safetensors", ".pt", ".parquet", ".csv", ".tsv", ".itememb", ".item")


def _arrays() -> Iterator[Case]:
    group = "bad vectors"
    for what, (make, expected) in _ARRAYS.items():
        for strategy in ("var", "whiten") if expected == "right" else ("var",):
            yield run_from(group, f"npy, {what}", npy(make), expected=expected, strategy=strategy)
    yield run_from(group, "npy, objects", pickled_array)
    for what, content in _CONTENTS.items():
        yield run_from(group, f"npy, {what}", file("v.npy", content))
    for suffix in (*_SUFFIXES, ".arrow", ".xyz", ".npz", ""):
        for what in ("empty", "text", "zip"):
            made = file(f"v{suffix}", _CONTENTS[what])
            yield run_from(group, f"{suffix or 'no suffix'}, {what}", made, f"v{suffix}")


def _tensor() -> torch.Tensor:
    return torch.from_numpy(numbers())


# What a .pt file holds, and whether there are vectors in it.
_IN_PT: Mapping[str, tuple[Callable[[], Any], Expected]] = {
    "float8": (lambda: _tensor().to(torch.float8_e4m3fn), "either"),
    "bfloat16": (lambda: _tensor().bfloat16(), "right"),
    "sparse": (lambda: _tensor().to_sparse(), "error"),
    "sparse csr": (lambda: _tensor().to_sparse_csr(), "error"),
    "quantized": (lambda: torch.quantize_per_tensor(_tensor(), 0.1, 0, torch.qint8), "error"),
    "meta": (lambda: _tensor().to("meta"), "error"),
    "complex": (lambda: _tensor().to(torch.complex64), "error"),
    "requires gradients": (lambda: _tensor().requires_grad_(), "right"),
    "a parameter": (lambda: torch.nn.Parameter(_tensor()), "right"),
    "nested": (lambda: torch.nested.nested_tensor([_tensor(), _tensor()]), "error"),
    "a list": (lambda: [_tensor()], "error"),
    "a number": (lambda: 5, "error"),
    "None": (lambda: None, "error"),
    "an empty dictionary": (lambda: {}, "error"),
    "two matrices": (lambda: {"a": _tensor(), "b": _tensor()}, "error"),
    "ids of another length": (lambda: {"item_id": TOKENS[:3], "embedding": _tensor()}, "error"),
    "ids of floats": (lambda: {"item_id": torch.rand(29), "embedding": _tensor()}, "error"),
    "ids None": (lambda: {"item_id": None, "embedding": _tensor()}, "error"),
    "ids a number": (lambda: {"item_id": 5, "embedding": _tensor()}, "error"),
    "ids a matrix": (lambda: {"item_id": _tensor(), "embedding": _tensor()}, "error"),
    "vectors of two widths": (lambda: {"B001": torch.rand(3), "B002": torch.rand(4)}, "error"),
    "numbers as names": (lambda: {1: torch.rand(3), 2: torch.rand(3)}, "error"),
    "a scalar each": (lambda: {"B001": torch.tensor(1.0)}, "error"),
}
_IN_SAFETENSORS: Mapping[str, Callable[[], dict[str, torch.Tensor]]] = {
    "float8": lambda: {"embedding": _tensor().to(torch.float8_e4m3fn)},
    "whole numbers": lambda: {"embedding": torch.ones(29, 80, dtype=torch.int32)},
    "width 0": lambda: {"embedding": torch.empty(29, 0)},
    "nothing": dict,
    "two matrices": lambda: {"a": _tensor(), "b": _tensor()},
}


def _tensors() -> Iterator[Case]:
    group = "bad vectors"
    for what, (make, expected) in _IN_PT.items():
        for zipped in (True, False):
            name = "pt" if zipped else "pt, legacy"
            yield run_from(group, f"{name}, {what}", _pt(make, zipped), "v.pt", expected=expected)
    for what, tensors in _IN_SAFETENSORS.items():
        own: Expected = "either" if what == "float8" else "error"
        yield run_from(group, f"safetensors, {what}", _safetensors(tensors), "v.safetensors", expected=own)


def _cells(row: int) -> list[str]:
    return [str(value) for value in _ROWS[row]]


def _csv(columns: Sequence[str], cells: Callable[[int], list[str]] = _cells) -> Callable[[], None]:
    def write() -> None:
        lines = [["item_id", *columns], *([token, *cells(row)] for row, token in enumerate(TOKENS))]
        Path("v.csv").write_text("".join(",".join(line) + "\n" for line in lines))

    return write


_BESIDE = _csv([*_DIMS, *_CATS], lambda row: [*_cells(row), *(["7"] * 30)])
_CSV: Mapping[str, tuple[Callable[[], None], Expected]] = {
    "right": (_csv(_DIMS), "right"),
    "cat0... beside dim_0...": (_BESIDE, "either"),
    "a column missing": (_csv([*_DIMS[:7], *_DIMS[8:]], lambda row: _cells(row)[1:]), "error"),
    "columns reversed": (_csv(_DIMS[::-1]), "error"),
    "columns swapped": (_csv([_DIMS[1], _DIMS[0], *_DIMS[2:]]), "error"),
    "a column twice": (_csv([*_DIMS[:19], _DIMS[0]]), "error"),
    "begins at 1": (_csv([f"dim_{number}" for number in range(1, 21)]), "either"),
    "texts": (_csv(_DIMS, lambda row: ["a"] * 20), "error"),
    "an empty cell": (_csv(_DIMS, lambda row: ["", *_cells(row)[1:]]), "error"),
    "a row too short": (_csv(_DIMS, lambda row: _cells(row)[: 19 if row == 3 else 20]), "error"),
    "a row too long": (_csv(_DIMS, lambda row: [*_cells(row), "1"] if row == 3 else _cells(row)), "error"),
    "NaN": (_csv(_DIMS, lambda row: ["nan", *_cells(row)[1:]]), "error"),
    "1e999": (_csv(_DIMS, lambda row: ["1e999", *_cells(row)[1:]]), "error"),
    "zeros": (_csv(_DIMS, lambda row: ["0"] * 20), "error"),
    "lists of one number": (_csv(["v"], lambda row: ["1.0"]), "error"),
    "lists of texts": (_csv(["v"], lambda row: ["a b c"]), "error"),
    "empty lists": (_csv(["v"], lambda row: ['"[]"']), "error"),
    "open quote": (_csv(["v"], lambda row: ['"0.1 0.2']), "error"),
}
_PARQUET: Mapping[str, Mapping[str, Any]] = {
    "no rows": {"item_id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))},
    "ragged": {"item_id": TOKENS[:2], "embedding": [[1.0], [1.0, 2.0]]},
    "empty lists": {"item_id": TOKENS[:2], "embedding": pa.array([[], []], pa.list_(pa.float32()))},
    "null vectors": {"item_id": TOKENS[:2], "embedding": [None, [1.0]]},
    "null numbers": {"item_id": TOKENS, "embedding": [[None] * 20] * 29},
    "lists of lists": {"item_id": TOKENS[:2], "embedding": [[[1.0]], [[1.0]]]},
    "lists of texts": {"item_id": TOKENS[:2], "embedding": [["a"], ["b"]]},
    "null ids": {"item_id": pa.array([None] * 29, pa.string()), "embedding": _ROWS.tolist()},
    "float ids": {"item_id": _ROWS[:, 0], "embedding": _ROWS.tolist()},
    "binary ids": {"item_id": pa.array([b"\xff"] * 29), "embedding": _ROWS.tolist()},
    "list ids": {"item_id": [[token] for token in TOKENS], "embedding": _ROWS.tolist()},
    "dates as ids": {"item_id": pa.array([0] * 29, pa.timestamp("s")), "embedding": _ROWS.tolist()},
    "a column of booleans": {"item_id": TOKENS, "0": [True] * 29, "1": [True] * 29},
    "a map": {"item_id": TOKENS[:1], "embedding": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float32()))},
    "no columns": {},
}


def _tables() -> Iterator[Case]:
    """Yield bad CSV and Parquet files."""
    group = "bad vectors"
    for what, (write, expected) in _CSV.items():
        yield run_from(group, f"csv, {what}", write, "v.csv", expected=expected)
    what = "csv, cat0... beside dim_0...: the numbers that are read"
    yield Case("silently wrong vectors", what, _reads_dims, "either", prepare=_BESIDE)
    for what, table in _PARQUET.items():
        for path in ("v.parquet", "parts/v.parquet"):
            made = _parquet(path, table)
            yield run_from(group, f"{path}, {what}", made, path.split("/")[0], names="v.parquet|parts")


def _reads_dims() -> int:
    """Return 0 where exactly the dim_ columns are read; an error where the file is refused."""
    try:
        found = read_embeddings("v.csv")
    except LLMInitError as error:
        return said(error)
    if not np.array_equal(np.concatenate(found.chunks), _ROWS):
        sys.stderr.write(f"read {found.width} columns: other ones than the {len(_DIMS)} dim_ columns\n")
        return 1
    return 0


def _special_files() -> Iterator[Case]:
    """Yield what is no file: pipes, devices, folders, links that lead nowhere; and shards with a flipped byte."""
    group = "bad vectors"
    for name in ("v.npy", *(f"v{suffix}" for suffix in _SUFFIXES)):
        yield run_from("hang", f"{name} is a pipe", pipe(name), name)
        yield run_from("hang", f"{name} is /dev/zero", link(name, "/dev/zero"), name)
    devices = ("/dev/null", "/dev/full", "/dev/urandom", "/proc/self/mem", "/dev/stdin")
    for target in (*devices, "nowhere", "v.npy", "a_folder"):
        yield run_from(group, f"v.npy is a link to {target}", link("v.npy", target), "v.npy")
    shard = "store/part-00002.arrow"
    yield run_from("hang", "a shard is a pipe", pipe(shard), "store")
    yield run_from("hang", "a shard is /dev/zero", link(shard, "/dev/zero"), "store")
    yield run_from(group, "a shard is a folder", lambda: Path(shard).mkdir(), "store")
    yield run_from(group, "a shard is a link to nowhere", link(shard, "nowhere"), "store")
    yield run_from(group, "a shard is empty", file(shard, b""), "store")
    for number in range(40):
        what, write = f"a byte of a shard flipped, {number}", flipped("store/part-00000.arrow", number)
        yield run_from("crash", what, write, "store", expected="either")
    for number in range(10):
        write = flipped("store/part-00001.arrow", number)
        made = command("crash", "stores", "--export", "store", "x.npy", expected="either", prepare=write)
        yield replace(made, what=f"{made.what}, a byte of a shard flipped, {number}")


def npy(make: Callable[[], Vectors]) -> Callable[[], None]:
    """Return what writes ``v.npy`` and its ids."""

    def write() -> None:
        np.save("v.npy", make())
        Path("v.txt").write_text("\n".join(TOKENS))

    return write


def _pt(make: Callable[[], Any], zipped: bool) -> Callable[[], None]:
    def write() -> None:
        content = make()
        torch.save(content, "v.pt", _use_new_zipfile_serialization=zipped)
        if isinstance(content, torch.Tensor):
            Path("v.txt").write_text("\n".join(TOKENS))

    return write


def _safetensors(make: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], None]:
    def write() -> None:
        save_file(make(), "v.safetensors")
        Path("v.txt").write_text("\n".join(TOKENS))

    return write


def _parquet(path: str, columns: Mapping[str, Any]) -> Callable[[], None]:
    def write() -> None:
        Path(path).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(dict(columns)), path)

    return write


def said(error: Exception) -> int:
    """Say an error as the command does, and return its exit status."""
    sys.stderr.write(f"recbole-llminit: error: {error}\n")
    return 2
