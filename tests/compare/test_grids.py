"""The grids that are searched by default, and those of the user."""

import pytest

from recbole_llminit.compare.grids import (
    LEARNING_RATES,
    REG_WEIGHTS,
    WEIGHT_DECAYS,
    count_points,
    default_grid,
    grid_points,
    read_tune_grid,
    split_grid,
)

WITH_WEIGHT_DECAY = {"learning_rate": LEARNING_RATES, "weight_decay": WEIGHT_DECAYS}
WITH_REG_WEIGHT = {"learning_rate": LEARNING_RATES, "reg_weight": REG_WEIGHTS}


@pytest.mark.parametrize("model", ["LightGCN", "SGL", "NCL", "Caser", "ENMF"])
def test_a_model_with_a_regularization_of_its_own_is_tuned_over_it(model: str) -> None:
    assert default_grid(model) == WITH_REG_WEIGHT


@pytest.mark.parametrize("model", ["BPR", "SASRec", "SGCL", "HRM", "my_models.LightGCN"])
def test_a_model_without_one_is_tuned_over_weight_decay(model: str) -> None:
    assert default_grid(model) == WITH_WEIGHT_DECAY


@pytest.mark.parametrize("model", ["HGN", "SHAN", "FISM", "MacridVAE"])
def test_one_with_a_list_of_them_is_tuned_over_weight_decay(model: str) -> None:
    assert default_grid(model) == WITH_WEIGHT_DECAY


def test_a_model_in_closed_form_has_no_learning_rate() -> None:
    assert list(default_grid("EASE")) == ["reg_weight"]
    assert default_grid("Pop") == {}


def test_a_flat_grid_is_that_of_all_models_and_one_by_name_that_of_its_model() -> None:
    flat = {"learning_rate": [0.1]}
    assert read_tune_grid(flat, ["BPR", "SGL"]) == {"BPR": flat, "SGL": flat}
    assert read_tune_grid({"SGL": flat}, ["BPR", "SGL"]) == {"BPR": WITH_WEIGHT_DECAY, "SGL": flat}
    assert read_tune_grid(None, ["BPR", "SGL"]) == {"BPR": WITH_WEIGHT_DECAY, "SGL": WITH_REG_WEIGHT}


def test_points() -> None:
    grid = {"a": [1, 2], "b": ["x", "y"]}
    points = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid_points(grid) == points and count_points(grid) == 4
    assert grid_points({}) == [{}] and count_points({}) == 1


def test_a_list_is_a_grid_and_another_value_a_setting() -> None:
    assert split_grid({"a": [1], "b": 2, "c": {"d": [3]}}) == ({"b": 2, "c": {"d": [3]}}, {"a": [1]})
