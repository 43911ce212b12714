"""The files of a report."""

import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from recbole_llminit.compare.reporting.export import save_report
from recbole_llminit.compare.reporting.report import Report
from tests.compare.synthetic import OPTIONS, hits, make_entry, make_report, make_result


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "d_1 & <b>"
    entries = [make_entry("none", 1, "a", dataset=name), make_entry("<i>50%", 1, "b", dataset=name)]
    results = {"a": make_result(hits(0.1)), "b": make_result(hits(0.9))}
    found = Report.of(entries, results, OPTIONS, problems=["<script>alert(1)</script>"])
    written = {path.name: path for path in save_report(found, tmp_path / "out")}
    # In markdown what stands in a code block, four spaces in, is text already.
    lines = [line for line in written["report.md"].read_text().splitlines() if not line.startswith("    ")]
    assert not re.findall(r"<(?!sup>|/sup>)", "\n".join(lines))
    assert "d_1 &amp; &lt;b&gt;" in "\n".join(lines) and "&lt;i&gt;50%" in "\n".join(lines)
    page = written["report.html"].read_text()
    assert "&lt;b&gt;" in page and "&lt;i&gt;50%" in page and "&lt;script&gt;" in page
    assert not re.findall(r"<(?:script|i|b)>(?!0\.)", page)
    assert r"d\_1 \& <b>" in found.to_latex() and r"<i>50\%" in found.to_latex()


def test_sections_and_figures_of_dropped_interactions_and_seeds(tmp_path: Path) -> None:
    entries, results = [], {}
    for seed in (1, 2):
        for drop in (None, 0.5, "all_but_one"):
            for initialization, share in (("none", 0.2), ("var", 0.6)):
                name = f"{seed}{drop}{initialization}"
                entries.append(make_entry(initialization, seed, name, drop=drop))
                results[name] = make_result(hits(share, seed=zlib.crc32(name.encode()) % 1000))
    found = Report.of(entries, results, OPTIONS)
    paths = {path.name: path for path in save_report(found, tmp_path)}
    assert {"d_convergence.png", "d_strata.png", "d_cold_start.png"} <= set(paths)
    text = paths["report.md"].read_text()
    assert "## d, training interactions dropped: 0.5" in text
    assert "## d, training interactions dropped: all_but_one" in text
    assert "(d_cold_start.png)" in text
    page = paths["report.html"].read_text()
    assert page.count("<svg") == 3 and "all but" in page
    assert [section.part.drop for section in found.sections()] == ["none", "0.5", "all_but_one"]
    # Holm's family is one level.
    assert len(found.tests) == 3 and (found.tests["p_holm"] == found.tests["p"]).all()


def test_only_data_with_dropped_interactions_left(tmp_path: Path) -> None:
    """The trials of the full data failed: the figures of it are missing, and no more."""
    entries = [make_entry("none", 1, str(drop), drop=drop) for drop in (None, 0.5)]
    found = Report.of(entries, {"0.5": make_result(hits(0.5))}, OPTIONS, failed={"None"})
    names = {path.name for path in save_report(found, tmp_path)}
    assert "d_cold_start.png" in names and "d_strata.png" not in names


def test_the_columns_of_the_tables(tmp_path: Path) -> None:
    paths = {path.name: path for path in save_report(make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}}), tmp_path)}  # fmt: skip
    line = ["dataset", "drop", "model", "initialization"]
    columns = {
        name: pd.read_csv(paths[name]).columns.to_list()
        for name in ("report.csv", "runs.csv", "trials.csv", "tests.csv")
    }
    assert columns["report.csv"] == [*line, "seeds", "role", "tuned", "recall@10", "recall@10 std",
                                     "recall@10 better_than", "recall@10 worse_than"]  # fmt: skip
    assert columns["runs.csv"][:6] == [*line, "role", "seed"] and "item_std" in columns["runs.csv"]
    assert columns["trials.csv"] == [*line, "role", "seed", "trial", "tuned", "chosen", "valid_score", "best_epoch",
                                     "epochs", "recall@10"]  # fmt: skip
    assert columns["tests.csv"] == [*line, "reference", "of_model", "metric", "mean", "reference_mean", "users", "seeds",
                                    "difference", "low", "high", "effect", "effect_low", "effect_high", "p", "wins",
                                    "ties", "losses", "difference_seeds", "low_seeds", "high_seeds", "p_seeds",
                                    "p_holm", "p_seeds_holm", "outcome"]  # fmt: skip
    heading = "| model | initialization | seeds | recall@10 | against none |"
    assert heading in " ".join(paths["report.md"].read_text().split())
    assert "<th>model</th><th>initialization</th>" in paths["report.html"].read_text()


def test_both_tests_stand_side_by_side(tmp_path: Path) -> None:
    lines = {name: {seed: hits(share, seed) for seed in (1, 2, 3)} for name, share in (("none", 0.1), ("var", 0.5))}
    found = make_report(lines)
    save_report(found, tmp_path)
    (test,) = found.tests.itertuples()
    (row,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| recall@10 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[4:11] == [
        f"{test.difference:+.4f}",
        f"[{test.low:+.4f}, {test.high:+.4f}]",
        f"[{test.low_seeds:+.4f}, {test.high_seeds:+.4f}]",
        f"{test.p_holm:.2g}",
        f"{test.p_seeds:.2g}",
        f"{test.p_seeds_holm:.2g}",
        "better",
    ]


def test_the_verdict_opens_the_report(tmp_path: Path) -> None:
    found = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}})
    save_report(found, tmp_path)
    gain, seeds = found.verdict
    text = (tmp_path / "report.md").read_text()
    assert text.index("# Comparison of initializations") < text.index(gain.replace("<", "&lt;")) < text.index(seeds)
    assert text.index(seeds) < text.index("| model")
    page = (tmp_path / "report.html").read_text()
    assert page.index(f'<p class="verdict">{seeds}</p>') < page.index("<table>")


def test_what_the_models_score_at_epoch_0(tmp_path: Path) -> None:
    entries = [make_entry("none", 1, "a"), make_entry("var", 1, "b")]
    measured = {"untrained_valid_score": 0.0123, "untrained_test_result": {"recall@10": 0.0456, "recall@20": 0.1}}
    results = {"a": make_result(hits(0.1)), "b": make_result(hits(0.5), **measured)}
    save_report(Report.of(entries, results, OPTIONS), tmp_path)
    lines = [" ".join(line.split()) for line in (tmp_path / "report.md").read_text().splitlines()]
    (start,) = [
        number for number, line in enumerate(lines) if line.startswith("| model | initialization | epoch 0 validation")
    ]
    assert lines[start].startswith(
        "| model | initialization | epoch 0 validation recall@10 | epoch 0 recall@10 | parameters | initialization (s) |"
    )
    assert lines[start + 2].startswith("| M | none | - | - | 7 |")
    assert lines[start + 3].startswith("| M | var | 0.0123 | 0.0456 | 7 |")
    assert "| model | initialization | seeds | recall@10 | epoch 0 recall@10 | against none |" in lines
    assert "Epoch 0: the initialized model before its training." in " ".join(lines)
    page = (tmp_path / "report.html").read_text()
    assert "<th>recall@10</th><th>epoch 0 recall@10</th>" in page
    assert page.count("<td>-</td><td></td>") == 1 and "<td>0.0456</td>" in page
    save_report(Report.of(entries, {**results, "b": results["a"]}, OPTIONS), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "epoch 0 recall" not in text and "epoch 0 validation" not in text and "Epoch 0: " not in text


class _Boxes(HTMLParser):
    """Collects the classes of the element in which each table and figure stands."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("table", "svg"):
            self.found.append((tag, self.open[-1][1]))
        if tag in ("div", "figure", "details", "body", "svg", "table"):
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1][0]:
            self.open.pop()


def test_what_is_wider_than_a_phone_scrolls_in_its_own_box(tmp_path: Path) -> None:
    save_report(make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "": {1: hits(0.2)}}), tmp_path)
    page = (tmp_path / "report.html").read_text()
    boxes = _Boxes()
    boxes.feed(page)
    assert {tag for tag, _ in boxes.found} == {"table", "svg"} and len(boxes.found) >= 7
    assert all("wide" in classes.split() for _, classes in boxes.found)
    assert (
        ".wide { overflow-x: auto; max-width: 100%; }" in page and "figure svg { max-width: 100%; height: auto;" in page
    )
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
