from dataclasses import dataclass

import numpy as np
import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategies import selection
from recbole_llminit.strategies.base import Columns, Strategy, get_strategy, list_strategies, register_strategy


def test_columns_keep_values_and_order():
    block = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.float16)
    values = Columns((1, 3))(block)
    assert values.dtype == np.float32
    assert values.tolist() == [[2, 4], [6, 8]]
    assert Columns((1, 3)).to_dict() == {"kind": "columns", "dimensions": [1, 3], "unit": False}


def test_registry_lists_the_papers_strategies_and_the_control():
    assert [entry.name for entry in list_strategies()] == [
        "rand",
        "uni",
        "var",
        "prefix",
        "pca",
        "whiten",
        "cca",
        "rp",
        "auto",
        "noise",
    ]
    assert all(entry.description for entry in list_strategies())


def test_get_strategy_takes_arguments_and_shows_them():
    assert get_strategy("var", {"popular_ratio": 0.5}) == selection.Variance(popular_ratio=0.5)
    assert repr(get_strategy("var")) == "Variance(popular_ratio=0.2)"


def test_default_scales():
    scales = {entry.name: entry.cls.default_scale for entry in list_strategies()}
    raw, mixed = ("rand", "uni", "var", "prefix", "noise"), ("pca", "whiten", "rp")
    assert scales == {**dict.fromkeys(raw, "raw"), **dict.fromkeys(mixed, 0.05), "cca": "score", "auto": None}


def test_unknown_strategy_names_the_nearest():
    with pytest.raises(
        LLMInitError,
        match=r"init_strategy 'varience' is unknown: did you mean 'var'\? \(rand, uni, var, prefix, .*, auto, noise\)",
    ):
        get_strategy("varience")


def test_unknown_argument_names_the_nearest():
    with pytest.raises(LLMInitError, match=r"'popular_ration' is unknown to init_strategy 'var'.*'popular_ratio'"):
        get_strategy("var", {"popular_ration": 0.2})
    with pytest.raises(LLMInitError, match="it takes none"):
        get_strategy("uni", {"step": 2})


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'var' is already registered by Variance"):

        @register_strategy("var", "again")
        @dataclass(frozen=True)
        class Again(Strategy):
            def fit(self, embeddings, size, *, interactions, seed):
                return Columns((0,))
