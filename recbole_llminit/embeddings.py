"""Item vectors keyed by item token, and their alignment with a dataset's item ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_llminit.errors import LLMInitError

_BLOCK_ROWS = 8192


def examples(tokens: Sequence[str], count: int = 3) -> str:
    """Return the first few of some tokens, for a message."""
    return ", ".join(str(token) for token in tokens[:count]) + (", ..." if len(tokens) > count else "")


@dataclass(frozen=True)
class ItemEmbeddings:
    """LLM vectors of items, keyed by item token; the vectors may be memory-mapped.

    Parameters
    ----------
    tokens : ndarray of str, shape [n]
        The item token of each vector.
    chunks : tuple of ndarray, each of shape [n_chunk, llm_dim]
        The vectors in the order of ``tokens``, one array per shard.
    source : str
        Where they came from, for messages.
    fingerprint : str
        Hash of what the vectors are made of.
    facts : mapping
        What is known of the encoder (``model``, ``pooling``, ...), may be empty.

    Raises
    ------
    LLMInitError
        If a token stands twice, or tokens and vectors differ in number.
    """

    tokens: npt.NDArray[Any]
    chunks: tuple[npt.NDArray[Any], ...]
    source: str
    fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = sum(len(chunk) for chunk in self.chunks)
        if count != len(self.tokens):
            raise LLMInitError(
                f"{self.source} has {count:,} vectors for {len(self.tokens):,} ids: expected one id per vector"
            )
        if not count:
            raise LLMInitError(f"{self.source} holds no vectors")
        index = pd.Index(self.tokens)
        if not index.is_unique:
            twice = list(index[index.duplicated()].unique())
            raise LLMInitError(
                f"{self.source} has {len(twice):,} ids more than once ({examples(twice)}): "
                f"expected each item id once, remove the duplicates"
            )

    @property
    def width(self) -> int:
        """The number of dimensions, ``llm_dim``."""
        return int(self.chunks[0].shape[1])

    @property
    def encoder(self) -> str:
        """The name of the encoder where it is known, else the source."""
        return str(self.facts.get("model", self.source))

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the vectors of ascending ``rows``, shape ``[len(rows), llm_dim]``, copied from their shards."""
        ends = np.cumsum([len(chunk) for chunk in self.chunks])
        cuts = np.searchsorted(rows, np.concatenate([[0], ends]))
        pieces = [
            chunk[rows[low:high] - (end - len(chunk))]
            for chunk, end, low, high in zip(self.chunks, ends, cuts[:-1], cuts[1:], strict=True)
            if high > low
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def align(self, tokens: Sequence[str], dataset: str, kind: str = "item") -> AlignedEmbeddings:
        """Find the vector of each of a dataset's items by its token; order and position mean nothing.

        Parameters
        ----------
        tokens : sequence of str, shape [n_items]
            The dataset's item tokens by item id (RecBole's ``field2id_token``); the first is ``[PAD]``.
        dataset : str
            The dataset's name, for messages.
        kind : str
            What the tokens are of, for messages.

        Raises
        ------
        LLMInitError
            If no item has a vector, or the ids are row numbers or off by one.
        """
        items = pd.Index(np.asarray(tokens, dtype=object)[1:].astype(str))
        index = pd.Index(self.tokens.astype(str))
        named = f"(dataset: {examples(list(items))}; file: {examples(list(index))})"
        warning = None
        if "0" not in items and items.str.fullmatch("[1-9][0-9]*").all() and _are_row_numbers(index):
            keyed = f"{self.source} is keyed 0...{len(index) - 1}, the {kind}s of {dataset} begin at 1"
            if max(items, key=lambda token: (len(token), token)) == str(len(index)):
                raise LLMInitError(
                    f"{keyed} and end at {len(index)} {named}: the file is off by one, write the {kind}'s own id "
                    f"beside each vector"
                )
            warning = f"{keyed}: if the file is off by one, every {kind} has another's vector; check its ids"
        rows = np.concatenate([[-1], index.get_indexer(items)]).astype(np.int64)
        if not (rows >= 0).any():
            cause = (
                f"the file seems keyed by row number, write the {kind}'s own id beside each vector"
                if _are_row_numbers(index) or _are_row_numbers(index, first=1)
                else f"expected the dataset's {kind} ids, check that the file belongs to it"
            )
            raise LLMInitError(f"none of the {len(items):,} {kind}s of {dataset} is in {self.source} {named}: {cause}")
        return AlignedEmbeddings(self, rows, tuple(str(token) for token in tokens), (warning,) if warning else ())


def no_vectors(tokens: Sequence[str]) -> AlignedEmbeddings:
    """Return what a strategy that reads no vectors gets where there are none: each item has one, of width 0."""
    items = np.asarray(tokens, dtype=object)[1:]
    nothing = ItemEmbeddings(items, (np.empty((len(items), 0), dtype=np.float32),), "no vectors", "none")
    return AlignedEmbeddings(nothing, np.arange(-1, len(items)), tuple(str(token) for token in tokens))


def _are_row_numbers(index: pd.Index, first: int = 0) -> bool:
    """Whether the ids are exactly 0...n-1 (or begin at another number), in any order."""
    return set(index) == {str(number) for number in range(first, first + len(index))}


@dataclass(frozen=True)
class AlignedEmbeddings:
    """LLM vectors by a dataset's item ids, read in blocks.

    Parameters
    ----------
    embeddings : ItemEmbeddings
        The vectors.
    rows : ndarray of int, shape [n_items]
        The row of each item's vector, -1 where it has none; ``[PAD]``, id 0, never has one.
    tokens : tuple of str, shape [n_items]
        The dataset's item tokens.
    warnings : tuple of str
        What looks wrong with the ids and may be right.
    """

    embeddings: ItemEmbeddings
    rows: npt.NDArray[np.int64]
    tokens: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def n_items(self) -> int:
        """The number of items as RecBole counts them, with ``[PAD]``."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """The number of dimensions, ``llm_dim``."""
        return self.embeddings.width

    @property
    def items(self) -> npt.NDArray[np.int64]:
        """The ids of the items that have a vector, ascending."""
        return np.flatnonzero(self.rows >= 0)

    def shuffled(self, seed: int) -> AlignedEmbeddings:
        """Give the vectors to the items that have one in random order, from a generator of its own."""
        rows = self.rows.copy()
        rows[self.items] = np.random.default_rng(seed).permutation(rows[self.items])
        return replace(self, rows=rows)

    def blocks(
        self, items: npt.NDArray[np.int64] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
        """Yield item ids and their vectors, shapes ``[k]`` and ``[k, llm_dim]``, in the order of the store.

        Parameters
        ----------
        items : ndarray of int, optional
            The items to read, each with a vector; all that have one if left out.

        Raises
        ------
        LLMInitError
            If a vector holds NaN or an infinity.
        """
        items = self.items if items is None else items
        items = items[np.argsort(self.rows[items], kind="stable")]
        for start in range(0, len(items), _BLOCK_ROWS):
            ids = items[start : start + _BLOCK_ROWS]
            vectors = self.embeddings.take(self.rows[ids])
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                broken = [self.tokens[item] for item in ids[~finite]]
                raise LLMInitError(
                    f"{self.embeddings.source} has NaN or infinite numbers in the vectors of {len(broken):,} or more "
                    f"items ({examples(broken)}): expected finite numbers, encode these items again or leave "
                    f"them out"
                )
            yield ids, vectors
