"""Training interactions dropped after the split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.cold_start import Drop, drop_while_preparing, kept_interactions
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.dataset import training_interactions
from recbole_llminit.integration.quick_start import load_data_and_model, run_recbole_llminit

USERS = np.repeat(np.arange(1, 21), 10)


def split(settings: dict[str, Any]) -> tuple[Config, Any, list[set[tuple[int, int]]]]:
    """The configuration of a run of BPR, its training, validation and test data, and their pairs of user and item."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    config = Config("BPR", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    parts = drop_while_preparing(config, create_dataset(config), data_preparation)
    pairs = []
    for part in parts:
        features = part._dataset.inter_feat
        pairs.append(set(zip(features["user_id"].tolist(), features["item_id"].tolist(), strict=True)))
    return config, parts, pairs


def test_a_share_of_all_interactions_goes_at_random() -> None:
    kept = kept_interactions(USERS, 0.8, seed=5)
    assert len(kept) == 40 and (np.diff(kept) > 0).all()
    assert len(set(np.bincount(USERS[kept]))) > 2
    assert (kept_interactions(USERS, 0.8, seed=5) == kept).all()
    assert (kept_interactions(USERS, 0.8, seed=6) != kept).any()
    assert set(kept) < set(kept_interactions(USERS, 0.5, seed=5))


def test_all_but_one_leaves_each_user_one_at_random() -> None:
    drawn = [kept_interactions(USERS, "all_but_one", seed) for seed in range(300)]
    assert all(USERS[kept].tolist() == list(range(1, 21)) for kept in drawn)
    # Which of a user's ten: binomial(6000, 0.1) each, six standard deviations are 139.
    counts = np.bincount(np.concatenate(drawn) % 10, minlength=10)
    assert abs(counts - 600).max() < 139


@pytest.mark.parametrize(("drop", "kept"), [(0.25, 0.75), ("all_but_one", None)])
def test_only_training_loses_interactions(tiny: dict[str, Any], drop: Drop, kept: float | None) -> None:
    _, _, (train, valid, test) = split(tiny)
    config, parts, (fewer, valid_after, test_after) = split({**tiny, "drop_train": drop})
    assert (valid, test) == (valid_after, test_after)
    assert fewer < train
    users = {user for user, _ in train}
    assert len(fewer) == (len(users) if kept is None else round(kept * len(train)))
    # What the model sees, and what it may draw as a negative, has no trace of the others.
    dataset = parts[0]._dataset
    assert training_interactions(dataset, config).nnz == len(fewer)
    used = parts[0]._sampler.used_ids
    assert {(user, item) for user in range(1, dataset.user_num) for item in used[user]} == fewer
    assert all("build" not in vars(part._dataset) for part in parts)


def test_a_checkpoint_knows_its_training_interactions(tiny: dict[str, Any], tmp_path: Path) -> None:
    run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 1, "drop_train": 0.5})
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    _, _, _, train_data, _, _ = load_data_and_model(checkpoint)
    _, _, (expected, *_) = split({**tiny, "drop_train": 0.5})
    assert len(train_data._dataset) == len(expected)
    with pytest.raises(LLMInitError, match=r"drop_train.*0.5.*None"):
        run_recbole_llminit("BPR", config_dict={**tiny, "epochs": 9}, resume=checkpoint)


def test_from_the_command_line(tiny: dict[str, Any]) -> None:
    result = run_recbole_llminit("LightGCN", config_dict={**tiny, "epochs": 1}, arguments=["--drop_train=all_but_one"])
    assert np.isfinite(result["best_valid_score"])
    with pytest.raises(LLMInitError, match=r"'droptrain' is unknown.*did you mean 'drop_train'\?"):
        Config("BPR", config_dict=tiny, arguments=["--droptrain=0.5"])


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, True, "half", [0.5]])
def test_bad_values_are_refused_before_the_data_is_read(tiny: dict[str, Any], value: Any) -> None:
    with pytest.raises(LLMInitError, match="drop_train.*share.*all_but_one"):
        run_recbole_llminit("BPR", config_dict={**tiny, "data_path": "nowhere", "drop_train": value})


def test_sequences_and_split_data_are_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match="drop_train.*SASRec.*sequences"):
        run_recbole_llminit("SASRec", config_dict={**tiny, "drop_train": 0.5, "train_neg_sample_args": None})
    with pytest.raises(LLMInitError, match="drop_train.*dataloaders_save_path"):
        run_recbole_llminit("BPR", config_dict={**tiny, "drop_train": 0.5, "dataloaders_save_path": "x"})


def test_without_the_key_the_run_is_as_ever(tiny: dict[str, Any]) -> None:
    torch.manual_seed(0)
    first = run_recbole_llminit("BPR", config_dict=tiny)
    assert run_recbole_llminit("BPR", config_dict={**tiny, "drop_train": "none"})["test_result"] == first["test_result"]


def test_a_share_that_leaves_nothing(tiny: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=r"drop_train is 0.9999.*none of the [0-9]+ training interactions.*smaller"):
        run_recbole_llminit("BPR", config_dict={**tiny, "drop_train": 0.9999})
