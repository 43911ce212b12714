"""Paired tests over users and over seeds, Holm's correction, and what both tests together decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

SIGNIFICANCE_LEVEL = 0.05
LEAST_SEEDS = 3
"""The number of seeds from which on their means are tested: with two the test has one degree of freedom."""
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


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


@dataclass(frozen=True)
class SeedTest:
    """How the means of two systems differ over the seeds; all NaN with fewer than `LEAST_SEEDS` seeds.

    Parameters
    ----------
    difference_seeds, low_seeds, high_seeds : float
        The mean difference of the seeds' means and its 95 % confidence interval (Student's t).
    p_seeds : float
        The p-value of the two-sided paired t-test over the seeds' means.
    """

    difference_seeds: float
    low_seeds: float
    high_seeds: float
    p_seeds: float


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
    mean, low, high, p = _t_test(values)
    # All users may differ by the same number, which has no spread to measure it by.
    std = float(values.std(ddof=1)) if np.ptp(values) else 0.0
    effect, effect_low, effect_high = (_standardize(value, std) for value in (mean, low, high))
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    return PairedTest(users=len(values), seeds=seeds, difference=mean, low=low, high=high, effect=effect,
                      effect_low=effect_low, effect_high=effect_high, p=p, wins=wins,
                      ties=len(values) - wins - losses, losses=losses)  # fmt: skip


def seed_means(by_seed: Mapping[int, pd.Series]) -> pd.Series:
    """Return the mean metric of each seed.

    Parameters
    ----------
    by_seed : mapping of int to Series
        For each seed the metric of each user, indexed by user. A user with several rows counts with their mean.
    """
    return pd.Series({seed: users.groupby(level=0).mean().mean() for seed, users in by_seed.items()}, dtype=np.float64)


def paired_seed_test(first: pd.Series, second: pd.Series) -> SeedTest:
    """Test whether the means of two systems differ over the seeds that both have.

    Parameters
    ----------
    first, second : Series
        The mean metric of each seed, indexed by seed.

    Notes
    -----
    The seeds of a random split share most of their training data, so that this test is somewhat too sure (Nadeau and
    Bengio, Machine Learning 52, 2003).
    """
    differences = first.sub(second).dropna().to_numpy()
    if len(differences) < LEAST_SEEDS:
        return SeedTest(np.nan, np.nan, np.nan, np.nan)
    return SeedTest(*_t_test(differences))


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Correct the p-values of a family of tests (Holm, 1979).

    The probability of any false discovery among all tests of the family stays below the level.
    """
    # Imported here because it belongs to an extra and takes a second to load.
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p_values, method="holm")[1]) if len(p_values) else np.empty(0)


def correct_tests(tests: pd.DataFrame) -> pd.DataFrame:
    """Return a family of tests with corrected p-values and outcomes.

    Parameters
    ----------
    tests : DataFrame
        The fields of `PairedTest` and `SeedTest`.

    Returns
    -------
    DataFrame
        The same rows with ``p_holm``, ``p_seeds_holm`` (over the pairs with enough seeds), and ``outcome``: ``better``
        or ``worse`` where ``p_holm`` and ``p_seeds`` are below `SIGNIFICANCE_LEVEL` and both differences have that
        sign, else ``undecided``. With fewer than `LEAST_SEEDS` seeds the test over users decides alone.

    Notes
    -----
    The corrected test over users bounds the false discoveries of the family. The test over seeds can only take
    outcomes away, so that it decides without a correction.
    """
    has_seeds = tests["p_seeds"].notna()
    p_seeds_holm = pd.Series(np.nan, index=tests.index)
    p_seeds_holm[has_seeds] = holm(tests.loc[has_seeds, "p_seeds"].to_list())
    corrected = tests.assign(p_holm=holm(tests["p"].to_list()), p_seeds_holm=p_seeds_holm)
    by_users = np.sign(corrected["difference"]).where(corrected["p_holm"] < SIGNIFICANCE_LEVEL, 0)
    by_seeds = np.sign(corrected["difference_seeds"]).where(corrected["p_seeds"] < SIGNIFICANCE_LEVEL, 0)
    agreed = by_users.where(~has_seeds | (by_users == by_seeds), 0)
    return corrected.assign(outcome=agreed.map({1: BETTER, -1: WORSE, 0: UNDECIDED}))


def _t_test(differences: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return the mean of paired differences, its 95 % interval, and the p-value of the two-sided t-test."""
    if np.ptp(differences) == 0:
        # All differ by the same number, which no t-test can weigh: it is certain, or there is no difference.
        mean = float(differences[0])
        return mean, mean, mean, float(mean == 0)
    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(0.95)
    return float(differences.mean()), float(low), float(high), float(found.pvalue)


def _standardize(value: float, std: float) -> float:
    if std:
        return value / std
    return float(np.copysign(np.inf, value)) if value else 0.0
