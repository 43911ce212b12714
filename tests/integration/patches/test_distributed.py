"""Training in several processes: RecBole's own flags and torchrun, on the CPU."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import get_trainer
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.patches.distributed import (
    _in_order,
    download_without_waiting,
    draw_in_workers_apart,
    evaluate_each_sample_once,
)
from recbole_llminit.integration.quick_start import load_data_and_model, objective_function, run_recbole_llminit
from recbole_llminit.processes import Launch
from tests import rank_functions
from tests.messages import naming
from tests.stock import DATA

# A class of the user's own, which saves each process's tables before the first step.
WATCHED = """
import torch
from pathlib import Path
from recbole.model.general_recommender import BPR

class Watched(BPR):
    def calculate_loss(self, interaction):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else "alone"
        if not Path(f"start-{rank}.pt").exists():
            torch.save(self.state_dict(), f"start-{rank}.pt")
        return super().calculate_loss(interaction)
"""
# 33 users are left: not a multiple of two.
LAUNCH = Launch(nproc=2, world_size=2, group_offset=0, ip="localhost", port=1)
_started: list[subprocess.Popen[str]] = []
SETTINGS = {"user_inter_num_interval": "[8,inf)", "metrics": ["Recall", "NDCG", "MRR", "GAUC"], "epochs": 2}


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted path of that class."""
    (tmp_path / "watched.py").write_text(WATCHED)
    monkeypatch.syspath_prepend(tmp_path)
    return "watched.Watched"


@pytest.fixture(autouse=True)
def _no_run_outlives_its_test() -> Iterator[None]:
    yield
    while _started:
        run = _started.pop()
        run.kill()
        run.communicate(timeout=30)


def command(settings: dict[str, Any], *launcher: str) -> list[str]:
    """The command line of a run of BPR."""
    # BPR does not read the hidden size.
    given = [f"--{key}={value}" for key, value in settings.items() if key != "hidden_size"]
    return [sys.executable, *launcher, "-m", "recbole_llminit", "run", "-m", "BPR", *given]


def environment() -> dict[str, str]:
    """The environment of a run in a process of its own."""
    return {**os.environ, "PYTHONPATH": str(DATA.parents[1]), "OMP_NUM_THREADS": "1"}


def start(settings: dict[str, Any], *launcher: str) -> subprocess.Popen[str]:
    """Start a run, which ends with the test at the latest."""
    run = subprocess.Popen(
        command(settings, *launcher), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(),
        # A shell in the background has its programs ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    _started.append(run)
    return run


def the_checkpoint() -> Path:
    """The one checkpoint that was saved."""
    (path,) = Path("saved").glob("*.pth")
    return path


def results(output: str) -> list[str]:
    """The test results in a log, without RecBole's colors."""
    return [line.partition("OrderedDict")[2] for line in output.splitlines() if "test result" in line]


@pytest.mark.slow
def test_two_processes_start_alike_and_test_as_one(watched: str, llm: dict[str, Any]) -> None:
    settings = {**llm, **SETTINGS, "init_trainable": False}
    found = run_recbole_llminit(watched, config_dict={**settings, "nproc": 2})
    assert found["init_report"].users == 33
    assert list(found["test_result"]) == ["recall@10", "ndcg@10", "mrr@10", "gauc"]
    assert all(0 < value < 1 for value in found["test_result"].values())

    first, second = (torch.load(f"start-{rank}.pt") for rank in (0, 1))
    config, model, _, train_data, _, test_data = load_data_and_model(the_checkpoint(), trust_pickles=True)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train_data)
    assert dict(trainer.evaluate(test_data, load_best_model=False)) == dict(found["test_result"])
    # Frozen rows are as they were written; the users were trained.
    trained = model.state_dict()
    assert torch.equal(trained["item_embedding.weight"], first["item_embedding.weight"])
    assert not torch.equal(trained["user_embedding.weight"], first["user_embedding.weight"])

    run_recbole_llminit(watched, config_dict={**settings, "epochs": 1}, saved=False)
    alone = torch.load("start-alone.pt")
    for name, values in alone.items():
        assert torch.equal(first[name], values)
        assert torch.equal(second[name], values)


# Two hosts, each a fork of one process that has imported everything; their ranks are forks as well.
TWO_HOSTS = """
import functools, importlib, json, os, sys
import recbole_llminit.integration.quick_start
from recbole_llminit.cli import main
# torch.multiprocessing.spawn is a function as well.
spawn = importlib.import_module("torch.multiprocessing.spawn")
spawn.start_processes = functools.partial(spawn.start_processes, start_method="fork")
hosts = []
for number, arguments in enumerate(json.loads(sys.argv[1])):
    hosts.append(os.fork())
    if hosts[-1] == 0:
        log = os.open(f"host-{number}.log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1), os.dup2(log, 2)
        status = main(arguments)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(host, 0)[1]) for host in hosts))
"""


@pytest.mark.slow
def test_torchrun_and_two_hosts_train_alike(llm: dict[str, Any]) -> None:
    settings = {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in llm.items()}
    settings["user_inter_num_interval"] = SETTINGS["user_inter_num_interval"]
    torchrun = start(settings, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    output, _ = torchrun.communicate(timeout=240)
    assert torchrun.returncode == 0, output
    (expected,) = results(output)

    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    hosts = [{**settings, "nproc": 1, "world_size": 2, "group_offset": host, "port": port} for host in (0, 1)]
    # The arguments of the command alone: without Python and -m recbole_llminit.
    arguments = json.dumps([command(host)[3:] for host in hosts])
    ran = subprocess.run(
        [sys.executable, "-c", TWO_HOSTS, arguments], env=environment(), timeout=240, check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    outputs = [Path(f"host-{host}.log").read_text() for host in (0, 1)]
    assert ran.returncode == 0, (ran.stderr, outputs)
    # Only the first process of all writes a log.
    assert [results(output) for output in outputs] == [[expected], []]


@pytest.mark.slow
def test_an_interrupted_process_ends_the_run(llm: dict[str, Any]) -> None:
    settings = {key: value for key, value in llm.items() if key != "load_col"}
    run = start({**settings, "epochs": 1_000_000, "eval_step": 1_000_000, "nproc": 2})
    assert run.stdout is not None
    seen = ""
    while "epoch 3 training" not in seen:
        line = run.stdout.readline()
        assert line, seen
        seen += line
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    ranks = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(ranks[1]), signal.SIGINT)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output[-2000:]
    assert "recbole-llminit: interrupted" in output
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a launch fork this process, where its processes train nothing: a new one would import torch first."""
    # torch.multiprocessing.spawn is a function as well.
    spawn = importlib.import_module("torch.multiprocessing.spawn")
    monkeypatch.setattr(spawn, "start_processes", functools.partial(spawn.start_processes, start_method="fork"))


@pytest.mark.usefixtures("forked")
def test_what_the_first_process_returns_comes_back() -> None:
    assert LAUNCH.start(rank_functions.where) == (0, 2)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (rank_functions.refuse, "rank 1 refuses"),
        (
            rank_functions.die,
            r"process 1 of 2 on this host ended early \(SIGKILL\), and the others were stopped: if it",
        ),
        (rank_functions.leave, r"process 1 of 2 on this host ended early \(exit status 7\), .* see its output above"),
    ],
)
def test_one_process_that_ends_ends_the_others(function: Callable[..., Any], message: str, tmp_path: Path) -> None:
    """The other one would wait for an hour."""
    began = time.monotonic()
    with pytest.raises(LLMInitError, match=message):
        LAUNCH.start(functools.partial(function, tmp_path))
    assert time.monotonic() - began < 60
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nproc": 0}, "nproc is 0: expected a whole number of at least 1"),
        ({"nproc": "two"}, "nproc is 'two'"),
        ({"nproc": 2, "world_size": 2, "group_offset": 1}, "are more than world_size 2"),
        ({"nproc": 2, "port": 0}, "port is 0"),
        ({"nproc": 2, "init_strategy": "varience"}, "did you mean 'var'"),
        ({"nproc": 2, "save_dataloaders": True}, "save_dataloaders and .* are of runs of one process"),
        ({"nproc": 2, "model": "Pop", "init_strategy": "none"}, "Pop is not trained in several processes"),
    ],
)
def test_bad_settings_start_nothing(
    settings: dict[str, Any], message: str, llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launch, "start", lambda *_: pytest.fail("processes were started"))
    with pytest.raises(LLMInitError, match=message):
        run_recbole_llminit(config_dict={**llm, "model": "BPR", **settings})


def test_what_cannot_be_sent_to_processes_is_said(llm: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=naming("model's class", "callback_fn", "top of a module")):
        run_recbole_llminit("BPR", config_dict={**llm, "nproc": 2}, callback_fn=lambda *_: None)


def test_a_search_is_one_process(llm: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match="a trial is one process"):
        objective_function({**llm, "model": "BPR", "nproc": 2})


def test_several_hosts_are_read_as_recbole_reads_them() -> None:
    assert Launch.from_settings({}) is None
    assert Launch.from_settings({"nproc": 1, "world_size": -1}) is None
    launch = Launch.from_settings({"nproc": "2", "world_size": 4, "group_offset": 2, "ip": "10.0.0.1"})
    assert launch is not None
    assert launch.settings == {
        "local_rank": 0, "nproc": 2, "world_size": 4, "offset": 2, "ip": "10.0.0.1", "port": 5678,
    }  # fmt: skip
    # On one host any free port does.
    alone = Launch.from_settings({"nproc": 2})
    assert alone is not None
    assert alone.port != 5678


def evaluation_loader(count: int, batch_size: int, rank: int, world_size: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process's loader of the samples 0, 1, ..., as RecBole makes it, after the patch."""

    def construct(self: Any, config: Any, *_: Any) -> None:
        sampler = DistributedSampler(range(count), num_replicas=world_size, rank=rank, shuffle=False)
        DataLoader.__init__(self, list(range(count)), batch_size=batch_size, sampler=sampler, collate_fn=list)
        self.sample_size = count

    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)
    loader = object.__new__(DataLoader)
    evaluate_each_sample_once(construct)(loader, {"single_spec": False}, None, None)
    return loader


@pytest.mark.parametrize(("count", "world_size"), [(7, 3), (8, 2), (3, 3)])
@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_each_sample_is_evaluated_once_and_comes_back_in_its_place(
    count: int, world_size: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for rank in range(world_size):
        loader = evaluation_loader(count, batch_size, rank, world_size, monkeypatch)
        batches = list(loader)
        assert len(loader) == len(batches)
        part = [sample for batch in batches for sample in batch]
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert list(loader.sampler) == part
        assert len(loader.sampler) == len(part)
        parts.append(part)
    assert sorted(sample for part in parts for sample in part) == list(range(count))
    assert _in_order([torch.tensor(part, dtype=torch.int64) for part in parts]).tolist() == list(range(count))


def test_fewer_users_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LLMInitError, match=naming("1 users or interactions", "2 processes", "nproc")):
        evaluation_loader(1, 1, 0, 2, monkeypatch)


def test_workers_of_different_processes_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def construct(self: Any, *_: Any) -> None:
        self.generator = torch.Generator().manual_seed(2020)

    seeds = []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        loader: Any = type("Loader", (), {})()
        draw_in_workers_apart(construct)(loader, {"single_spec": False, "seed": 2020}, None, None)
        seeds.append(loader.generator.initial_seed())
    assert seeds == [2020, 2021]


def test_a_download_waits_for_nobody() -> None:
    """RecBole's ends in a barrier, which raises where there is no process group."""

    def download(self: list[str]) -> None:
        torch.distributed.barrier()
        self.append("downloaded")

    done: list[str] = []
    with pytest.raises(ValueError, match="process group"):
        download([])
    download_without_waiting(download)(done)
    assert done == ["downloaded"]
    with pytest.raises(ValueError, match="process group"):
        torch.distributed.barrier()
