"""Strata: metrics of users and items by their number of training interactions (cold, warm, head)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def stratum_names(bounds: Sequence[int]) -> list[str]:
    """Name the strata that begin at these numbers of training interactions.

    ``(5, 20)`` gives 0-4, 5-19 and 20+. Three strata are also called cold, warm and head.
    """
    lower = [0, *bounds]
    spans = [str(low) if high - low == 1 else f"{low}-{high - 1}" for low, high in zip(lower, bounds, strict=False)]
    spans.append(f"{lower[-1]}+")
    if len(spans) == 3:
        return [f"{name} ({span})" for name, span in zip(("cold", "warm", "head"), spans, strict=True)]
    return spans


def assign_strata(interactions: pd.Series, bounds: Sequence[int]) -> pd.Categorical:
    """Return the stratum of each number of training interactions."""
    return pd.cut(interactions, [-np.inf, *bounds, np.inf], right=False, labels=stratum_names(bounds))


def user_strata(users: pd.DataFrame, bounds: Sequence[int]) -> pd.DataFrame:
    """Average each metric over the users of each stratum.

    Parameters
    ----------
    users : DataFrame
        A row for each tested user: ``user_id``, ``train_interactions`` and a column for each metric.
    bounds : sequence of int
        The numbers of training interactions at which strata begin, after 0.

    Returns
    -------
    DataFrame
        A row for each stratum, also for empty ones: ``count`` (users) and the mean of each metric.
    """
    grouped = users.groupby(assign_strata(users["train_interactions"], bounds), observed=False)
    metrics = [column for column in users.columns if column not in ("user_id", "train_interactions")]
    return pd.concat([grouped.size().rename("count"), grouped[metrics].mean()], axis=1).rename_axis("stratum")


def item_strata(ranks: pd.DataFrame, bounds: Sequence[int], topk: Sequence[int]) -> pd.DataFrame:
    """Return the share of test interactions that is found, for the items of each stratum.

    Parameters
    ----------
    ranks : DataFrame
        A row for each test interaction: ``item_interactions`` (the training interactions of its item) and ``rank``,
        from 1, missing where the item is not in the list.
    bounds : sequence of int
        The numbers of training interactions at which strata begin, after 0.
    topk : sequence of int
        The cut-offs.

    Returns
    -------
    DataFrame
        A row for each stratum, also for empty ones: ``count`` (test interactions) and ``recall@k``, the share of them
        with a rank of at most k. Where each user has one test item, the recall over all strata is RecBole's.
    """
    found = pd.DataFrame({f"recall@{k}": (ranks["rank"] <= k).fillna(False).astype(float) for k in topk})
    grouped = found.groupby(assign_strata(ranks["item_interactions"], bounds), observed=False)
    return pd.concat([grouped.size().rename("count"), grouped.mean()], axis=1).rename_axis("stratum")
