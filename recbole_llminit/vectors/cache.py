"""The cache of stores: ``<cache_dir>/<dataset>/<encoder>-<fingerprint>``; which stores it has and what they hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, is_folder
from recbole_llminit.text_table import draw_table
from recbole_llminit.vectors.columnar_file import ColumnarFile, reading, require_lists_of_floats
from recbole_llminit.vectors.shard import list_shards
from recbole_llminit.vectors.store import foreign_shard, read_rows, read_while_merged

_logger = logging.getLogger(__name__)

DEFAULT_CACHE = "~/.cache/recbole-llminit"
"""The cache folder unless ``llm_cache_dir`` names another."""

_SETTINGS = ("pooling", "prompt", "max_length", "dtype", "base_url", "text_file")

Result = TypeVar("Result")


@dataclass(frozen=True)
class StoreInfo:
    """What is known about a store on disk without reading its vectors.

    Parameters
    ----------
    path : Path
        The store's folder.
    dataset : str
        The name of its dataset.
    metadata : mapping
        The encoder metadata.
    fingerprint : str
        `fingerprint_metadata` of these.
    width : int
        The number of dimensions of a vector, ``llm_dim``.
    bytes : int
        The size of its shards on disk.
    """

    path: Path
    dataset: str
    metadata: Mapping[str, Any]
    fingerprint: str
    width: int
    bytes: int

    def count_items(self) -> int:
        """Return how many items have a vector."""
        return int(read_rows(self.path)["item_id"].nunique())


def list_stores(cache_dir: Path, dataset: str | None = None) -> list[StoreInfo]:
    """Return the stores of a cache folder, or of one dataset in it, by path.

    A store that is damaged, or that a newer version of this package wrote, is skipped with a warning.
    """
    datasets = [cache_dir / dataset] if dataset else _list_folders(cache_dir)
    folders = (folder for path in datasets for folder in _skip_unreadable(_list_folders, path) or ())
    found = (_skip_unreadable(read_while_merged, _describe_store, folder) for folder in folders)
    return [info for info in found if info is not None]


def _list_folders(path: Path) -> list[Path]:
    """Return the folders in a folder; none if there is no folder."""
    if not is_folder(path):
        return []
    with foreign_reader(path, "a folder that may be read"):
        return sorted(entry for entry in path.iterdir() if is_folder(entry))


def _skip_unreadable(read: Callable[..., Result], *arguments: Any) -> Result | None:
    """Call a reader of one of several stores; warn and return None if it raises, so that the others are still found."""
    try:
        return read(*arguments)
    except LLMInitError as error:
        _logger.warning(f"skipped: {error}")
        return None


def _describe_store(folder: Path) -> StoreInfo | None:
    """Describe a store by its first shard; None for a folder without shards."""
    shards = list_shards(folder)
    if not shards:
        return None
    first = shards[0]
    with reading(first, "arrow"):
        opened = ColumnarFile.open(first, "arrow")
        if opened.header is None:
            raise foreign_shard(first)
        kind = opened.type_of("embedding")
        require_lists_of_floats(kind, first)
        if not pa.types.is_fixed_size_list(kind) or kind.list_size < 1:
            raise LLMInitError(
                f"the embedding column of {first} is {kind}: expected lists of one size, as encode writes them; it "
                f"is damaged, delete {folder} and encode again"
            )
    return StoreInfo(
        path=folder,
        dataset=folder.parent.name,
        metadata=opened.header.metadata,
        fingerprint=opened.header.fingerprint,
        width=kind.list_size,
        bytes=sum(path.stat().st_size for path in shards),
    )


def describe_stores(cache_dir: Path) -> str:
    """Draw the stores of a cache folder as a table, one line per store.

    A store that cannot be read is skipped with a warning, as in `list_stores`.
    """
    rows = [row for store in list_stores(cache_dir) if (row := _skip_unreadable(_draw_row, store)) is not None]
    if not rows:
        return f"there is no store in {cache_dir}"
    header = ["dataset", "encoder", "settings", "template", "items", "dimensions", "MB", "store"]
    return draw_table(header, rows, frame=False)


def _draw_row(store: StoreInfo) -> list[Any]:
    settings = [f"{key} {store.metadata[key]}" for key in _SETTINGS if store.metadata.get(key) is not None]
    return [
        store.dataset,
        f"{store.metadata.get('model')}@{str(store.metadata.get('revision'))[:14]}",
        ", ".join(settings) or "its own",
        store.metadata.get("template", ""),
        f"{store.count_items():,}",
        store.width,
        f"{store.bytes / 1e6:.1f}",
        store.path,
    ]
