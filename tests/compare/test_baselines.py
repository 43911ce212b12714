"""The baselines of a comparison."""

from typing import Any

import pytest

from recbole_llminit.compare.baselines import Baseline, default_baselines, read_baselines


def test_names_take_the_default_grids() -> None:
    ease, item_knn, other = read_baselines(["EASE", "ItemKNN", "SLIMElastic"])
    assert (ease.label, ease.model, ease.settings) == ("EASE", "EASE", {})
    assert ease.grid == {"reg_weight": [10.0, 30.0, 100.0, 300.0, 1000.0]}
    assert item_knn.grid == {"k": [20, 50, 100, 200, 400], "shrink": [0.0, 10.0]}
    assert other == Baseline("SLIMElastic", "SLIMElastic")


def test_a_label_of_its_own_with_settings_and_a_grid() -> None:
    keys = {"model": "EASE", "init_strategy": "var", "reg_weight": [1.0, 2.0], "init_args": {"popular_ratio": 0.1}}
    (found,) = read_baselines({"EASE, other": keys})
    settings = {"init_strategy": "var", "init_args": {"popular_ratio": 0.1}}
    assert found == Baseline("EASE, other", "EASE", settings, {"reg_weight": [1.0, 2.0]})
    assert found.needs_vectors and not Baseline("EASE", "EASE").needs_vectors
    assert found.to_dict() == keys


def test_a_mapping_replaces_the_default_of_its_name_alone() -> None:
    ease, pop = read_baselines({"EASE": {"reg_weight": 5.0}, "Pop": None})
    assert (ease.settings, ease.grid) == ({"reg_weight": 5.0}, {})
    assert pop == Baseline("Pop", "Pop")


@pytest.mark.parametrize("value", [None, "none", {}])
def test_there_may_be_none(value: Any) -> None:
    assert read_baselines(value) == ()


def test_the_one_with_vectors_is_there_where_an_initialization_reads_vectors() -> None:
    assert default_baselines(with_vectors=False) == ["EASE", "ItemKNN", "Pop"]
    assert default_baselines(with_vectors=True) == ["EASE", "ItemKNN", "Pop", "EASE with the vectors"]
    (found,) = read_baselines(["EASE with the vectors"])
    assert (found.model, found.settings, found.grid) == ("EASE", {"init_strategy": "lae", "reg_weight": 250.0}, {})
