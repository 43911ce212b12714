"""Item vectors keyed by item token, and their alignment with a dataset's item ids."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_llminit.errors import LLMInitError

# How many numbers a block has: few enough for the processor's cache.
_BLOCK_NUMBERS = 1 << 20
_BLOCK_TOKENS = 1 << 16


def examples(tokens: Sequence[str], count: int = 3) -> str:
    """Return the first few of some tokens, for a message."""
    return ", ".join(str(token) for token in tokens[:count]) + (", ..." if len(tokens) > count else "")


@dataclass(frozen=True)
class ItemEmbeddings:
    """LLM vectors of items, keyed by item token; the vectors may be memory-mapped.

    Parameters
    ----------
    tokens : LargeStringArray of Arrow, shape [n]
        The item token of each vector; a sequence of str is made one.
    chunks : tuple of ndarray, each of shape [n_chunk, llm_dim]
        The vectors in the order of ``tokens``, one array per shard.
    source : str
        Where they came from, for messages.
    fingerprint : str
        Hash of what the vectors are made of.
    metadata : mapping
        What is known of the encoder (``model``, ``pooling``, ...), may be empty.

    Raises
    ------
    LLMInitError
        If a token stands twice, or tokens and vectors differ in number.
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
            raise LLMInitError(f"{self.source} holds no vectors")
        unique = len(self.tokens.unique())
        _release_memory()
        if unique < count:
            index = pd.Index(self.tokens.to_pylist())
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
        return str(self.metadata.get("model", self.source))

    @functools.cached_property
    def _bounds(self) -> npt.NDArray[np.int64]:
        """The rows at which the chunks begin, and the number of rows."""
        return np.cumsum([0, *(len(chunk) for chunk in self.chunks)])

    def take(
        self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """Copy vectors from their shards in this machine's byte order: float64, or float32 where that holds them.

        Parameters
        ----------
        rows : ndarray of int, shape [k]
            Which, ascending.
        columns : ndarray of int, shape [d], optional
            Which of their dimensions; all if left out.

        Returns
        -------
        ndarray, shape [k, llm_dim] or [k, d]
        """
        cuts = np.searchsorted(rows, self._bounds)
        pieces = [
            _native(_pick(self.chunks[number], rows[cuts[number] : cuts[number + 1]] - self._bounds[number], columns))
            for number in np.flatnonzero(np.diff(cuts))
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def align(self, tokens: Sequence[str] | npt.NDArray[Any], dataset: str, kind: str = "item") -> AlignedEmbeddings:
        """Find the vector of each of a dataset's items by its token; order and position mean nothing.

        Parameters
        ----------
        tokens : sequence or ndarray of str, shape [n_items]
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
        texts = as_texts(tokens)
        items, index = texts[1:], self.tokens
        named = f"(dataset: {_first_texts(items)}; file: {_first_texts(index)})"
        warning = None
        numbers = _whole_numbers(items)
        if numbers is not None and numbers.min(initial=1) > 0 and _are_row_numbers(index):
            keyed = f"{self.source} is keyed 0...{len(index) - 1}, the {kind}s of {dataset} begin at 1"
            if numbers.max(initial=0) == len(index):
                raise LLMInitError(
                    f"{keyed} and end at {len(index)} {named}: the file is off by one, write the {kind}'s own id "
                    f"beside each vector"
                )
            warning = f"{keyed}: if the file is off by one, every {kind} has another's vector; check its ids"
        found = pc.index_in(items, value_set=index).fill_null(-1)
        _release_memory()
        rows = np.concatenate([[-1], found.to_numpy(zero_copy_only=False)]).astype(np.int64)
        if not (rows >= 0).any():
            cause = (
                f"the file seems keyed by row number, write the {kind}'s own id beside each vector"
                if _are_row_numbers(index) or _are_row_numbers(index, first=1)
                else f"expected the dataset's {kind} ids, check that the file belongs to it"
            )
            raise LLMInitError(f"none of the {len(items):,} {kind}s of {dataset} is in {self.source} {named}: {cause}")
        return AlignedEmbeddings(self, rows, texts, (warning,) if warning else ())


def _pick(
    chunk: npt.NDArray[Any], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64] | None
) -> npt.NDArray[Any]:
    """Copy ascending rows of a chunk, or some of their columns."""
    span = chunk[rows[0] : rows[-1] + 1]
    if columns is None:
        return span.copy() if len(span) == len(rows) else chunk[rows]
    # To read over some rows costs less than to copy the others whole.
    if len(span) > 2 * len(rows):
        return chunk[rows].take(columns, axis=1, mode="clip")
    picked: npt.NDArray[Any] = span.take(columns, axis=1, mode="clip")
    return picked if len(span) == len(rows) else picked[rows - rows[0]]


def _native(block: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return floating-point numbers as float32 or float64 of this machine's byte order."""
    if block.dtype.kind != "f":
        return block
    if block.dtype.itemsize > 2:
        with np.errstate(over="ignore"):
            return block.astype(np.float32 if block.dtype.itemsize == 4 else np.float64, copy=False)
    import torch

    # Ten times as fast as NumPy.
    return torch.from_numpy(block.astype(np.float16, copy=False)).float().numpy()


def check_numbers(
    vectors: npt.NDArray[np.floating[Any]], tokens: Callable[[npt.NDArray[np.bool_]], pa.Array], source: str
) -> None:
    """Raise `LLMInitError` where vectors hold NaN, an infinity or a number beyond float32, in which models compute.

    Parameters
    ----------
    vectors : ndarray of float32 or float64, shape [k, d]
        The vectors.
    tokens : callable
        Returns the tokens of those rows of ``vectors`` where a mask, shape [k], is True.
    source : str
        Where they came from, for the message.
    """
    # A sum of finite numbers may overflow: only where it is not finite the numbers are looked at one by one.
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


def no_vectors(tokens: Sequence[str] | pa.LargeStringArray) -> AlignedEmbeddings:
    """Return what a strategy that reads no vectors gets where there are none: each item has one, of width 0."""
    return vectors_of_all(tokens, np.empty((len(tokens) - 1, 0), dtype=np.float32), "no vectors", "none")


def vectors_of_all(
    tokens: Sequence[str] | npt.NDArray[Any] | pa.LargeStringArray,
    vectors: npt.NDArray[np.floating[Any]],
    source: str,
    fingerprint: str,
) -> AlignedEmbeddings:
    """Return vectors that stand in the order of the item ids already; ``[PAD]``, the first token, has none."""
    texts = as_texts(tokens)
    embeddings = ItemEmbeddings(texts[1:], (vectors,), source, fingerprint)
    return AlignedEmbeddings(embeddings, np.arange(-1, len(vectors)), texts)


def as_texts(
    tokens: Sequence[Any] | npt.NDArray[Any] | pa.LargeStringArray, source: str = "a list of ids"
) -> pa.LargeStringArray:
    """Return tokens as an Arrow array, a fraction of the size of Python's strings and of NumPy's.

    Raises
    ------
    LLMInitError
        If one holds a character that no text can have, half of a surrogate pair.
    """
    if isinstance(tokens, pa.LargeStringArray):
        return tokens
    # A part at a time, since each becomes Python's strings on its way.
    parts = [
        _part_as_texts([str(token) for token in tokens[start : start + _BLOCK_TOKENS]], source)
        for start in range(0, len(tokens), _BLOCK_TOKENS)
    ]
    return pa.chunked_array(parts, pa.large_string()).combine_chunks()


def _part_as_texts(tokens: list[str], source: str) -> pa.LargeStringArray:
    try:
        return pa.array(tokens, pa.large_string())
    except UnicodeEncodeError as error:
        # From JSON, where "\ud83d" may stand alone.
        broken = next(token for token in tokens if re.search("[\ud800-\udfff]", token))
        raise LLMInitError(
            f"{source} has the id {broken!a} with half of a character (a lone surrogate): expected valid Unicode, "
            f"write the id again"
        ) from error


def _release_memory() -> None:
    """Give back what Arrow has freed and would keep: hundreds of megabytes after a look at millions of ids."""
    pa.default_memory_pool().release_unused()


def _first_texts(texts: pa.LargeStringArray) -> str:
    return examples(texts[:4].to_pylist())


def _whole_numbers(texts: pa.LargeStringArray) -> npt.NDArray[np.int64] | None:
    """Return what the texts are if all are whole numbers as a program writes them, none of which is very long."""
    written = "^(0|[1-9][0-9]{0,17})$"
    # Mostly the first one says it.
    for part in (texts[:1], texts):
        if not pc.all(pc.match_substring_regex(part, written), min_count=0).as_py():
            return None
    numbers: npt.NDArray[np.int64] = texts.cast(pa.int64()).to_numpy()
    return numbers


def _are_row_numbers(texts: pa.LargeStringArray, first: int = 0) -> bool:
    """Whether the ids, each of which stands once, are 0...n-1 (or begin at another number), in any order."""
    numbers = _whole_numbers(texts)
    return numbers is not None and (numbers.min(), numbers.max()) == (first, first + len(numbers) - 1)


@dataclass(frozen=True, eq=False)
class AlignedEmbeddings:
    """LLM vectors by a dataset's item ids, read in blocks.

    Parameters
    ----------
    embeddings : ItemEmbeddings
        The vectors.
    rows : ndarray of int, shape [n_items]
        The row of each item's vector, -1 where it has none; ``[PAD]``, id 0, never has one.
    tokens : LargeStringArray of Arrow, shape [n_items]
        The dataset's item tokens.
    warnings : tuple of str
        What looks wrong with the ids and may be right.
    """

    embeddings: ItemEmbeddings
    rows: npt.NDArray[np.int64]
    tokens: pa.LargeStringArray
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
        self, items: npt.NDArray[np.int64] | None = None, columns: Sequence[int] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]]:
        """Yield item ids and their vectors, shapes ``[k]`` and ``[k, llm_dim]``, in the order of the store.

        Parameters
        ----------
        items : ndarray of int, optional
            The items to read, each with a vector; all that have one if left out.
        columns : sequence of int, optional
            The dimensions to read; all if left out. Vectors are then of shape ``[k, len(columns)]``.

        Raises
        ------
        LLMInitError
            If NaN or an infinity is read.
        """
        ordered = self.in_store_order(self.items if items is None else items)
        wanted = None if columns is None else np.asarray(columns, dtype=np.int64)
        rows = max(1, _BLOCK_NUMBERS // max(1, self.width if wanted is None else len(wanted)))
        for start in range(0, len(ordered), rows):
            ids = ordered[start : start + rows]
            yield ids, self.read(ids, wanted)

    def in_store_order(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return items that have a vector in the order of the store."""
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
        """Copy the vectors of items that stand in the order of the store; see `ItemEmbeddings.take`.

        Raises
        ------
        LLMInitError
            If NaN, an infinity or a number beyond float32 is read.
        """
        vectors = self.embeddings.take(self.rows[items], columns)
        check_numbers(vectors, lambda broken: self.tokens.take(items[broken]), self.embeddings.source)
        return vectors
