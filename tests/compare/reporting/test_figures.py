"""The figures of a report."""

import itertools

import numpy as np
import pytest

from recbole_llminit.compare.reporting.figures import Styles, draw_figures
from recbole_llminit.compare.reporting.report import Report
from tests.compare.synthetic import OPTIONS, hits, make_entry, make_report, make_result


def report_of_models(count: int, labels: tuple[str, ...] = ("none", "var")) -> Report:
    names = [f"M{number}" for number in range(count)]
    entries = [
        make_entry(label, 1, "t", model=name, role="stock" if label == "none" else "llm")
        for name, label in itertools.product(names, labels)
    ]
    return Report.of(entries, {"t": make_result(hits(0.5))}, OPTIONS)


def test_controls_differ_by_hue_line_style_marker_and_bars() -> None:
    entries = [
        make_entry(label, 1, "t", role=role)
        for label, role in (
            ("none", "stock"),
            ("var", "llm"),
            *((f"control {number}", "control") for number in range(4)),
        )
    ]
    styles = Styles.of(Report.of(entries, {"t": make_result(hits(0.5))}, OPTIONS), "black")
    controls = [styles.get("M", f"control {number}") for number in range(4)]
    for attribute in ("color", "line_style", "marker", "hatch"):
        assert len({getattr(style, attribute) for style in controls}) == 4
    assert all(style.marker and style.hatch for style in controls)
    # No control is gray: its channels differ.
    for style in controls:
        channels = [int(style.color[place : place + 2], 16) for place in (1, 3, 5)]
        assert max(channels) - min(channels) > 60
    assert styles.get("M", "var").marker == styles.get("M", "var").hatch == ""


def test_an_initialization_has_one_color_in_all_figures() -> None:
    figures = draw_figures(make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.3)}}))
    curves = {line.get_label(): line.get_color() for line in figures["d convergence"].axes[0].lines}
    bars = {box.get_label(): box.patches[0].get_edgecolor() for box in figures["d strata"].axes[0].containers}
    from matplotlib.colors import to_rgba

    assert {label: to_rgba(color) for label, color in curves.items()} == bars and set(bars) == {"none", "var", "noise"}


def test_an_empty_stratum_is_not_drawn() -> None:
    users = np.array([1.0, 0.0] * 10)
    result = make_result(users)
    result.users["train_interactions"] = 3
    found = Report.of([make_entry("none", 1, "a"), make_entry("var", 1, "b")], {"a": result, "b": result}, OPTIONS)
    assert set(found.strata.loc[found.strata["side"] == "user", "stratum"]) == {"0-4"}
    of_users, of_items = draw_figures(found)["d strata"].axes
    assert [label.get_text() for label in of_users.get_xticklabels()] == ["0-4\n20 users"]
    assert [len(bars) for bars in of_users.containers] == [1, 1]
    assert [label.get_text() for label in of_items.get_xticklabels()] == ["0-4\n10 interactions", "5+\n10 interactions"]


def test_a_curve_begins_at_the_untrained_model_where_it_was_measured() -> None:
    def first_epochs(**content: object) -> list[float]:
        entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b")]
        results = {"a": make_result(hits(0.1)), "b": make_result(hits(0.5), **content)}
        (panel,) = draw_figures(Report.of(entries, results, OPTIONS))["d convergence"].axes
        return [float(line.get_xdata()[np.isfinite(line.get_ydata())][0]) for line in panel.lines]

    assert first_epochs(untrained_valid_score=0.05, untrained_test_result={}) == [1, 0]
    assert first_epochs() == [1, 1]


def test_a_baseline_is_what_has_its_role_whatever_it_is_called() -> None:
    """One has the label of a model, its own curve and its own tables; another has an initialization."""
    spectra = [{"label": "t", "side": "item", "spectrum": {"singular_values": [2.0, 1.0]}}]
    trained = make_result(hits(0.5), spectra=spectra)
    entries = [
        make_entry("none", 1, "t"),
        make_entry("var", 1, "t"),
        make_entry("", 1, "t", model="M", role="baseline"),
        make_entry("var", 1, "t", model="EASE with the vectors", role="baseline"),
    ]
    found = Report.of(entries, {"t": trained}, OPTIONS)
    names = ["none", "var", "M", "EASE with the vectors"]
    for kind, expected in (("convergence", names), ("strata", names), ("spectrum", names[:2])):
        figure = draw_figures(found)[f"d {kind}"]
        panel = figure.axes[0]
        assert {title.split(":")[0] for axes in figure.axes if (title := axes.get_title())} == {"M"}
        assert sorted(panel.get_legend_handles_labels()[1]) == sorted(expected)
    assert set(found.references) == {"none", "M", "EASE with the vectors"}


def test_panels_are_wrapped_after_two() -> None:
    figure = draw_figures(report_of_models(3))["d convergence"]
    rows = [panel.get_subplotspec().rowspan.start for panel in figure.axes]
    assert rows == [0, 0, 1] and [panel.get_title() for panel in figure.axes] == ["M0", "M1", "M2"]
    strata = draw_figures(report_of_models(3))["d strata"]
    placed = [
        (panel.get_subplotspec().rowspan.start, panel.get_title().split(":")[1].split()[0]) for panel in strata.axes
    ]
    # Users above items, the wrapped model below both.
    assert placed == [(0, "users"), (0, "users"), (2, "users"), (1, "items"), (1, "items"), (3, "items")]


@pytest.mark.parametrize("labels", [("none", *(f"a rather long name of a strategy {number}" for number in range(7)))])
def test_a_legend_is_as_wide_as_its_figure_at_most(labels: tuple[str, ...]) -> None:
    figure = draw_figures(report_of_models(1, labels))["d convergence"]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(labels)
