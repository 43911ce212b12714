"""The processes of a run: how many there are, and how they end."""

from __future__ import annotations

import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.processes import Launch, Ranks, join_ranks, ranks_of_run, refuse_several_processes

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process that torchrun started: the second of four on the second host."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


def test_a_process_alone_communicates_with_nobody() -> None:
    with join_ranks() as ranks:
        ranks.wait()
        assert (ranks.rank, ranks.world_size) == (0, 1)
        assert ranks.share("value") == "value"
        assert ranks.sum(1, 2) == [1, 2]
    with ranks_of_run(None) as ranks:
        assert ranks == Ranks()


def test_a_run_of_one_process_needs_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.from_settings({}) is None
    assert Launch.from_settings({"nproc": 1, "world_size": -1}) is None
    assert Launch.from_torchrun() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Launch.from_torchrun() is None
    refuse_several_processes({"nproc": 1})


def test_the_settings_of_several_hosts() -> None:
    launch = Launch.from_settings({"nproc": "2", "world_size": 4, "group_offset": 2, "ip": "10.0.0.1"})
    assert launch == Launch(nproc=2, world_size=4, group_offset=2, ip="10.0.0.1", port=5678)


def test_one_host_takes_the_port_given_or_a_free_one() -> None:
    given = Launch.from_settings({"nproc": 2, "port": 1234})
    assert given == Launch(nproc=2, world_size=2, group_offset=0, ip="localhost", port=1234)
    ports = [launch.port for launch in map(Launch.from_settings, [{"nproc": 2}] * 2) if launch is not None]
    assert len(ports) == 2
    assert 5678 not in ports


@pytest.mark.usefixtures("torchrun")
def test_the_environment_of_torchrun() -> None:
    launch = Launch.from_torchrun()
    assert launch == Launch(nproc=4, world_size=8, group_offset=4, ip="10.0.0.1", port=29500, local_rank=1)
    assert launch.settings == {
        "local_rank": 1, "nproc": 4, "world_size": 8, "offset": 4, "ip": "10.0.0.1", "port": 29500,
    }  # fmt: skip
    with pytest.raises(LLMInitError, match="torchrun.*one process"):
        refuse_several_processes({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nproc": 0}, "nproc is 0.*1"),
        ({"nproc": "two"}, "nproc is 'two'.*whole number"),
        ({"nproc": 1.5}, "nproc is 1.5.*whole number"),
        ({"world_size": -2}, "world_size is -2"),
        ({"group_offset": -1}, "group_offset is -1"),
        ({"nproc": 2, "world_size": 2, "group_offset": 1}, "nproc 2 and group_offset 1.*world_size 2"),
        ({"nproc": 2, "port": 0}, "port is 0"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(LLMInitError, match=message):
        Launch.from_settings(settings)


def test_a_function_that_cannot_be_pickled_starts_nothing() -> None:
    launch = Launch(nproc=2, world_size=2, group_offset=0, ip="localhost", port=1)
    with pytest.raises(LLMInitError, match="pickled.*callback_fn at the top of a module"):
        launch.start(lambda launch: launch)


def test_a_lost_connection_names_the_rank_that_cannot_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("recbole_llminit.processes._SECONDS_BEFORE_CONNECTION_ERROR", 0)
    with pytest.raises(LLMInitError, match="another process.*rank 1.*--resume"), ranks_of_run("group"):
        raise RuntimeError("[enforce fail] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="out of memory"), ranks_of_run("group"):
        raise RuntimeError("out of memory")
