"""A report as files: markdown, CSV, figures, and a self-contained HTML file."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import yaml

from recbole_llminit.compare.reporting.detail_tables import detail_tables
from recbole_llminit.compare.reporting.figures import kind_of, save_png, to_svg
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.table import draw_markdown, escape_markdown
from recbole_llminit.files import write_text

_CAPTIONS = {
    "convergence": "Best validation score so far by epoch, mean and range over the seeds. Epoch 0 is the initialized "
    "model before its training. A run that has stopped keeps "
    "its best; baselines, which are not trained in epochs, are levels.",
    "strata": "Test metric of users, by their training interactions (above), and share of the test interactions that "
    "is found, by the training interactions of the item (below). Means over the seeds.",
    "spectrum": "Singular values of the trained item tables over the largest, mean over the seeds: where a curve falls "
    "early, few dimensions are used.",
    "cold start": "Test metric by the share of the training interactions that was dropped at random; on the right each "
    "user keeps one. Mean over the seeds.",
}


def save_report(report: Report, folder: str | Path) -> list[Path]:
    """Write a report into a folder and return the paths of the files.

    ``report.html`` is self-contained: it needs no network and no other file. ``report.md`` shows the PNG figures that
    are written beside it. ``report.csv`` is the table, ``runs.csv`` has the trial that stands for each line and seed,
    ``trials.csv`` every finished trial, and ``tests.csv`` every test.

    Parameters
    ----------
    report : Report
        The report to write.
    folder : path
        The folder; it is made where it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = save_png(report, folder)
    context = _template_context(report)
    texts = {
        "report.md": _render("report.md.j2", {**context, "figures": images}, escape=False),
        "report.html": _render("report.html.j2", {**context, "figures": to_svg(report)}, escape=True),
        "report.csv": report.to_dataframe().to_csv(index=False),
        "runs.csv": report.runs.to_csv(index=False),
        "trials.csv": report.trials.to_csv(index=False),
        "tests.csv": report.tests.to_csv(index=False),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in (*texts, *images.values())]


def _template_context(report: Report) -> dict[str, Any]:
    """Return what both templates show, but the figures."""
    return {
        "report": report,
        "options": yaml.safe_dump(_with_lists(report.options), sort_keys=False, width=110),
        "sections": report.sections(),
        "captions": _CAPTIONS,
        "kind_of": kind_of,
        **detail_tables(report),
    }


def _render(name: str, context: dict[str, Any], *, escape: bool) -> str:
    from jinja2 import Environment, StrictUndefined

    template = (importlib.resources.files("recbole_llminit.compare.reporting") / name).read_text(encoding="utf-8")
    environment = Environment(autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701  in markdown names are escaped by filters
    environment.filters["markdown"] = lambda frame: draw_markdown(
        frame.rename(columns=escape_markdown).map(escape_markdown)
    )
    environment.filters["text"] = escape_markdown
    return environment.from_string(template).render(**context)


def _with_lists(value: Any) -> Any:
    """Return options with lists in the place of tuples, which plain YAML does not have."""
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, list | tuple) else value
