"""What a strategy is, what it makes, and the registry of strategies by name."""

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
    """A fitted map from LLM vectors to values of an embedding table; applies to any later item as well."""

    @property
    def columns(self) -> Sequence[int] | None:
        """The dimensions of a vector that it reads; None for all."""

    def finish(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Turn what it reads of vectors, shape ``[k, len(columns)]`` or ``[k, llm_dim]``, into values ``[k, d]``."""

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
        The columns kept, ascending.
    unit : bool
        Whether what is kept of a vector is brought to length 1; zeros stay zeros.
    """

    dimensions: tuple[int, ...]
    unit: bool = False

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns kept."""
        return self.dimensions

    def finish(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the kept columns, shape ``[k, d]``, as float32, each row of length 1 if that is wanted."""
        return unit_rows(block) if self.unit else block.astype(np.float32, copy=False)

    def __call__(self, block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return ``block[:, dimensions]`` as float32, shape ``[k, d]``."""
        return self.finish(np.take(block, self.dimensions, axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Return the kept columns in JSON types."""
        return {"kind": "columns", "dimensions": list(self.dimensions), "unit": self.unit}


def unit_rows(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return rows of shape ``[k, d]`` brought to length 1, in float32; zeros stay zeros."""
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
        What is subtracted from each vector.
    matrix : ndarray of float64, shape [llm_dim, d]
        What each column becomes.
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
        """Return the map's shape and the lengths of offset and columns; a matrix is too long to print."""
        return {
            "kind": "affine",
            "llm_dim": len(self.offset),
            "offset_length": float(np.linalg.norm(self.offset)),
            "column_lengths": np.linalg.norm(self.matrix, axis=0).tolist(),
        }


@dataclass(frozen=True)
class Drawn:
    """Values drawn from a normal distribution, in the place of a reduction: no vector is read.

    Parameters
    ----------
    width : int
        The number of values of an item.
    deviation : float
        Their standard deviation; the mean is 0.
    seed : int
        Seed of the generator of its own.
    """

    width: int
    deviation: float
    seed: int

    def draw(self, count: int) -> npt.NDArray[np.float32]:
        """Return the values of the first ``count`` items, shape ``[count, width]``."""
        values = np.random.default_rng(self.seed).standard_normal((count, self.width), dtype=np.float32)
        values *= np.float32(self.deviation)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the distribution in JSON types."""
        return {"kind": "drawn", "deviation": self.deviation, "seed": self.seed}


@dataclass(frozen=True)
class Strategy(ABC):
    """A way to make ``d`` numbers per item from its LLM vector of ``llm_dim`` numbers.

    Subclasses are frozen dataclasses: their fields are the keys of ``init_args``, their repr is the line in the
    log. Nothing is drawn from a global random state.

    Attributes
    ----------
    needs_vectors : bool
        False for a control, which reads none: then there need not be any.
    default_scale : "raw", "model", "score", float or None
        ``init_scale`` where none is given; None where it is that of what `resolve` returns.
    """

    needs_vectors: ClassVar[bool] = True
    default_scale: ClassVar[Scale | None] = "raw"

    def resolve(self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix) -> Strategy:
        """Return the strategy that is taken for these data and tables of at most ``size`` columns.

        That is itself, unless it leaves the choice open to the data; ``needs_vectors`` does not depend on it.
        """
        return self

    def prepare(self, embeddings: AlignedEmbeddings, interactions: csr_matrix) -> AlignedEmbeddings:
        """Return the vectors that `fit` and the reduction read, made from those of the store and the training data."""
        return embeddings

    @abstractmethod
    def fit(
        self, embeddings: AlignedEmbeddings, size: int, *, interactions: csr_matrix, seed: int
    ) -> Reduction | Drawn:
        """Fit the reduction to ``size`` columns on the items that have a vector.

        Parameters
        ----------
        embeddings : AlignedEmbeddings
            The vectors, read in blocks.
        size : int
            The width ``d`` of the table to fill, at most ``embeddings.width``.
        interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
            The training interactions.
        seed : int
            Seed of the strategy's own generator.
        """


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
    """Return what ``init_strategy`` can be beside none, in the order of registration."""
    return list(_registry)


def get_strategy(name: str, arguments: Mapping[str, Any] | None = None) -> Strategy:
    """Make the strategy registered under ``name`` with its ``init_args``.

    Raises
    ------
    LLMInitError
        If no strategy has that name, or it has no such argument, or an argument's value is refused.
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


def check_number(
    name: str, value: float, expected: str = "such as 1", holds: Callable[[float], bool] = lambda _: True
) -> None:
    """Raise for a value of ``init_args`` that is not a finite number of which ``expected`` holds."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(value):
        raise LLMInitError(f"init_args {name} is {value!r}: expected a number {expected}")
