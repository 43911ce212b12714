"""The test of a trained model, user by user."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.tables import Side
from recbole_llminit.integration.model import find_tables, training_interactions
from recbole_llminit.integration.quick_start import load_data_and_model
from recbole_llminit.spectrum import Spectrum

# After recbole_llminit.integration.quick_start, which mends RecBole.
from recbole.evaluator.base_metric import TopkMetric  # isort: skip
from recbole.utils import get_trainer  # isort: skip


@dataclass(frozen=True)
class TableSpectrum:
    """The spectrum of a trained table, without ``[PAD]``; ``side`` is ``user`` or ``item``."""

    label: str
    side: Side
    spectrum: Spectrum


@dataclass(frozen=True)
class UserEvaluation:
    """The test of a trained model, user by user.

    Parameters
    ----------
    users : DataFrame
        A row for each user tested (for each tested sequence of a sequential model): ``user_id``,
        ``train_interactions``, and a column for each metric of the configuration that is a mean over users
        (``recall@10``, ...), unrounded.
    ranks : DataFrame
        A row for each test interaction: ``user_id``, ``item_id``, ``item_interactions`` (the item's training
        interactions) and ``rank``, its place in the user's list from 1, missing where it is below the longest cut-off.
    result : mapping
        RecBole's own figures of the same evaluation.
    config : recbole.config.Config
        The configuration in the checkpoint.
    parameters : int
        How many numbers the model trains.
    spectra : sequence of TableSpectrum
        Of the trained user and item tables; none where the model has no such tables.
    """

    users: pd.DataFrame
    ranks: pd.DataFrame
    result: Mapping[str, float]
    config: Any
    parameters: int
    spectra: Sequence[TableSpectrum]


def evaluate_users(checkpoint: str | Path, *, trust_pickles: bool = False) -> UserEvaluation:
    """Test a checkpoint as RecBole does, and keep each user's own figures.

    Parameters
    ----------
    checkpoint : path
        A checkpoint. Its items are ranked in full at test (``mode: full``).
    trust_pickles : bool
        Whether you trust whoever made it; see `load_data_and_model`.

    Notes
    -----
    The lists are those that RecBole's trainer ranks, and the metrics RecBole's own (``metric_info`` in
    ``recbole/evaluator/metrics.py``), taken before the mean over users.
    """
    config, model, dataset, train_data, _, test_data = load_data_and_model(checkpoint, trust_pickles=trust_pickles)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    recorder = _Recorder(trainer.eval_collector, dataset.uid_field, max(config["topk"]))
    result = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
    users, positive_rows, items, ranks = recorder.recorded()

    interactions = training_interactions(train_data._dataset, config)
    per_user = np.asarray(interactions.sum(axis=1)).ravel().astype(np.int64)
    per_item = np.asarray(interactions.sum(axis=0)).ravel().astype(np.int64)
    hits = np.zeros((len(users), max(config["topk"])), dtype=bool)
    found = ranks > 0
    hits[positive_rows[found], ranks[found] - 1] = True
    metrics = per_user_metrics(
        trainer.evaluator.metric_class, hits, np.bincount(positive_rows, minlength=len(users)), config["topk"]
    )
    user_tokens = dataset.id2token(dataset.uid_field, users)
    return UserEvaluation(
        users=pd.DataFrame({"user_id": user_tokens, "train_interactions": per_user[users], **metrics}),
        ranks=pd.DataFrame(
            {
                "user_id": user_tokens[positive_rows],
                "item_id": dataset.id2token(dataset.iid_field, items),
                "item_interactions": per_item[items],
                "rank": pd.Series(ranks, dtype="Int32").where(found),
            }
        ),
        result={name: float(value) for name, value in result.items()},
        config=config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        spectra=_spectra(config, model, dataset),
    )


def _spectra(config: Any, model: Any, dataset: Any) -> list[TableSpectrum]:
    try:
        tables = find_tables(model, config, dataset).tables
    except LLMInitError:
        # Closed form, or its tables are not to be told from others: a model to compare with all the same.
        return []
    return [
        TableSpectrum(table.label, table.side, Spectrum.of([table.values[1:].float().cpu().numpy()], table.width))
        for table in tables
    ]


def per_user_metrics(
    metrics: Mapping[str, Any], hits: npt.NDArray[np.bool_], positives: npt.NDArray[np.int64], topk: Sequence[int]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return each top-k metric of each user, by RecBole's own formulas.

    Parameters
    ----------
    metrics : mapping of str to metric
        RecBole's metric objects by name; those that are no mean over users are left out.
    hits : ndarray of bool, shape [n_users, max(topk)]
        Whether the item at each place of a user's list is one of theirs.
    positives : ndarray of int, shape [n_users]
        How many test items each user has.
    topk : sequence of int
        The cut-offs.
    """
    values: dict[str, npt.NDArray[np.float64]] = {}
    for name, metric in metrics.items():
        if not isinstance(metric, TopkMetric):
            continue
        arguments = (hits, positives)[: len(inspect.signature(metric.metric_info).parameters)]
        at_each = np.asarray(metric.metric_info(*arguments), dtype=np.float64)
        values.update({f"{name}@{k}": at_each[:, k - 1] for k in topk})
    return values


class _Recorder:
    """Keeps, beside RecBole's collector, whose list each row is and at which place its test items stand."""

    def __init__(self, collector: Any, user_field: str, longest: int) -> None:
        self._collect = collector.eval_batch_collect
        self._user_field = user_field
        self._longest = longest
        self._rows = 0
        self._batches: list[tuple[npt.NDArray[Any], ...]] = []
        collector.eval_batch_collect = self._record

    def _record(
        self, scores: torch.Tensor, interaction: Any, positive_u: torch.Tensor, positive_i: torch.Tensor
    ) -> None:
        # The same call as in RecBole's collector, so that ties fall alike.
        _, listed = torch.topk(scores, self._longest, dim=-1)
        places = listed[positive_u] == positive_i.to(listed.device)[:, None]
        ranks = torch.where(places.any(dim=1), places.int().argmax(dim=1) + 1, 0)
        users = interaction[self._user_field].cpu().numpy()
        rows = positive_u.cpu().numpy() + self._rows
        self._batches.append((users, rows, positive_i.cpu().numpy(), ranks.cpu().numpy()))
        self._rows += len(users)
        self._collect(scores, interaction, positive_u, positive_i)

    def recorded(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Return users by row, and for each test interaction its row, item and rank (0: not in the list)."""
        users, rows, items, ranks = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        return users, rows, items, ranks
