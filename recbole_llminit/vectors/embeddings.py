"""Item vectors keyed by item token, and the same vectors aligned with the item ids of a dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_llminit.errors import LLMInitError
from recbole_llminit.vectors.tokens import are_row_numbers, as_texts, examples, release_memory, whole_numbers

# The numbers in a block: few enough for the processor's cache.
_BLOCK_NUMBERS = 1 << 20


@dataclass(frozen=True)
class ItemEmbeddings:
    """LLM vectors of items, keyed by item token. The vectors may be memory-mapped.

    Parameters
    ----------
    tokens : LargeStringArray of Arrow, shape [n]
        The item token of each vector. A sequence of str is converted.
    chunks : tuple of ndarray, each of shape [n_chunk, llm_dim]
        The vectors in the order of ``tokens``, one array per shard.
    source : str
        The file or folder that the vectors come from, for messages.
    fingerprint : str
        A hash of everything that determines the vectors.
    metadata : mapping
        What is known about the encoder (``model``, ``pooling``, ...). May be empty.

    Raises
    ------
    LLMInitError
        If there are no vectors, a token occurs twice, or the numbers of tokens and vectors differ.
    """

    tokens: pa.LargeStringArray
    chunks: tuple[npt.NDArray[Any], ...]
    source: str
    fingerprint: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", as_texts(self.tokens, self.source))
        count = sum(len(chunk) for chunk in self.chunks)
        if count != len(self.tokens):
            raise LLMInitError(
                f"{self.source} has {count:,} vectors for {len(self.tokens):,} ids: expected one id per vector"
            )
        if not count:
            raise LLMInitError(f"{self.source} holds no vectors: expected one per item")
        unique = len(self.tokens.unique())
        release_memory()
        if unique < count:
            index = pd.Index(self.tokens.to_pylist())
            twice = list(index[index.duplicated()].unique())
            raise LLMInitError(
                f"{self.source} has {len(twice):,} ids more than once ({examples(twice)}): "
                f"expected each item id once, remove the duplicates"
            )

    @property
    def width(self) -> int:
        """The number of dimensions of a vector, ``llm_dim``."""
        return int(self.chunks[0].shape[1])

    @property
    def encoder(self) -> str:
        """The name of the encoder if it is known, otherwise the source."""
        return str(self.metadata.get("model", self.source))

    @functools.cached_property
    def _bounds(self) -> npt.NDArray[np.int64]:
        """The first row of each chunk, and the number of rows."""
        return np.cumsum([0, *(len(chunk) for chunk in self.chunks)])

    def take(
        self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """Copy some vectors out of their chunks, as float32, or as float64 where they are stored with more bits.

        Parameters
        ----------
        rows : ndarray of int, shape [k]
            The rows of the vectors, ascending.
        columns : ndarray of int, shape [d], optional
            The dimensions to copy. Default: all.

        Returns
        -------
        ndarray, shape [k, llm_dim] or [k, d]
            The vectors, in this machine's byte order.
        """
        cuts = np.searchsorted(rows, self._bounds)
        pieces = [
            _native(_pick(self.chunks[number], rows[cuts[number] : cuts[number + 1]] - self._bounds[number], columns))
            for number in np.flatnonzero(np.diff(cuts))
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def align(self, tokens: Sequence[str] | npt.NDArray[Any], dataset: str, kind: str = "item") -> AlignedEmbeddings:
        """Find the vector of each item of a dataset by the item's token, never by its position.

        Parameters
        ----------
        tokens : sequence or ndarray of str, shape [n_items]
            The dataset's item tokens in the order of the item ids (RecBole's ``field2id_token``). The first one is
            ``[PAD]``.
        dataset : str
            The dataset's name, for messages.
        kind : str
            What the tokens name, ``item`` or ``user``, for messages.

        Raises
        ------
        LLMInitError
            If no item has a vector, or the ids of the file are row numbers or off by one.
        """
        texts = as_texts(tokens)
        items = texts[1:]
        shown = f"(dataset: {_first_texts(items)}; file: {_first_texts(self.tokens)})"
        warning = self._check_off_by_one(items, dataset, kind, shown)
        found = pc.index_in(items, value_set=self.tokens).fill_null(-1)
        release_memory()
        rows = np.concatenate([[-1], found.to_numpy(zero_copy_only=False)]).astype(np.int64)
        if not (rows >= 0).any():
            cause = (
                f"the file seems keyed by row number, write the {kind}'s own id beside each vector"
                if are_row_numbers(self.tokens) or are_row_numbers(self.tokens, first=1)
                else f"expected the dataset's {kind} ids, check that the file belongs to it"
            )
            raise LLMInitError(f"none of the {len(items):,} {kind}s of {dataset} is in {self.source} {shown}: {cause}")
        return AlignedEmbeddings(self, rows, texts, (warning,) if warning else ())

    def _check_off_by_one(self, items: pa.LargeStringArray, dataset: str, kind: str, shown: str) -> str | None:
        """Raise if the ids are certainly off by one; return a warning if they may be.

        A file keyed 0 to n-1 for a dataset with the items 1 to n is off by one. If the last item of the dataset is
        below n, nothing tells a file that is off by one from a correct one.
        """
        numbers, count = whole_numbers(items), len(self.tokens)
        if numbers is None or numbers.min(initial=1) <= 0 or not are_row_numbers(self.tokens):
            return None
        keyed = f"{self.source} is keyed 0...{count - 1}, the {kind}s of {dataset} begin at 1"
        if numbers.max(initial=0) == count:
            raise LLMInitError(
                f"{keyed} and end at {count} {shown}: the file is off by one, write the {kind}'s own id beside each "
                f"vector"
            )
        return f"{keyed}: if the file is off by one, every {kind} has another's vector; check its ids"


def _first_texts(texts: pa.LargeStringArray) -> str:
    return examples(texts[:4].to_pylist())


def _pick(
    chunk: npt.NDArray[Any], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64] | None
) -> npt.NDArray[Any]:
    """Copy ascending rows of a chunk, or some columns of these rows."""
    span = chunk[rows[0] : rows[-1] + 1]
    if columns is None:
        return span.copy() if len(span) == len(rows) else chunk[rows]
    # Reading over a few unwanted rows costs less than copying the wanted rows whole.
    if len(span) > 2 * len(rows):
        return chunk[rows].take(columns, axis=1, mode="clip")
    picked: npt.NDArray[Any] = span.take(columns, axis=1, mode="clip")
    return picked if len(span) == len(rows) else picked[rows - rows[0]]


def _native(block: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return floating-point numbers as float32 or float64 in this machine's byte order."""
    if block.dtype.kind != "f":
        return block
    if block.dtype.itemsize > 2:
        with np.errstate(over="ignore"):
            return block.astype(np.float32 if block.dtype.itemsize == 4 else np.float64, copy=False)
    import torch

    # Ten times as fast as NumPy.
    return torch.from_numpy(block.astype(np.float16, copy=False)).float().numpy()


def require_float32_range(
    vectors: npt.NDArray[np.floating[Any]], tokens: Callable[[npt.NDArray[np.bool_]], pa.Array], source: str
) -> None:
    """Raise `LLMInitError` if vectors hold NaN, an infinity or a number beyond float32, in which models compute.

    Parameters
    ----------
    vectors : ndarray of float32 or float64, shape [k, d]
        The vectors.
    tokens : callable
        Returns the item tokens of the rows of ``vectors`` where a mask, shape [k], is True.
    source : str
        Where the vectors come from, for the message.
    """
    # One sum is cheap. A sum of finite numbers may overflow, so the numbers are tested one by one if it is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(vectors.sum(dtype=np.float32)):
            return
        broken = ~(np.abs(vectors) <= np.finfo(np.float32).max).all(axis=1)
    if broken.any():
        wrong = "numbers beyond float32 (3.4e38)" if np.isfinite(vectors).all() else "NaN or infinite numbers"
        named = tokens(broken).to_pylist()
        raise LLMInitError(
            f"{source} has {wrong} in the vectors of {len(named):,} or more items ({examples(named)}): expected finite "
            f"numbers, encode these items again or leave them out"
        )


@dataclass(frozen=True, eq=False)
class AlignedEmbeddings:
    """LLM vectors by the item ids of a dataset, read block by block.

    Parameters
    ----------
    embeddings : ItemEmbeddings
        The vectors.
    rows : ndarray of int, shape [n_items]
        The row of each item's vector, -1 for an item without one. ``[PAD]``, item id 0, never has one.
    tokens : LargeStringArray of Arrow, shape [n_items]
        The dataset's item tokens.
    warnings : tuple of str
        What looks wrong about the ids of the vectors but may be right.
    """

    embeddings: ItemEmbeddings
    rows: npt.NDArray[np.int64]
    tokens: pa.LargeStringArray
    warnings: tuple[str, ...] = ()

    @property
    def n_items(self) -> int:
        """The number of items as RecBole counts them, ``[PAD]`` included."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """The number of dimensions of a vector, ``llm_dim``."""
        return self.embeddings.width

    @property
    def items(self) -> npt.NDArray[np.int64]:
        """The ids of the items that have a vector, ascending."""
        return np.flatnonzero(self.rows >= 0)

    def shuffled(self, seed: int) -> AlignedEmbeddings:
        """Return a copy that gives the vectors to the same items in a random order.

        The order comes from a generator of its own, so that no other random number of a run changes.
        """
        rows = self.rows.copy()
        rows[self.items] = np.random.default_rng(seed).permutation(rows[self.items])
        return replace(self, rows=rows)

    def blocks(
        self, items: npt.NDArray[np.int64] | None = None, columns: Sequence[int] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]]:
        """Yield blocks of item ids, shape ``[k]``, with their vectors, shape ``[k, llm_dim]``, in the store's order.

        Parameters
        ----------
        items : ndarray of int, optional
            The ids of the items to read; each has a vector. Default: all items that have one.
        columns : sequence of int, optional
            The dimensions to read; the vectors are then of shape ``[k, len(columns)]``. Default: all.

        Raises
        ------
        LLMInitError
            If a vector that is read holds NaN, an infinity or a number beyond float32.
        """
        ordered = self.in_store_order(self.items if items is None else items)
        wanted = None if columns is None else np.asarray(columns, dtype=np.int64)
        rows = max(1, _BLOCK_NUMBERS // max(1, self.width if wanted is None else len(wanted)))
        for start in range(0, len(ordered), rows):
            ids = ordered[start : start + rows]
            yield ids, self.read(ids, wanted)

    def in_store_order(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Sort the ids of items that have a vector by the row of the vector."""
        count = len(self.embeddings.tokens)
        if len(items) < count / 16:
            return items[np.argsort(self.rows[items], kind="stable")]
        # Several times as fast as a sort.
        item_of_row = np.full(count, -1, dtype=np.int64)
        item_of_row[self.rows[items]] = items
        return item_of_row[item_of_row >= 0]

    def read(
        self, items: npt.NDArray[np.int64], columns: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """Copy the vectors of items that are given in the store's order; see `ItemEmbeddings.take`.

        Raises
        ------
        LLMInitError
            If a vector that is read holds NaN, an infinity or a number beyond float32.
        """
        vectors = self.embeddings.take(self.rows[items], columns)
        require_float32_range(vectors, lambda broken: self.tokens.take(items[broken]), self.embeddings.source)
        return vectors


def aligned_in_order(
    tokens: Sequence[str] | npt.NDArray[Any] | pa.LargeStringArray,
    vectors: npt.NDArray[np.floating[Any]],
    source: str,
    fingerprint: str,
) -> AlignedEmbeddings:
    """Wrap vectors that are in the order of the item ids already.

    Parameters
    ----------
    tokens : sequence, ndarray or LargeStringArray, shape [n_items]
        The dataset's item tokens; the first one, ``[PAD]``, has no vector.
    vectors : ndarray, shape [n_items - 1, llm_dim]
        The vector of each other item.
    source, fingerprint : str
        As in `ItemEmbeddings`.
    """
    texts = as_texts(tokens)
    embeddings = ItemEmbeddings(texts[1:], (vectors,), source, fingerprint)
    return AlignedEmbeddings(embeddings, np.arange(-1, len(vectors)), texts)


def no_vectors(tokens: Sequence[str] | pa.LargeStringArray) -> AlignedEmbeddings:
    """Return vectors of width 0 for all items: the input of a strategy that reads no vectors."""
    return aligned_in_order(tokens, np.empty((len(tokens) - 1, 0), dtype=np.float32), "no vectors", "none")
