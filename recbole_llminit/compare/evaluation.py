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
from recbole_llminit.initialization.embedding_table import Side
from recbole_llminit.integration.dataset import training_interactions
from recbole_llminit.integration.model import find_tables
from recbole_llminit.integration.quick_start import load_data_and_model
from recbole_llminit.spectrum import Spectrum

# After recbole_llminit.integration.quick_start, which patches RecBole.
from recbole.evaluator.base_metric import TopkMetric  # isort: skip
from recbole.utils import get_trainer  # isort: skip

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TableSpectrum:
    """The spectrum of a trained table, without the row of ``[PAD]``.

    Parameters
    ----------
    label : str
        The name of the table in the model.
    side : {"user", "item"}
        Whose table it is.
    spectrum : Spectrum
        Its singular values.
    """

    label: str
    side: Side
    spectrum: Spectrum


@dataclass(frozen=True)
class UserEvaluation:
    """The test of a trained model, user by user.

    Parameters
    ----------
    users : DataFrame
        A row for each user who is tested (for each tested sequence of a sequential model): ``user_id``,
        ``train_interactions``, and, unrounded, a column for each metric of the configuration that is a mean over users
        (``recall@10``, ...).
    ranks : DataFrame
        A row for each test interaction: ``user_id``, ``item_id``, ``item_interactions`` (the number of training
        interactions of the item) and ``rank``, the item's place in the user's list, counted from 1. The rank is missing
        where the item stands below the longest cut-off.
    result : mapping
        The metrics that RecBole computes in the same evaluation.
    config : recbole.config.Config
        The configuration in the checkpoint.
    parameters : int
        The number of the model's parameters.
    spectra : sequence of TableSpectrum
        The spectra of the trained user and item tables; empty where the model has no such tables.
    """

    users: pd.DataFrame
    ranks: pd.DataFrame
    result: Mapping[str, float]
    config: Any
    parameters: int
    spectra: Sequence[TableSpectrum]


@dataclass(frozen=True)
class _RankedTest:
    """The lists of a test, with the test interactions in them.

    Parameters
    ----------
    users : ndarray of int, shape [n_users]
        The user of each list.
    rows : ndarray of int, shape [n_interactions]
        The list of each test interaction, as a position in ``users``.
    items : ndarray of int, shape [n_interactions]
        The item of each test interaction.
    ranks : ndarray of int, shape [n_interactions]
        The item's place in the list, counted from 1; 0 where it is not in it.
    """

    users: _Integers
    rows: _Integers
    items: _Integers
    ranks: _Integers

    def hits(self, longest: int) -> npt.NDArray[np.bool_]:
        """Return whether the item at each place of a list is a test item, shape [n_users, longest]."""
        hits = np.zeros((len(self.users), longest), dtype=bool)
        found = self.ranks > 0
        hits[self.rows[found], self.ranks[found] - 1] = True
        return hits


def evaluate_users(checkpoint: str | Path, *, trust_pickles: bool = False) -> UserEvaluation:
    """Test a checkpoint as RecBole does, and keep the metrics of each user.

    Parameters
    ----------
    checkpoint : path
        A checkpoint whose configuration ranks all items at test (``mode: full``).
    trust_pickles : bool
        Whether the checkpoint may hold any class, which can run code when it is read; see `load_data_and_model`.

    Raises
    ------
    LLMInitError
        If the checkpoint or its dataset cannot be read.

    Notes
    -----
    The lists are those that RecBole's trainer ranks. The metrics are RecBole's own (``metric_info`` in
    ``recbole/evaluator/metrics.py``), taken before the mean over users.
    """
    config, model, dataset, train_data, _, test_data = load_data_and_model(checkpoint, trust_pickles=trust_pickles)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    recorder = _Recorder(trainer.eval_collector, dataset.uid_field, max(config["topk"]))
    result = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
    test = recorder.ranked_test()
    per_user, per_item = _count_interactions(train_data._dataset, config)
    metrics = per_user_metrics(
        trainer.evaluator.metric_class,
        test.hits(max(config["topk"])),
        np.bincount(test.rows, minlength=len(test.users)),
        config["topk"],
    )
    user_tokens = dataset.id2token(dataset.uid_field, test.users)
    return UserEvaluation(
        users=pd.DataFrame({"user_id": user_tokens, "train_interactions": per_user[test.users], **metrics}),
        ranks=_rank_table(test, user_tokens, dataset, per_item),
        result={name: float(value) for name, value in result.items()},
        config=config,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        spectra=_spectra(config, model, dataset),
    )


def per_user_metrics(
    metrics: Mapping[str, Any], hits: npt.NDArray[np.bool_], positives: _Integers, topk: Sequence[int]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return each top-k metric of each user, by RecBole's own formulas.

    Parameters
    ----------
    metrics : mapping of str to metric
        RecBole's metric objects by name. Those that are no mean over users are left out.
    hits : ndarray of bool, shape [n_users, max(topk)]
        Whether the item at each place of a user's list is one of the user's test items.
    positives : ndarray of int, shape [n_users]
        The number of test items of each user.
    topk : sequence of int
        The cut-offs.

    Returns
    -------
    dict of str to ndarray, shape [n_users]
        The values by metric and cut-off, such as ``recall@10``.
    """
    values: dict[str, npt.NDArray[np.float64]] = {}
    for name, metric in metrics.items():
        if not isinstance(metric, TopkMetric):
            continue
        arguments = (hits, positives)[: len(inspect.signature(metric.metric_info).parameters)]
        by_cut = np.asarray(metric.metric_info(*arguments), dtype=np.float64)
        values.update({f"{name}@{k}": by_cut[:, k - 1] for k in topk})
    return values


def _count_interactions(dataset: Any, config: Any) -> tuple[_Integers, _Integers]:
    """Return the number of training interactions of each user and of each item, by RecBole's ids."""
    interactions = training_interactions(dataset, config)
    per_user, per_item = (np.asarray(interactions.sum(axis=axis)).ravel().astype(np.int64) for axis in (1, 0))
    return per_user, per_item


def _rank_table(
    test: _RankedTest, user_tokens: npt.NDArray[Any], dataset: Any, interactions_per_item: _Integers
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": user_tokens[test.rows],
            "item_id": dataset.id2token(dataset.iid_field, test.items),
            "item_interactions": interactions_per_item[test.items],
            "rank": pd.Series(test.ranks, dtype="Int32").where(test.ranks > 0),
        }
    )


def _spectra(config: Any, model: Any, dataset: Any) -> list[TableSpectrum]:
    try:
        tables = find_tables(model, config, dataset).tables
    except LLMInitError:
        # A model in closed form, or one whose tables cannot be told apart, is compared all the same.
        return []
    return [
        TableSpectrum(table.label, table.side, Spectrum.of([table.values[1:].float().cpu().numpy()], table.width))
        for table in tables
    ]


class _Recorder:
    """Records the ranked lists of an evaluation, beside RecBole's collector.

    Parameters
    ----------
    collector : recbole.evaluator.collector.Collector
        The collector of the trainer.
    user_field : str
        The field of the user ids.
    longest : int
        The length of the lists.
    """

    def __init__(self, collector: Any, user_field: str, longest: int) -> None:
        self._collect = collector.eval_batch_collect
        self._user_field = user_field
        self._longest = longest
        self._lists = 0
        self._batches: list[tuple[_Integers, ...]] = []
        collector.eval_batch_collect = self._record

    def ranked_test(self) -> _RankedTest:
        """Return the lists of all batches."""
        return _RankedTest(*(np.concatenate(parts) for parts in zip(*self._batches, strict=True)))

    def _record(
        self, scores: torch.Tensor, interaction: Any, positive_u: torch.Tensor, positive_i: torch.Tensor
    ) -> None:
        # The same call as in RecBole's collector, so that equal scores are ranked in the same order.
        _, lists = torch.topk(scores, self._longest, dim=-1)
        is_item = lists[positive_u] == positive_i.to(lists.device)[:, None]
        ranks = torch.where(is_item.any(dim=1), is_item.int().argmax(dim=1) + 1, 0)
        users = interaction[self._user_field].cpu().numpy()
        rows = positive_u.cpu().numpy() + self._lists
        self._batches.append((users, rows, positive_i.cpu().numpy(), ranks.cpu().numpy()))
        self._lists += len(users)
        self._collect(scores, interaction, positive_u, positive_i)
