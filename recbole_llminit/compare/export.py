"""A report as files: markdown, CSV, figures, and one HTML page."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_llminit.compare.figures import kind_of, save_png, to_svg
from recbole_llminit.compare.report import LINE, Report, draw_markdown, escape_markdown, part_title
from recbole_llminit.files import write_text

_CAPTIONS = {
    "convergence": "Best validation score so far by epoch, mean and range over the seeds. A run that has stopped keeps "
    "its best; baselines, which are not trained in epochs, are levels.",
    "strata": "Test metric of users by their training interactions (above), and the share of test interactions that is "
    "found by their item's training interactions (below), means over the seeds.",
    "spectrum": "Singular values of the trained item tables over the largest, mean over the seeds: where a curve falls "
    "early, few dimensions are used.",
    "cold start": "Test metric by the share of the training interactions that was dropped at random; on the right each "
    "user keeps one. Mean over the seeds.",
}


def save_report(report: Report, folder: str | Path) -> list[Path]:
    """Write a report into a folder; return the files.

    ``report.html`` stands alone: it needs no network and no other file. ``report.md`` shows the PNG figures beside it,
    ``report.csv`` is the table, ``trials.csv`` and ``tests.csv`` what it was made from.

    Parameters
    ----------
    report : Report
        What to write.
    folder : path
        Made if it is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = save_png(report, folder)
    shared = {
        "report": report,
        "options": yaml.safe_dump(_plain(report.options), sort_keys=False, width=110),
        "sections": report.sections(),
        "captions": _CAPTIONS,
        "tests": _tests(report),
        "strata": _strata(report),
        "efficiency": _efficiency(report),
        "spectra": _spectra(report),
        "tuned": _tuned(report),
        "protocol": _protocol(report),
        "title": part_title,
        "kind_of": kind_of,
        # On the page better is above and worse below, and bold is bold.
        "legend": report.legend.replace("(-letter: worse)", "(below: worse)").replace("* (bold)", "Bold"),
    }
    texts = {
        "report.md": _render("report.md.j2", {**shared, "figures": images}, escape=False),
        "report.html": _render("report.html.j2", {**shared, "figures": to_svg(report)}, escape=True),
        "report.csv": report.to_dataframe().to_csv(index=False),
        "trials.csv": report.runs.to_csv(index=False),
        "tests.csv": report.tests.to_csv(index=False),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in (*texts, *images.values())]


def _render(name: str, context: dict[str, Any], *, escape: bool) -> str:
    from jinja2 import Environment, StrictUndefined

    template = (importlib.resources.files("recbole_llminit.compare") / name).read_text(encoding="utf-8")
    environment = Environment(autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701  in markdown names are escaped by filters
    environment.filters["markdown"] = lambda frame: draw_markdown(
        frame.rename(columns=escape_markdown).map(escape_markdown)
    )
    environment.filters["text"] = escape_markdown
    return environment.from_string(template).render(**context)


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML writes."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _by_part(frame: pd.DataFrame, shown: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return a frame's part of each dataset and each amount of dropped interactions, as it is shown."""
    if frame.empty:
        return {}
    return {key: shown(part) for key, part in frame.groupby(LINE[:2], sort=False)}


def _tests(report: Report) -> dict[tuple[str, str], pd.DataFrame]:
    def shown(part: pd.DataFrame) -> pd.DataFrame:
        rows = []
        for test in part.itertuples(index=False):
            rows.append(
                {
                    "metric": test.metric,
                    "model": test.model,
                    "initialization": test.initialization,
                    "against": test.reference,
                    "difference [95 % interval]": f"{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]",
                    "d_z [95 % interval]": f"{test.effect:+.3f} [{test.effect_low:+.3f}, {test.effect_high:+.3f}]",
                    "win / tie / loss": f"{test.wins:,} / {test.ties:,} / {test.losses:,}",
                    "p": f"{test.p:.2g}",
                    "p (Holm)": f"{test.p_holm:.2g}",
                    "users": f"{test.users:,}",
                    "seeds": str(test.seeds),
                }
            )
        return pd.DataFrame(rows).sort_values("metric", kind="stable", key=lambda names: names.map(order))

    order = {metric: number for number, metric in enumerate(report.metrics)}
    return _by_part(report.tests, shown)


def _strata(report: Report) -> dict[tuple[str, str], pd.DataFrame]:
    def shown(part: pd.DataFrame) -> pd.DataFrame:
        cut = report.metrics[0].rpartition("@")[2] if report.metrics else "10"
        # Two tell the story; all stand in Report.strata.
        columns = {"user": list(report.metrics[:2]), "item": [f"recall@{cut}"]}
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for row in part.to_dict("records"):
            cells = rows.setdefault(
                (row["model"], row["initialization"]), {"model": row["model"], "initialization": row["initialization"]}
            )
            for metric in columns[row["side"]]:
                number = "-" if pd.isna(row[metric]) else f"{row[metric]:.4f}"
                cells[f"{row['side']}s {row['stratum']}, {row['count']:,.0f}: {metric}"] = number
        return pd.DataFrame(list(rows.values())).fillna("-")

    return _by_part(report.strata, shown)


def _efficiency(report: Report) -> dict[tuple[str, str], pd.DataFrame]:
    def shown(part: pd.DataFrame) -> pd.DataFrame:
        rows = []
        for row in part.itertuples(index=False):
            reached = "-" if pd.isna(row.seeds_reaching_stock) else f"{row.seeds_reaching_stock:.0f} of {row.seeds}"
            rows.append(
                {
                    "model": row.model,
                    "initialization": row.initialization,
                    "parameters": f"{row.parameters:,.0f}" if row.initialization else "-",
                    "initialization (s)": _number(row.initialization_seconds, 3),
                    "seconds per epoch": _number(row.seconds_per_epoch, 2),
                    "best epoch": _number(row.best_epoch, 0),
                    "seeds that ran into the limit": str(row.seeds_at_limit),
                    "epochs to the stock initialization's best": _number(row.epochs_to_stock, 0),
                    "seconds to it": _number(row.seconds_to_stock, 1),
                    "seeds that reach it": reached,
                    "peak memory (MB)": _number(row.peak_memory_bytes / 1e6, 0),
                }
            )
        return pd.DataFrame(rows)

    return _by_part(report.efficiency, shown)


def _spectra(report: Report) -> dict[tuple[str, str], pd.DataFrame]:
    def shown(part: pd.DataFrame) -> pd.DataFrame:
        lines = part.assign(dimensions=part["singular_values"].map(len).astype(str)).groupby(
            ["model", "initialization", "table", "dimensions"], sort=False
        )
        means = lines.agg(rank=("effective_rank", "mean"), abundance=("information_abundance", "mean")).reset_index()
        for column in ("rank", "abundance"):
            means[column] = [_number(value, 1) for value in means[column]]
        return means.rename(columns={"rank": "effective rank", "abundance": "information abundance"})

    return _by_part(report.spectra, shown)


def _tuned(report: Report) -> dict[tuple[str, str], pd.DataFrame]:
    runs = report.runs[report.runs["candidates"] > 1]

    def shown(part: pd.DataFrame) -> pd.DataFrame:
        shown = part[["model", "initialization", "seed", "candidates", "tuned", "at_edge"]].astype(str)
        return shown.rename(columns={"at_edge": "at the edge of its grid"})

    return _by_part(runs, shown)


def _protocol(report: Report) -> dict[tuple[str, str], pd.DataFrame]:
    def shown(part: pd.DataFrame) -> pd.DataFrame:
        row = part.iloc[0].drop(LINE[:2]).dropna()
        return pd.DataFrame(
            {"what": [name.replace("_", " ") for name in row.index], "value": [str(cell) for cell in row]}
        )

    return _by_part(report.protocol, shown)


def _number(value: float, places: int) -> str:
    return "-" if pd.isna(value) else f"{value:,.{places}f}"
