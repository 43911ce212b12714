"""The vectors that the trials of a comparison read: looked up or encoded once for all that ask for the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.encode.pipeline import has_missing_vectors, provide_vectors
from recbole_llminit.vectors.readers import read_embeddings


@dataclass(frozen=True)
class VectorRequest:
    """What a configuration says of its vectors.

    Parameters
    ----------
    embedding : Path or None
        The key ``llm_embedding``.
    encode : EncodeOptions
        How the vectors are made where ``embedding`` is None.
    """

    embedding: Path | None
    encode: EncodeOptions


@dataclass(frozen=True)
class KnownVectors:
    """Vectors as a trial knows them.

    Parameters
    ----------
    path : str
        Where they are; empty while they are not made.
    identity : str
        What tells them from other vectors, whatever their path.
    """

    path: str
    identity: str


TO_BE_MADE = KnownVectors("", "to be made")
"""Stands for vectors that are still to be encoded: the names of their trials will be others."""


class TrialVectors:
    """The vectors of a comparison by request; each request is looked up, or encoded, once."""

    def __init__(self) -> None:
        self._known: dict[VectorRequest, KnownVectors] = {}

    def look_up(self, request: VectorRequest) -> KnownVectors:
        """Return the vectors of a request, or `TO_BE_MADE` where items would have to be encoded; encode nothing.

        Raises
        ------
        LLMInitError
            If there is nothing at the path given, the vectors cannot be read, or there are no texts to make them from.
        """
        if request not in self._known:
            missing = has_missing_vectors(request.embedding, request.encode)
            self._known[request] = TO_BE_MADE if missing else _provide(request)
        return self._known[request]

    def make_missing(self) -> None:
        """Encode the vectors of every request that was looked up and has none.

        Raises
        ------
        LLMInitError
            If the encoder cannot be used, or the store cannot be written to.
        """
        for request, known in self._known.items():
            if known is TO_BE_MADE:
                self._known[request] = _provide(request)


def identify_vectors(path: Path, id_field: str) -> str:
    """Return what tells vectors from others: the fingerprint of the file or store, and a hash of their ids.

    The fingerprint is not enough: a store keeps it while more items are encoded.
    """
    embeddings = read_embeddings(path, id_field)
    ids = hashlib.sha256("\n".join(sorted(embeddings.tokens.to_pylist())).encode())
    return f"{embeddings.fingerprint}-{ids.hexdigest()[:16]}"


def _provide(request: VectorRequest) -> KnownVectors:
    path = provide_vectors(request.embedding, request.encode).resolve()
    return KnownVectors(str(path), identify_vectors(path, request.encode.id_field))
