"""The plan of an encoding: which store belongs to the options, and which texts it has no vectors of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_llminit.encode.dataset_texts import read_texts
from recbole_llminit.encode.encoder_metadata import has_unknown_revision, store_metadata
from recbole_llminit.encode.endpoint_encoder import PREFIX
from recbole_llminit.encode.item_text import ItemTexts
from recbole_llminit.encode.model_files import resolve_commit
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.vectors.cache import StoreInfo, list_stores
from recbole_llminit.vectors.header import fingerprint_metadata
from recbole_llminit.vectors.shard import hash_text
from recbole_llminit.vectors.store import read_rows

_SHOWN_TEXTS = 5
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class EncodePlan:
    """The item texts compared with what the store holds; prints as counts and five texts.

    Parameters
    ----------
    metadata : mapping
        The metadata of the store, without the revision of a model on the hub where that is not known yet.
    texts : ItemTexts
        The text of every item.
    hashes : ndarray of str, shape [n]
        `hash_text` of each text.
    folder : Path or None
        The store; None where there is none yet.
    missing : ndarray of int
        The positions of the texts whose vectors the store lacks, or holds of another text.
    unwanted : tuple of str
        The items of the store that no longer have a text.
    has_replaced_rows : bool
        Whether the store holds rows that later rows replace, as a killed run leaves them.
    """

    metadata: Mapping[str, Any]
    texts: ItemTexts
    hashes: npt.NDArray[Any]
    folder: Path | None
    missing: npt.NDArray[np.int64]
    unwanted: tuple[str, ...]
    has_replaced_rows: bool

    @classmethod
    def compare(
        cls, metadata: Mapping[str, Any], texts: ItemTexts, hashes: npt.NDArray[Any], folder: Path | None
    ) -> EncodePlan:
        """Compare texts and their hashes with the rows of a store."""
        if folder is None:
            return cls(metadata, texts, hashes, None, np.arange(len(texts.ids)), (), has_replaced_rows=False)
        rows = read_rows(folder)
        replaced = rows["item_id"].duplicated(keep="last")
        ids, stored_hashes = (rows[column][~replaced].to_numpy(object) for column in ("item_id", "text_hash"))
        found = pd.Series(stored_hashes, index=ids).reindex(list(texts.ids)).to_numpy(object)
        return cls(
            metadata=metadata,
            texts=texts,
            hashes=hashes,
            folder=folder,
            missing=np.flatnonzero(found != hashes),
            unwanted=tuple(pd.Index(ids).intersection(list(texts.without_text))),
            has_replaced_rows=bool(replaced.any()),
        )

    def compare_again(self, folder: Path) -> EncodePlan:
        """Compare the same texts with what a store holds now."""
        return self.compare(self.metadata, self.texts, self.hashes, folder)

    @property
    def encoder(self) -> str:
        """The model, and the prompt if one is set."""
        prompt = self.metadata["prompt"]
        return f"{self.metadata['model']}{'' if prompt is None else f', prompt {prompt!r}'}"

    @property
    def nothing_to_do(self) -> bool:
        """Whether the store holds exactly the vectors of these texts."""
        return not (len(self.missing) or self.unwanted or self.has_replaced_rows)

    def __str__(self) -> str:
        """Return the counts and five texts, spread over all items."""
        texts = self.texts
        shown = np.unique(np.linspace(0, len(texts.ids) - 1, _SHOWN_TEXTS).astype(int))
        counts = {
            "encoder": self.encoder,
            "texts": texts,
            "store": self.folder or "none yet",
            "to encode": f"{len(self.missing):,} items, {len(texts.ids) - len(self.missing):,} are there",
        }
        lines = [f"{name}: {value}" for name, value in counts.items()]
        return "\n".join([*lines, *(f"  {texts.ids[row]}: {_shorten(texts.texts[row])}" for row in shown)])


def plan_encoding(options: EncodeOptions) -> EncodePlan:
    """Compare the item texts with the store of these options; load no encoder and write nothing.

    Raises
    ------
    LLMInitError
        If there are no texts, or the store cannot be read.
    """
    texts = read_texts(options)
    hashes = np.array([hash_text(text) for text in texts.texts], dtype=object)
    metadata = store_metadata(options, texts)
    store = find_store(options, metadata)
    return EncodePlan.compare(metadata, texts, hashes, None if store is None else store.path)


def find_store(options: EncodeOptions, metadata: Mapping[str, Any]) -> StoreInfo | None:
    """Return the store that has these metadata; None where there is none.

    Where the revision of a model on the hub is not known, a store of the same branch or tag with any revision is
    returned, and the hub is not asked: a store keeps the revision with which it was begun.
    """
    wanted = fingerprint_metadata(metadata)
    stores = list_stores(options.cache_dir, options.dataset)
    if not has_unknown_revision(metadata):
        return next((store for store in stores if store.fingerprint == wanted), None)
    of_branch = (store for store in stores if store.metadata.get("ref") == metadata["ref"])
    same = (store for store in of_branch if fingerprint_metadata({**store.metadata, "revision": None}) == wanted)
    return next(same, None)


def resolve_revision(options: EncodeOptions, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata with the revision: that of the store that exists, else the one that the hub gives.

    Raises
    ------
    LLMInitError
        If the hub cannot be asked, and its cache on this machine does not hold the model.
    """
    if not has_unknown_revision(metadata):
        return dict(metadata)
    store = find_store(options, metadata)
    revision = store.metadata["revision"] if store else resolve_commit(metadata["model"], metadata["ref"])
    return {**metadata, "revision": revision}


def new_store_folder(options: EncodeOptions, metadata: Mapping[str, Any]) -> Path:
    """Return the folder of a new store: its name holds the model's name and the fingerprint of the metadata."""
    slug = re.sub(r"[^\w.]+", "-", str(metadata["model"]).removeprefix(PREFIX)).strip("-.") or "encoder"
    return options.cache_dir / options.dataset / f"{slug}-{fingerprint_metadata(metadata)}"


def _shorten(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]} ... ({len(text):,} characters)"
