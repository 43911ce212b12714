"""The figures of a report."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recbole_llminit.compare.reporting.analysis import recall_cut_off
from recbole_llminit.compare.reporting.lines import FULL_DATA, LINE_COLUMNS
from recbole_llminit.compare.reporting.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("convergence", "strata", "spectrum", "cold start")
# Readable on white and on black.
_COLORS = {
    "llm": ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#0b84c6"),
    "control": ("#8c8c8c", "#a58b6f", "#7d93a8"),
    "baseline": ("#d4a017", "#3fa7b5", "#b5577a"),
}
# The next one is taken where the colors are used up.
_LINE_STYLES: dict[str, tuple[Any, ...]] = {
    "llm": ("-", "-.", (0, (7, 1, 1, 1, 1, 1))),
    "control": ("--", (0, (6, 2)), (0, (3, 3))),
    "baseline": ((0, (1, 2)),),
}
_STOCK_LINE_STYLES = ("-", ":", "-.")
# SVG figures are drawn in this color, which is then replaced by the text color of the surrounding HTML.
_TEXT_COLOR_IN_SVG = "#123456"


@dataclass(frozen=True)
class Style:
    """How a line of the report is drawn in every figure: its color and matplotlib line style."""

    color: str
    line_style: Any


@dataclass(frozen=True)
class Styles:
    """The style of each initialization, and of each baseline by its model.

    Parameters
    ----------
    by_name : dict of (str, str) to Style
        By model and initialization; the model is empty for an initialization, the initialization for a baseline.
    """

    by_name: dict[tuple[str, str], Style]

    @classmethod
    def of(cls, report: Report, text_color: str) -> Styles:
        """Give each initialization and each baseline of a report its style; the stock one has the text color."""
        styles: dict[tuple[str, str], Style] = {}
        counts = {"llm": 0, "control": 0, "baseline": 0, "stock": 0}
        lines = report.runs[["model", "initialization", "role"]].drop_duplicates()
        for model, initialization, role in lines.itertuples(index=False):
            key = _style_key(model, initialization)
            if key not in styles:
                styles[key] = _choose_style(role, counts[role], text_color)
                counts[role] += 1
        return cls(styles)

    def get(self, model: str, initialization: str) -> Style:
        """Return the style of a line."""
        return self.by_name[_style_key(model, initialization)]


def draw_figures(report: Report, text_color: str = "black") -> dict[str, Figure]:
    """Draw the figures of each dataset: convergence, strata, spectrum, and cold start where interactions were dropped.

    Parameters
    ----------
    report : Report
        The report.
    text_color : str
        The color of text, axes and the stock initialization.

    Returns
    -------
    dict of str to matplotlib.figure.Figure
        By ``<dataset> <kind>``, with a kind of `KINDS`. A figure without data is left out.
    """
    import matplotlib as mpl

    keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    colors: dict[Any, Any] = dict.fromkeys(keys, text_color)
    figures = {}
    with mpl.rc_context({**colors, "font.size": 9}):
        styles = Styles.of(report, text_color)
        for dataset in report.runs["dataset"].unique():
            figures[f"{dataset} convergence"] = _draw_convergence(report, dataset, styles)
            figures[f"{dataset} strata"] = _draw_strata(report, dataset, styles)
            figures[f"{dataset} spectrum"] = _draw_spectrum(report, dataset, styles)
            figures[f"{dataset} cold start"] = _draw_cold_start(report, dataset, styles)
    return {name: figure for name, figure in figures.items() if figure is not None}


def kind_of(name: str) -> str:
    """Return the kind of a figure, one of `KINDS`, from its name."""
    return next(kind for kind in KINDS if name.endswith(kind))


def to_svg(report: Report) -> dict[str, str]:
    """Return the figures as SVG elements that take the text color of the HTML around them."""
    import matplotlib as mpl

    elements = {}
    for name, figure in draw_figures(report, _TEXT_COLOR_IN_SVG).items():
        buffer = io.StringIO()
        # Text stays text, and the same figure gives the same file.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        content = buffer.getvalue()
        content = content[content.index("<svg") :].replace(_TEXT_COLOR_IN_SVG, "currentColor")
        # One HTML file holds several figures: their ids must differ.
        prefix = "".join(character if character.isalnum() else "-" for character in name)
        for mark in ('id="', 'href="#', "url(#"):
            content = content.replace(mark, f"{mark}{prefix}-")
        elements[name] = content
    return elements


def save_png(report: Report, folder: Path) -> dict[str, str]:
    """Write the figures as PNG files on white; return the file name of each."""
    names = {}
    for name, figure in draw_figures(report).items():
        names[name] = f"{name.replace(' ', '_')}.png"
        figure.savefig(folder / names[name], dpi=130, facecolor="white")
    return names


def _style_key(model: str, initialization: str) -> tuple[str, str]:
    return ("", initialization) if initialization else (model, "")


def _choose_style(role: str, number: int, text_color: str) -> Style:
    """Return the style of the line with this number among those of its role."""
    if role == "stock":
        return Style(text_color, _STOCK_LINE_STYLES[number % len(_STOCK_LINE_STYLES)])
    colors, line_styles = _COLORS[role], _LINE_STYLES[role]
    return Style(colors[number % len(colors)], line_styles[number // len(colors) % len(line_styles)])


def _draw_convergence(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw the best validation score so far by epoch; a run that has stopped keeps its best."""
    runs = _of_full_data(report.runs, dataset)
    curves = _of_full_data(report.curves, dataset)
    models = [model for model in _models(runs) if model in set(curves["model"])]
    if not models:
        return None
    figure, (panels,) = _make_panels(len(models), sharey=True)
    for panel, model in zip(panels, models, strict=True):
        of_model = curves[curves["model"] == model]
        last = int(of_model["epoch"].max())
        for initialization, points in of_model.groupby("initialization", sort=False):
            style = styles.get(model, initialization)
            scores = points.pivot_table(index="seed", columns="epoch", values="score")
            best = scores.reindex(columns=range(1, last + 1)).cummax(axis=1).ffill(axis=1)
            _plot(panel, best.columns, best.mean(), style, initialization)
            panel.fill_between(best.columns, best.min(), best.max(), color=style.color, alpha=0.1, linewidth=0)
        _draw_baseline_levels(panel, runs, styles)
        panel.set(xlabel="epoch", xlim=(1, max(last, 2)), title=model)
    # The panels share the axis: its limit is set once all of them are drawn.
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"best validation {report.valid_metric} so far")
    _add_legend(figure, panels)
    return figure


def _draw_baseline_levels(panel: Axes, runs: pd.DataFrame, styles: Styles) -> None:
    """Draw the validation score of each baseline as a horizontal line."""
    for model, of_model in runs[runs["role"] == "baseline"].groupby("model", sort=False):
        style = styles.get(model, "")
        level = of_model["valid_score"].mean()
        panel.axhline(level, color=style.color, linestyle=style.line_style, label=model, linewidth=1.4)


def _draw_strata(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw a bar for each initialization in each stratum of users (above) and of items (below)."""
    runs = _of_full_data(report.runs, dataset)
    if not report.metrics or runs.empty:
        return None
    strata = _of_full_data(report.strata, dataset)
    models = _models(runs) or [""]
    metrics = {"user": report.metrics[0], "item": f"recall@{recall_cut_off(report.metrics)}"}
    figure, rows = _make_panels(len(models), rows=2, height=2.7, sharey="row")
    for panels, (side, metric) in zip(rows, metrics.items(), strict=True):
        of_side = strata[strata["side"] == side]
        for panel, model in zip(panels, models, strict=True):
            of_model = of_side[(of_side["model"] == model) | (of_side["initialization"] == "")]
            _draw_bars(panel, of_model, metric, styles, "users" if side == "user" else "interactions")
            panel.set_title(f"{model}: {side}s by training interactions")
        panels[0].set_ylabel(f"test {metric}")
    _add_legend(figure, [panel for panels in rows for panel in panels])
    return figure


def _draw_bars(panel: Axes, strata: pd.DataFrame, metric: str, styles: Styles, counted: str) -> None:
    """Draw the bars of a panel: a group for each stratum, a bar for each initialization and baseline."""
    groups = list(strata.groupby(["model", "initialization"], sort=False))
    width = 0.85 / max(1, len(groups))
    for number, ((model, initialization), bars) in enumerate(groups):
        style = styles.get(model, initialization)
        places = np.arange(len(bars)) + (number - (len(groups) - 1) / 2) * width
        panel.bar(
            places,
            bars[metric],
            width,
            color=style.color,
            alpha=1 if style.line_style == "-" else 0.55,
            hatch="///" if style.line_style == ":" else None,
            label=initialization or model,
            edgecolor="none",
        )
    first = groups[0][1]
    ticks = [f"{row.stratum}\n{row.count:,.0f} {counted}" for row in first.itertuples(index=False)]
    panel.set_xticks(range(len(first)), ticks)


def _draw_spectrum(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw the singular values of each initialization's first trained item table over the largest."""
    spectra = _of_full_data(report.spectra, dataset)
    spectra = spectra[spectra["side"] == "item"].drop_duplicates([*LINE_COLUMNS, "seed"])
    if spectra.empty:
        return None
    models = list(spectra["model"].unique())
    figure, (panels,) = _make_panels(len(models), sharey=True)
    for panel, model in zip(panels, models, strict=True):
        of_model = spectra[spectra["model"] == model]
        # A grid may have chosen another width with another seed.
        widths = of_model["singular_values"].map(len)
        for (initialization, width), rows in of_model.groupby(["initialization", widths], sort=False):
            values = np.array([np.divide(row, row[0] or 1) for row in rows["singular_values"]]).mean(axis=0)
            _plot(panel, range(1, width + 1), values, styles.get(model, initialization), initialization)
        panel.set(xlabel="direction", title=model, yscale="log")
    panels[0].set_ylabel("singular value over the largest")
    _add_legend(figure, panels)
    return figure


def _draw_cold_start(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw the first tested metric by how much of the training interactions was dropped."""
    runs = report.runs[report.runs["dataset"] == dataset]
    drops = sorted(runs["drop"].unique(), key=_drop_order)
    models = _models(runs)
    if drops == [FULL_DATA] or not report.metrics or not models:
        return None
    metric = report.metrics[0]
    figure, (panels,) = _make_panels(len(models), sharey=True)
    names = {FULL_DATA: "0%", "all_but_one": "all but\none each"}
    for panel, model in zip(panels, models, strict=True):
        of_model = runs[(runs["model"] == model) | (runs["role"] == "baseline")]
        for (name, initialization), of_line in of_model.groupby(["model", "initialization"], sort=False):
            means = of_line.groupby("drop")[metric].mean().reindex(drops)
            style = styles.get(name, initialization)
            _plot(panel, range(len(drops)), means, style, initialization or name, marker="o", markersize=3)
        panel.set_xticks(range(len(drops)), [names.get(drop) or f"{float(drop):.0%}" for drop in drops])
        panel.set(xlabel="training interactions dropped", title=model)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"test {metric}")
    _add_legend(figure, panels)
    return figure


def _of_full_data(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return the rows of a dataset from which nothing was dropped."""
    return frame[(frame["dataset"] == dataset) & (frame["drop"] == FULL_DATA)]


def _models(runs: pd.DataFrame) -> list[str]:
    """Return the models that have a panel: all but the baselines."""
    return list(runs.loc[runs["role"] != "baseline", "model"].unique())


def _drop_order(drop: str) -> float:
    return {FULL_DATA: 0.0, "all_but_one": 1.0}[drop] if drop in (FULL_DATA, "all_but_one") else float(drop)


def _make_panels(count: int, *, rows: int = 1, height: float = 3.3, **options: Any) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    columns = max(1, count)
    figure = Figure(figsize=(max(4.6 * columns, 6), height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for panel in axes.ravel():
        panel.spines[["top", "right"]].set_visible(False)
        panel.patch.set_visible(False)
    return figure, axes.tolist()


def _plot(panel: Axes, x: Any, y: Any, style: Style, label: str, **options: Any) -> None:
    panel.plot(x, y, color=style.color, linestyle=style.line_style, label=label, linewidth=1.4, **options)


def _add_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Add one legend below the panels, with each label once."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)), frameon=False
    )
