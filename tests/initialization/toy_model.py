"""A model of two tables whose values can be followed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.initialization.initializer import InitSettings, initialize_embeddings_
from recbole_llminit.initialization.report import InitReport
from recbole_llminit.strategies.base import Fit, Strategy
from recbole_llminit.strategies.selection import Uniform
from recbole_llminit.vectors.embeddings import AlignedEmbeddings


class ToyModel(nn.Module):
    """Four items and three users with [PAD]; every row is initialized with its own number below zero.

    Further tables are given as ``name=(rows, columns)``.
    """

    def __init__(self, width: int = 2, **others: tuple[int, int]) -> None:
        super().__init__()
        self.users = nn.Embedding(3, width)
        self.items = nn.Embedding(4, width, padding_idx=0)
        for name, (rows, columns) in others.items():
            setattr(self, name, nn.Embedding(rows, columns))
        with torch.no_grad():
            self.users.weight.copy_(-torch.arange(3.0)[:, None] - 1)
            self.items.weight.copy_(-torch.arange(4.0)[:, None] - 10)


#                                 [PAD]   a  b  c
INTERACTIONS = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.float32))


def initialize(
    model: nn.Module,
    embeddings: AlignedEmbeddings,
    strategy: Strategy | Fit | None = None,
    interactions: csr_matrix = INTERACTIONS,
    **settings: Any,
) -> InitReport:
    """Initialize a model with seed 1; ``settings`` are the fields of `InitSettings`."""
    return initialize_embeddings_(
        model, embeddings, interactions, strategy or Uniform(), seed=1, settings=InitSettings(**settings)
    )


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all values of a model."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    """Whether all values of a model are those of `state_of`."""
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
