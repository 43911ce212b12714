"""The report of made-up trials, whose answers are known."""

import re
import zlib

import numpy as np
import pandas as pd
import pytest

from recbole_llminit.compare.export import save_report
from recbole_llminit.compare.plan import Entry
from recbole_llminit.compare.report import Cell, Report
from recbole_llminit.compare.trial import TrialResult
from recbole_llminit.errors import LLMInitError

USERS = 200
TUNED = ("learning_rate",)
ROLES = {"none": "stock", "none tuned": "stock", "var": "llm", "uni": "llm", "noise": "control", "": "baseline"}
OPTIONS = {"models": {"M": {}}, "datasets": {"d": {}}, "seeds": [1, 2], "tune": "stock", "tune_grid": {"learning_rate": [0.1]},
           "baselines": {"EASE": {"reg_weight": [1.0]}}, "user_strata": [5], "item_strata": [5]}  # fmt: skip


def result(values, *, valid=0.5, curve=(0.1, 0.5, 0.4), model="M", **others):
    """A finished trial with these recalls of its users."""
    values = np.asarray(values, dtype=float)
    tokens = [f"u{number}" for number in range(len(values))]
    points = [{"epoch": number + 1, "score": score, "seconds": 2.0 * number + 3} for number, score in enumerate(curve)]
    content = {
        "name": "t", "dataset": "d", "model": model, "config": {"learning_rate": 0.1, "reg_weight": 1.0, "epochs": 5}, "versions": {"a": "1"},
        "python": "3", "machine": "m", "seconds": 9.0, "initialization_seconds": None, "peak_memory_bytes": 1_000_000,
        "parameters": 7, "curve": points, "valid_metric": "recall@10", "valid_score_bigger": True, "best_valid_score": valid,
        "test_result": {"recall@10": float(values.mean())}, "init_report": None, **others,
    }  # fmt: skip
    users = pd.DataFrame({"user_id": tokens, "train_interactions": [3, 9] * (len(values) // 2), "recall@10": values})
    ranks = pd.DataFrame({"user_id": tokens, "item_id": "i", "item_interactions": [1, 8] * (len(values) // 2),
                          "rank": pd.Series(np.where(values > 0, 1, 0), dtype="Int32").replace(0, pd.NA)})  # fmt: skip
    return TrialResult(content, users, ranks)


def report(lines, **others):
    """The report of lines given as (initialization, by seed the users' recalls); the empty initialization is a baseline."""
    entries, results = [], {}
    for initialization, by_seed in lines.items():
        for seed, values in by_seed.items():
            name = f"{initialization}-{seed}"
            results[name] = result(values)
            model = "M" if initialization else "EASE"
            entries.append(Entry("d", model, initialization, ROLES[initialization], None, seed, (name,)))
    entries.sort(key=lambda entry: entry.seed)
    return Report.of(entries, results, OPTIONS, **others)


def hits(share, seed=0):
    return (np.random.default_rng(seed).random(USERS) < share).astype(float)


def cell(found, initialization):
    (section,) = found.sections()
    return next(row.cells["recall@10"] for row in section.rows if row.initialization.split(" (")[0] == initialization)


def test_letters_say_what_is_better_and_worse():
    found = report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.1)}, "": {1: hits(0.95)}})
    assert found.references == {"none": "a", "noise": "b", "EASE": "c"}
    assert (cell(found, "var").better, cell(found, "var").worse) == ("ab", "c")
    assert (cell(found, "noise").better, cell(found, "noise").worse) == ("", "")
    assert (cell(found, "none").better, cell(found, "none").worse) == ("", "")
    assert str(cell(found, "var")).endswith(" ab -c")


def test_bold_is_the_best_and_better_than_every_start_without_an_llm():
    # Below the baseline, but the best of its model.
    assert cell(
        report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.1)}, "": {1: hits(0.9)}}), "var"
    ).bold
    # As good as noise: the table would mislead.
    same = report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.5, seed=1)}})
    assert not any(row.cells["recall@10"].bold for section in same.sections() for row in section.rows)
    # The best is no LLM initialization, and is tested against the stock initialization alone.
    noise = report({"none": {1: hits(0.1)}, "var": {1: hits(0.2)}, "noise": {1: hits(0.9)}})
    assert not any(row.cells["recall@10"].bold for section in noise.sections() for row in section.rows)
    # Of two that pass the tests, the better.
    both = report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "uni": {1: hits(0.8)}})
    assert cell(both, "uni").bold and not cell(both, "var").bold


def test_nothing_is_bold_without_a_test():
    alone = report({"var": {1: hits(0.9)}})
    assert alone.tests.empty and alone.references == {} and alone.legend == ""
    assert not cell(alone, "var").bold
    assert "0.8500 " in str(alone)


def test_users_are_tested_once_however_many_seeds():
    draws = {seed: (hits(0.3, seed), hits(0.4, seed + 100)) for seed in (1, 2, 3)}
    found = report(
        {
            "none": {seed: none for seed, (none, _) in draws.items()},
            "var": {seed: var for seed, (_, var) in draws.items()},
        }
    )
    (test,) = found.tests.itertuples()
    differences = np.mean([var - none for none, var in draws.values()], axis=0)
    assert (test.users, test.seeds) == (USERS, 3)
    assert test.difference == pytest.approx(differences.mean())
    assert test.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert test.wins == (differences > 0).sum() and test.ties == (differences == 0).sum()


def test_only_common_seeds_are_paired():
    entries = [Entry("d", "M", "none", "stock", None, 1, ("a",)), Entry("d", "M", "var", "llm", None, 1, ("b",)),
               Entry("d", "EASE", "", "baseline", None, 1, ("c",)), Entry("d", "EASE", "", "baseline", None, 2, ("e",))]  # fmt: skip
    results = {"a": result(hits(0.1)), "b": result(hits(0.2)), "c": result(hits(0.5)), "e": result(hits(0.9))}
    found = Report.of(entries, results, OPTIONS)
    assert found.to_dataframe().set_index("model").loc["EASE", "seeds"] == 2
    assert set(found.tests["seeds"]) == {1}


def test_of_a_grid_the_best_by_validation():
    entries = [Entry("d", "M", "none tuned", "stock", None, 1, ("a", "b", "c"), TUNED)]
    results = {"a": result(hits(0.9), valid=0.2), "b": result(hits(0.1), valid=0.4), "c": result(hits(0.5), valid=0.3)}
    found = Report.of(entries, results, OPTIONS)
    assert found.runs["recall@10"].item() == hits(0.1).mean()
    assert (found.runs["tuned"].item(), found.runs["candidates"].item()) == ("learning_rate 0.1", 3)
    smaller = {
        name: result(hits(0.5), valid=valid, valid_score_bigger=False) for name, valid in (("a", 3), ("b", 1), ("c", 2))
    }
    assert Report.of(entries, smaller, OPTIONS).runs["valid_score"].item() == 1


def test_a_start_that_failed_with_some_seeds_takes_them_from_all():
    entries, results = [], {}
    for seed in (1, 2):
        for initialization in ("none", "var"):
            entries.append(
                Entry("d", "M", initialization, ROLES[initialization], None, seed, (f"{initialization}{seed}",))
            )
            results[f"{initialization}{seed}"] = result(hits(0.2 if initialization == "none" else 0.8, seed))
    del results["none2"]
    found = Report.of(entries, results, OPTIONS, failed={"none2"})
    assert found.to_dataframe()["seeds"].to_list() == [1, 1] and set(found.tests["seeds"]) == {1}
    assert found.problems == ("a initialization failed, and left out: M on d with seed 2",)
    assert cell(found, "var").bold
    del results["none1"]
    # With every seed: the others stay, and nothing can be said to be better than it.
    gone = Report.of(entries, results, OPTIONS, failed={"none1", "none2"})
    assert gone.to_dataframe()[["initialization", "seeds"]].to_numpy().tolist() == [["var", 2]]
    assert gone.problems == ("failed with every seed, and left out: M none on d",)
    assert gone.incomplete == {("d", "none", "M")} and not cell(gone, "var").bold


def test_bold_needs_every_start_without_an_llm():
    entries = [
        Entry("d", "M", initialization, ROLES[initialization], None, 1, (initialization,))
        for initialization in ("none", "noise", "var")
    ]
    results = {"noise": result(hits(0.1)), "var": result(hits(0.8))}
    found = Report.of(entries, results, OPTIONS, failed={"none"})
    assert cell(found, "var").better == "a" and not cell(found, "var").bold
    assert cell(Report.of(entries, {**results, "none": result(hits(0.1))}, OPTIONS), "var").bold


def test_a_metric_without_a_cut_off_validates():
    found = Report.of(
        [Entry("d", "M", "none", "stock", None, 1, ("a",))], {"a": result(hits(0.5), valid_metric="gauc")}, OPTIONS
    )
    assert found.metrics == ("recall@10",)


def test_only_cold_data_left(tmp_path):
    """The full data's trials failed: the figures of it are missing, and no more."""
    entries = [Entry("d", "M", "none", "stock", drop, 1, (str(drop),)) for drop in (None, 0.5)]
    found = Report.of(entries, {"0.5": result(hits(0.5))}, OPTIONS, failed={"None"})
    names = {path.name for path in save_report(found, tmp_path)}
    assert "d_cold_start.png" in names and "d_strata.png" not in names


def test_a_failed_trial_of_a_grid_leaves_the_others():
    entries = [Entry("d", "M", "none tuned", "stock", None, 1, ("a", "b"), TUNED)]
    found = Report.of(entries, {"a": result(hits(0.9))}, OPTIONS, failed={"b"}, problems=["the trial b failed"])
    assert found.runs["candidates"].item() == 1 and found.problems == ("the trial b failed",)
    with pytest.raises(LLMInitError, match="nothing to report\nthe trial b failed"):
        Report.of(entries, {}, OPTIONS, failed={"b"}, problems=["the trial b failed"])


def test_the_legend_says_who_was_tuned_and_what_one_seed_is_worth():
    lines = {"none": {1: hits(0.1)}, "var": {1: hits(0.5)}}
    assert "the LLM initializations are not. One seed: the tests weigh the choice of users" in report(lines).legend
    two = report({initialization: {**by_seed, 2: by_seed[1]} for initialization, by_seed in lines.items()})
    assert "One seed" not in two.legend


def test_the_limit_of_epochs_and_the_edge_of_a_grid():
    options = {**OPTIONS, "tune_grid": {"learning_rate": [0.1, 0.2, 0.3]}}
    entries = [
        Entry("d", "M", "none tuned", "stock", None, 1, ("a",), TUNED),
        Entry("d", "M", "var", "llm", None, 1, ("b",)),
    ]
    results = {"a": result(hits(0.5), curve=(0.1,) * 5), "b": result(hits(0.5))}
    runs = Report.of(entries, results, options).runs
    assert runs["at_edge"].to_list() == ["learning_rate", ""] and runs["at_limit"].to_list() == [True, False]
    assert Report.of(entries, results, OPTIONS).runs["at_edge"].to_list() == ["", ""]
    inner = {**options, "tune_grid": {"learning_rate": [0.05, 0.1, 0.2]}}
    assert Report.of(entries, results, inner).runs["at_edge"].to_list() == ["", ""]
    assert Report.of(entries, results, options).efficiency["seeds_at_limit"].to_list() == [1, 0]


def test_when_the_stock_starts_best_is_reached():
    lines = [
        ("none", 1, (0.1, 0.3, 0.2)),
        ("var", 1, (0.2, 0.3, 0.4)),
        ("none", 2, (0.1, 0.2, 0.5)),
        ("var", 2, (0.4, 0.4, 0.4)),
    ]
    entries = [
        Entry("d", "M", initialization, ROLES[initialization], None, seed, (f"{initialization}{seed}",))
        for initialization, seed, _ in lines
    ]
    results = {
        f"{initialization}{seed}": result(hits(0.5), curve=curve, valid=max(curve))
        for initialization, seed, curve in lines
    }
    rows = Report.of(entries, results, OPTIONS).efficiency.set_index("initialization")
    # Epochs 2 and 3; two seconds an epoch.
    assert rows.loc["none", ["epochs_to_stock", "seconds_to_stock", "seconds_per_epoch"]].to_list() == [2.5, 5, 2]
    # Epoch 2, and never: the median of two seeds is never.
    assert rows.loc["var", "seeds_reaching_stock"] == 1 and pd.isna(rows.loc["var", "epochs_to_stock"])


def test_cells_in_every_form():
    both = Cell(mean=0.12345, deviation=0.01, better="ab", worse="c", bold=True)
    assert str(both) == "0.1235* ± 0.0100 ab -c"
    assert both.to_markdown() == "**0.1235** ± 0.0100 <sup>ab -c</sup>"
    assert both.to_latex() == r"\textbf{0.1235} $\pm$ 0.0100$^{ab}_{c}$"
    plain = Cell(mean=0.5, deviation=float("nan"), better="", worse="", bold=False)
    assert str(plain) == plain.to_markdown() == plain.to_latex() == "0.5000"


def test_names_are_escaped(tmp_path):
    entries = [
        Entry("d_1 & <b>", "M", "none", "stock", None, 1, ("a",)),
        Entry("d_1 & <b>", "M", "<i>50%", "llm", None, 1, ("b",)),
    ]
    found = Report.of(
        entries, {"a": result(hits(0.1)), "b": result(hits(0.9))}, OPTIONS, problems=["<script>alert(1)</script>"]
    )
    written = {path.name: path for path in save_report(found, tmp_path / "out")}
    # In markdown what stands in a code block, four spaces in, is text already.
    lines = [line for line in written["report.md"].read_text().splitlines() if not line.startswith("    ")]
    assert not re.findall(r"<(?!sup>|/sup>)", "\n".join(lines))
    assert "d_1 &amp; &lt;b&gt;" in "\n".join(lines) and "&lt;i&gt;50%" in "\n".join(lines)
    page = written["report.html"].read_text()
    assert "&lt;b&gt;" in page and "&lt;i&gt;50%" in page and "&lt;script&gt;" in page
    assert not re.findall(r"<(?:script|i|b)>(?!0\.)", page)
    assert r"d\_1 \& <b>" in found.to_latex() and r"<i>50\%" in found.to_latex()


def test_a_start_with_every_special_character():
    name = "a|b\\c~d^e"
    found = Report.of([Entry("d", "M", name, "llm", None, 1, ("a",))], {"a": result(hits(0.1))}, OPTIONS)
    assert r"| a\|b\c~d^e  " in found.to_markdown()
    assert r"a|b\textbackslash{}c\textasciitilde{}d\textasciicircum{}e" in found.to_latex()


def test_the_page_of_cold_starts_and_seeds(tmp_path):
    entries, results = [], {}
    for seed in (1, 2):
        for drop in (None, 0.5, "all_but_one"):
            for initialization, share in (("none", 0.2), ("var", 0.6)):
                name = f"{seed}{drop}{initialization}"
                entries.append(Entry("d", "M", initialization, ROLES[initialization], drop, seed, (name,)))
                results[name] = result(hits(share, seed=zlib.crc32(name.encode()) % 1000))
    found = Report.of(entries, results, OPTIONS)
    paths = {path.name: path for path in save_report(found, tmp_path)}
    assert {"d_convergence.png", "d_strata.png", "d_cold_start.png"} <= set(paths)
    text = paths["report.md"].read_text()
    assert (
        "## d, training interactions dropped: 0.5" in text
        and "## d, training interactions dropped: all_but_one" in text
    )
    assert "(d_cold_start.png)" in text
    page = paths["report.html"].read_text()
    assert page.count("<svg") == 3 and "all but" in page
    assert [section.drop for section in found.sections()] == ["none", "0.5", "all_but_one"]
    # Holm's family is one level.
    assert len(found.tests) == 3 and (found.tests["p_holm"] == found.tests["p"]).all()


def spectrum(*values, label="item_embedding.weight", side="item"):
    return {"label": label, "side": side, "spectrum": {"singular_values": list(values)}}


def test_spectra_literally_and_where_seeds_have_other_widths(tmp_path):
    """A grid over the width may choose another with each seed; a trial of the version before has no spectra."""
    entries = [Entry("d", "M", "none", "stock", None, seed, (f"t{seed}",)) for seed in (1, 2, 3)]
    results = {
        "t1": result(
            hits(0.1), spectra=[spectrum(4, 2, 2), spectrum(3, 3, label="user_embedding.weight", side="user")]
        ),
        "t2": result(hits(0.1), spectra=[spectrum(6, 6)]),
        "t3": result(hits(0.1)),
    }
    found = Report.of(entries, results, OPTIONS)
    rows = found.spectra.set_index(["seed", "side"])
    assert len(rows) == 3
    assert rows.loc[(1, "item"), "effective_rank"] == pytest.approx(2**1.5)
    assert rows.loc[(1, "item"), "information_abundance"] == pytest.approx(2)
    assert rows.loc[(2, "item"), "effective_rank"] == pytest.approx(2)
    save_report(found, tmp_path)
    lines = [" ".join(line.split()) for line in (tmp_path / "report.md").read_text().splitlines()]
    for line in ("| M | none | item_embedding.weight | 3 | 2.8 | 2.0 |", "| M | none | item_embedding.weight | 2 | 2.0 | 2.0 |",
                 "| M | none | user_embedding.weight | 2 | 2.0 | 2.0 |"):  # fmt: skip
        assert line in lines
    assert (tmp_path / "d_spectrum.png").exists()
