"""The figures of a report."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
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
# More panels side by side could not be read on a narrow page, which scales figures to its width.
_MOST_COLUMNS = 2
_PANEL_WIDTH = 4.6
_FONT_SIZE = 9
_LABEL_WIDTH = 36
# Readable on white and on black. Controls differ from all others by their hues, dashes, markers and hollow bars.
_COLORS = {
    "llm": ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#0b84c6"),
    "control": ("#a0703c", "#5a86ad", "#a8587e", "#7d8f3a"),
    "baseline": ("#d4a017", "#3fa7b5", "#b5577a"),
}
# The next one is taken where the colors are used up.
_LINE_STYLES: dict[str, tuple[Any, ...]] = {
    "llm": ("-", "-.", (0, (7, 1, 1, 1, 1, 1))),
    "baseline": ((0, (1, 2)),),
}
# The line style, marker and hatch of each control in turn.
_CONTROL_LOOKS: tuple[tuple[Any, str, str], ...] = (
    ("--", "o", "////"),
    ((0, (3, 2)), "s", "...."),
    ((0, (8, 2, 2, 2)), "^", "xxxx"),
    ((0, (6, 4)), "D", r"\\\\"),
)
_STOCK_LINE_STYLES = ("-", ":", "-.")
# SVG figures are drawn in this color, which is then replaced by the text color of the surrounding HTML.
_TEXT_COLOR_IN_SVG = "#123456"


@dataclass(frozen=True)
class Style:
    """How a line of the report is drawn in every figure.

    Parameters
    ----------
    color : str
        The color.
    line_style : object
        The line style of matplotlib.
    marker : str
        The marker of its points; empty for none.
    hatch : str
        The hatch of its bars, which are hollow; empty for filled bars.
    opacity : float
        The opacity of its bars.
    """

    color: str
    line_style: Any
    marker: str = ""
    hatch: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Styles:
    """The style of each initialization, in all models the same, and of each baseline.

    Parameters
    ----------
    by_name : dict of (str, str) to Style
        By model and initialization; the model is empty unless the line is a baseline.
    """

    by_name: dict[tuple[str, str], Style]

    @classmethod
    def of(cls, report: Report, text_color: str) -> Styles:
        """Give each initialization and each baseline of a report its style; the stock one has the text color."""
        styles: dict[tuple[str, str], Style] = {}
        counts = {"llm": 0, "control": 0, "baseline": 0, "stock": 0}
        lines = report.runs[["model", "initialization", "role"]].drop_duplicates()
        for model, initialization, role in lines.itertuples(index=False):
            key = (model, initialization) if role == "baseline" else ("", initialization)
            if key not in styles:
                styles[key] = _choose_style(role, counts[role], text_color)
                counts[role] += 1
        return cls(styles)

    def get(self, model: str, initialization: str) -> Style:
        """Return the style of a line."""
        of_baseline = self.by_name.get((model, initialization))
        return of_baseline or self.by_name["", initialization]


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
    with mpl.rc_context({**colors, "font.size": _FONT_SIZE}):
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


def _choose_style(role: str, number: int, text_color: str) -> Style:
    """Return the style of the line with this number among those of its role."""
    if role == "stock":
        # The first stock initialization is filled, tuned ones are hollow.
        line_style = _STOCK_LINE_STYLES[number % len(_STOCK_LINE_STYLES)]
        return Style(text_color, line_style, hatch="--" if number else "")
    color = _COLORS[role][number % len(_COLORS[role])]
    if role == "control":
        line_style, marker, hatch = _CONTROL_LOOKS[number % len(_CONTROL_LOOKS)]
        return Style(color, line_style, marker, hatch)
    line_styles = _LINE_STYLES[role]
    line_style = line_styles[number // len(_COLORS[role]) % len(line_styles)]
    return Style(color, line_style, opacity=0.55 if role == "baseline" else 1.0)


def _draw_convergence(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw the best validation score so far by epoch; a run that has stopped keeps its best."""
    runs = _of_full_data(report.runs, dataset)
    curves = _of_full_data(report.curves, dataset)
    curves = curves[curves["role"] != "baseline"]
    models = [model for model in _models(runs) if model in set(curves["model"])]
    if not models:
        return None
    figure, rows = _make_panels(len(models), ylabels=[f"best validation {report.valid_metric} so far"])
    for panel, model in zip(rows[0], models, strict=True):
        _draw_curves(panel, curves[curves["model"] == model], model, styles)
        _draw_baseline_levels(panel, runs, styles)
        panel.set_title(model)
    # The panels share the axis: its limit is set once all of them are drawn.
    rows[0][0].set_ylim(bottom=0)
    _add_legend(figure, rows[0])
    return figure


def _draw_curves(panel: Axes, curves: pd.DataFrame, model: str, styles: Styles) -> None:
    """Draw mean and range over the seeds of each initialization of a model."""
    from matplotlib.ticker import MaxNLocator

    # From epoch 0 where trials have measured it.
    first, last = min(1, int(curves["epoch"].min())), int(curves["epoch"].max())
    for initialization, points in curves.groupby("initialization", sort=False):
        style = styles.get(model, initialization)
        scores = points.pivot_table(index="seed", columns="epoch", values="score")
        best = scores.reindex(columns=range(first, last + 1)).cummax(axis=1).ffill(axis=1)
        _plot(panel, best.columns, best.mean(), style, initialization, markevery=max(1, last // 8))
        panel.fill_between(best.columns, best.min(), best.max(), color=style.color, alpha=0.1, linewidth=0)
    panel.set(xlabel="epoch", xlim=(first, max(last, first + 1)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_baseline_levels(panel: Axes, runs: pd.DataFrame, styles: Styles) -> None:
    """Draw the validation score of each baseline as a horizontal line."""
    baselines = runs[runs["role"] == "baseline"]
    for (label, initialization), of_line in baselines.groupby(["model", "initialization"], sort=False):
        style = styles.get(label, initialization)
        level = of_line["valid_score"].mean()
        panel.axhline(level, color=style.color, linestyle=style.line_style, label=label, linewidth=1.4)


def _draw_strata(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw a bar for each initialization in each stratum of users (above) and of items (below)."""
    runs = _of_full_data(report.runs, dataset)
    if not report.metrics or runs.empty:
        return None
    strata = _of_full_data(report.strata, dataset)
    models = _models(runs) or [""]
    metrics = {"user": report.metrics[0], "item": f"recall@{recall_cut_off(report.metrics)}"}
    figure, rows = _make_panels(len(models), height=2.7, ylabels=[f"test {metric}" for metric in metrics.values()])
    for panels, (side, metric) in zip(rows, metrics.items(), strict=True):
        of_side = strata[strata["side"] == side]
        for panel, model in zip(panels, models, strict=True):
            of_model = of_side[(of_side["model"] == model) | (of_side["role"] == "baseline")]
            _draw_bars(panel, of_model, metric, styles, "users" if side == "user" else "interactions")
            panel.set_title(f"{model}: {side}s by training interactions".removeprefix(": "))
    _add_legend(figure, [panel for panels in rows for panel in panels])
    return figure


def _draw_bars(panel: Axes, strata: pd.DataFrame, metric: str, styles: Styles, counted: str) -> None:
    """Draw the bars of a panel: a group for each stratum, a bar for each initialization and baseline."""
    # Only strata that are not empty have rows.
    counts = strata.groupby("stratum", sort=False)["count"].first()
    groups = list(strata.groupby(["model", "initialization", "role"], sort=False))
    width = 0.85 / max(1, len(groups))
    for number, ((model, initialization, role), bars) in enumerate(groups):
        style = styles.get(model, initialization)
        panel.bar(
            counts.index.get_indexer(bars["stratum"]) + (number - (len(groups) - 1) / 2) * width,
            bars[metric],
            width * 0.9,
            facecolor="none" if style.hatch else style.color,
            edgecolor=style.color,
            linewidth=0.8 if style.hatch else 0,
            alpha=style.opacity,
            hatch=style.hatch or None,
            label=model if role == "baseline" else initialization,
        )
    panel.set_xticks(range(len(counts)), [f"{name}\n{count:,.0f} {counted}" for name, count in counts.items()])


def _draw_spectrum(report: Report, dataset: str, styles: Styles) -> Figure | None:
    """Draw the singular values of each initialization's first trained item table over the largest."""
    spectra = _of_full_data(report.spectra, dataset)
    # A baseline may have tables as well, and has no panel.
    spectra = spectra[(spectra["side"] == "item") & (spectra["role"] != "baseline")]
    spectra = spectra.drop_duplicates([*LINE_COLUMNS, "seed"])
    if spectra.empty:
        return None
    models = list(spectra["model"].unique())
    figure, (panels,) = _make_panels(len(models), ylabels=["singular value over the largest"])
    for panel, model in zip(panels, models, strict=True):
        of_model = spectra[spectra["model"] == model]
        # A grid may have chosen another width with another seed.
        widths = of_model["singular_values"].map(len)
        for (initialization, width), rows in of_model.groupby(["initialization", widths], sort=False):
            values = np.array([np.divide(row, row[0] or 1) for row in rows["singular_values"]]).mean(axis=0)
            style = styles.get(model, initialization)
            _plot(panel, range(1, width + 1), values, style, initialization, markevery=max(1, width // 8))
        panel.set(xlabel="direction", title=model, yscale="log")
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
    figure, (panels,) = _make_panels(len(models), ylabels=[f"test {metric}"])
    names = {FULL_DATA: "0%", "all_but_one": "all but\none each"}
    for panel, model in zip(panels, models, strict=True):
        of_model = runs[(runs["model"] == model) | (runs["role"] == "baseline")]
        for (name, initialization, role), of_line in of_model.groupby(["model", "initialization", "role"], sort=False):
            means = of_line.groupby("drop")[metric].mean().reindex(drops)
            label = name if role == "baseline" else initialization
            _plot(panel, range(len(drops)), means, styles.get(name, initialization), label)
        panel.set_xticks(range(len(drops)), [names.get(drop) or f"{float(drop):.0%}" for drop in drops])
        panel.set(xlabel="training interactions dropped", title=model)
    panels[0].set_ylim(bottom=0)
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


def _make_panels(count: int, *, ylabels: Sequence[str], height: float = 3.3) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and for each label a row of panels that share the axis; long rows are wrapped.

    Parameters
    ----------
    count : int
        The number of panels of a row.
    ylabels : sequence of str
        The label of each row's axis.
    height : float
        The height of a panel in inches.
    """
    from matplotlib.figure import Figure

    columns = min(count, _MOST_COLUMNS)
    wrapped = math.ceil(count / columns)
    size = (max(_PANEL_WIDTH * columns, 6), height * wrapped * len(ylabels))
    figure = Figure(figsize=size, layout="constrained")
    rows = []
    for number, ylabel in enumerate(ylabels):
        panels: list[Axes] = []
        for place in range(count):
            # What is wrapped stands below its own row, and rows of different labels alternate.
            row = place // columns * len(ylabels) + number
            index = row * columns + place % columns + 1
            shared = panels[0] if panels else None
            panel = figure.add_subplot(wrapped * len(ylabels), columns, index, sharey=shared)
            panel.spines[["top", "right"]].set_visible(False)
            panel.patch.set_visible(False)
            if place % columns == 0:
                panel.set_ylabel(ylabel)
            else:
                panel.tick_params(labelleft=False)
            panels.append(panel)
        rows.append(panels)
    return figure, rows


def _plot(panel: Axes, x: Any, y: Any, style: Style, label: str, **options: Any) -> None:
    look = {"color": style.color, "linestyle": style.line_style, "marker": style.marker, "markersize": 4}
    panel.plot(x, y, label=label, linewidth=1.4, **look, **options)


def _add_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Add one legend below the panels, with each label once, in as many columns as fit."""
    from matplotlib.textpath import TextPath

    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(textwrap.fill(label, _LABEL_WIDTH), handle)
    lines = [line for label in handles for line in label.splitlines()]
    widest = max(TextPath((0, 0), line, size=_FONT_SIZE).get_extents().width for line in lines)
    # In points: a handle, the space behind it, and that between columns are 2 + 0.8 + 2 font sizes.
    fitting = int(figure.get_figwidth() * 72 / (widest + 4.8 * _FONT_SIZE))
    rows = math.ceil(len(handles) / max(1, fitting))
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
