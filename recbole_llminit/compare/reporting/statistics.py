"""Paired tests over users: differences, confidence intervals, effect sizes, and Holm's correction."""

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
        The number of users compared, and of seeds over which their differences were averaged.
    difference, low, high : float
        The mean difference and its 95 % confidence interval (Student's t), in the metric's unit.
    effect, effect_low, effect_high : float
        The standardized mean difference of pairs (Cohen's d_z: the mean of the differences divided by their standard
        deviation) and its 95 % interval. The interval is that of the difference divided by the same standard deviation,
        whose own error is neglected: this does not matter below an effect of 0.2, and covers some 89 % instead of 95 %
        at 1.
    p : float
        The p-value of the two-sided paired t-test; 1 where no user differs.
    wins, ties, losses : int
        The numbers of users with a higher, the same and a lower metric.
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
        For each seed the metric of each user, indexed by user. A user with several rows counts with their mean.

    Returns
    -------
    differences : Series
        Indexed by user: the mean over the seeds in which both tested the user.
    seeds : tuple of int
        The seeds that both have.

    Notes
    -----
    Each user has one number: seeds do not make independent users, and a test over users x seeds would count each
    user's taste as often as there are seeds.
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
        The difference of each user; at least two.
    seeds : int
        The number of seeds over which each difference was averaged. It is reported, not used.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    counts = {"users": len(values), "seeds": seeds, "wins": wins, "ties": len(values) - wins - losses}
    if std == 0:
        # All users differ by the same number, which no t-test can weigh: it is certain, or there is no difference.
        p, effect = (1.0, 0.0) if mean == 0 else (0.0, float(np.copysign(np.inf, mean)))
        return PairedTest(**counts, losses=losses, difference=mean, low=mean, high=mean, effect=effect,
                          effect_low=effect, effect_high=effect, p=p)  # fmt: skip
    found = stats.ttest_1samp(values, 0.0)
    low, high = (float(bound) for bound in found.confidence_interval(0.95))
    return PairedTest(**counts, losses=losses, difference=mean, low=low, high=high, effect=mean / std,
                      effect_low=low / std, effect_high=high / std, p=float(found.pvalue))  # fmt: skip


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Correct the p-values of a family of tests (Holm, 1979).

    The probability of any false discovery among all tests of the family stays below the level.
    """
    # Imported here because it belongs to an extra and takes a second to load.
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p_values, method="holm")[1]) if len(p_values) else np.empty(0)
