"""What is refused before anything is written, with what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.embedding_table import EmbeddingTable
from recbole_llminit.initialization.rows import Rows
from recbole_llminit.initialization.scaling import SMALLEST_STD, std_of
from recbole_llminit.strategies.base import Scale
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from recbole_llminit.vectors.tokens import examples


def refuse_narrow(
    tables: Sequence[EmbeddingTable], embeddings: AlignedEmbeddings, sizes: Mapping[str, int | Sequence[int]]
) -> None:
    """Raise `LLMInitError` for a table that is wider than the vectors; ``sizes`` tell which key to change."""
    for table in tables:
        if table.width > embeddings.width:
            keys = [key for key, size in sizes.items() if size == table.width]
            lists = {key: size for key, size in sizes.items() if not isinstance(size, int) and table.width in size}
            lines = [f"{key} <= {embeddings.width}" for key in keys] + [
                f"{key}: {[min(size, embeddings.width) for size in values]}" for key, values in lists.items()
            ]
            key = next(iter((*keys, *lists)), "embedding_size")
            raise LLMInitError(
                f"{key} {table.width} is larger than the {embeddings.width} dimensions of "
                f"{embeddings.embeddings.encoder} (table {table.label}): set "
                f"{' or '.join(lines) or f'embedding_size <= {embeddings.width}'}, or use a larger encoder"
            )


def refuse_missing(embeddings: AlignedEmbeddings) -> None:
    """Raise `LLMInitError` where an item has no vector (``init_missing: error``)."""
    without = np.flatnonzero(embeddings.rows < 0)[1:]
    if len(without):
        raise LLMInitError(
            f"{len(without):,} of {embeddings.n_items - 1:,} items have no vector in {embeddings.embeddings.source} "
            f"({examples(embeddings.tokens.take(without[:4]).to_pylist())}) and init_missing is 'error': "
            f"add their vectors, or set init_missing"
        )


def refuse_equal_rows(items: Rows, source: str) -> None:
    """Raise `LLMInitError` where all items would get the same values, by which no model can tell them apart."""
    if items.count < 2:
        return
    first = items.values[items.has_value.argmax()]
    if all(bool((items.values[ids] == first).all()) for ids in items.blocks()):
        zeros = "" if first.any() else " zero"
        raise LLMInitError(
            f"all {items.count:,} items would be initialized with the same{zeros} values, and the model could not tell "
            f"them apart: check {source}"
        )


def refuse_overflow(table: EmbeddingTable, rows: Rows) -> None:
    """Raise `LLMInitError` where a value does not fit the table's type, or is not a number."""
    largest = torch.finfo(table.weight.dtype).max
    smallest_value, largest_value = torch.from_numpy(rows.values).aminmax()
    # A NaN is in both, and in no range.
    if not (-largest <= smallest_value and largest_value <= largest):
        raise LLMInitError(
            f"the values for {table.name} do not fit its {table.weight.dtype} (largest {largest:.3g}): "
            f"check the vectors, or set a smaller init_scale"
        )


def refuse_vanishing(table: EmbeddingTable, rows: Rows, scale: Scale) -> None:
    """Raise `LLMInitError` where every score would be 0, which training hardly leaves, or not at all."""
    at_least = 0.0
    count = rows.has_value.sum() * rows.values.shape[1]
    for ids in rows.blocks():
        # The standard deviation of all values is no smaller: mostly the first block says enough.
        share = math.sqrt(rows.values[ids].size / count)
        at_least = math.hypot(at_least, share * float(rows.values[ids].std(dtype=np.float64)))
        if at_least >= SMALLEST_STD:
            return
    if count and (std := std_of(rows)) < SMALLEST_STD:
        raise LLMInitError(
            f"the values for {table.name} have a standard deviation of {std:.3g} (init_scale: {scale}), and "
            f"scores, products of such values, would be 0: expected {SMALLEST_STD:.1e} or more; check the vectors, "
            f"or set init_scale to a number such as 0.05"
        )
