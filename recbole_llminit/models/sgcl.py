"""SGCL, supervised graph contrastive learning: the third backbone of the LLMInit paper."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.general_recommender.lightgcn import LightGCN
from torch import Tensor
from torch.nn import functional

from recbole_llminit.errors import LLMInitError


class SGCL(LightGCN):
    """LightGCN trained by one supervised contrastive loss, without negatives and without a regularization term.

    Configuration keys: ``embedding_size``, ``n_layers``, ``temperature`` (``properties/model/SGCL.yaml``).

    Raises
    ------
    LLMInitError
        If ``temperature`` is not above 0.

    Notes
    -----
    Source: arXiv 2507.13336; the loss and the defaults are those of the LLMInit release.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.temperature = config["temperature"]
        if not isinstance(self.temperature, int | float) or not self.temperature > 0:
            raise LLMInitError(f"temperature is {self.temperature!r}: SGCL expects a number above 0, such as 0.2")

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the loss of a batch of observed pairs; negative items, where there are any, are not looked at."""
        self.restore_user_e = self.restore_item_e = None
        users, items = self.forward()
        return supervised_contrastive_loss(
            users[interaction[self.USER_ID]], items[interaction[self.ITEM_ID]], self.temperature
        )


def supervised_contrastive_loss(users: Tensor, items: Tensor, temperature: float) -> Tensor:
    """Return ``sum_k -log(exp(u_k.i_k / t) / sum_l (exp(u_k.u_l / t) + exp(i_k.i_l / t)))`` over unit vectors.

    Parameters
    ----------
    users, items : Tensor, shape [batch, d]
        Row ``k`` of each is one observed pair; they are normalized here. A user or item that stands in several pairs
        counts several times, itself included.
    temperature : float
        ``t``, above 0. The exponentials are never formed, and at least float32 is used, also under autocast: at small
        temperatures they leave the range of float32, at the usual ones that of float16.

    Returns
    -------
    Tensor, shape []
        The sum over the batch.
    """
    with torch.autocast(users.device.type, enabled=False):
        precision = torch.promote_types(users.dtype, torch.float32)
        users = functional.normalize(users.to(precision), dim=-1)
        items = functional.normalize(items.to(precision), dim=-1)
        positive = (users * items).sum(dim=-1)
        similarities = torch.cat([users @ users.T, items @ items.T], dim=1)
        return (torch.logsumexp(similarities / temperature, dim=1) - positive / temperature).sum()
