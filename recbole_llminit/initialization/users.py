"""How the rows of user tables are initialized: from their items' values, from vectors of their own, or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.rows import Rows, reduce_rows
from recbole_llminit.strategies.base import Factors, Strategy, Values
from recbole_llminit.strategies.co_consumption import item_degrees
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

Aggregation = Literal["mean", "degree", "idf"]

FACTORS = "factors"
"""How the report names users whose values the strategy fitted together with those of the items."""

LOW_COVERAGE = 0.5
"""The share of users or items with a vector below which a warning says so."""

_BLOCK_USERS = 1 << 16


class UserInitialization(ABC):
    """How user rows are initialized.

    Attributes
    ----------
    writes_tables : bool
        Whether user tables are written; otherwise they keep the model's own values.
    """

    writes_tables: ClassVar[bool] = True

    def follows_items(self, reduction: Values) -> bool:
        """Whether the rows are computed from the items' values, so that they follow the items' scale by themselves."""
        return True

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is called in messages."""

    def describe(self, values: Values) -> str:
        """Return what stands in the report of an initialization with these values of the strategy."""
        return self.label

    @abstractmethod
    def rows(self, items: Rows, interactions: csr_matrix, reduction: Values) -> Rows:
        """Return the values of all users by id.

        Parameters
        ----------
        items : Rows
            The items' values.
        interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
            The training interactions.
        reduction : Reduction, Drawn or Factors
            What made the items' values.
        """

    def has_rows(self, has_item_value: npt.NDArray[np.bool_], interactions: csr_matrix) -> npt.NDArray[np.bool_]:
        """Return which users `rows` gives a value, shape ``[n_users]``: those with a training item that has one."""
        counted: npt.NDArray[np.bool_] = interactions @ has_item_value.astype(np.float32) > 0
        return counted

    def check(self, embeddings: AlignedEmbeddings, strategy: Strategy) -> None:  # noqa: B027  most have nothing to check
        """Raise `LLMInitError` where users cannot be initialized so beside these vectors of items."""

    def warnings(self, embeddings: AlignedEmbeddings) -> tuple[str, ...]:
        """Return what looks wrong beside these vectors of items."""
        return ()


@dataclass(frozen=True)
class FromItems(UserInitialization):
    """Users are initialized from the values of the items that they trained on.

    Parameters
    ----------
    aggregation : {"mean", "degree", "idf"}
        How the items' values are summed; see `aggregate_users`.
    """

    aggregation: Aggregation = "mean"

    @property
    def label(self) -> str:
        """The aggregation."""
        return self.aggregation

    def rows(self, items: Rows, interactions: csr_matrix, reduction: Values) -> Rows:
        """Aggregate the items' values."""
        return aggregate_users(items, interactions, self.aggregation)


@dataclass(frozen=True)
class FromStrategy(UserInitialization):
    """Users are initialized as the strategy says: from factors of their own, or at the mean of their items."""

    @property
    def label(self) -> str:
        """The aggregation, where the strategy has no values of users."""
        return "mean"

    def describe(self, values: Values) -> str:
        """Return ``factors`` where the strategy has values of users."""
        return FACTORS if isinstance(values, Factors) else self.label

    def follows_items(self, reduction: Values) -> bool:
        """Whether the strategy has no values of users."""
        return not isinstance(reduction, Factors)

    def rows(self, items: Rows, interactions: csr_matrix, reduction: Values) -> Rows:
        """Take the users' factors, or the mean of each user's items."""
        if isinstance(reduction, Factors):
            return Rows.of_nonzero(reduction.users.copy())
        return aggregate_users(items, interactions)


@dataclass(frozen=True)
class FromModel(UserInitialization):
    """User tables keep the values that the model's own constructor gave them (``init_user: none``)."""

    writes_tables: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """``none``, as in the configuration."""
        return "none"

    def rows(self, items: Rows, interactions: csr_matrix, reduction: Values) -> Rows:
        """Return the mean of each user's items: what a model without a user table ranks by."""
        return aggregate_users(items, interactions)


@dataclass(frozen=True, eq=False)
class FromVectors(UserInitialization):
    """Users are initialized from LLM vectors of their own, through the items' reduction and scale.

    Parameters
    ----------
    embeddings : AlignedEmbeddings
        The vectors by user id.
    """

    embeddings: AlignedEmbeddings

    @property
    def label(self) -> str:
        """Where the vectors came from."""
        return self.embeddings.embeddings.source

    def follows_items(self, reduction: Values) -> bool:
        """No: they have vectors of their own."""
        return False

    def rows(self, items: Rows, interactions: csr_matrix, reduction: Values) -> Rows:
        """Reduce the users' vectors as the items' were."""
        return reduce_rows(self.embeddings, reduction, items.values.shape[1])

    def has_rows(self, has_item_value: npt.NDArray[np.bool_], interactions: csr_matrix) -> npt.NDArray[np.bool_]:
        """Return which users have a vector, shape ``[n_users]``."""
        return self.embeddings.rows >= 0

    def check(self, embeddings: AlignedEmbeddings, strategy: Strategy) -> None:
        """Raise `LLMInitError` where the users' vectors cannot go through the items' reduction."""
        if not (strategy.needs_vectors and strategy.is_reduction):
            raise LLMInitError(
                f"init_user is {self.label}, and {strategy!r} makes no values of a vector alone: set init_user to mean "
                f"or none"
            )
        if self.embeddings.width != embeddings.width:
            raise LLMInitError(
                f"the users' vectors in {self.label} have {self.embeddings.width} dimensions, and the items' in "
                f"{embeddings.embeddings.source} {embeddings.width}: expected both of the same encoder"
            )

    def warnings(self, embeddings: AlignedEmbeddings) -> tuple[str, ...]:
        """Return what looks wrong with the users' vectors: ids, coverage, another encoder than the items'."""
        warnings = list(self.embeddings.warnings)
        count, n_users = len(self.embeddings.items), self.embeddings.n_items - 1
        if count < LOW_COVERAGE * n_users:
            warnings.append(
                f"only {count:,} of {n_users:,} users have a vector in {self.label}: the others keep the model's own "
                f"initial values; check that the file belongs to this dataset"
            )
        theirs, items = (vectors.embeddings.metadata.get("model") for vectors in (self.embeddings, embeddings))
        if theirs and items and theirs != items:
            warnings.append(
                f"the users' vectors were made by {theirs}, and the items' by {items}: they are not in one space"
            )
        return tuple(warnings)


def aggregate_users(items: Rows, interactions: csr_matrix, aggregation: Aggregation = "mean") -> Rows:
    """Give each user a weighted sum of the values of the items that they trained on.

    Parameters
    ----------
    items : Rows
        The items' values; the sum runs over items that have one.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions; row and column 0 are ``[PAD]``.
    aggregation : {"mean", "degree", "idf"}
        ``mean``: all items weigh alike, and the weights of a user sum to 1. ``degree``: item ``i`` weighs
        ``1 / sqrt(degree_u * degree_i)``, degrees counted in the training interactions. ``idf``: item ``i`` weighs
        ``ln((1 + n_users) / (1 + degree_i)) + 1``, and the weights of a user are scaled to the sum 1.

    Returns
    -------
    Rows
        The users' values, shape ``[n_users, d]``; a user without such an item has none.

    Notes
    -----
    Source: ``mean``: LLMInit (arXiv 2503.01814), users by mean pooling; the official release divides by zero for a
    user without items. ``degree``: one step of LightGCN's propagation (arXiv 2002.02126, equation 3). ``idf``: the
    smooth inverse document frequency of scikit-learn, users as documents.
    """
    n_users = interactions.shape[0]
    weights = _item_weights(interactions, aggregation)
    counted = items.has_value.astype(np.float32)
    values = np.empty((n_users, items.values.shape[1]), dtype=np.float32)
    has_item = np.empty(n_users, dtype=np.bool_)
    for first in range(0, n_users, _BLOCK_USERS):
        users = slice(first, first + _BLOCK_USERS)
        part = weighted = interactions[users]
        has_item[users] = part @ counted > 0
        if weights is not None:
            weighted = csr_matrix((weights[part.indices], part.indices, part.indptr), shape=part.shape)
        values[users] = weighted @ items.values
        norms = np.sqrt(np.diff(part.indptr)) if aggregation == "degree" else weighted @ counted
        values[users] /= np.where(has_item[users], norms, 1).astype(np.float32)[:, None]
    return Rows(values, has_item)


def _item_weights(interactions: csr_matrix, aggregation: Aggregation) -> npt.NDArray[np.floating] | None:
    """Return the weight of each item before the users' norms; None where all items weigh alike."""
    if aggregation == "mean":
        return None
    degrees = item_degrees(interactions)
    if aggregation == "degree":
        return np.asarray(1 / np.sqrt(np.maximum(degrees, 1)))
    # The first user is [PAD].
    return np.asarray(np.log(interactions.shape[0] / (1 + degrees)) + 1)
