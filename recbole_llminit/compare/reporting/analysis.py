"""From the finished trials of a comparison to the frames of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_llminit.compare.options import Role
from recbole_llminit.compare.reporting.lines import LINE_COLUMNS, Line
from recbole_llminit.compare.reporting.results import (
    EPOCH_0,
    LineResults,
    Results,
    describe_epoch_0,
    describe_training,
    each_result,
    score_sign,
)
from recbole_llminit.compare.reporting.statistics import (
    correct_tests,
    paired_seed_test,
    paired_test,
    seed_means,
    user_differences,
)
from recbole_llminit.compare.reporting.strata import item_strata, user_strata
from recbole_llminit.compare.runner import seconds_per_epoch
from recbole_llminit.compare.trial import TrialResult
from recbole_llminit.spectrum import Spectrum

_CURVE_COLUMNS = ("epoch", "score", "seconds")
_SPECTRUM_COLUMNS = ("table", "side", "effective_rank", "information_abundance", "singular_values")
_DEFAULT_CUT_OFF = 10


def tested_metrics(valid_metric: str, result: Mapping[str, float], users: pd.DataFrame) -> tuple[str, ...]:
    """Return the metrics that are tested: those at the cut-off of the validation metric that are means over users.

    Where the validation metric has no cut-off, that of the first test metric is taken.

    Parameters
    ----------
    valid_metric : str
        The validation metric, such as ``ndcg@10``.
    result : mapping of str to float
        The test metrics.
    users : DataFrame
        A row for each user; it has a column for each metric that is a mean over users.
    """
    cut_offs = [_cut_off(metric) for metric in (valid_metric, *result) if "@" in metric]
    chosen = cut_offs[0] if cut_offs else ""
    return tuple(metric for metric in result if _cut_off(metric) == chosen and metric in users)


def recall_cut_off(metrics: Sequence[str]) -> int:
    """Return the cut-off at which the recall of test interactions is measured: that of the tested metrics."""
    return int(_cut_off(metrics[0])) if metrics else _DEFAULT_CUT_OFF


def headline_metrics(metrics: Sequence[str], valid_metric: str) -> tuple[str, ...]:
    """Return the two metrics that the verdict and the table show: the first, and the validation metric or the second.

    Parameters
    ----------
    metrics : sequence of str
        The tested metrics.
    valid_metric : str
        The validation metric.
    """
    if valid_metric in metrics[1:]:
        return metrics[0], valid_metric
    return tuple(metrics[:2])


def tabulate_tests(results: Results, metrics: Sequence[str]) -> pd.DataFrame:
    """Return a row for each pair of lines that is tested, and each metric.

    Each LLM initialization is tested against every baseline and against the initializations of its model without an
    LLM; each control is tested against the stock initializations of its model. The tests of the same part and metric
    are a family; see `correct_tests`.
    """
    rows = [
        {
            **line._asdict(),
            "reference": of_other.name(other),
            "of_model": _has_model_of(line, other, of_other.role),
            "metric": metric,
            **tested,
        }
        for line, of_line in results.items()
        for other, of_other in results.items()
        if _is_tested(line, of_line.role, other, of_other.role)
        for metric in metrics
        for tested in _test_pair(_by_seed(of_line, metric), _by_seed(of_other, metric))
    ]
    if not rows:
        return pd.DataFrame()
    families = pd.DataFrame(rows).groupby(["dataset", "drop", "metric"], sort=False)
    return pd.concat([correct_tests(family) for _, family in families]).sort_index()


def tabulate_strata(results: Results, options: Mapping[str, Any], metrics: Sequence[str]) -> pd.DataFrame:
    """Return a row for each line, side (user, item) and stratum that is not empty: counts and metrics over the seeds.

    Counts and metrics are means over the seeds.
    """
    cut_off = recall_cut_off(metrics)
    frames = []
    for line, of_line in results.items():
        trials = list(of_line.by_seed.values())
        user_columns = ["user_id", "train_interactions", *metrics]
        by_side = {
            "user": [user_strata(trial.users[user_columns], options["user_strata"]) for trial in trials],
            "item": [item_strata(trial.ranks, options["item_strata"], [cut_off]) for trial in trials],
        }
        for side, by_seed in by_side.items():
            means = pd.concat(by_seed).groupby(level=0, observed=False).mean().reset_index()
            means = means[means["count"] > 0]
            for place, (column, value) in enumerate({**line._asdict(), "role": of_line.role, "side": side}.items()):
                means.insert(place, column, value)
            frames.append(means.astype({"stratum": object}))
    return pd.concat(frames, ignore_index=True)


def tabulate_efficiency(results: Results, metrics: Sequence[str]) -> pd.DataFrame:
    """Return a row for each line: parameters, times and memory, medians over the seeds.

    It also says when the line reaches the best validation score of the stock initialization with the same seed, and
    what the model scores at epoch 0 (at validation, and in these metrics at test), as means over the seeds, where the
    trials have measured that.
    """
    at_start = [f"{EPOCH_0} {name}" for name in ("valid_score", *metrics)]
    rows = []
    for line, of_line in results.items():
        stock = results.get(line._replace(initialization="none"))
        stock_by_seed = stock.by_seed if stock else {}
        measured = [
            {**_measure_efficiency(result.content, stock_by_seed.get(seed)), **describe_epoch_0(result.content)}
            for seed, result in of_line.by_seed.items()
        ]
        frame = pd.DataFrame(measured).astype(float)
        common_seeds = sum(seed in stock_by_seed for seed in of_line.by_seed)
        rows.append(
            {
                **line._asdict(),
                "role": of_line.role,
                **frame.drop(columns=frame.columns[frame.columns.str.startswith(EPOCH_0)]).median().to_dict(),
                # As in the table of the report.
                **frame[frame.columns.intersection(at_start, sort=False)].mean().to_dict(),
                "seeds_at_limit": int(frame["at_limit"].sum()),
                # A seed that never gets there counts as later than any that does.
                **{key: _median_or_never(frame[key]) for key in ("epochs_to_stock", "seconds_to_stock")},
                "seeds": common_seeds,
                "seeds_reaching_stock": int(frame["epochs_to_stock"].notna().sum()) if common_seeds else None,
            }
        )
    return pd.DataFrame(rows)


def tabulate_curves(results: Results) -> pd.DataFrame:
    """Return a row for each line, seed and validation: epoch, score, and seconds since the start of the run.

    Epoch 0 is the untrained model; it is there where the trial has measured it, without seconds.
    """
    rows = [
        {**line._asdict(), "role": results[line].role, "seed": seed, **point}
        for line, seed, result in each_result(results)
        for point in (*_untrained_point(result.content), *result.content["curve"])
    ]
    return pd.DataFrame(rows, columns=[*LINE_COLUMNS, "role", "seed", *_CURVE_COLUMNS])


def tabulate_spectra(results: Results) -> pd.DataFrame:
    """Return a row for each line, seed and trained user or item table: its singular values and what they say."""
    rows = []
    for line, seed, result in each_result(results):
        # Trials of an earlier version have no spectra.
        for table in result.content.get("spectra", ()):
            spectrum = Spectrum(tuple(table["spectrum"]["singular_values"]))
            rows.append(
                {
                    **line._asdict(),
                    "role": results[line].role,
                    "seed": seed,
                    "table": table["label"],
                    "side": table["side"],
                    "effective_rank": spectrum.effective_rank,
                    "information_abundance": spectrum.information_abundance,
                    "singular_values": list(spectrum.singular_values),
                }
            )
    return pd.DataFrame(rows, columns=[*LINE_COLUMNS, "role", "seed", *_SPECTRUM_COLUMNS])


def _cut_off(metric: str) -> str:
    return metric.rpartition("@")[2]


def _is_tested(line: Line, role: Role, other: Line, other_role: Role) -> bool:
    if line.part != other.part:
        return False
    same_model = _has_model_of(line, other, other_role)
    if role == "llm":
        return other_role == "baseline" or (same_model and other_role != "llm")
    return role == "control" and other_role == "stock" and same_model


def _has_model_of(line: Line, other: Line, other_role: Role) -> bool:
    """Whether another line is an initialization of the same model; a baseline is none, whatever it is called."""
    return line.model == other.model and other_role != "baseline"


def _test_pair(first: Mapping[int, pd.Series], second: Mapping[int, pd.Series]) -> list[dict[str, Any]]:
    """Return means and tests of a pair of lines over the seeds that both have; nothing with fewer than two users.

    Parameters
    ----------
    first, second : mapping of int to Series
        For each seed the metric of each user, indexed by user.
    """
    differences, seeds = user_differences(first, second)
    if len(differences) < 2:
        return []
    means, other_means = seed_means(first).loc[list(seeds)], seed_means(second).loc[list(seeds)]
    found = {"mean": means.mean(), "reference_mean": other_means.mean()}
    found |= vars(paired_test(differences, len(seeds))) | vars(paired_seed_test(means, other_means))
    return [found]


def _by_seed(results: LineResults, metric: str) -> dict[int, pd.Series]:
    return {seed: result.users.set_index("user_id")[metric] for seed, result in results.by_seed.items()}


def _measure_efficiency(content: Mapping[str, Any], stock: TrialResult | None) -> dict[str, Any]:
    reached = None if stock is None else _reach(content, stock.content["best_valid_score"])
    epochs_to_stock, seconds_to_stock = reached or (None, None)
    training = describe_training(content)
    return {
        "parameters": content["parameters"],
        "initialization_seconds": content["initialization_seconds"],
        "seconds_per_epoch": seconds_per_epoch(content["curve"]),
        "peak_memory_bytes": content["peak_memory_bytes"],
        "best_epoch": training["best_epoch"],
        "at_limit": training["at_limit"],
        "epochs_to_stock": epochs_to_stock,
        "seconds_to_stock": seconds_to_stock,
    }


def _untrained_point(content: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the point of the curve at epoch 0; nothing where the trial has not measured it."""
    score = content.get("untrained_valid_score")
    return [] if score is None else [{"epoch": 0, "score": score, "seconds": math.nan}]


def _reach(content: Mapping[str, Any], target: float) -> tuple[int, float] | None:
    """Return the epoch and the seconds of training at which the validation score is first as good as the target."""
    curve, sign = content["curve"], score_sign(content)
    for point in curve:
        if sign * point["score"] >= sign * target:
            # The curve does not tell the first epochs apart from the loading before them.
            first = (seconds_per_epoch(curve) or 0.0) * curve[0]["epoch"]
            return point["epoch"], point["seconds"] - curve[0]["seconds"] + first
    return None


def _median_or_never(values: pd.Series) -> float:
    """Return the median where a missing value counts as infinite; NaN where the median is infinite."""
    median = float(values.fillna(np.inf).median())
    return median if math.isfinite(median) else math.nan
