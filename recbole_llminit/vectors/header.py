"""The header of a shard: what encoded its vectors, as JSON in the metadata of the Arrow schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader

_FORMAT = 1
_SCHEMA_KEY = b"recbole_llminit"
_METADATA_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "revision", "ref", "pooling", "prompt", "dtype", "template"), (str, type(None))),
    **dict.fromkeys(("base_url", "text_file"), (str, type(None))),
    "max_length": (int, type(None)),
    "fields": (list,),
    "encoder": (dict,),
    "versions": (dict,),
}
_CHANGES_NO_VECTOR = ("encoder", "versions", "ref")


def fingerprint_metadata(metadata: Mapping[str, Any]) -> str:
    """Hash the encoder metadata that determine a vector.

    Three keys are left out: ``versions`` (of packages), ``encoder`` (what the model decided itself, which follows from
    the model) and ``ref`` (a name of the ``revision``). The name of a local folder is left out, too: its content is
    the ``revision``.
    """
    relevant = {key: value for key, value in metadata.items() if key not in _CHANGES_NO_VECTOR}
    if str(relevant.get("revision")).startswith("sha256:"):
        relevant.pop("model", None)
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ShardHeader:
    """What a store says about the vectors of a shard.

    Parameters
    ----------
    fingerprint : str
        `fingerprint_metadata` of the metadata.
    metadata : mapping
        Encoder metadata, as `append_shard` takes them.
    """

    fingerprint: str
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> ShardHeader:
        """Make the header of vectors that are stored now."""
        return cls(fingerprint_metadata(metadata), dict(metadata))

    def to_schema_metadata(self) -> dict[bytes, str]:
        """Return the header as the metadata of an Arrow schema. On disk the encoder metadata are named ``facts``."""
        header = {"format": _FORMAT, "fingerprint": self.fingerprint, "facts": dict(self.metadata)}
        return {_SCHEMA_KEY: json.dumps(header)}

    @classmethod
    def from_schema(cls, schema: pa.Schema, path: Path) -> ShardHeader | None:
        """Read and check the header in a schema; None for a file of another program, which has none.

        Raises
        ------
        LLMInitError
            If the header is damaged, or a newer version of this package wrote it.
        """
        text = (schema.metadata or {}).get(_SCHEMA_KEY)
        if text is None:
            return None
        with foreign_reader(path, "a store's header in its schema; the file is damaged, delete it and encode again"):
            header: Any = json.loads(text)
            if not isinstance(header, dict):
                raise TypeError(f"the header is a {type(header).__name__}, not a mapping")
            _check_format(header.get("format"), path)
            fingerprint, metadata = header.get("fingerprint"), header.get("facts")
            if not isinstance(fingerprint, str):
                raise TypeError(f"the fingerprint is {fingerprint!r}, not a text")
            return cls(fingerprint, _checked_metadata(metadata))


def _check_format(version: Any, path: Path) -> None:
    if type(version) is not int or version < 1:
        raise ValueError(f"the format is {version!r}, not a whole number from 1 on")
    if version > _FORMAT:
        raise LLMInitError(
            f"{path} has the format {version}, written by a newer version of this package, and this one knows "
            f"{_FORMAT}: upgrade recbole-llminit, or give another folder (llm_embedding, llm_cache_dir)"
        )


def _checked_metadata(metadata: Any) -> dict[str, Any]:
    """Return encoder metadata; raise `TypeError` or `ValueError` unless they have the types `append_shard` is given."""
    if not isinstance(metadata, dict):
        raise TypeError(f"the encoder metadata are a {type(metadata).__name__}, not a mapping")
    for name, types in _METADATA_TYPES.items():
        if name in metadata and not isinstance(metadata[name], types):
            raise TypeError(f"{name} of the encoder metadata is a {type(metadata[name]).__name__}")
    if metadata.get("ref") is not None and metadata.get("revision") is None:
        raise ValueError(f"the encoder metadata have the ref {metadata['ref']} without its revision")
    return metadata
