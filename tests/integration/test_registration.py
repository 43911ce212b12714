import importlib
import json
import subprocess
import sys
import textwrap
import types

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
from tests.integration.test_model import prepare


@pytest.fixture(autouse=True)
def _undone():
    yield
    unregister()


@pytest.fixture
def with_ray(monkeypatch):
    """What recbole.quick_start takes from ray when it is imported, whichever ray is installed."""
    for name in [name for name in sys.modules if name.startswith("recbole.quick_start")]:
        monkeypatch.delitem(sys.modules, name)
    ray = types.ModuleType("ray")
    ray.tune = None
    monkeypatch.setitem(sys.modules, "ray", ray)


def test_names_are_replaced_and_put_back(with_ray):
    stock = recbole.utils.get_model
    register()
    import recbole.quick_start.quick_start as quick_start

    assert recbole.utils.get_model is recbole.utils.utils.get_model is quick_start.get_model is get_model
    assert quick_start.load_data_and_model is recbole.quick_start.load_data_and_model
    assert quick_start.load_data_and_model is recbole_llminit.load_data_and_model
    # The configuration keeps the stock class, and so does the checkpoint.
    assert recbole.config.configurator.get_model is stock
    register()
    unregister()
    assert recbole.utils.get_model is recbole.utils.utils.get_model is quick_start.get_model is stock
    assert quick_start.load_data_and_model.__module__ == "recbole.quick_start.quick_start"
    unregister()


def test_without_a_working_ray(monkeypatch):
    """recbole.quick_start is imported all the same, and ray keeps its own error."""
    for name in [name for name in sys.modules if name.startswith("recbole.quick_start")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    register()
    assert sys.modules["recbole.quick_start.quick_start"].get_model is get_model
    with pytest.raises(ImportError):
        importlib.import_module("ray.tune")


def test_a_stock_model_is_not_trained_where_a_start_is_set(llm, tiny):
    """A script that imported get_model before, or names the class itself."""
    config, train_data = prepare("BPR", llm)
    register()
    with pytest.raises(LLMInitError, match="init_strategy is var, but the script made RecBole's own BPR: call"):
        Trainer(config, BPR(config, train_data._dataset))
    Trainer(config, get_model("BPR")(config, train_data._dataset))
    config, train_data = prepare("BPR", tiny)
    Trainer(config, BPR(config, train_data._dataset))
    unregister()
    config, train_data = prepare("BPR", llm)
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
print("RESULT", json.dumps([get_model("BPR").__name__, {{name: float(value) for name, value in result["test_result"].items()}}]))
"""  # fmt: skip


def run_script(folder, settings):
    script = SCRIPT.format(settings=json.dumps(settings))
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.split("RESULT", 1)[1]), ran.stdout + ran.stderr


def test_an_existing_script_honours_init_strategy(llm, tmp_path):
    (name, result), printed = run_script(tmp_path, llm)
    assert name == "LLMInitBPR"
    assert "29 item rows written" in printed
    assert result == pytest.approx(recbole_llminit.run_recbole_llminit("BPR", config_dict=llm)["test_result"])


def test_without_the_line_the_script_is_stock(tiny, tmp_path):
    expected = stock.run_stock("BPR", tiny)["test_result"]
    assert run_script(tmp_path, tiny)[0][1] == {name: float(value) for name, value in expected.items()}
