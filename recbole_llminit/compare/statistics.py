"""Paired tests over users, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class PairedTest:
    """How two systems differ on the same users.

    Parameters
    ----------
    users, seeds : int
        How many users were compared, and over how many seeds their differences were averaged.
    difference, low, high : float
        The mean difference and its 95 % confidence interval (Student's t), in the metric's unit.
    effect, effect_low, effect_high : float
        The standardised mean difference of pairs (Cohen's d_z: the mean by the standard deviation of the differences)
        and its 95 % interval: that of the difference by the same deviation, whose own error is left out (of no weight
        below 0.2, some 89 % instead of 95 % at 1).
    p : float
        Of the two-sided paired t-test; 1 where no user differs.
    wins, ties, losses : int
        Users with a higher, the same and a lower metric.
    """

    users: int
    seeds: int
    difference: float
    low: float
    high: float
    effect: float
    effect_low: float
    effect_high: float
    p: float
    wins: int
    ties: int
    losses: int


def user_differences(
    first: Mapping[int, pd.Series], second: Mapping[int, pd.Series]
) -> tuple[pd.Series, tuple[int, ...]]:
    """Return each user's difference ``first - second``, averaged over the seeds that both have.

    Parameters
    ----------
    first, second : mapping of int to Series
        By seed, each user's metric, indexed by user; a user that stands more than once counts with the mean.

    Returns
    -------
    differences : Series
        By user; of the seeds in which both tested the user.
    seeds : tuple of int
        The seeds.

    Notes
    -----
    One number per user: seeds are no independent users, and a test over users x seeds would count each user's taste
    as often as there are seeds.
    """
    seeds = tuple(seed for seed in first if seed in second)
    by_seed = [
        first[seed].groupby(level=0).mean().sub(second[seed].groupby(level=0).mean()).rename(seed) for seed in seeds
    ]
    if not by_seed:
        return pd.Series(dtype=np.float64), ()
    return pd.concat(by_seed, axis=1).mean(axis=1).dropna(), seeds


def paired_test(differences: npt.ArrayLike, seeds: int = 1) -> PairedTest:
    """Test whether the mean of paired differences is zero.

    Parameters
    ----------
    differences : array of float, shape [n_users]
        At least two.
    seeds : int
        Over how many seeds each was averaged; reported, not used.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    counts = {"users": len(values), "seeds": seeds, "wins": wins, "ties": len(values) - wins - losses}
    if deviation == 0:
        # All users differ by the same: no test can weigh it, and nothing is to be weighed where that is zero.
        p, effect = (1.0, 0.0) if mean == 0 else (0.0, float(np.copysign(np.inf, mean)))
        return PairedTest(**counts, losses=losses, difference=mean, low=mean, high=mean, effect=effect,
                          effect_low=effect, effect_high=effect, p=p)  # fmt: skip
    found = stats.ttest_1samp(values, 0.0)
    low, high = (float(bound) for bound in found.confidence_interval(0.95))
    return PairedTest(**counts, losses=losses, difference=mean, low=low, high=high, effect=mean / deviation,
                      effect_low=low / deviation, effect_high=high / deviation, p=float(found.pvalue))  # fmt: skip


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Correct the p-values of a family of tests (Holm, 1979): the chance of any false discovery stays at the level."""
    # Imported where it is used: an extra, and a second to load.
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p_values, method="holm")[1]) if len(p_values) else np.empty(0)
