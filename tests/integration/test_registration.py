"""RecBole's own ``get_model`` and ``load_data_and_model``, replaced and put back."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import recbole.config
import recbole.config.configurator
import recbole.utils
import recbole.utils.utils
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer

import recbole_llminit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.model import get_model
from recbole_llminit.integration.registration import register, unregister
from tests import stock
from tests.all_models import load
from tests.fresh_process import Outcome, run_each
from tests.messages import naming


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    unregister()


@pytest.fixture
def no_quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let recbole.quick_start be imported again."""
    for name in [name for name in sys.modules if name.startswith("recbole.quick_start")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def with_ray(no_quick_start: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What recbole.quick_start takes from ray when it is imported, whichever ray is installed."""
    ray: Any = types.ModuleType("ray")
    ray.tune = None
    monkeypatch.setitem(sys.modules, "ray", ray)


@pytest.mark.usefixtures("with_ray")
def test_names_are_replaced_and_put_back() -> None:
    stock_get_model, stock_trainer = recbole.utils.get_model, Trainer.__mro__[1].__init__
    register()
    import recbole.quick_start.quick_start as quick_start

    assert recbole.utils.get_model is recbole.utils.utils.get_model is quick_start.get_model is get_model
    assert quick_start.load_data_and_model is recbole.quick_start.load_data_and_model
    assert quick_start.load_data_and_model is recbole_llminit.load_data_and_model
    # The configuration keeps the stock class, and so does the checkpoint.
    assert recbole.config.configurator.get_model is stock_get_model
    register()
    unregister()
    assert recbole.utils.get_model is recbole.utils.utils.get_model is quick_start.get_model is stock_get_model
    assert quick_start.load_data_and_model.__module__ == "recbole.quick_start.quick_start"
    assert Trainer.__mro__[1].__init__ is stock_trainer
    unregister()


@pytest.mark.usefixtures("no_quick_start")
def test_without_a_working_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """recbole.quick_start is imported all the same, and ray keeps its own error."""
    monkeypatch.setitem(sys.modules, "ray", None)
    register()
    assert sys.modules["recbole.quick_start.quick_start"].get_model is get_model
    with pytest.raises(ImportError):
        importlib.import_module("ray.tune")


def test_a_stock_model_is_not_trained_where_an_initialization_is_set(llm: dict[str, Any], tiny: dict[str, Any]) -> None:
    """A script that imported get_model before, or names the class itself."""
    config, train_data = load("BPR", llm)
    register()
    with pytest.raises(
        LLMInitError, match=naming("init_strategy is var", "RecBole's own BPR", "register()", "get_model('BPR')")
    ):
        Trainer(config, BPR(config, train_data._dataset))
    Trainer(config, get_model("BPR")(config, train_data._dataset))
    config, train_data = load("BPR", tiny)
    Trainer(config, BPR(config, train_data._dataset))
    unregister()
    config, train_data = load("BPR", llm)
    Trainer(config, BPR(config, train_data._dataset))


SCRIPT = """
import json
import torch
torch.set_num_threads(1)
import recbole_llminit
recbole_llminit.register()
from recbole.quick_start import run_recbole
from recbole.utils import get_model
result = run_recbole(model="BPR", config_dict=json.loads({settings!r}))
test_result = {{name: float(value) for name, value in result["test_result"].items()}}
print("RESULT", json.dumps([get_model("BPR").__name__, test_result]))
"""


@pytest.fixture(scope="module")
def scripts(llm_settings: dict[str, Any], tiny_settings: dict[str, Any]) -> dict[str, Outcome]:
    """The script with and without init_strategy, each in a process of its own."""
    return run_each(
        {
            "init_strategy": SCRIPT.format(settings=json.dumps(llm_settings)),
            "stock": SCRIPT.format(settings=json.dumps(tiny_settings)),
        },
        preload="import torch, recbole.trainer, recbole_llminit.integration.quick_start",
    )


def result_of(outcome: Outcome) -> tuple[str, dict[str, float]]:
    """The name of the class that the script has made, and its test result."""
    assert outcome.error == ""
    name, result = json.loads(outcome.output.split("RESULT", 1)[1].splitlines()[0])
    return name, result


@pytest.mark.slow
def test_an_existing_script_honors_init_strategy(scripts: dict[str, Outcome], llm: dict[str, Any]) -> None:
    name, result = result_of(scripts["init_strategy"])
    assert name == "LLMInitBPR"
    assert "29 item rows written" in scripts["init_strategy"].output
    assert result == pytest.approx(recbole_llminit.run_recbole_llminit("BPR", config_dict=llm)["test_result"])


@pytest.mark.slow
def test_without_the_key_the_script_is_stock(scripts: dict[str, Outcome], tiny: dict[str, Any]) -> None:
    expected = stock.run_stock("BPR", tiny)["test_result"]
    assert result_of(scripts["stock"])[1] == {name: float(value) for name, value in expected.items()}
