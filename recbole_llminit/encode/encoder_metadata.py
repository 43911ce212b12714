"""The encoder metadata: what is known of an encoder without loading it, and identifies the store of its vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_llminit.encode.endpoint_encoder import PREFIX
from recbole_llminit.encode.item_text import ItemTexts
from recbole_llminit.encode.model_files import COMMIT, hash_folder, local_folder
from recbole_llminit.encode.options import EncodeOptions


def encoder_metadata(options: EncodeOptions) -> dict[str, Any]:
    """Return the metadata of the encoder that are known before it is loaded.

    The content of a local folder is hashed here. ``revision`` is None for a model on the hub at a branch or tag: the
    commit is not known yet.

    Raises
    ------
    LLMInitError
        If a local folder is no folder of a model.
    """
    encoder = options.encoder
    metadata: dict[str, Any] = {
        "model": encoder.model,
        "revision": None,
        "pooling": encoder.pooling,
        "prompt": encoder.prompt,
        "max_length": encoder.max_length,
        "dtype": encoder.dtype,
    }
    if options.own_texts:
        # Another table may have other items: its name keeps their stores apart.
        metadata["text_file"] = options.text_file.name
    folder = local_folder(encoder.model)
    if encoder.model.startswith(PREFIX):
        metadata["base_url"] = encoder.base_url
    elif folder is not None:
        metadata["model"] = "/".join(folder.resolve().parts[-2:])
        metadata["revision"] = hash_folder(folder)
    else:
        metadata["ref"] = encoder.revision or "main"
        if COMMIT.fullmatch(metadata["ref"]):
            metadata["revision"] = metadata["ref"]
    return metadata


def store_metadata(options: EncodeOptions, texts: ItemTexts) -> dict[str, Any]:
    """Return `encoder_metadata` with the template and the fields of the texts: what identifies a store."""
    return {**encoder_metadata(options), "template": texts.template, "fields": list(texts.fields)}


def has_unknown_revision(metadata: Mapping[str, Any]) -> bool:
    """Return whether the metadata are those of a model on the hub at a branch or tag whose commit is not known."""
    return metadata["revision"] is None and "ref" in metadata
