"""Keys that no model reads for which they are set."""

from pathlib import Path
from typing import Any

import pytest

from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.errors import LLMInitError


@pytest.fixture
def settings(llm: dict[str, Any]) -> dict[str, Any]:
    del llm["dataset"], llm["init_strategy"], llm["hidden_size"]
    return {
        **llm,
        "models": ["BPR", "LightGCN"],
        "datasets": "tiny",
        "strategies": "none",
        "controls": "none",
        "baselines": "none",
    }


@pytest.mark.parametrize(
    ("match", "change"),
    [
        (r"reg_weight is set for all trials, and BPR does not read reg_weight.*weight_decay, which regularizes", {"models": "BPR", "reg_weight": 1e-5}),
        (r"ssl_tau is set for all trials, and BPR, LightGCN do not read ssl_tau \(SGL reads it\): leave it out", {"ssl_tau": 0.2}),
        (r"n_layers is set for models BPR, and BPR does not read n_layers", {"models": {"BPR": {"n_layers": 2}, "LightGCN": {}}}),
        (r"ssl_tau is set for datasets tiny", {"datasets": {"tiny": {"ssl_tau": 0.2}}}),
        (r"ssl_tau is set for strategies mine", {"strategies": {"mine": {"init_strategy": "var", "ssl_tau": 0.2}}}),
        (r"k is set for baselines EASE, and EASE does not read k", {"baselines": {"EASE": {"k": 3}}}),
        (r"k is set for baselines EASE", {"baselines": {"EASE": {"k": [3]}}}),
        (r"reg_weight is in the grid that BPR is tuned over.*grid of its own", {"tune": "stock", "tune_grid": {"reg_weight": [0.1, 0.2]}}),
        (r"n_layers is in the grid that BPR is tuned over", {"tune": "stock", "tune_grid": {"BPR": {"n_layers": [1]}}}),
        # A baseline that reads it does not count.
        (r"reg_weight is set for all trials, and BPR does not", {"models": "BPR", "reg_weight": 1.0, "baselines": {"EASE": {}, "own": {"model": "EASE", "init_strategy": "lae"}}}),
        (r"k is set for all trials", {"k": 7, "baselines": {"ItemKNN": {"shrink": [1.0]}}}),
    ],
)  # fmt: skip
def test_a_key_that_nothing_reads_is_refused(match: str, change: dict[str, Any], settings: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=match):
        make_plan(CompareOptions.from_settings({**settings, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 2, "reg_weight": 1e-5},
        {"models": {"BPR": {"weight_decay": 1e-5}, "LightGCN": {"n_layers": 2}}},
        {"datasets": {"tiny": {"n_layers": 2}}},
        {"strategies": {"mine": {"init_strategy": "var", "n_layers": 2}}},
        {"tune": "stock", "tune_grid": {"LightGCN": {"reg_weight": [0.1, 0.2]}}},
        {"tune": "stock", "tune_grid": {"weight_decay": [0.0, 0.1]}},
        {"baselines": {"ItemKNN": {"shrink": [1.0], "k": 7}}},
    ],
)
def test_a_key_that_one_model_reads_is_accepted(change: dict[str, Any], settings: dict[str, Any]) -> None:
    assert make_plan(CompareOptions.from_settings({**settings, **change})).trials


def test_of_a_class_of_the_users_own_it_is_not_known(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_reader.py").write_text(
        "from recbole.model.general_recommender import BPR\nclass Own(BPR):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = {**settings, "models": {"own_reader.Own": {"tau": 3}}, "my_key": 2}
    assert make_plan(CompareOptions.from_settings(asked)).trials
