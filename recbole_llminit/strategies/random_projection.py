"""The strategy ``rp``: a random projection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from recbole_llminit.strategies.base import Affine, Fit, register_strategy
from recbole_llminit.strategies.projection import Projection
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


@register_strategy("rp", "an orthogonal random projection")
@dataclass(frozen=True)
class RandomProjection(Projection):
    """Project on random orthogonal directions, scaled so that lengths are kept in the mean.

    Notes
    -----
    Source: Johnson and Lindenstrauss (1984). The directions are uniform over all (QR of a Gaussian matrix, with the
    signs of Mezzadri, 2007), orthogonal, each of length ``sqrt(llm_dim / d)``.
    """

    def fit(self, embeddings: AlignedEmbeddings, n_components: int, *, interactions: csr_matrix, seed: int) -> Fit:
        """Measure the mean; each reduction draws its directions from a generator of its own, seeded by ``seed``.

        Raises
        ------
        LLMInitError
            If all vectors are equal, so that centered ones are zero.
        """
        embeddings = self.smoothed(embeddings, interactions)
        moments = self.moments(embeddings, self.weights(interactions), diagonal=True)

        def reduction(count: int) -> Affine:
            gaussian = np.random.default_rng(seed).standard_normal((embeddings.width, count))
            directions, triangle = np.linalg.qr(gaussian)
            directions *= np.sign(np.diag(triangle)) * math.sqrt(embeddings.width / count)
            return Affine(moments.mean, directions)

        return Fit(self, embeddings, n_components, reduction)
