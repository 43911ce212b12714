"""The figures of a report."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recbole_llminit.compare.report import FULL, LINE, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("convergence", "strata", "spectrum", "cold start")
# Readable on white and on black.
_COLOURS_OF = {
    "llm": ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#0b84c6"),
    "control": ("#8c8c8c", "#a58b6f", "#7d93a8"),
    "baseline": ("#d4a017", "#3fa7b5", "#b5577a"),
}
# The next where the colours are used up.
_DASHES_OF: dict[str, tuple[Any, ...]] = {
    "llm": ("-", "-.", (0, (7, 1, 1, 1, 1, 1))),
    "control": ("--", (0, (6, 2)), (0, (3, 3))),
    "baseline": ((0, (1, 2)),),
}
# Stands for the page's own colour of text in an SVG.
_INK = "#123456"


@dataclass(frozen=True)
class Style:
    """How a line of the report is drawn in every figure."""

    colour: str
    dashes: Any


def draw_figures(report: Report, ink: str = "black") -> dict[str, Figure]:
    """Draw convergence, strata, spectra, and the cold-start curve where there is one, for each dataset.

    Parameters
    ----------
    report : Report
        What to draw.
    ink : str
        The colour of text, axes and the stock initialization.

    Returns
    -------
    dict of str to matplotlib.figure.Figure
        By ``<dataset> <what>``.
    """
    import matplotlib as mpl

    keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    colours: dict[Any, Any] = dict.fromkeys(keys, ink)
    figures = {}
    with mpl.rc_context({**colours, "font.size": 9}):
        styles = _styles(report, ink)
        for dataset in report.runs["dataset"].unique():
            figures[f"{dataset} convergence"] = _convergence(report, dataset, styles)
            figures[f"{dataset} strata"] = _strata(report, dataset, styles)
            figures[f"{dataset} spectrum"] = _spectrum(report, dataset, styles)
            if set(report.runs.loc[report.runs["dataset"] == dataset, "drop"]) != {FULL}:
                figures[f"{dataset} cold start"] = _cold_start(report, dataset, styles)
    return {name: figure for name, figure in figures.items() if figure is not None}


def kind_of(name: str) -> str:
    """Return what a figure of this name shows, one of `KINDS`."""
    return next(kind for kind in KINDS if name.endswith(kind))


def to_svg(report: Report) -> dict[str, str]:
    """Return the figures as SVG elements that take their colour of text from the page they stand in."""
    import matplotlib as mpl

    elements = {}
    for name, figure in draw_figures(report, _INK).items():
        buffer = io.StringIO()
        # Text stays text, and the same figure is the same file.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        content = buffer.getvalue()
        # Several stand in one page: their ids must differ.
        slug = "".join(character if character.isalnum() else "-" for character in name)
        content = content[content.index("<svg") :].replace(_INK, "currentColor")
        for mark in ('id="', 'href="#', "url(#"):
            content = content.replace(mark, f"{mark}{slug}-")
        elements[name] = content
    return elements


def save_png(report: Report, folder: Path) -> dict[str, str]:
    """Write the figures as PNG files on white; return the file name of each."""
    names = {}
    for name, figure in draw_figures(report).items():
        names[name] = f"{name.replace(' ', '_')}.png"
        figure.savefig(folder / names[name], dpi=130, facecolor="white")
    return names


def _styles(report: Report, ink: str) -> dict[tuple[str, str], Style]:
    """Give each initialization, and each baseline by its model, one style in all figures."""
    styles: dict[tuple[str, str], Style] = {}
    counts = {"llm": 0, "control": 0, "baseline": 0, "stock": 0}
    lines = report.runs[["model", "initialization", "role"]].drop_duplicates()
    for model, initialization, role in lines.itertuples(index=False):
        key = ("", initialization) if initialization else (model, "")
        if key in styles:
            continue
        number = counts[role]
        counts[role] += 1
        if role == "stock":
            styles[key] = Style(ink, ("-", ":", "-.")[number % 3])
        else:
            colours = _COLOURS_OF[role]
            turn = number // len(colours) % len(_DASHES_OF[role])
            styles[key] = Style(colours[number % len(colours)], _DASHES_OF[role][turn])
    return styles


def _style(styles: Mapping[tuple[str, str], Style], model: str, initialization: str) -> Style:
    return styles["", initialization] if initialization else styles[model, ""]


def _panels(count: int, *, rows: int = 1, height: float = 3.3, **options: Any) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    columns = max(1, count)
    figure = Figure(figsize=(max(4.6 * columns, 6), height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for panel in axes.ravel():
        panel.spines[["top", "right"]].set_visible(False)
        panel.patch.set_visible(False)
    return figure, axes.tolist()


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    handles: dict[str, Any] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)), frameon=False
    )


def _lines(report: Report, dataset: str, drop: str = FULL) -> pd.DataFrame:
    runs = report.runs
    return runs[(runs["dataset"] == dataset) & (runs["drop"] == drop)]


def _models(lines: pd.DataFrame) -> list[str]:
    return list(lines.loc[lines["role"] != "baseline", "model"].unique())


def _convergence(report: Report, dataset: str, styles: Mapping[tuple[str, str], Style]) -> Figure | None:
    """Draw the best validation score so far by epoch; a run that has stopped keeps its best."""
    lines = _lines(report, dataset)
    curves = report.curves[(report.curves["dataset"] == dataset) & (report.curves["drop"] == FULL)]
    models = [model for model in _models(lines) if model in set(curves["model"])]
    if not models:
        return None
    figure, (panels,) = _panels(len(models), sharey=True)
    for panel, model in zip(panels, models, strict=True):
        of_model = curves[curves["model"] == model]
        last = int(of_model["epoch"].max())
        for initialization, runs in of_model.groupby("initialization", sort=False):
            style = _style(styles, model, initialization)
            scores = runs.pivot_table(index="seed", columns="epoch", values="score")
            best = scores.reindex(columns=range(1, last + 1)).cummax(axis=1).ffill(axis=1)
            panel.plot(
                best.columns,
                best.mean(),
                color=style.colour,
                linestyle=style.dashes,
                label=initialization,
                linewidth=1.4,
            )
            panel.fill_between(best.columns, best.min(), best.max(), color=style.colour, alpha=0.1, linewidth=0)
        _baselines(panel, lines, "valid_score", styles)
        panel.set(xlabel="epoch", xlim=(1, max(last, 2)), title=model)
    # Once all panels, which share the axis, have drawn.
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"best validation {report.valid_metric} so far")
    _legend(figure, panels)
    return figure


def _baselines(panel: Axes, lines: pd.DataFrame, column: str, styles: Mapping[tuple[str, str], Style]) -> None:
    """Draw each baseline as a level."""
    for model, runs in lines[lines["role"] == "baseline"].groupby("model", sort=False):
        style = _style(styles, model, "")
        panel.axhline(runs[column].mean(), color=style.colour, linestyle=style.dashes, label=model, linewidth=1.4)


def _strata(report: Report, dataset: str, styles: Mapping[tuple[str, str], Style]) -> Figure | None:
    """Draw a bar for each initialization in each stratum of users and of items."""
    if not report.metrics:
        return None
    cut = report.metrics[0].rpartition("@")[2]
    lines = _lines(report, dataset)
    if lines.empty:
        return None
    strata = report.strata[(report.strata["dataset"] == dataset) & (report.strata["drop"] == FULL)]
    models = _models(lines) or [""]
    figure, rows = _panels(len(models), rows=2, height=2.7, sharey="row")
    for panels, side, metric in zip(rows, ("user", "item"), (report.metrics[0], f"recall@{cut}"), strict=True):
        of_side = strata[strata["side"] == side]
        for panel, model in zip(panels, models, strict=True):
            shown = of_side[(of_side["model"] == model) | (of_side["initialization"] == "")]
            groups = list(shown.groupby(["model", "initialization"], sort=False))
            width = 0.85 / max(1, len(groups))
            for number, ((name, initialization), bars) in enumerate(groups):
                style = _style(styles, name, initialization)
                places = np.arange(len(bars)) + (number - (len(groups) - 1) / 2) * width
                panel.bar(
                    places, bars[metric], width, color=style.colour, alpha=1 if style.dashes == "-" else 0.55,
                    hatch="///" if style.dashes == ":" else None, label=initialization or name, edgecolor="none",
                )  # fmt: skip
            first = groups[0][1]
            counts = "users" if side == "user" else "interactions"
            ticks = [f"{row.stratum}\n{row.count:,.0f} {counts}" for row in first.itertuples(index=False)]
            panel.set_xticks(range(len(first)), ticks)
            panel.set_title(f"{model}: {side}s by training interactions")
        panels[0].set_ylabel(f"test {metric}")
    _legend(figure, [panel for panels in rows for panel in panels])
    return figure


def _spectrum(report: Report, dataset: str, styles: Mapping[tuple[str, str], Style]) -> Figure | None:
    """Draw the singular values of each initialization's first trained item table over the largest."""
    spectra = report.spectra[(report.spectra["dataset"] == dataset) & (report.spectra["drop"] == FULL)]
    spectra = spectra[spectra["side"] == "item"].drop_duplicates([*LINE, "seed"])
    if spectra.empty:
        return None
    models = list(spectra["model"].unique())
    figure, (panels,) = _panels(len(models), sharey=True)
    for panel, model in zip(panels, models, strict=True):
        of_model = spectra[spectra["model"] == model]
        # A grid may have chosen another width with another seed.
        for (initialization, _), rows in of_model.groupby(
            ["initialization", of_model["singular_values"].map(len)], sort=False
        ):
            style = _style(styles, model, initialization)
            values = np.array([np.divide(row, row[0] or 1) for row in rows["singular_values"]]).mean(axis=0)
            places = range(1, len(values) + 1)
            panel.plot(places, values, color=style.colour, linestyle=style.dashes, label=initialization, linewidth=1.4)
        panel.set(xlabel="direction", title=model, yscale="log")
    panels[0].set_ylabel("singular value over the largest")
    _legend(figure, panels)
    return figure


def _cold_start(report: Report, dataset: str, styles: Mapping[tuple[str, str], Style]) -> Figure | None:
    """Draw the first tested metric by how much of the training interactions was dropped."""
    runs = report.runs[report.runs["dataset"] == dataset]
    drops = sorted(runs["drop"].unique(), key=_drop_order)
    models = _models(runs)
    if not report.metrics or not models:
        return None
    metric = report.metrics[0]
    figure, (panels,) = _panels(len(models), sharey=True)
    names = {FULL: "0%", "all_but_one": "all but\none each"}
    for panel, model in zip(panels, models, strict=True):
        shown = runs[(runs["model"] == model) | (runs["role"] == "baseline")]
        for (name, initialization), line in shown.groupby(["model", "initialization"], sort=False):
            style = _style(styles, name, initialization)
            means = line.groupby("drop")[metric].mean().reindex(drops)
            panel.plot(
                range(len(drops)), means, color=style.colour, linestyle=style.dashes, marker="o", markersize=3,
                linewidth=1.4, label=initialization or name,
            )  # fmt: skip
        panel.set_xticks(range(len(drops)), [names.get(drop) or f"{float(drop):.0%}" for drop in drops])
        panel.set(xlabel="training interactions dropped", title=model)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"test {metric}")
    _legend(figure, panels)
    return figure


def _drop_order(drop: str) -> float:
    return {FULL: 0.0, "all_but_one": 1.0}[drop] if drop in (FULL, "all_but_one") else float(drop)
