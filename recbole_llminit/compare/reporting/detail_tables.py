"""The further tables of a report, as texts: tests, strata, efficiency, spectra, tuning, and the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from recbole_llminit.compare.reporting.analysis import recall_cut_off
from recbole_llminit.compare.reporting.lines import PART_COLUMNS, Part
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.results import EPOCH_0
from recbole_llminit.compare.reporting.table import count_values

TablesByPart = dict[Part, pd.DataFrame]


def detail_tables(report: Report) -> dict[str, TablesByPart]:
    """Return the further tables of a report by name, each a frame of texts for each of its parts.

    Parameters
    ----------
    report : Report
        The report.

    Returns
    -------
    dict of str to dict of Part to DataFrame
        ``tests``, ``strata``, ``efficiency``, ``spectra``, ``tuned`` and ``protocol``. A table without rows has no
        parts.
    """
    tuned = report.runs[report.runs["candidates"] > 1]
    return {
        "tests": _by_part(report.tests, lambda part: _describe_tests(part, report.metrics)),
        "strata": _by_part(report.strata, lambda part: _describe_strata(part, report.headline)),
        "efficiency": _by_part(report.efficiency, lambda part: _describe_efficiency(part, report)),
        "spectra": _by_part(report.spectra, _describe_spectra),
        "tuned": _by_part(tuned, _describe_tuned),
        "protocol": _by_part(report.protocol, _describe_protocol),
    }


def _by_part(frame: pd.DataFrame, describe: Callable[[pd.DataFrame], pd.DataFrame]) -> TablesByPart:
    if frame.empty:
        return {}
    return {Part(*key): describe(part) for key, part in frame.groupby(PART_COLUMNS, sort=False)}


def _describe_tests(part: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {
            "metric": test.metric,
            "model": test.model,
            "initialization": test.initialization,
            "against": test.reference,
            "difference": f"{test.difference:+.4f}",
            "95 % interval over users": f"[{test.low:+.4f}, {test.high:+.4f}]",
            "95 % interval over seeds": _interval(test.low_seeds, test.high_seeds),
            "p over users (Holm)": _p(test.p_holm),
            "p over seeds": _p(test.p_seeds),
            "p over seeds (Holm)": _p(test.p_seeds_holm),
            "outcome": test.outcome,
            "d_z": f"{test.effect:+.3f}",
            "users won / tied / lost": f"{test.wins:,} / {test.ties:,} / {test.losses:,}",
            "seeds": str(test.seeds),
        }
        for test in part.itertuples(index=False)
    ]
    order = {metric: number for number, metric in enumerate(metrics)}
    return pd.DataFrame(rows).sort_values("metric", kind="stable", key=lambda names: names.map(order))


def _describe_strata(part: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    # All metrics of users are in Report.strata.
    metrics_of = {"user": list(metrics), "item": [f"recall@{recall_cut_off(metrics)}"]}
    # A baseline may have other seeds, and with them other counts.
    counts = part.drop_duplicates(["side", "stratum"]).set_index(["side", "stratum"])["count"]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in part.to_dict("records"):
        side, stratum = row["side"], row["stratum"]
        names = {"model": row["model"], "initialization": row["initialization"]}
        cells = rows.setdefault((row["model"], row["initialization"]), names)
        for metric in metrics_of[side]:
            cells[f"{side}s {stratum}, n = {counts[side, stratum]:,.0f}: {metric}"] = _format(row[metric], 4)
    return pd.DataFrame(list(rows.values())).fillna("-")


def _describe_efficiency(part: pd.DataFrame, report: Report) -> pd.DataFrame:
    headings = {f"{EPOCH_0} valid_score": f"{EPOCH_0} validation {report.valid_metric}"}
    headings |= {f"{EPOCH_0} {metric}": f"{EPOCH_0} {metric}" for metric in report.headline}
    # Another dataset may be the one that has measured it.
    headings = {
        column: heading for column, heading in headings.items() if column in part and part[column].notna().any()
    }
    return pd.DataFrame([_describe_efficiency_row(row, headings) for row in part.to_dict("records")])


def _describe_efficiency_row(row: Mapping[str, Any], at_start: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of a row; ``at_start`` has the headings of its columns of epoch 0."""
    reached = "-" if pd.isna(row["seeds_reaching_stock"]) else f"{row['seeds_reaching_stock']:.0f} of {row['seeds']}"
    return {
        "model": row["model"],
        "initialization": row["initialization"],
        **{heading: _format(row[column], 4) for column, heading in at_start.items()},
        "parameters": "-" if row["role"] == "baseline" else f"{row['parameters']:,.0f}",
        "initialization (s)": _format(row["initialization_seconds"], 3),
        "seconds per epoch": _format(row["seconds_per_epoch"], 2),
        "best epoch": _format(row["best_epoch"], 0),
        "runs ended by the limit": str(row["seeds_at_limit"]),
        "epochs to stock's best": _format(row["epochs_to_stock"], 0),
        "seconds to it": _format(row["seconds_to_stock"], 1),
        "seeds that reach it": reached,
        "peak memory (MB)": _format(row["peak_memory_bytes"] / 1e6, 0),
    }


def _describe_spectra(part: pd.DataFrame) -> pd.DataFrame:
    # A grid may have chosen another width with another seed.
    grouped = part.assign(dimensions=part["singular_values"].map(len).astype(str)).groupby(
        ["model", "initialization", "table", "dimensions"], sort=False
    )
    means = grouped[["effective_rank", "information_abundance"]].mean().reset_index()
    for column in ("effective_rank", "information_abundance"):
        means[column] = [_format(value, 1) for value in means[column]]
    return means.rename(columns=lambda column: column.replace("_", " "))


def _describe_tuned(part: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (model, initialization), runs in part.groupby(["model", "initialization"], sort=False):
        names = {"model": model, "initialization": initialization, "seeds": str(len(runs))}
        chosen = {"candidates": f"{runs['candidates'].max()}", "chosen": count_values(runs["tuned"])}
        rows.append({**names, **chosen, "at the edge of its grid": count_values(runs["at_edge"])})
    return pd.DataFrame(rows)


def _describe_protocol(part: pd.DataFrame) -> pd.DataFrame:
    row = part.iloc[0].drop(PART_COLUMNS).dropna()
    return pd.DataFrame({"what": [name.replace("_", " ") for name in row.index], "value": [str(cell) for cell in row]})


def _p(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2g}"


def _interval(low: float, high: float) -> str:
    return "-" if pd.isna(low) else f"[{low:+.4f}, {high:+.4f}]"


def _format(value: float, places: int) -> str:
    return "-" if pd.isna(value) else f"{value:,.{places}f}"
