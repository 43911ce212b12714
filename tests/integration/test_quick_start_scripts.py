"""A run from a user's script, notebook or command line, with a model of the user's own in a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_llminit import load_data_and_model, run_recbole_llminit
from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from tests.messages import naming

OWN = '''
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_uniform_initialization
from recbole.model.loss import BPRLoss
from recbole.utils import InputType


class MyGCN(GeneralRecommender):
    """A graph model that subclasses GeneralRecommender alone and knows nothing of LLM embeddings."""

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        graph = dataset.inter_matrix(form="coo")
        self.graph = torch.sparse_coo_tensor([graph.row, graph.col], [1.0] * graph.nnz, graph.shape) * config["weight"]
        self.user_embedding = torch.nn.Embedding(self.n_users, config["embedding_size"])
        self.item_embedding = torch.nn.Embedding(self.n_items, config["embedding_size"])
        self.loss = BPRLoss()
        self.apply(xavier_uniform_initialization)

    def forward(self):
        return self.user_embedding.weight + self.graph @ self.item_embedding.weight, self.item_embedding.weight

    def calculate_loss(self, interaction):
        users, items = self.forward()
        user = users[interaction[self.USER_ID]]
        good, bad = (user * items[interaction[field]] for field in (self.ITEM_ID, self.NEG_ITEM_ID))
        return self.loss(good.sum(dim=1), bad.sum(dim=1))

    def full_sort_predict(self, interaction):
        users, items = self.forward()
        return (users[interaction[self.USER_ID]] @ items.T).view(-1)
'''
# As in a notebook's kernel: an argument list that is not the user's, and a handler on the root logger.
SCRIPT = """
import logging
import pathlib
import sys

import psutil

logging.basicConfig(level=logging.WARNING)
sys.argv = ["ipykernel_launcher.py", "-f", "kernel-1.json"]
# RecBole measures the processor for a second at the end of each run.
psutil.cpu_percent = lambda interval: 0.0

import my_model
from recbole_llminit import load_data_and_model, run_recbole_llminit

settings = {settings!r}
for strategy in ("none", "var"):
    result = run_recbole_llminit("BPR", config_dict=dict(settings, init_strategy=strategy))
    print("cell", strategy, result["test_result"]["recall@10"], flush=True)
own = dict(settings, weight=0.1)
for how, model, more in (
    ("class", my_model.MyGCN, {{}}),
    ("path", "my_model.MyGCN", {{}}),
    ("key", None, {{"model": "my_model.MyGCN"}}),
):
    report = run_recbole_llminit(model, config_dict=dict(own, **more))["init_report"]
    print("own", how, report.model, report.items_with_vector, flush=True)
path = next(pathlib.Path(settings["checkpoint_dir"]).glob("MyGCN-*.pth"))
print("loaded", isinstance(load_data_and_model(path)[1], my_model.MyGCN))
"""


@pytest.fixture(scope="module")
def script(llm_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The script of `SCRIPT`, next to a file with the model of `OWN`, after it was run in another folder."""
    folder = tmp_path_factory.mktemp("scripts")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    settings = {**llm_settings, "epochs": 1, "checkpoint_dir": str(elsewhere / "saved")}
    (folder / "my_model.py").write_text(OWN)
    (folder / "script.py").write_text(SCRIPT.format(settings=settings))
    return subprocess.run(
        [sys.executable, str(folder / "script.py")], cwd=elsewhere, capture_output=True, text=True, check=False
    )


def printed(script: subprocess.CompletedProcess[str], word: str) -> list[list[str]]:
    """The words after this one, of each line of the script that begins with it."""
    return [line.split()[1:] for line in script.stdout.splitlines() if line.split()[:1] == [word]]


@pytest.mark.slow
def test_a_notebook_cell(script: subprocess.CompletedProcess[str]) -> None:
    assert [words[0] for words in printed(script, "cell")] == ["none", "var"], script.stderr[-2000:]
    assert "29 of 29 items, 40 of 40 users" in script.stderr


@pytest.mark.slow
def test_a_model_in_a_file_next_to_the_script(script: subprocess.CompletedProcess[str]) -> None:
    """As a class, by its dotted path, and in the configuration; the script is run from elsewhere."""
    assert script.returncode == 0, script.stderr[-2000:]
    assert printed(script, "own") == [[how, "MyGCN", "29"] for how in ("class", "path", "key")]
    assert printed(script, "loaded") == [["True"]]


@pytest.mark.parametrize("given", ["argument", "file"])
def test_a_model_in_a_file_where_the_command_is_run(
    given: str, llm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    (tmp_path / "my_model.py").write_text(OWN)
    in_file = {"model": "my_model.MyGCN"} if given == "file" else {}
    (tmp_path / "run.yaml").write_text(json.dumps({**llm, "weight": 0.1, "epochs": 1, **in_file}))
    arguments = [] if in_file else ["--model=my_model.MyGCN"]
    assert main(["run", "--config_files=run.yaml", *arguments]) == 0
    assert len(list(Path(llm["checkpoint_dir"]).glob("MyGCN-*.json"))) == 1


def test_a_checkpoint_whose_model_is_not_there_says_so(
    llm: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        (tmp_path / "there.py").write_text(OWN)
        run_recbole_llminit("there.MyGCN", config_dict={**llm, "weight": 0.1, "epochs": 1})
        patched.delitem(sys.modules, "there")
    (tmp_path / "there.py").unlink()
    (path,) = Path(llm["checkpoint_dir"]).glob("MyGCN-*.pth")
    monkeypatch.delitem(sys.modules, "there", raising=False)
    with pytest.raises(LLMInitError, match=naming("'there'", "Python path")):
        load_data_and_model(path)
