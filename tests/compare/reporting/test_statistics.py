"""The statistics of a comparison against literal answers and other packages."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from recbole_llminit.compare.reporting.statistics import (
    correct_tests,
    holm,
    paired_seed_test,
    paired_test,
    seed_means,
    user_differences,
)


def test_a_small_case_by_hand() -> None:
    # Mean 3, standard deviation sqrt(2.5), t = 3 / sqrt(2.5 / 5) = 4.2426; quantile 0.975 of t with 4 degrees: 2.7764.
    found = paired_test([1, 2, 3, 4, 5], seeds=3)
    assert (found.users, found.seeds, found.wins, found.ties, found.losses) == (5, 3, 5, 0, 0)
    assert found.difference == 3
    assert (found.low, found.high) == pytest.approx((3 - 2.7764 * 0.70711, 3 + 2.7764 * 0.70711), abs=1e-4)
    assert found.effect == pytest.approx(3 / np.sqrt(2.5))
    assert (found.effect_low, found.effect_high) == pytest.approx((found.low / 2.5**0.5, found.high / 2.5**0.5))
    assert found.p == pytest.approx(0.013236, abs=1e-6)


def test_against_other_implementations() -> None:
    first, second = np.random.default_rng(0).random((2, 300)).round(1)
    found = paired_test(first - second)
    rows = DescrStatsW(first - second)
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-12)
    assert found.p == pytest.approx(rows.ttest_mean()[1], rel=1e-12)
    assert (found.low, found.high) == pytest.approx(rows.tconfint_mean(), rel=1e-12)
    assert found.wins == (first > second).sum() and found.losses == (first < second).sum()
    assert found.wins + found.ties + found.losses == 300 and found.ties > 0


def test_the_interval_covers_the_truth_in_19_of_20_cases() -> None:
    generator = np.random.default_rng(1)
    tests = [paired_test(generator.normal(0.1, 1, size=60)) for _ in range(2000)]
    covered = sum(test.low <= 0.1 <= test.high for test in tests)
    # Binomial(2000, 0.95): six standard deviations are 58.
    assert abs(covered - 1900) < 58


def test_no_difference_and_the_same_difference_for_all() -> None:
    same = paired_test([0.0, 0.0, 0.0])
    assert (same.p, same.difference, same.low, same.high, same.effect) == (1, 0, 0, 0, 0)
    assert (same.wins, same.ties, same.losses) == (0, 3, 0)
    always = paired_test([-1.0, -1.0])
    assert (always.p, always.difference, always.effect, always.losses) == (0, -1, -np.inf, 2)


def test_holm_by_hand() -> None:
    # Smallest first: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, and no later one below an earlier.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([0.02]).tolist() == [0.02]
    assert holm([]).tolist() == []


def series(**values: float) -> pd.Series:
    return pd.Series(values, dtype=float)


def test_a_users_differences_are_averaged_over_the_seeds_first() -> None:
    first = {1: series(a=1.0, b=0.0, c=1.0), 2: series(a=0.0, b=0.5), 3: series(a=9.0)}
    second = {2: series(a=1.0, b=0.0), 1: series(a=0.0, b=0.0, c=1.0), 4: series(a=0.0)}
    differences, seeds = user_differences(first, second)
    assert seeds == (1, 2)
    assert differences.to_dict() == {"a": 0.0, "b": 0.25, "c": 0.0}


def test_a_user_with_several_rows_counts_once() -> None:
    first = {1: pd.Series([1.0, 0.0, 0.0], index=["a", "a", "b"])}
    differences, _ = user_differences(first, {1: pd.Series([0.0, 0.0, 1.0], index=["a", "a", "b"])})
    assert differences.to_dict() == {"a": 0.5, "b": -1.0}


def test_without_a_common_seed_there_is_nothing() -> None:
    differences, seeds = user_differences({1: series(a=1.0)}, {2: series(a=0.0)})
    assert len(differences) == 0 and seeds == ()


def test_seeds_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1, t = 2 / (1 / sqrt(3)); quantile 0.975 of t with 2 degrees: 4.3027.
    found = paired_seed_test(pd.Series({1: 2.0, 2: 4.0, 3: 6.0}), pd.Series({3: 3.0, 2: 2.0, 1: 1.0, 4: 9.0}))
    assert found.difference_seeds == 2
    assert (found.low_seeds, found.high_seeds) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert found.p_seeds == pytest.approx(0.074180, abs=1e-6)


def test_seeds_against_another_implementation() -> None:
    first, second = np.random.default_rng(2).random((2, 5))
    found = paired_seed_test(pd.Series(first), pd.Series(second))
    oracle = stats.ttest_rel(first, second)
    assert found.p_seeds == pytest.approx(oracle.pvalue, rel=1e-12)
    assert (found.low_seeds, found.high_seeds) == pytest.approx(tuple(oracle.confidence_interval()), rel=1e-12)


def test_fewer_than_three_seeds_are_not_tested() -> None:
    found = paired_seed_test(pd.Series({1: 2.0, 2: 4.0, 5: 1.0}), pd.Series({1: 1.0, 2: 1.0, 4: 1.0}))
    assert np.isnan([found.difference_seeds, found.low_seeds, found.high_seeds, found.p_seeds]).all()


def test_the_mean_of_a_seed_counts_each_user_once() -> None:
    found = seed_means({7: pd.Series([1.0, 0.0, 0.0], index=["a", "a", "b"]), 8: series(a=1.0, b=0.0)})
    assert found.to_dict() == {7: 0.25, 8: 0.5}


def test_the_outcome_needs_both_tests() -> None:
    nan = float("nan")
    tests = pd.DataFrame(
        [
            # difference, p, difference_seeds, p_seeds
            (0.1, 0.001, 0.1, 0.001),
            (-0.1, 0.001, -0.1, 0.001),
            (0.1, 0.001, 0.1, 0.2),
            (0.1, 0.2, 0.1, 0.001),
            (0.1, 0.001, -0.1, 0.001),
            (0.1, 0.001, nan, nan),
            (-0.1, 0.2, nan, nan),
            (0.1, 0.001, 0.1, 0.04),
        ],
        columns=["difference", "p", "difference_seeds", "p_seeds"],
        index=range(10, 18),
    )
    found = correct_tests(tests)
    assert found["outcome"].to_list() == [
        "better", "worse", "undecided", "undecided", "undecided", "better", "undecided", "better"
    ]  # fmt: skip
    # Families of eight and of six: 0.001 x 8 and x 6.
    assert found["p_holm"].to_list() == pytest.approx([0.008, 0.008, 0.008, 0.4, 0.008, 0.008, 0.4, 0.008])
    seeds_holm = [0.006, 0.006, 0.2, 0.006, 0.006, nan, nan, 0.08]
    assert found["p_seeds_holm"].to_list() == pytest.approx(seeds_holm, nan_ok=True)
    assert list(found.index) == list(range(10, 18))


def test_holm_may_overturn_a_test_over_users_and_none_over_seeds() -> None:
    family = {"difference": 0.1, "difference_seeds": 0.1}
    users = pd.DataFrame([{**family, "p": p, "p_seeds": 0.001} for p in (0.03, 0.04)])
    assert correct_tests(users)["outcome"].to_list() == ["undecided", "undecided"]
    assert correct_tests(users.iloc[:1])["outcome"].to_list() == ["better"]
    seeds = pd.DataFrame([{**family, "p": 0.001, "p_seeds": p} for p in (0.03, 0.04)])
    found = correct_tests(seeds)
    assert (found["p_seeds_holm"] > 0.05).all() and found["outcome"].to_list() == ["better", "better"]
