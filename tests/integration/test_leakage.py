"""Validation and test clicks are never read: the initial values do not depend on them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.utils import init_seed

from recbole_llminit.integration.config import Config
from recbole_llminit.integration.dataset import load_splits
from recbole_llminit.integration.model import build_model
from tests.stock import DATA

Click = tuple[str, str]
Clicks = list[Click]
PARTS = ("train", "valid", "test")


def split_clicks() -> dict[str, Clicks]:
    """The tiny dataset's clicks, of each user the last in test, the last but one in validation."""
    histories: dict[str, list[str]] = {}
    for line in (DATA / "tiny" / "tiny.inter").read_text().splitlines()[1:]:
        user, item, *_ = line.split("\t")
        histories.setdefault(user, []).append(item)
    return {
        "train": [(user, item) for user, items in histories.items() for item in items[:-2]],
        "valid": [(user, items[-2]) for user, items in histories.items()],
        "test": [(user, items[-1]) for user, items in histories.items()],
    }


def permuted(clicks: Clicks) -> Clicks:
    """The items of the clicks dealt out anew."""
    items = np.random.default_rng(0).permutation([item for _, item in clicks])
    return [(user, str(item)) for (user, _), item in zip(clicks, items, strict=True)]


def of_one_item(clicks: Clicks) -> Clicks:
    """All clicks on one item."""
    return [(user, "B001") for user, _ in clicks]


def tables_of(model: str, settings: Mapping[str, Any], parts: Mapping[str, Clicks], folder: Path) -> dict[str, Any]:
    """The values of a model that is initialized on a dataset with these parts; the parts follow by their timestamps.

    The training clicks come first in the file, so that they decide the ids of users and items.
    """
    (folder / "clicks").mkdir(parents=True)
    rows = [click for part in PARTS for click in parts[part]]
    lines = [f"{user}\t{item}\t{number}" for number, (user, item) in enumerate(rows)]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines])
    (folder / "clicks" / "clicks.inter").write_text(text + "\n")
    more = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    if model == "SASRec":
        more["train_neg_sample_args"] = None
    config = Config(model, config_dict={**settings, **more, "dataset": "clicks", "data_path": str(folder)})
    init_seed(config["seed"], config["reproducibility"])
    _, (train_data, valid_data, test_data) = load_splits(config)
    for part, loader in (("valid", valid_data), ("test", test_data)):
        dataset = loader._dataset
        fields = [dataset.inter_feat[name].numpy() for name in ("user_id", "item_id")]
        tokens = [dataset.id2token(name, ids) for name, ids in zip(("user_id", "item_id"), fields, strict=True)]
        assert sorted(zip(*tokens, strict=True)) == sorted(parts[part])
    init_seed(config["seed"], config["reproducibility"])
    built = build_model(config, train_data._dataset)
    values = {name: value.numpy().copy() for name, value in built.state_dict().items()}
    if model == "EASE":
        values["item_similarity"] = np.asarray(built.item_similarity)
    return {**values, "strategy": built.init_report.strategy}


@pytest.mark.parametrize(
    ("model", "strategy"),
    [("EASE", "lae"), *((model, name) for model in ("BPR", "LightGCN", "SASRec") for name in ("lae", "auto", "cca"))],
)
def test_the_initial_values_do_not_depend_on_held_out_clicks(
    model: str, strategy: str, llm: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**llm, "init_strategy": strategy}
    if model != "EASE":
        settings["init_scale"] = "score"
    parts = split_clicks()
    items = {item for clicks in parts.values() for _, item in clicks}
    assert {item for _, item in parts["train"]} == items
    before = tables_of(model, settings, parts, tmp_path / "before")
    changes: tuple[Callable[[Clicks], Clicks], ...] = (permuted, of_one_item)
    for change in changes:
        changed = {part: clicks if part == "train" else change(clicks) for part, clicks in parts.items()}
        assert changed["valid"] != parts["valid"] and changed["test"] != parts["test"]
        after = tables_of(model, settings, changed, tmp_path / change.__name__)
        assert after.keys() == before.keys() and after["strategy"] == before["strategy"]
        for name, value in before.items():
            assert name == "strategy" or value.tobytes() == after[name].tobytes(), name
    # The training clicks are read: one on another item changes the values.
    user, _ = parts["train"][-1]
    other = next(one for one in sorted(items) if (user, one) not in parts["train"])
    changed = {**parts, "train": [*parts["train"][:-1], (user, other)]}
    trained = tables_of(model, settings, changed, tmp_path / "other")
    assert any(name != "strategy" and value.tobytes() != trained[name].tobytes() for name, value in before.items())
