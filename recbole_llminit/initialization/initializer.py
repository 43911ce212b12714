"""The write itself: LLM vectors into a built model's user and item tables, in place."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import write_text
from recbole_llminit.initialization.freeze import freeze_rows_
from recbole_llminit.initialization.tables import EmbeddingTable, Side, find_embedding_tables, model_name
from recbole_llminit.initialization.users import Aggregation, aggregate_users
from recbole_llminit.strategies.base import Drawn, Reduction, Scale, Strategy
from recbole_llminit.text_table import draw_table
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, examples, no_vectors

UserStart = Aggregation | Literal["none"] | AlignedEmbeddings
Missing = Literal["model", "mean", "error"]

_LOW_COVERAGE = 0.5
# Of the dot products of users and items under init_scale: score: about what var's raw values give on amazon-office.
_SCORE_STD = 1 / 16
SMALLEST_STD = math.sqrt(float(np.finfo(np.float32).tiny))
"""The least standard deviation of a table's values: scores, their products, would all be 0 in float32 below it."""

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class TableReport:
    """What was written into one table.

    Parameters
    ----------
    name : str
        The parameter's name.
    label : str
        The part of it: ``name``, ``name.T`` where its columns are the users or items, or ``name[41:71]``.
    side : {"user", "item"}
        Whose rows were written.
    shape : tuple of int
        How many users or items, and the width.
    rows_written, rows_left : int
        How many of them were written, and how many keep the model's own values.
    unit : bool
        Whether the model holds its rows at length 1, and so the written ones were brought to it.
    frozen : bool
        Whether training leaves the written rows as they are.
    std_before, std_after : float
        The standard deviation of the rows written, as the model made them and as they are now.
    """

    name: str
    label: str
    side: Side
    shape: tuple[int, int]
    rows_written: int
    rows_left: int
    unit: bool
    frozen: bool
    std_before: float
    std_after: float

    def __str__(self) -> str:
        notes = ", each of length 1 as the model has them" * self.unit + ", frozen" * self.frozen
        return (
            f"{self.shape[0]:,} x {self.shape[1]}, {self.rows_written:,} {self.side} rows written{notes}, "
            f"{self.rows_left:,} left; deviation {self.std_before:.4f} -> {self.std_after:.4f}"
        )


@dataclass(frozen=True)
class InitReport:
    """What an initialisation did and what it left alone; prints as a table.

    Parameters
    ----------
    model : str
        The model's class.
    strategy : str
        The strategy with its parameters.
    encoder, source, fingerprint : str
        Where the vectors came from.
    llm_dim : int
        Their number of dimensions.
    shuffled : bool
        Whether the vectors went to the items in random order (the control ``init_shuffle``).
    reductions : mapping of int to dict
        The fitted map for each table width, in JSON types.
    scale : str
        ``init_scale``.
    user : str
        How users start: the aggregation, ``none``, or where their own vectors came from.
    items, items_with_vector, users, users_with_items : int
        Coverage, without ``[PAD]``; where users start at vectors of their own, how many have one.
    tables : tuple of TableReport
        The tables written.
    skipped : mapping of str to str
        The other tables, with the reason.
    notes : tuple of str
        What looked wrong with the vectors' ids.
    seconds : float
        Time from open vectors to written tables.
    """

    model: str
    strategy: str
    shuffled: bool
    encoder: str
    source: str
    fingerprint: str
    llm_dim: int
    reductions: Mapping[int, Mapping[str, Any]]
    scale: str
    user: str
    items: int
    items_with_vector: int
    users: int
    users_with_items: int
    tables: tuple[TableReport, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before a long run."""
        if self.items_with_vector >= _LOW_COVERAGE * self.items:
            return self.notes
        return (
            *self.notes,
            f"only {self.items_with_vector:,} of {self.items:,} items "
            f"({self.items_with_vector / self.items:.0%}) have a vector in {self.source}: the others start from the "
            f"model's own values; check that the file belongs to this dataset",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report in JSON types."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def save(self, path: str | Path) -> None:
        """Write the report as JSON; the file appears whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def __str__(self) -> str:
        """Draw the report as the table that stands in the log."""
        users = f"{self.users_with_items:,} of {self.users:,} users" + f" ({self.user})" * (self.user != "mean")
        if not any(table.side == "user" for table in self.tables):
            users = "no user table written"
        rows = [
            ["strategy", self.strategy + ", the vectors' rows shuffled" * self.shuffled],
            ["encoder", f"{self.encoder} ({self.llm_dim} dimensions)" if self.llm_dim else self.encoder],
            ["vectors", f"{self.source} [{self.fingerprint}]"],
            ["coverage", f"{self.items_with_vector:,} of {self.items:,} items, {users}"],
        ]
        rows += [[table.label, str(table)] for table in self.tables]
        others = ["[PAD] rows"]
        of_their_own = self.user not in get_args(Aggregation)
        users_lack = "users without a vector" if of_their_own else "users without training items"
        for side, lacking in (("item", "items without a vector"), ("user", users_lack)):
            # Without [PAD].
            left = max((table.rows_left for table in self.tables if table.side == side), default=1) - 1
            others += [f"{left:,} {lacking}"] * bool(left)
        others = [", ".join(others), *(": ".join(other) for other in self.skipped.items())]
        rows.append(["skipped", "\n".join(others)])
        rows.append(["seconds", f"{self.seconds:.2f}"])
        return draw_table(["LLMInit", self.model], rows)


def initialize_embeddings_(
    model: nn.Module,
    embeddings: AlignedEmbeddings,
    interactions: csr_matrix,
    strategy: Strategy,
    *,
    seed: int,
    scale: Scale | None = None,
    user: UserStart = "mean",
    missing: Missing = "model",
    trainable: bool = True,
    shuffle: bool = False,
    tables: Mapping[Side, Sequence[str]] | None = None,
    id_fields: Mapping[Side, str] | None = None,
    sizes: Mapping[str, int | Sequence[int]] | None = None,
) -> InitReport:
    """Write the LLM start into a built model's user and item tables, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model after its own constructor. Its parameters stay the same objects; only rows are overwritten.
    embeddings : AlignedEmbeddings
        Item vectors by item id.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.
    strategy : Strategy
        Reduces the vectors to each table's width.
    seed : int
        Seed of the strategy's own generator.
    scale : {"raw", "model", "score"} or float, optional
        The standard deviation of all values written to an item table: as the strategy made them, as the model's own
        initial values had it, this number, or the one at which the dot products of user and item values have the
        deviation 1/16; by default the strategy's ``default_scale``. User values are aggregated from the scaled ones,
        not scaled again.
    user : {"mean", "degree", "idf", "none"} or AlignedEmbeddings
        Users start at a sum of their training items' values (see `aggregate_users`), as the model made them, or at
        vectors of their own by user id, which go through the items' reduction and scale.
    missing : {"model", "mean", "error"}
        Items without a vector keep the model's own row, start at the mean of all written rows, or are an error.
    trainable : bool
        Whether training may change the item rows that were written; see `freeze_rows_`.
    shuffle : bool
        Whether the vectors go to the items that have one in random order: a control, which keeps everything of the
        vectors but what they say of an item.
    tables, id_fields : mapping, optional
        ``named`` and ``id_fields`` of `find_embedding_tables`.
    sizes : mapping, optional
        The model's configured sizes by key, to name the one to change in the error for a table that is too wide.

    Returns
    -------
    InitReport
        What was written and what was left alone.

    Raises
    ------
    LLMInitError
        If the model has no such table, a table is wider than the vectors, a vector is not finite, all items would start
        at the same values, the values of a table are so small that every score is 0, or ``missing`` is ``"error"`` and
        an item has no vector. Nothing is written then.

    Notes
    -----
    No global random state is read or advanced, nothing but the training interactions is looked at, and a row
    without a value (``[PAD]``, a user without training items) keeps the model's own.
    """
    began = time.perf_counter()
    n_users, n_items = interactions.shape
    search = find_embedding_tables(model, n_users, n_items, tables, id_fields)
    found = [table for table in search.tables if table.side == "item" or user != "none"]
    if not found:
        raise LLMInitError(
            f"nothing of {model_name(model)} would be written (init_user: {user}, init_tables: {tables}): "
            f"name a table, or remove init_strategy"
        )
    if strategy.needs_vectors:
        _refuse_narrow(found, embeddings, sizes or {})
    if isinstance(user, AlignedEmbeddings):
        _refuse_other_space(user, embeddings, strategy)
    _refuse_missing(embeddings, missing)
    strategy = strategy.resolve(embeddings, max(table.width for table in found), interactions=interactions)
    if scale is None:
        scale = strategy.default_scale or "raw"
    if shuffle:
        embeddings = embeddings.shuffled(seed)
    embeddings = strategy.prepare(embeddings, interactions)
    has_vector = embeddings.rows >= 0

    reductions: dict[int, Reduction | Drawn] = {}
    has_user_value = (
        user.rows >= 0 if isinstance(user, AlignedEmbeddings) else interactions @ has_vector.astype(np.float32) > 0
    )
    writes: list[tuple[EmbeddingTable, npt.NDArray[np.float32], npt.NDArray[np.bool_]]] = []
    for width in dict.fromkeys(table.width for table in found):
        of_width = [table for table in found if table.width == width]
        reductions[width] = strategy.fit(embeddings, width, interactions=interactions, seed=seed)
        item_values = reduce_items(embeddings, reductions[width], width)
        user_values = np.empty((0, width), dtype=np.float32)
        users_kept = _users_kept(user, search.tables, width)
        if isinstance(user, AlignedEmbeddings):
            user_values = reduce_items(user, reductions[width], width)
        elif scale == "score" and users_kept is None:
            # A model without a user table ranks by what it makes of a user's items.
            user_values, _ = aggregate_users(item_values, has_vector, interactions, _aggregation(user))
        source = f"the vectors in {embeddings.embeddings.source}" if strategy.needs_vectors else repr(strategy)
        _refuse_equal_rows(item_values, has_vector, source)
        users = (user_values, has_user_value)
        factor = _scale_factor(scale, of_width, users, users_kept, item_values, has_vector)
        _multiply_(item_values, factor)
        if len(user_values):
            _multiply_(user_values, factor)
        elif any(table.side == "user" for table in of_width):
            user_values, _ = aggregate_users(item_values, has_vector, interactions, _aggregation(user))
        has_item_value = has_vector.copy()
        if missing == "mean":
            has_item_value[1:] = True
            item_values[~has_vector] = item_values.sum(axis=0, dtype=np.float64) / has_vector.sum()
        for table in of_width:
            values = (item_values, has_item_value) if table.side == "item" else (user_values, has_user_value)
            writes.append((table, *values))

    for write in writes:
        _refuse_overflow(write[0], write[1])
        _refuse_flat(*write, scale)
    written = tuple(_write(*write, trainable=trainable) for write in writes)
    read = embeddings.embeddings if strategy.needs_vectors else no_vectors(embeddings.tokens).embeddings
    return InitReport(
        model=model_name(model),
        strategy=repr(strategy),
        shuffled=shuffle,
        encoder=read.encoder,
        source=read.source,
        fingerprint=read.fingerprint,
        llm_dim=read.width,
        reductions={width: reduction.to_dict() for width, reduction in reductions.items()},
        scale=str(scale),
        user=user.embeddings.source if isinstance(user, AlignedEmbeddings) else user,
        items=n_items - 1,
        items_with_vector=len(embeddings.items),
        users=n_users - 1,
        users_with_items=int(has_user_value.sum()),
        tables=written,
        skipped={
            **{table.label: "init_user is none" for table in search.tables if table not in found},
            **search.skipped,
        },
        notes=(*embeddings.warnings, *_user_warnings(user, embeddings)),
        seconds=time.perf_counter() - began,
    )


def _refuse_narrow(
    found: Sequence[EmbeddingTable],
    embeddings: AlignedEmbeddings,
    sizes: Mapping[str, int | Sequence[int]],
) -> None:
    """Raise for tables wider than the vectors."""
    for table in found:
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


def _refuse_other_space(user: AlignedEmbeddings, embeddings: AlignedEmbeddings, strategy: Strategy) -> None:
    """Raise where the users' own vectors cannot go through the items' reduction."""
    if not strategy.needs_vectors:
        raise LLMInitError(
            f"init_user is {user.embeddings.source}, and {strategy!r} reads no vectors: set init_user to mean or none"
        )
    if user.width != embeddings.width:
        raise LLMInitError(
            f"the users' vectors in {user.embeddings.source} have {user.width} dimensions, and the items' in "
            f"{embeddings.embeddings.source} {embeddings.width}: expected both of the same encoder"
        )


def _user_warnings(user: UserStart, embeddings: AlignedEmbeddings) -> tuple[str, ...]:
    """Return what looks wrong with the users' own vectors, if they have any."""
    if not isinstance(user, AlignedEmbeddings):
        return ()
    warnings = list(user.warnings)
    count = len(user.items)
    if count < _LOW_COVERAGE * (user.n_items - 1):
        warnings.append(
            f"only {count:,} of {user.n_items - 1:,} users have a vector in {user.embeddings.source}: the others start "
            f"from the model's own values; check that the file belongs to this dataset"
        )
    theirs, items = (vectors.embeddings.metadata.get("model") for vectors in (user, embeddings))
    if theirs and items and theirs != items:
        warnings.append(
            f"the users' vectors were made by {theirs}, and the items' by {items}: they are not in one space"
        )
    return tuple(warnings)


def _refuse_missing(embeddings: AlignedEmbeddings, missing: Missing) -> None:
    """Raise for items without a vector where those are an error."""
    without = np.flatnonzero(embeddings.rows < 0)[1:]
    if len(without) and missing == "error":
        raise LLMInitError(
            f"{len(without):,} of {embeddings.n_items - 1:,} items have no vector in {embeddings.embeddings.source} "
            f"({examples(embeddings.tokens.take(without[:4]).to_pylist())}) and init_missing is 'error': "
            f"add their vectors, or set init_missing"
        )


def reduce_items(embeddings: AlignedEmbeddings, reduction: Reduction | Drawn, width: int) -> npt.NDArray[np.float32]:
    """Return the values of all items by id, shape ``[n_items, width]``, zero for those without a vector.

    The vectors are read once, block by block; of those that a reduction keeps columns of, these columns alone.
    """
    values = np.zeros((embeddings.n_items, width), dtype=np.float32)
    if isinstance(reduction, Drawn):
        values[embeddings.items] = reduction.draw(len(embeddings.items))
        return values
    # A number too large for float32 becomes an infinity here, which is refused before anything is written.
    with np.errstate(over="ignore"):
        for items, block in embeddings.blocks(columns=reduction.columns):
            values[items] = reduction.finish(block)
    return values


def _multiply_(values: npt.NDArray[np.float32], factor: float) -> None:
    if factor != 1:
        # A number too large for float32 is refused before anything is written.
        with np.errstate(over="ignore", invalid="ignore"):
            values *= factor


def _aggregation(user: UserStart) -> Aggregation:
    return "mean" if user == "none" else cast("Aggregation", user)


def _users_kept(user: UserStart, tables: Sequence[EmbeddingTable], width: int) -> Tensor | None:
    """Return the users' own values where the model keeps them in a table of this width."""
    if user != "none":
        return None
    return next((table.values for table in tables if table.side == "user" and table.width == width), None)


def _scale_factor(
    scale: Scale,
    tables: Sequence[EmbeddingTable],
    users: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]],
    users_kept: Tensor | None,
    item_values: npt.NDArray[np.float32],
    has_item_value: npt.NDArray[np.bool_],
) -> float:
    """Return what the values for tables of one width are multiplied by."""
    if scale == "raw":
        return 1.0
    if scale != "score":
        return _target(scale, tables) / _std(item_values, has_item_value)
    if users_kept is None:
        # Both sides are multiplied.
        return math.sqrt(_SCORE_STD / _score_std(*users, item_values, has_item_value))
    values = users_kept.float().cpu().numpy()
    of_users = np.arange(len(values)) > 0
    return _SCORE_STD / _score_std(values, of_users, item_values, has_item_value)


def _target(scale: Literal["model"] | float, tables: Sequence[EmbeddingTable]) -> float:
    if scale != "model":
        return scale
    weights = [table.values for table in tables if table.side == "item"] or [table.values for table in tables]
    return float(torch.cat([values.reshape(-1) for values in weights]).float().std())


def _std(values: npt.NDArray[np.float32], has_value: npt.NDArray[np.bool_]) -> float:
    """Return the standard deviation of the rows with a value."""
    count = values.shape[1] * has_value.sum()
    mean = values.sum(dtype=np.float64) / count
    # NumPy 1 would subtract a float64 number from a float32 array in float32.
    squares = sum(
        float((np.subtract(values[ids], mean, dtype=np.float64) ** 2).sum()) for ids in _row_blocks(has_value)
    )
    return math.sqrt(squares / count)


def _refuse_equal_rows(values: npt.NDArray[np.float32], has_value: npt.NDArray[np.bool_], source: str) -> None:
    """Raise where all items would start at the same values, by which no model can tell them apart."""
    if has_value.sum() < 2:
        return
    first = values[has_value.argmax()]
    if all(bool((values[ids] == first).all()) for ids in _row_blocks(has_value)):
        zeros = " zero" if not first.any() else ""
        raise LLMInitError(
            f"all {has_value.sum():,} items would start at the same{zeros} values, and the model could not tell them "
            f"apart: check {source}"
        )


def _refuse_flat(
    table: EmbeddingTable, values: npt.NDArray[np.float32], has_value: npt.NDArray[np.bool_], scale: Scale
) -> None:
    """Raise where every score would be 0, which training hardly leaves, or not at all."""
    least = 0.0
    count = has_value.sum() * values.shape[1]
    for ids in _row_blocks(has_value):
        # The deviation of all is no smaller: mostly the first block says enough.
        least = math.hypot(least, math.sqrt(values[ids].size / count) * float(values[ids].std(dtype=np.float64)))
        if least >= SMALLEST_STD:
            return
    if count and (deviation := _std(values, has_value)) < SMALLEST_STD:
        raise LLMInitError(
            f"the values for {table.name} have a standard deviation of {deviation:.3g} (init_scale: {scale}), and "
            f"scores, products of such values, would be 0: expected {SMALLEST_STD:.1e} or more; check the vectors, "
            f"or set init_scale to a number such as 0.05"
        )


def _score_std(
    user_values: npt.NDArray[np.float32],
    has_user_value: npt.NDArray[np.bool_],
    item_values: npt.NDArray[np.float32],
    has_item_value: npt.NDArray[np.bool_],
) -> float:
    """Return the standard deviation of the dot products of all users and items with a value.

    The mean square of ``u . v`` over all pairs is the sum over the product of the two sides' mean ``u u^T``, ``v v^T``.
    """
    means, squares = [], []
    for values, has_value in ((user_values, has_user_value), (item_values, has_item_value)):
        total, scatter = np.zeros(values.shape[1]), np.zeros((values.shape[1], values.shape[1]))
        for ids in _row_blocks(has_value):
            rows = values[ids].astype(np.float64)
            total += rows.sum(axis=0)
            scatter += rows.T @ rows
        count = max(1, has_value.sum())
        means.append(total / count)
        squares.append(scatter / count)
    mean_square = float((squares[0] * squares[1]).sum())
    variance = mean_square - float(means[0] @ means[1]) ** 2
    # What rounding leaves of equal scores; those that overflow are refused before they are written.
    if variance <= 1e-12 * mean_square < math.inf:
        raise LLMInitError(
            "init_scale is score, and the values of users and items give every pair the same score, or no user has a "
            "training item with a vector: set init_scale to a number, such as 0.05"
        )
    return math.sqrt(variance)


def _row_blocks(has_value: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the ids with a value, so many at a time that their rows stay in the processor's cache."""
    ids = np.flatnonzero(has_value)
    for start in range(0, len(ids), _BLOCK_ROWS):
        yield ids[start : start + _BLOCK_ROWS]


def _refuse_overflow(table: EmbeddingTable, values: npt.NDArray[np.float32]) -> None:
    largest = torch.finfo(table.weight.dtype).max
    smallest_value, largest_value = torch.from_numpy(values).aminmax()
    # A NaN is in both, and in no range.
    if not (-largest <= smallest_value and largest_value <= largest):
        raise LLMInitError(
            f"the values for {table.name} do not fit its {table.weight.dtype} (largest {largest:.3g}): "
            f"check the vectors, or set a smaller init_scale"
        )


@torch.no_grad()
def _write(
    table: EmbeddingTable,
    values: npt.NDArray[np.float32],
    has_value: npt.NDArray[np.bool_],
    *,
    trainable: bool,
) -> TableReport:
    rows = table.values
    unit = _has_unit_rows(rows)
    before, after = _Spread(), _Spread()
    for ids in _row_blocks(has_value):
        places = torch.from_numpy(ids).to(rows.device)
        before.add(rows[places])
        new = torch.from_numpy(values[ids])
        if unit:
            new = functional.normalize(new, dim=1)
        rows.index_copy_(0, places, new.to(rows.device, rows.dtype))
        after.add(new)
    frozen = table.side == "item" and not trainable
    if frozen:
        freeze_rows_(table, torch.from_numpy(np.flatnonzero(has_value)))
    return TableReport(
        name=table.name,
        label=table.label,
        side=table.side,
        shape=(table.rows, table.width),
        rows_written=int(has_value.sum()),
        rows_left=table.rows - int(has_value.sum()),
        unit=unit,
        frozen=frozen,
        std_before=before.deviation,
        std_after=after.deviation,
    )


class _Spread:
    """The standard deviation of numbers that come in blocks."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = 0.0

    def add(self, block: Tensor) -> None:
        """Take a block of numbers in (Chan, Golub and LeVeque 1983, formula 2.1)."""
        variance, mean = (float(value) for value in torch.var_mean(block.float(), correction=0))
        count = self._count + block.numel()
        shift = mean - self._mean
        self._squares += variance * block.numel() + shift**2 * self._count * block.numel() / count
        self._mean += shift * block.numel() / count
        self._count = count

    @property
    def deviation(self) -> float:
        """The standard deviation of all numbers so far; 0 of none."""
        return math.sqrt(self._squares / self._count) if self._count else 0.0


def _has_unit_rows(rows: Tensor) -> bool:
    """Whether the model's constructor brought each row to length 1, as KTUP does."""
    blocks = (rows[start : start + _BLOCK_ROWS].float() for start in range(1, len(rows), _BLOCK_ROWS))
    return len(rows) > 1 and all(bool(((block.norm(dim=1) - 1).abs() < 1e-4).all()) for block in blocks)
