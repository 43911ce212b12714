"""A RecBole model's own scores, asked for without leaving a trace in the model or in the random state."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recbole_llminit.integration.recbole_version import check_recbole_version

check_recbole_version()

from recbole.data.interaction import Interaction  # noqa: E402  after the check that it is there
from recbole.model.abstract_recommender import AbstractRecommender  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

# 64 MB in float32.
_SCORES = 1 << 24
_SAMPLED_USERS = 256


class ModelScores:
    """Asks a model how it scores all items for users, as an evaluation by RecBole would.

    Parameters
    ----------
    config : recbole.config.Config
        The model's configuration.
    dataset : recbole.data.dataset.Dataset
        The training split. A sequential model is asked with the histories in it.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        self._config = config
        self._dataset = dataset
        self._is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL

    def can_ask(self, model: Any) -> bool:
        """Whether the model scores all items for a user: models of single pairs, such as FM, do not."""
        scores_all = type(model).full_sort_predict is not AbstractRecommender.full_sort_predict
        kinds = (ModelType.GENERAL, ModelType.KNOWLEDGE, ModelType.SEQUENTIAL, ModelType.TRADITIONAL)
        return scores_all and self._config["MODEL_TYPE"] in kinds

    def std(self, model: Any) -> float:
        """Return the standard deviation of the scores of a sample of users with training interactions and all items."""
        rows = self._sample_rows()
        total = squares = count = 0.0
        for scores in self.of_rows(model, rows):
            block = scores[:, 1:].astype(np.float64)
            total += block.sum()
            squares += (block**2).sum()
            count += block.size
        return float(np.sqrt(max(0.0, squares / count - (total / count) ** 2)))

    def of_rows(self, model: Any, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the scores for the users of some rows of the training split, shape ``[k, n_items]``, some at a time.

        Parameters
        ----------
        model : recbole.model.abstract_recommender.AbstractRecommender
            A model for which `can_ask` is True.
        rows : ndarray of int64
            Numbers of training interactions: whose user is meant, and with a sequential model which history.
        """
        n_items = self._dataset.item_num
        step = max(1, _SCORES // n_items)
        device = self._config["device"]
        with asking(model, device):
            for first in range(0, len(rows), step):
                asked = self._interaction(torch.from_numpy(rows[first : first + step]))
                scores = model.full_sort_predict(asked.to(device))
                yield scores.view(-1, n_items).float().cpu().numpy()

    def _interaction(self, rows: torch.Tensor) -> Interaction:
        if self._is_sequential:
            return self._dataset.inter_feat[rows]
        field = self._dataset.uid_field
        return Interaction({field: self._dataset.inter_feat[field][rows]})

    def _sample_rows(self) -> npt.NDArray[np.int64]:
        """Return one row of each of some users, the same ones at every call."""
        users = self._dataset.inter_feat[self._dataset.uid_field].numpy()
        _, rows = np.unique(users, return_index=True)
        count = min(_SAMPLED_USERS, max(8, _SCORES // self._dataset.item_num))
        return np.sort(np.random.default_rng(0).permutation(rows)[:count])


@contextlib.contextmanager
def asking(model: Any, device: torch.device) -> Iterator[None]:
    """Put a model on its device and in the mode of an evaluation, without gradients, and give it back `untouched`.

    It stays on the device, to which RecBole would move it next.
    """
    with untouched(model), torch.no_grad():
        model.to(device).eval()
        yield


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Give a model back as it was, its caches and its mode included, and with it the random state.

    Parameters
    ----------
    model : torch.nn.Module
        A model that is asked and not trained meanwhile: what its modules hold is put back, not what stands within it,
        so that a parameter that is changed in place stays changed.
    """
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  RecBole's own state
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for module, kept in attributes.items():
                module.__dict__.clear()
                module.__dict__.update(kept)
