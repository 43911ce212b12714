"""What a strategy is, what it makes of a vector, and the registry of strategies by name."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.suggest import suggest
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

Scale = Literal["raw", "model", "score"] | float
StrategyType = TypeVar("StrategyType", bound="type[Strategy]")


class Reduction(Protocol):
    """A map from LLM vectors to values of an embedding table; it applies to items that arrive later as well."""

    @property
    def columns(self) -> Sequence[int] | None:
        """The dimensions of a vector that it reads; None for all of them."""

    def finish(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Turn the dimensions that it reads, ``[k, len(columns)]`` or ``[k, llm_dim]``, into values ``[k, d]``."""

    def __call__(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Reduce vectors of shape ``[k, llm_dim]`` to values of shape ``[k, d]``."""

    def to_dict(self) -> dict[str, Any]:
        """Describe the map in JSON types."""


@dataclass(frozen=True)
class Columns:
    """A reduction that keeps some columns of the vectors.

    Parameters
    ----------
    dimensions : tuple of int
        The columns that are kept, in ascending order.
    unit : bool
        Whether each reduced row is scaled to length 1; a row of zeros stays zero.
    """

    dimensions: tuple[int, ...]
    unit: bool = False

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns that are kept."""
        return self.dimensions

    def finish(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the kept columns, shape ``[k, d]``, as float32, with rows of length 1 where ``unit`` is set."""
        return unit_rows(block) if self.unit else block.astype(np.float32, copy=False)

    def __call__(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return ``block[:, dimensions]`` as float32, shape ``[k, d]``."""
        return self.finish(np.take(block, self.dimensions, axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Return the kept columns in JSON types."""
        return {"kind": "columns", "dimensions": list(self.dimensions), "unit": self.unit}


def unit_rows(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale rows of shape ``[k, d]`` to length 1, in float32; rows of zeros stay zero."""
    unit: npt.NDArray[np.float32] = rows.astype(np.float32)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.where(lengths > 0, lengths, 1)
    return unit


@dataclass(frozen=True, eq=False)
class Affine:
    """A reduction that mixes the columns of the vectors: ``(block - offset) @ matrix``.

    Parameters
    ----------
    offset : ndarray of float64, shape [llm_dim]
        The vector that is subtracted from each row.
    matrix : ndarray of float64, shape [llm_dim, d]
        The weights of the vectors' columns in each of the ``d`` values.
    """

    offset: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    columns: ClassVar[None] = None

    def finish(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the values of vectors, shape ``[k, d]``."""
        return self(block)

    def __call__(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the values of vectors, shape ``[k, d]``."""
        return ((block.astype(np.float64) - self.offset) @ self.matrix).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the map's shape and the lengths of its offset and columns; the matrix is too long to print."""
        return {
            "kind": "affine",
            "llm_dim": len(self.offset),
            "offset_length": float(np.linalg.norm(self.offset)),
            "column_lengths": np.linalg.norm(self.matrix, axis=0).tolist(),
        }


@dataclass(frozen=True)
class Drawn:
    """Values drawn from a normal distribution instead of a reduction: no vector is read.

    Parameters
    ----------
    width : int
        The number of values of an item.
    std : float
        The standard deviation of the values; their mean is 0.
    seed : int
        The seed of the distribution's own generator.
    """

    width: int
    std: float
    seed: int

    def draw(self, count: int) -> npt.NDArray[np.float32]:
        """Return the values of the first ``count`` items, shape ``[count, width]``."""
        values = np.random.default_rng(self.seed).standard_normal((count, self.width), dtype=np.float32)
        values *= np.float32(self.std)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the distribution in JSON types."""
        return {"kind": "drawn", "std": self.std, "seed": self.seed}


@dataclass(frozen=True, eq=False)
class Factors:
    """Values of items and of users that were fitted together, instead of a reduction of each item's vector.

    Parameters
    ----------
    items : ndarray of float32, shape [n_items, d]
        The values by item id; an item that nothing is known of has zeros.
    users : ndarray of float32, shape [n_users, d]
        The values by user id, which belong to those of the items: a user without training interactions has zeros.
    """

    items: npt.NDArray[np.float32]
    users: npt.NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Return the number of values in JSON types; the tables are too long to print."""
        return {"kind": "factors", "width": self.items.shape[1]}


Values = Reduction | Drawn | Factors


@dataclass(frozen=True, eq=False)
class Fit:
    """A strategy fitted to vectors and training data: one fit reduces to tables of every width.

    Parameters
    ----------
    strategy : Strategy
        The strategy that was fitted; where a strategy leaves the choice to the data (``auto``), the one it chose.
    embeddings : AlignedEmbeddings
        The vectors that reductions read: those of the store, or vectors made from them (smoothed).
    n_components : int
        The largest number of components that it was fitted for.
    reduction : callable
        Returns the reduction to a given number of components, at most ``n_components``; or the numbers themselves,
        where a strategy draws them (`Drawn`) or fits items and users together (`Factors`).
    """

    strategy: Strategy
    embeddings: AlignedEmbeddings
    n_components: int
    reduction: Callable[[int], Values]


def values_by_id(embeddings: AlignedEmbeddings, values: Values, width: int) -> npt.NDArray[np.float32]:
    """Return the values of all items (or users) by id, shape ``[n_items, width]``; zeros where there are none.

    The vectors are read once, block by block. Where a reduction keeps columns, only these columns are read.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors.
    values : Reduction, Drawn or Factors
        A fitted reduction to ``width`` values, a distribution to draw them from, or the values themselves.
    width : int
        The number of values in a row.
    """
    if isinstance(values, Factors):
        return values.items.copy()
    table = np.zeros((embeddings.n_items, width), dtype=np.float32)
    if isinstance(values, Drawn):
        table[embeddings.items] = values.draw(len(embeddings.items))
        return table
    # A number too large for float32 becomes an infinity here, which is refused before anything is written.
    with np.errstate(over="ignore"):
        for items, block in embeddings.blocks(columns=values.columns):
            table[items] = values.finish(block)
    return table


@dataclass(frozen=True)
class Strategy(ABC):
    """A way to make ``d`` numbers per item from its LLM vector of ``llm_dim`` numbers.

    Subclasses are frozen dataclasses: their fields are the keys of ``init_args``, and their repr is the line in the
    log. They draw nothing from a global random state.

    Attributes
    ----------
    is_reduction : bool
        Whether its values are made of an item's vector alone, so that there are at most as many as the vector has.
    default_scale : "raw", "model", "score", float or None
        ``init_scale`` where the configuration gives none; None where it is that of the strategy that `fit` chooses.
    score_std : float
        The standard deviation of the scores under ``init_scale: score``.
    """

    is_reduction: ClassVar[bool] = True
    default_scale: ClassVar[Scale | None] = "raw"
    # About what var's raw values give on amazon-office.
    score_std: ClassVar[float] = 1 / 16

    @property
    def needs_vectors(self) -> bool:
        """Whether the strategy reads vectors. A control (``noise``) reads none; then there need not be any."""
        return True

    @abstractmethod
    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Fit the strategy on the items that have a vector.

        Parameters
        ----------
        embeddings : AlignedEmbeddings
            The vectors, which are read in blocks.
        n_components : int
            The width of the widest table to fill, at most ``embeddings.width``.
        interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
            The training interactions.
        seed : int
            The seed of the strategy's own generator.
        """

    def resolve(
        self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int
    ) -> Strategy:
        """Return the strategy that `fit` would choose for these data: the strategy itself, unless it leaves that open.

        What is chosen may need no vectors where the strategy that chooses does: `needs_vectors` may become False.
        """
        return self


@dataclass(frozen=True)
class RegisteredStrategy:
    """One entry of the registry."""

    name: str
    cls: type[Strategy]
    description: str


_registry: dict[str, RegisteredStrategy] = {}


def register_strategy(name: str, description: str) -> Callable[[StrategyType], StrategyType]:
    """Register a `Strategy` class under the name used in ``init_strategy``.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def decorator(cls: StrategyType) -> StrategyType:
        if name in _registry:
            raise ValueError(f"strategy {name!r} is already registered by {_registry[name].cls.__name__}")
        _registry[name] = RegisteredStrategy(name, cls, description)
        return cls

    return decorator


def list_strategies() -> list[RegisteredStrategy]:
    """Return every registered strategy, in the order of registration."""
    return list(_registry.values())


def strategy_names() -> list[str]:
    """Return the values of ``init_strategy`` other than none, in the order of registration."""
    return list(_registry)


def get_strategy(name: str, arguments: Mapping[str, Any] | None = None) -> Strategy:
    """Make the strategy registered under ``name`` with its ``init_args``.

    Raises
    ------
    LLMInitError
        If no strategy has that name, the strategy has no such argument, or it refuses an argument's value.
    """
    if name not in _registry:
        raise LLMInitError(f"init_strategy {name!r} is unknown{suggest(name, _registry)} ({', '.join(_registry)})")
    cls = _registry[name].cls
    known = [field.name for field in dataclasses.fields(cls)]
    for key in arguments or {}:
        if key not in known:
            has = f"it takes {', '.join(known)}" if known else "it takes none"
            raise LLMInitError(f"init_args {key!r} is unknown to init_strategy {name!r}{suggest(key, known)} ({has})")
    return cls(**(arguments or {}))


def too_few_directions(what: str, directions: int, n_components: int, source: str) -> LLMInitError:
    """Return the error for a table that has more columns than there are directions to fill them.

    Parameters
    ----------
    what : str
        What has the directions.
    directions, n_components : int
        How many there are, and how many a table wants.
    source : str
        What varies in no more of them.
    """
    return LLMInitError(
        f"{what} has {directions} directions, and a table has {n_components} columns: {source} vary in no more; set "
        f"the table's size (embedding_size, hidden_size) <= {directions}, or take another strategy"
    )


def check_number(
    name: str, value: float, expected: str = "such as 1", holds: Callable[[float], bool] = lambda _: True
) -> None:
    """Raise `LLMInitError` for a value of ``init_args`` that is not a finite number for which ``holds`` is True.

    Parameters
    ----------
    name : str
        The key of ``init_args``.
    value : float
        The value that was given.
    expected : str
        The end of the message: which numbers are allowed.
    holds : callable
        Returns whether a finite number is allowed.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(value):
        raise LLMInitError(f"init_args {name} is {value!r}: expected a number {expected}")
