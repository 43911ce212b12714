"""The final vectors of RecBole's graph models: what their propagation makes of the tables, and what they score by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_llminit.initialization.embedding_table import Side
from recbole_llminit.initialization.model_exceptions import LINEAR_PROPAGATION
from recbole_llminit.integration.model_scores import asking


def final_vectors_of(model: Any, device: torch.device) -> Callable[[], Mapping[Side, Tensor]] | None:
    """Return a function that asks a model for the vectors of users and items that it scores by.

    Parameters
    ----------
    model : recbole.model.abstract_recommender.AbstractRecommender
        The model.
    device : torch.device
        Where it is asked.

    Returns
    -------
    callable or None
        None unless they are linear in the model's tables, and of their shapes (`LINEAR_PROPAGATION`).
    """
    if not LINEAR_PROPAGATION.intersection(one.__name__ for one in type(model).__mro__):
        return None

    def ask() -> Mapping[Side, Tensor]:
        with asking(model, device):
            # SGL is told which of its graphs to use.
            users, items = model.forward(*([model.train_graph] if hasattr(model, "train_graph") else []))[:2]
        return {"user": users, "item": items}

    return ask
