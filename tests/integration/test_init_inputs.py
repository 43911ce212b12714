"""What a configuration gives to an initialization: vectors of items and users, and keys that have no use."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole.utils import init_seed

from recbole_llminit import get_model, run_recbole_llminit
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.vectors.readers import read_embeddings
from tests.all_models import load
from tests.encoders import MINILM
from tests.messages import logged, naming


@pytest.mark.parametrize(
    ("key", "value"), [("llm_embedding", "somewhere"), ("llm_encoder", "some/model"), ("init_trainable", False)]
)
def test_a_key_without_a_strategy_is_warned_about(
    key: str, value: str | bool, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 1, key: value}, saved=False)
    assert logged(caplog, key, "init_strategy is not")


def test_a_key_with_the_strategy_none_is_not_warned_about(
    tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**tiny, "epochs": 1, "llm_embedding": "somewhere", "init_strategy": "none"}
    run_recbole_llminit("BPR", config_dict=settings, saved=False)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not any("llm_embedding" in warning or "init_strategy" in warning for warning in warnings)


def test_low_coverage_is_logged_as_a_warning(
    llm: dict[str, Any], tmp_path: Path, tiny_items: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(9, 20)))
    (tmp_path / "few.txt").write_text("\n".join(tiny_items[:9]))
    settings = {
        **llm,
        "epochs": 1,
        "init_args": {"popular_ratio": 1.0},
        "llm_embedding": str(tmp_path / "few.npy"),
    }
    report = run_recbole_llminit("BPR", config_dict=settings, saved=False)["init_report"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("9 of 29 items" in warning and "31%" in warning for warning in warnings)
    assert report.items_with_vector == 9


def test_vectors_are_made_in_ones_own_training_loop(tiny: dict[str, Any], tmp_path: Path) -> None:
    """And the state of the random generator is that after the stock constructor."""
    settings = {**tiny, "init_strategy": "var", "llm_encoder": str(MINILM), "llm_cache_dir": str(tmp_path / "cache")}
    config, train_data = load("BPR", settings)
    torch.manual_seed(0)
    model = get_model("BPR")(config, train_data._dataset)
    after = torch.get_rng_state()
    assert model.init_report.items_with_vector == 29
    torch.manual_seed(0)
    BPR(config, train_data._dataset)
    assert torch.equal(after, torch.get_rng_state())


def test_users_are_initialized_from_vectors_of_their_own(llm: dict[str, Any], tmp_path: Path) -> None:
    """A file keyed by user token, in another order than the dataset's; one user has none."""
    config, train_data = load("BPR", llm)
    dataset = train_data._dataset
    tokens = dataset.field2id_token["user_id"][1:]
    vectors = np.random.default_rng(3).normal(size=(len(tokens), 80)).astype(np.float32)
    np.save(tmp_path / "users.npy", vectors[:0:-1])
    (tmp_path / "users.txt").write_text("\n".join(tokens[:0:-1]))
    models = []
    for user in (None, str(tmp_path / "users.npy")):
        config["init_user"] = user
        init_seed(config["seed"], config["reproducibility"])
        models.append(get_model("BPR")(config, dataset))
    from_items, from_vectors = models
    columns = list(from_vectors.init_report.reductions[16]["dimensions"])
    np.testing.assert_allclose(from_vectors.user_embedding.weight[2:].detach(), vectors[1:, columns], rtol=1e-6)
    assert torch.equal(from_vectors.item_embedding.weight, from_items.item_embedding.weight)
    assert from_vectors.init_report.users_with_items == len(tokens) - 1
    assert str(tmp_path / "users.npy") in str(from_vectors.init_report)


def test_a_users_file_of_other_users_is_refused(llm: dict[str, Any], tmp_path: Path) -> None:
    config, train_data = load("BPR", llm)
    np.save(tmp_path / "users.npy", np.ones((3, 80), dtype=np.float32))
    (tmp_path / "users.txt").write_text("x\ny\nz")
    config["init_user"] = str(tmp_path / "users.npy")
    with pytest.raises(LLMInitError, match=naming("none of the ", "users of tiny", "users.npy", "dataset's user ids")):
        get_model("BPR")(config, train_data._dataset)


def test_a_run_reads_its_options_and_its_vectors_once(llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(name: str, call: Any) -> Any:
        return lambda *given: read.append(name) or call(*given)

    monkeypatch.setattr(InitOptions, "from_config", counted("options", InitOptions.from_config))
    monkeypatch.setattr("recbole_llminit.integration.init_inputs.read_embeddings", counted("vectors", read_embeddings))
    run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1}, saved=False)
    assert read == ["options", "vectors"]


def test_options_are_read_again_where_a_key_has_changed(llm: dict[str, Any]) -> None:
    config = Config("BPR", config_dict=llm)
    assert config.init_options is config.init_options and config.init_options.scale is None
    config["init_scale"] = 0.3
    assert config.init_options.scale == 0.3
    assert "_init_options" not in vars(pickle.loads(pickle.dumps(config)))
