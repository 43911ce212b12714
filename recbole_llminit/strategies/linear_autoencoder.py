"""The strategy ``lae``: the factors of a linear autoencoder of the training clicks that is pulled to the item texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies.base import Fit, Scale, Strategy, check_number, register_strategy, unit_rows
from recbole_llminit.strategies.closed_form import (
    DenseInverseGram,
    Equations,
    InverseGram,
    ItemWeights,
    IterativeInverseGram,
    Matrix,
    TextPrior,
)
from recbole_llminit.strategies.closed_form_choice import Regularization, choose_regularization
from recbole_llminit.strategies.co_consumption import item_degrees
from recbole_llminit.strategies.held_out import HeldOut
from recbole_llminit.strategies.projection import Whitening
from recbole_llminit.strategies.score_factors import ScoreFactors
from recbole_llminit.vectors.embeddings import AlignedEmbeddings

_logger = getLogger(__name__)

# Of the best figure: so many users tell no candidates apart that are nearer.
_NEAR = 0.98
# The candidates are compared on the most clicked items where there are more.
_MOST_ITEMS = 20_000
# The leading components of the vectors hold what a text says; more of them cost time and memory on large catalogs.
_MOST_FEATURES = 384
# Of lam and kappa: beside larger ones the clicks are lost in the rounding errors of float32.
_LARGEST = 1e6
# Where no user has two clicks, so that none can be held out.
_UNCHOSEN = Regularization(lam=25.0, kappa=75.0)


@register_strategy("lae", "the factors of a linear autoencoder of the training clicks, pulled to the item texts")
@dataclass(frozen=True)
class LinearAutoencoder(Strategy):
    """Fit item-item weights to texts and clicks in closed form, and take the leading factors of their scores.

    Parameters
    ----------
    rho : float
        The regularization of the text prior, for vectors at length 1.
    lam : float or None
        The regularization of the weights: that of EASE. None where held-out training clicks choose it.
    kappa : float or None
        The weight of the text prior; 0 leaves the clicks alone. None where held-out training clicks choose it.
    power : float
        In the factors a user weighs by the number of clicks to the power ``-2 * power``: 0 weighs clicks alike, 0.5
        users.
    exponent : float
        The standard deviations ``s`` of the vectors' components become ``s ** exponent`` before the vectors are brought
        to length 1: 1 leaves the centered vectors as they are, 0 whitens them.
    memory : float
        In GB, what the matrices of items by items may take; where they would take more, none is made.

    Notes
    -----
    Source: L3AE (CIKM 2025, arXiv 2508.13500) for the weights ``B`` (`ItemWeights`, `TextPrior`). With the ``d``
    leading singular values ``s`` and right singular vectors ``V`` of ``D^-power X B``, with ``X`` the training clicks
    and ``D`` the users' numbers of them, items get ``V sqrt(s)`` and users ``D^-power X B V / sqrt(s)``: their products
    are the best approximation of the weighted scores of rank ``d`` (Eckart and Young, 1936). The defaults were chosen
    on amazon-office and amazon-beauty by validation.
    """

    is_reduction: ClassVar[bool] = False
    default_scale: ClassVar[Scale] = "score"
    # Measured: results/strategies.md.
    score_std: ClassVar[float] = 0.25

    rho: float = 0.3
    lam: float | None = None
    kappa: float | None = None
    power: float = 0.5
    exponent: float = 0.5
    memory: float = 0.25

    def __post_init__(self) -> None:
        check_number("rho", self.rho, "above 0", lambda value: value > 0)
        if self.lam is not None:
            expected = f"above 0 and up to {_LARGEST:g}, or nothing"
            check_number("lam", self.lam, expected, lambda value: 0 < value <= _LARGEST)
        if self.kappa is not None:
            expected = f"from 0 to {_LARGEST:g}, or nothing"
            check_number("kappa", self.kappa, expected, lambda value: 0 <= value <= _LARGEST)
        check_number("power", self.power, "from 0 to 1", lambda value: 0 <= value <= 1)
        check_number("exponent", self.exponent, "from 0 to 1", lambda value: 0 <= value <= 1)
        check_number("memory", self.memory, "of GB, above 0", lambda value: value > 0)

    @property
    def needs_vectors(self) -> bool:
        """Whether the texts have a say; with ``kappa`` 0 the clicks alone are read."""
        return self.kappa != 0

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Choose what is left open, solve for the item-item weights, and take their factors.

        Raises
        ------
        LLMInitError
            If there are no training interactions, or the scores have fewer than ``n_components`` directions.
        """
        chosen, weights = self.solve(embeddings, interactions, seed)
        factors = ScoreFactors(weights, interactions, n_components, power=self.power, seed=seed)
        return Fit(chosen, embeddings, n_components, factors.leading)

    def resolve(
        self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int
    ) -> Strategy:
        """Return the strategy with the ``lam`` and ``kappa`` that held-out training clicks choose."""
        if self.lam is not None and self.kappa is not None:
            return self
        return self._choose(self._features(embeddings), interactions, seed)

    def solve(
        self, embeddings: AlignedEmbeddings, interactions: csr_matrix, seed: int
    ) -> tuple[LinearAutoencoder, ItemWeights]:
        """Return the strategy with all parameters chosen, and the item-item weights.

        Parameters
        ----------
        embeddings : AlignedEmbeddings
            The vectors.
        interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
            The training interactions.
        seed : int
            The seed of the draws' own generator.

        Raises
        ------
        LLMInitError
            If there are no training interactions.
        """
        if not interactions.nnz:
            raise LLMInitError(f"{self!r} reads the training interactions, and there are none: take whiten")
        features = None if self.kappa == 0 else self._features(embeddings)
        chosen = self
        if self.lam is None or self.kappa is None:
            chosen = self._choose(features, interactions, seed)
        return chosen, chosen._solve(features, interactions, seed)

    def _features(self, embeddings: AlignedEmbeddings) -> Matrix:
        """Return the centered vectors, their components scaled, at length 1, shape ``[n_items, rank]``."""
        whitening = Whitening(exponent=self.exponent)
        try:
            moments = whitening.moments(embeddings, np.ones(embeddings.n_items))
            variances, directions = whitening.basis(embeddings, moments, 1)
        except LLMInitError as error:
            raise LLMInitError(f"init_strategy lae has no text prior: {error}; kappa 0 leaves the texts out") from error
        rank = min(len(variances), _MOST_FEATURES)
        components = whitening.map_to(rank, moments.mean, variances, directions)
        features = np.zeros((embeddings.n_items, rank), dtype=np.float32)
        for items, block in embeddings.blocks():
            features[items] = unit_rows(components(block))
        return features

    def _solve(self, features: Matrix | None, interactions: csr_matrix, seed: int) -> ItemWeights:
        """Solve with ``lam`` and ``kappa`` as they are."""
        lam, kappa = self.lam or 0.0, self.kappa or 0.0
        prior = None if features is None or not kappa else TextPrior.of(features, self.rho)
        return ItemWeights(Equations(self._invert(interactions, lam + kappa, seed), prior), kappa)

    def _invert(self, interactions: csr_matrix, ridge: float, seed: int) -> InverseGram:
        """Return the inverse as a matrix where it and its copy fit into ``memory``, else as an operator."""
        interactions = interactions.astype(np.float32, copy=False)
        if 2 * 4 * interactions.shape[1] ** 2 <= self.memory * 1e9:
            return DenseInverseGram(interactions, ridge)
        return IterativeInverseGram(interactions, ridge, seed)

    def _choose(self, features: Matrix | None, interactions: csr_matrix, seed: int) -> LinearAutoencoder:
        """Choose ``lam`` and ``kappa`` by the NDCG@10 of held-out training clicks, and say so in the log."""
        items = _most_clicked(interactions)
        draws = HeldOut.several(interactions[:, items], seed)
        if not draws:
            lam = _UNCHOSEN.lam if self.lam is None else self.lam
            kappa = _UNCHOSEN.kappa if self.kappa is None else self.kappa
            _logger.info(
                f"init_strategy lae takes lam {lam:g}, kappa {kappa:g}: no user has two clicks to hold one out"
            )
            return dataclasses.replace(self, lam=lam, kappa=kappa)
        prior = None if features is None else TextPrior.of(features[items], self.rho)
        found = choose_regularization(
            draws,
            prior,
            lambda left, ridge: self._invert(left, ridge, seed),
            lam=self.lam,
            kappa=self.kappa,
        )
        best = _best(found)
        count = sum(len(draw.users) for draw in draws)
        alone = max((gain for candidate, gain in found.items() if not candidate.kappa), default=None)
        _logger.info(
            f"init_strategy lae takes {best}: NDCG@10 {found[best]:.4f} of {count:,} held-out training "
            f"clicks, the best of {len(found)} candidates"
            + ("" if alone is None or not best.kappa else f" (of the clicks alone {alone:.4f})")
        )
        return dataclasses.replace(self, lam=best.lam, kappa=best.kappa)


def _best(found: Mapping[Regularization, float]) -> Regularization:
    """Return the candidate with the highest figure; clicks alone only where no text prior comes within 2 % of them.

    So many held-out clicks do not tell candidates apart that are nearer, and with texts an item without clicks has
    values as well.
    """
    best = max(found, key=lambda candidate: found[candidate])
    near = [candidate for candidate in found if candidate.kappa and found[candidate] >= _NEAR * found[best]]
    return best if best.kappa or not near else max(near, key=lambda candidate: found[candidate])


def _most_clicked(interactions: csr_matrix) -> npt.NDArray[np.int64]:
    """Return ``[PAD]`` and the items with the most clicks, in the order of their ids."""
    degrees = item_degrees(interactions)
    if len(degrees) <= _MOST_ITEMS:
        return np.arange(len(degrees))
    degrees[0] = np.inf
    return np.sort(np.argsort(-degrees, kind="stable")[:_MOST_ITEMS])
