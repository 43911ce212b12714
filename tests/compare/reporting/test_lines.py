"""Lines of a report, and which of them are complete."""

from recbole_llminit.compare.plan import Entry
from recbole_llminit.compare.reporting.lines import Line, ModelKey, Part, choose_complete
from tests.compare.synthetic import GRIDS, make_entry


def entries_of_two_seeds() -> list[Entry]:
    return [
        make_entry(initialization, seed, f"{initialization}{seed}")
        for seed in (1, 2)
        for initialization in ("none", "var", "")
    ]


ALL = {"none1", "var1", "1", "none2", "var2", "2"}


def test_what_a_line_is_of() -> None:
    line = Line.of(make_entry("var", 1, "a", drop=0.5))
    assert line == ("d", "0.5", "M", "var") and line._asdict()["initialization"] == "var"
    assert (line.part, line.model_key) == (Part("d", "0.5"), ModelKey("d", "0.5", "M"))
    assert line.part.title == "d, training interactions dropped: 0.5"
    baseline = Line.of(make_entry("", 1, "a"))
    assert (baseline.drop, baseline.part.title) == ("none", "d")


def test_where_all_have_finished_all_are_kept() -> None:
    entries = entries_of_two_seeds()
    assert choose_complete(entries, ALL, set()) == (entries, [], frozenset())


def test_a_seed_waits_for_all_initializations_of_its_model() -> None:
    entries = entries_of_two_seeds()
    found = choose_complete(entries, ALL - {"var2"}, set())
    assert [entry.trials[0] for entry in found.entries] == ["none1", "var1", "1", "2"]
    assert found.messages == ["not finished, and left out: M on d with seed 2"] and not found.incomplete


def test_an_initialization_that_failed_with_some_seeds_takes_them_from_all() -> None:
    found = choose_complete(entries_of_two_seeds(), ALL - {"var2"}, {"var2"})
    assert [entry.trials[0] for entry in found.entries] == ["none1", "var1", "1", "2"]
    assert found.messages == ["an initialization failed, and left out: M on d with seed 2"] and not found.incomplete


def test_an_initialization_that_failed_with_every_seed_is_left_out_alone() -> None:
    without_stock = choose_complete(entries_of_two_seeds(), ALL - {"none1", "none2"}, {"none1", "none2"})
    assert [entry.trials[0] for entry in without_stock.entries] == ["var1", "1", "var2", "2"]
    assert without_stock.messages == ["failed with every seed, and left out: M none on d"]
    assert without_stock.incomplete == {("d", "none", "M")}
    # Without an LLM initialization the others can still be told apart.
    assert not choose_complete(entries_of_two_seeds(), ALL - {"var1", "var2"}, {"var1", "var2"}).incomplete


def test_messages_name_each_model_once_with_its_seeds() -> None:
    found = choose_complete(entries_of_two_seeds(), {"1"}, set())
    (message,) = found.messages
    assert message == "not finished, and left out: EASE on d with seed 2; M on d with seed 1, 2"


def test_a_grid_needs_one_trial_that_has_finished() -> None:
    entries = [make_entry("none tuned", 1, "a", "b", grids=GRIDS)]
    assert choose_complete(entries, {"a"}, {"b"}).entries == entries
    assert choose_complete(entries, {"a"}, set()).entries == []
    assert choose_complete(entries, set(), {"a", "b"}).entries == []
