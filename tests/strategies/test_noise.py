"""The controls: noise, and vectors that went to the wrong items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model import build_model
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.integration.quick_start import run_recbole_llminit
from recbole_llminit.strategies.base import Drawn, get_strategy
from recbole_llminit.strategies.noise import Noise
from recbole_llminit.strategies.selection import Uniform
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, no_vectors
from tests.all_models import load
from tests.initialization.toy_model import ToyModel, initialize
from tests.messages import naming

Embed = Callable[..., AlignedEmbeddings]


def test_noise_is_normal_and_of_its_standard_deviation() -> None:
    values = Drawn(width=50, std=0.2, seed=3).draw(2000)
    assert values.shape == (2000, 50) and values.dtype == np.float32
    assert stats.kstest(values.ravel() / 0.2, "norm").pvalue > 0.01
    # The standard deviation of a sample of 100,000 has a standard deviation of 0.0022 of itself.
    assert values.std() == pytest.approx(0.2, rel=0.01)
    assert (Drawn(50, 0.2, 3).draw(2000) == values).all()
    assert not (Drawn(50, 0.2, 4).draw(2000) == values).any()


def test_noise_needs_no_vectors_and_users_are_their_means() -> None:
    model = ToyModel(width=3)
    report = initialize(model, no_vectors(["[PAD]", "a", "b", "c"]), Noise(std=0.5))
    items = model.items.weight
    assert torch.equal(items[1:], torch.from_numpy(Drawn(3, 0.5, 1).draw(3)))
    assert torch.allclose(model.users.weight[1], items[1:3].mean(dim=0))
    assert items[0].tolist() == [-10] * 3 and model.users.weight[2].tolist() == [-3] * 3
    assert (report.encoder, report.llm_dim, report.items_with_vector) == ("no vectors", 0, 3)
    assert "Noise(std=0.5)" in str(report) and "dimensions" not in str(report)


def test_noise_beside_vectors_goes_to_the_items_that_have_one(embed: Embed) -> None:
    model = ToyModel()
    report = initialize(model, embed([1, 2, 3, 4], None, [9, 10, 11, 12]), Noise())
    assert model.items.weight.tolist()[2] == [-12, -12]
    assert torch.equal(model.items.weight[[1, 3]], torch.from_numpy(Drawn(2, 0.05, 1).draw(2)))
    assert report.encoder == "no vectors"


def test_noise_can_be_wider_than_the_vectors(embed: Embed) -> None:
    model = ToyModel(width=6)
    initialize(model, embed([1, 2], [3, 4], [5, 6]), Noise())
    assert 0 < model.items.weight[1:].std() < 0.2


@pytest.mark.parametrize("std", [0, -1, True, "0.1", float("nan"), float("inf")])
def test_noise_refuses_other_standard_deviations(std: float | str) -> None:
    with pytest.raises(LLMInitError, match=naming("init_args std", repr(std), "a number above 0")):
        get_strategy("noise", {"std": std})


def test_shuffled_vectors_are_the_same_for_other_items(embed: Embed) -> None:
    rows = [[float(number)] * 2 for number in range(1, 40)]
    embeddings = embed(*rows[:20], None, *rows[20:])
    shuffled = embeddings.shuffled(7)
    assert shuffled.rows[0] == shuffled.rows[21] == -1
    assert sorted(shuffled.rows) == sorted(embeddings.rows)
    assert (shuffled.rows[shuffled.items] != embeddings.rows[embeddings.items]).sum() > 30
    assert (embeddings.shuffled(7).rows == shuffled.rows).all()
    assert (embeddings.shuffled(8).rows != shuffled.rows).any()


def test_a_shuffled_initialization_literally(embed: Embed) -> None:
    model, plain = ToyModel(), ToyModel()
    vectors = embed([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])
    report = initialize(model, vectors, shuffle=True)
    initialize(plain, vectors)
    # The order that NumPy's generator gives three rows with seed 1.
    order = np.random.default_rng(1).permutation(3)
    assert model.items.weight[1:].tolist() == plain.items.weight[1:][order].tolist()
    assert report.shuffled and "rows shuffled" in str(report) and report.to_dict()["shuffled"] is True


@pytest.mark.parametrize("control", [{"init_strategy": "noise", "init_args": {"std": 0.1}}, {"init_shuffle": True}])
def test_a_run_of_each_control(tiny: dict[str, Any], llm: dict[str, Any], control: dict[str, Any]) -> None:
    settings = {**(tiny if "init_strategy" in control else llm), **control, "epochs": 1}
    result = run_recbole_llminit("BPR", config_dict=settings, saved=False)
    assert result["init_report"].items_with_vector == result["init_report"].items


def test_the_controls_draw_from_no_global_state(tiny: dict[str, Any], llm: dict[str, Any]) -> None:
    states = []
    for settings in (tiny, {**tiny, "init_strategy": "noise"}, {**llm, "init_shuffle": True}):
        config, train_data = load("BPR", settings)
        build_model(config, train_data._dataset)
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_noise_has_no_rows_to_shuffle() -> None:
    with pytest.raises(LLMInitError, match=naming("init_shuffle", "init_strategy 'noise'", "reads none", "remove")):
        Config("BPR", "ml-100k", config_dict={"init_strategy": "noise", "init_shuffle": True})
    with pytest.raises(LLMInitError, match=naming("init_shuffle", "'yes'", "True or False")):
        Config("BPR", "ml-100k", config_dict={"init_strategy": "uni", "init_shuffle": "yes"})
    options = InitOptions.from_config(Config("BPR", "ml-100k", config_dict={"init_strategy": "uni"}))
    assert not options.shuffle and options.strategy == Uniform()
