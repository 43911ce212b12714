"""The table of a report: its cells, letters and bold figures in every form."""

from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.table import Cell
from tests.compare.synthetic import OPTIONS, cell_of, hits, make_entry, make_report, make_result


def test_cells_in_every_form() -> None:
    both = Cell(mean=0.12345, std=0.01, better="ab", worse="c", bold=True)
    assert str(both) == "0.1235* ± 0.0100 ab -c"
    assert both.to_markdown() == "**0.1235** ± 0.0100 <sup>ab -c</sup>"
    assert both.to_latex() == r"\textbf{0.1235} $\pm$ 0.0100$^{ab}_{c}$"
    plain = Cell(mean=0.5, std=float("nan"), better="", worse="", bold=False)
    assert str(plain) == plain.to_markdown() == plain.to_latex() == "0.5000"


def test_mean_and_std_over_the_seeds() -> None:
    table = make_report({"none": {1: hits(0.1), 2: hits(0.3)}, "var": {1: hits(0.5), 2: hits(0.5)}}).to_dataframe()
    first, second = hits(0.1).mean(), hits(0.3).mean()
    row = table.set_index("initialization").loc["none"]
    assert row["recall@10"] == (first + second) / 2
    # The standard deviation of two numbers is their distance over the root of two.
    assert abs(row["recall@10 std"] - (second - first) / 2**0.5) < 1e-12
    assert row["seeds"] == 2 and row["role"] == "stock"


def test_letters_say_what_is_better_and_worse() -> None:
    found = make_report({"none": {1: hits(0.1)}, "var": {1: hits(0.5)}, "noise": {1: hits(0.1)}, "": {1: hits(0.95)}})
    assert found.references == {"none": "a", "noise": "b", "EASE": "c"}
    assert (cell_of(found, "var").better, cell_of(found, "var").worse) == ("ab", "c")
    assert (cell_of(found, "noise").better, cell_of(found, "noise").worse) == ("", "")
    assert (cell_of(found, "none").better, cell_of(found, "none").worse) == ("", "")
    assert str(cell_of(found, "var")).endswith(" ab -c")
    (section,) = found.sections()
    assert [row.label for row in section.rows] == ["none (a)", "var", "noise (b)", "(c)"]


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
    assert cell_of(found, "var").better == "a" and not cell_of(found, "var").bold
    complete = Report.of(entries, {**results, "none": make_result(hits(0.1))}, OPTIONS)
    assert cell_of(complete, "var").bold


def test_nothing_is_bold_without_a_test() -> None:
    alone = make_report({"var": {1: hits(0.9)}})
    assert alone.tests.empty and alone.references == {} and alone.legend == ""
    assert not cell_of(alone, "var").bold
    assert "0.8500 " in str(alone)


def test_a_name_with_every_special_character() -> None:
    entry = make_entry("a|b\\c~d^e", 1, "a")
    found = Report.of([entry], {"a": make_result(hits(0.1))}, OPTIONS)
    assert r"| a\|b\c~d^e  " in found.to_markdown()
    assert r"a|b\textbackslash{}c\textasciitilde{}d\textasciicircum{}e" in found.to_latex()
