import pytest

from recbole_llminit.suggest import nearest, suggest

KNOWN = ["LightGCN", "SASRec", "init_strategy"]


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("LightGCNN", "LightGCN"),
        ("lightgcn", "LightGCN"),
        ("init_stratgy", "init_strategy"),
        ("zzz", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_the_nearest_word_ignores_case(word: object, match: str | None) -> None:
    assert nearest(word, KNOWN) == match


def test_the_cutoff_is_the_least_similarity() -> None:
    # "init_strategy" and "strategy" have a ratio of 16 / 21.
    assert nearest("strategy", KNOWN, cutoff=0.76) == "init_strategy"
    assert nearest("strategy", KNOWN, cutoff=0.77) is None


def test_a_suggestion_is_the_end_of_a_message() -> None:
    assert suggest("sasrek", KNOWN) == ": did you mean 'SASRec'?"
    assert suggest("zzz", KNOWN) == ""
    assert suggest("sasrek", []) == ""
