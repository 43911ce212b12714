"""Vectors in array files, .npy, .safetensors and .pt: a matrix with the item ids beside it or inside.

Each reader takes the file and the column of the ids, and returns the ids, length n, and the vectors ``[n, llm_dim]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_llminit.data_frames import read_delimited, read_header
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, reason, require_file
from recbole_llminit.vectors.column_names import ITEM_ID, find_id_column, require_once
from recbole_llminit.vectors.tokens import examples

_FORMS_OF_IDS = (".txt", ".json", ".csv")


def read_npy(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Map a NumPy array and read the ids beside it."""
    # Not numpy.load, which would read an archive or a pickle, too.
    vectors = np.lib.format.open_memmap(path, mode="r")
    return _read_ids_beside(path, id_field), vectors


def read_safetensors(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read one matrix with the ids beside it, or one vector per item."""
    from safetensors.torch import load_file

    return _take_ids_and_vectors(load_file(path), path, id_field)


def read_pt(path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Read what torch saved, with ``weights_only=True``: as for .safetensors, or with the ids inside."""
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LLMInitError(
            f"{path} is damaged, or holds more than tensors, lists and dictionaries, and loading it could run code: "
            f"save the vectors alone, torch.save({{'item_id': ids, 'embedding': tensor}}, path) ({reason(error)})"
        ) from error
    return _take_ids_and_vectors(content, path, id_field)


def list_ids_beside(path: Path) -> list[Path]:
    """Return what exists under the names of the files of ids beside a matrix."""
    return [beside for suffix in _FORMS_OF_IDS if exists(beside := path.with_suffix(suffix))]


def _take_ids_and_vectors(content: Any, path: Path, id_field: str) -> tuple[Sequence[Any], npt.NDArray[Any]]:
    """Take both from a tensor, ``{name: matrix}``, ``{"item_id": ids, name: matrix}`` or ``{id: vector, ...}``."""
    import torch

    if isinstance(content, torch.Tensor):
        content = {"embedding": content}
    if not isinstance(content, Mapping):
        raise LLMInitError(f"{path} holds a {type(content).__name__}: expected a tensor or a dictionary of tensors")
    key_of_ids = next((name for name in (id_field, ITEM_ID) if name in content), None)
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor) and name != key_of_ids}
    matrices = [value for value in tensors.values() if value.ndim == 2]
    if not matrices and tensors and all(value.ndim == 1 for value in tensors.values()):
        return list(tensors), np.stack([_to_numpy(value, path) for value in tensors.values()])
    if len(matrices) != 1:
        raise LLMInitError(
            f"{path} holds {len(matrices)} matrices ({examples(list(tensors))}): expected one, [n, llm_dim], "
            f"or one vector per item, named by its id"
        )
    if key_of_ids is None:
        return _read_ids_beside(path, id_field), _to_numpy(matrices[0], path)
    return _take_ids(content[key_of_ids], key_of_ids, path), _to_numpy(matrices[0], path)


def _take_ids(ids: Any, key: str, path: Path) -> Sequence[Any]:
    """Return the ids that a file holds beside its matrix."""
    import torch

    if isinstance(ids, torch.Tensor):
        ids = _to_numpy(ids, path).tolist()
    if not isinstance(ids, list | tuple):
        raise LLMInitError(f"{path} has a {type(ids).__name__} for {key}: expected a list of item ids, or a tensor")
    return ids


def _to_numpy(tensor: Any, path: Path) -> npt.NDArray[Any]:
    """Return a tensor as an array; bfloat16 and the 8-bit types, which NumPy lacks, become float32."""
    import torch

    unfit = {
        "sparse": tensor.layout != torch.strided,
        "nested": tensor.is_nested,
        "quantized": tensor.is_quantized,
        "meta": tensor.is_meta,
        "complex": tensor.is_complex(),
    }
    found = [name for name, is_so in unfit.items() if is_so]
    if found:
        raise LLMInitError(
            f"{path} holds a {' and '.join(found)} tensor: expected plain tensors of floating-point numbers; save "
            f"tensor.to_dense(), .dequantize() or its real part"
        )
    known = (torch.float16, torch.float32, torch.float64)
    tensor = tensor.float() if tensor.is_floating_point() and tensor.dtype not in known else tensor
    # force: a tensor that requires a gradient, too.
    return np.asarray(tensor.numpy(force=True))


def _read_ids_beside(path: Path, id_field: str) -> Sequence[Any]:
    """Read the ids from the one file of ids beside a matrix."""
    beside = list_ids_beside(path)
    if len(beside) != 1:
        raise LLMInitError(
            f"{path} has {f'{len(beside)} files of ids' if beside else 'no ids'} beside it: "
            f"expected {path.stem}.txt (one item id a line), {path.stem}.json (a list) or {path.stem}.csv (a column "
            f"{id_field}), in the order of the rows; row numbers are never taken for ids"
        )
    ids = beside[0]
    require_file(ids, "item ids")
    with foreign_reader(f"the ids in {ids}", "UTF-8 text"):
        if ids.suffix == ".csv":
            return _read_column_of_ids(ids, id_field)
        # utf-8-sig: a byte order mark would become part of the first id.
        text = ids.read_text(encoding="utf-8-sig")
        content = json.loads(text) if ids.suffix == ".json" else text.splitlines()
    if not isinstance(content, list):
        raise LLMInitError(f"{ids} holds a {type(content).__name__}: expected a list of item ids")
    return content


def _read_column_of_ids(path: Path, id_field: str) -> Sequence[Any]:
    """Read the ids from a .csv file: from its only column under any name, otherwise from the column of the ids."""
    table = read_delimited(path, ",")
    names = list(table.columns)
    column = names[0] if len(names) == 1 else find_id_column(names, id_field, path)
    require_once([column], read_header(path, ","), path)
    return list(table[column])
