"""The files of a report."""

import re
import zlib
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
    assert columns["tests.csv"][:5] == [*line, "reference"] and columns["tests.csv"][-1] == "p_holm"
    assert "| model | initialization | seeds | recall@10 |" in " ".join(paths["report.md"].read_text().split())
    assert "<th>model</th><th>initialization</th>" in paths["report.html"].read_text()
