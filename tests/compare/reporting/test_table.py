"""The table of a report: its cells, columns, marks and bold figures in every form."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.table import Cell, Change, relative_change
from tests.compare.synthetic import OPTIONS, USERS, cell_of, hits, make_entry, make_report, make_result


def test_cells_in_every_form() -> None:
    bold = Cell(mean=0.12345, std=0.01, bold=True)
    assert str(bold) == "0.1235* ± 0.0100"
    assert bold.to_markdown() == "**0.1235** ± 0.0100"
    assert bold.to_latex() == r"\textbf{0.1235} $\pm$ 0.0100"
    plain = Cell(mean=0.5, std=float("nan"), bold=False)
    assert str(plain) == plain.to_markdown() == plain.to_latex() == "0.5000"


@pytest.mark.parametrize(
    ("share", "outcome", "text", "latex"),
    [
        (0.157, "better", "+16%▲", r"+16\%$\uparrow$"),
        (-0.057, "worse", "-6%▼", r"-6\%$\downarrow$"),
        (0.004, "undecided", "+0.4%=", r"+0.4\%$=$"),
        (0.0, "undecided", "+0%=", r"+0\%$=$"),
    ],
)
def test_changes_in_every_form(share: float, outcome: str, text: str, latex: str) -> None:
    assert str(Change(share, outcome)) == text and Change(share, outcome).to_latex() == latex


def test_a_change_from_nothing_is_infinite() -> None:
    assert (relative_change(0.3, 0.2), relative_change(0.1, 0.0), relative_change(0.0, 0.0)) == (
        pytest.approx(0.5),
        float("inf"),
        0.0,
    )


def test_mean_and_std_over_the_seeds() -> None:
    table = make_report({"none": {1: hits(0.1), 2: hits(0.3)}, "var": {1: hits(0.5), 2: hits(0.5)}}).to_dataframe()
    first, second = hits(0.1).mean(), hits(0.3).mean()
    row = table.set_index("initialization").loc["none"]
    assert row["recall@10"] == (first + second) / 2
    # The standard deviation of two numbers is their distance over the root of two.
    assert abs(row["recall@10 std"] - (second - first) / 2**0.5) < 1e-12
    assert row["seeds"] == 2 and row["role"] == "stock"


def test_named_columns_say_what_is_better_and_worse() -> None:
    shares = {"none": 0.1, "var": 0.5, "noise": 0.1, "": 0.95}
    found = make_report({initialization: {1: hits(share)} for initialization, share in shares.items()})
    assert found.references == ("none", "noise", "EASE")
    table = found.to_dataframe().set_index("initialization")
    assert (
        table.loc["var", "recall@10 better_than"] == "none, noise"
        and table.loc["var", "recall@10 worse_than"] == "EASE"
    )
    assert (table.loc[["none", "noise", ""], ["recall@10 better_than", "recall@10 worse_than"]] == "").all(axis=None)
    (section,) = found.sections()
    assert section.references == ("none", "noise", "EASE")
    texts = section.to_texts(str).set_index("initialization")
    assert texts.loc["none", "recall@10"] == f"{hits(0.1).mean():.4f}"
    none, var, ease = (hits(share).mean() for share in (0.1, 0.5, 0.95))
    assert texts.loc["var", "against none"] == f"{100 * (var / none - 1):+.0f}%▲"
    assert texts.loc["var", "against EASE"] == f"{100 * (var / ease - 1):+.0f}%▼"
    assert texts.loc["noise", "against none"] == "+0%="
    assert texts.loc["none", "against none"] == texts.loc["", "against EASE"] == ""


def test_a_table_is_narrow_with_long_names_and_many_metrics() -> None:
    names = {"none": "stock", "none tuned": "stock", "cca 0.05": "llm", "cca 0.05 shuffled": "control"}
    entries, results = [], {}
    metrics = {f"{metric}@10": 0.1234 for metric in ("recall", "mrr", "ndcg", "hit", "precision")}
    for seed in (1, 2):
        for name, role in names.items():
            entries.append(make_entry(name, seed, f"{name}{seed}", role=role, model="LightGCN"))
            result = make_result(hits(0.5, seed), test_result=metrics, valid_metric="mrr@10")
            users = result.users.assign(**dict.fromkeys(metrics, result.users["recall@10"]))
            results[f"{name}{seed}"] = replace(result, users=users)
        entries.append(make_entry("", seed, f"none{seed}", model="ItemKNN"))
    found = Report.of(entries, results, OPTIONS)
    assert found.metrics == tuple(metrics) and found.headline == ("recall@10", "mrr@10")
    (section,) = found.sections()
    columns = section.to_texts(str).columns.to_list()
    assert columns == ["model", "initialization", "seeds", "recall@10", "mrr@10", "against none", "against cca 0.05 shuffled",
                       "against ItemKNN"]  # fmt: skip
    assert max(map(len, section.draw().splitlines())) <= 120


def with_epoch_0(names: dict[str, str], **others: float) -> Report:
    """A report of two seeds whose lines score 0.01 and 0.03 before the training; the baseline has not measured it."""
    entries, results = [], {}
    for seed, value in ((1, 0.01), (2, 0.03)):
        for name, role in names.items():
            entries.append(make_entry(name, seed, f"{name}{seed}", role=role))
            measured = {"untrained_valid_score": 0.5, "untrained_test_result": {"recall@10": value}}
            results[f"{name}{seed}"] = make_result(hits(0.5, seed), **measured)
        entries.append(make_entry("", seed, f"EASE{seed}"))
        results[f"EASE{seed}"] = make_result(hits(0.3, seed))
    return Report.of(entries, results, OPTIONS)


def test_epoch_0_stands_behind_the_first_metric() -> None:
    found = with_epoch_0({"none": "stock", "var": "llm"})
    (section,) = found.sections()
    texts = section.to_texts(str).set_index("initialization")
    assert texts.columns.to_list()[2:4] == ["recall@10", "epoch 0 recall@10"]
    assert texts["epoch 0 recall@10"].to_dict() == {"none": "0.0200", "var": "0.0200", "": "-"}
    assert "epoch 0 " in section.draw() and "epoch 0 recall@10" not in section.draw()
    assert "Epoch 0: the initialized model before its training." in found.legend
    assert found.to_dataframe().set_index("initialization")["epoch 0 recall@10"]["var"] == pytest.approx(0.02)
    assert found.efficiency.set_index("initialization")["epoch 0 recall@10"]["var"] == pytest.approx(0.02)


def test_epoch_0_is_left_out_of_a_table_that_would_be_too_wide() -> None:
    long = "an initialization with a long name and thirty more letters"
    found = with_epoch_0({"none": "stock", long: "llm"})
    (section,) = found.sections()
    assert section.epoch_0 == "" and "Epoch 0" not in found.legend
    assert 110 < max(map(len, section.draw().splitlines())) <= 120


def test_bold_is_the_best_and_better_than_every_initialization_without_an_llm() -> None:
    # Below the baseline, but the best of its model.
    below = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.1)}, "": {1: hits(0.9)}})
    assert cell_of(below, "var").bold
    # As good as noise: the table would mislead.
    same = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.5, seed=1)}})
    assert not any(row.cells["recall@10"].bold for section in same.sections() for row in section.rows)
    # The best is no LLM initialization, and is tested against the stock initialization alone.
    noise = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.2)}, "noise": {1: hits(0.9)}})
    assert not any(row.cells["recall@10"].bold for section in noise.sections() for row in section.rows)
    # Of two that pass the tests, the better.
    both = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "uni": {1: hits(0.8)}})
    assert cell_of(both, "uni").bold and not cell_of(both, "var").bold


def test_bold_needs_every_initialization_without_an_llm() -> None:
    entries = [make_entry(initialization, 1, initialization) for initialization in ("none", "noise", "var")]
    results = {"noise": make_result(hits(0.1)), "var": make_result(hits(0.8))}
    found = Report.of(entries, results, OPTIONS, failed={"none"})
    better_than = found.to_dataframe().set_index("initialization").loc["var", "recall@10 better_than"]
    assert better_than == "noise" and not cell_of(found, "var").bold
    complete = Report.of(entries, {**results, "none": make_result(hits(0.1))}, OPTIONS)
    assert cell_of(complete, "var").bold


def seeds_that_disagree() -> dict[str, dict[int, npt.NDArray[np.float64]]]:
    """A gain that users are sure of and three seeds are not: it comes from one of them."""
    none = np.zeros(USERS)
    return {"none": dict.fromkeys((1, 2, 3), none), "var": {1: hits(0.9), 2: none, 3: hits(0.01)}}


def test_bold_and_marks_need_both_tests_from_three_seeds_on() -> None:
    lines = seeds_that_disagree()
    found = make_report(lines)
    (test,) = found.tests.itertuples()
    means = {name: [users.mean() for users in by_seed.values()] for name, by_seed in lines.items()}
    assert test.p_holm < 1e-20
    assert (
        test.p_seeds_holm == pytest.approx(stats.ttest_rel(means["var"], means["none"]).pvalue) and test.p_seeds > 0.3
    )
    assert test.outcome == "undecided" and not cell_of(found, "var").bold
    assert found.to_dataframe()["recall@10 better_than"].to_list() == ["", ""]
    # With two seeds the test over users decides alone.
    two = make_report({name: {seed: by_seed[seed] for seed in (1, 2)} for name, by_seed in lines.items()})
    assert two.tests["p_seeds"].isna().all() and cell_of(two, "var").bold
    # Three seeds that agree.
    agreeing = make_report({"none": lines["none"], "var": {seed: hits(0.5, seed) for seed in (1, 2, 3)}})
    assert agreeing.tests["p_seeds_holm"].item() < 0.01 and cell_of(agreeing, "var").bold


def test_nothing_is_bold_without_a_test() -> None:
    alone = make_report({"var": {1: hits(0.9)}})
    assert alone.tests.empty and alone.references == () and alone.legend == ""
    assert not cell_of(alone, "var").bold
    assert alone.verdict == () and "0.8500 " in str(alone)


def test_a_name_with_every_special_character() -> None:
    entry = make_entry("a|b\\c~d^e", 1, "a")
    found = Report.of([entry], {"a": make_result(hits(0.1))}, OPTIONS)
    assert r"| a\|b\c~d^e  " in found.to_markdown()
    assert r"a|b\textbackslash{}c\textasciitilde{}d\textasciicircum{}e" in found.to_latex()
