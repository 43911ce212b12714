"""The subclass that initializes a RecBole model: stock without a strategy, pickled, subclassed, and told its tables."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR, LightGCN
from recbole.utils import get_model as get_stock_model
from recbole.utils import init_seed
from torch import nn

from recbole_llminit import Config
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.model import LLMInitMixin, get_model, with_llm_init
from recbole_llminit.strategies.base import list_strategies
from tests.all_models import load
from tests.messages import naming
from tests.stock import DATA

# What sequential models need on the tiny dataset.
NEEDS = {name: {"train_neg_sample_args": None} for name in ("SASRec", "GRU4Rec")}


def prepare(model: str | type, settings: dict[str, Any]) -> tuple[Config, Any]:
    """The configuration of a model with these settings, and its training data."""
    return load(model, {**settings, **NEEDS.get(model, {})})


def build(model_class: type, config: Config, train_data: Any) -> tuple[Any, torch.Tensor, np.ndarray]:
    """A model, and the states of PyTorch's and NumPy's random generators after its constructor."""
    init_seed(config["seed"], config["reproducibility"])
    model = model_class(config, train_data._dataset)
    return model, torch.get_rng_state(), np.random.get_state()[1].copy()


@pytest.mark.parametrize("model", ["BPR", "SASRec", "GRU4Rec", "SGL"])
def test_without_a_strategy_the_model_is_stock(model: str, tiny: dict[str, Any]) -> None:
    config, train_data = prepare(model, tiny)
    stock, *stock_states = build(get_stock_model(model), config, train_data)
    ours, *our_states = build(get_model(model), config, train_data)
    assert ours.init_report is None
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in stock.state_dict().items())
    assert torch.equal(stock_states[0], our_states[0])
    assert (stock_states[1] == our_states[1]).all()


@pytest.mark.parametrize("name", [entry.name for entry in list_strategies()])
def test_the_random_states_are_those_after_the_stock_constructor(name: str, llm: dict[str, Any]) -> None:
    config, train_data = prepare("LightGCN", {**llm, "init_strategy": name})
    _, *stock_states = build(LightGCN, config, train_data)
    ours, *our_states = build(get_model("LightGCN"), config, train_data)
    assert ours.init_report is not None
    assert torch.equal(stock_states[0], our_states[0])
    assert (stock_states[1] == our_states[1]).all()


def test_the_subclass_is_made_once_and_named() -> None:
    assert (
        with_llm_init(LightGCN)
        is get_model("LightGCN")
        is get_model(LightGCN)
        is with_llm_init(with_llm_init(LightGCN))
    )
    assert get_model("LightGCN").__name__ == "LLMInitLightGCN"
    assert get_model("LightGCN").__bases__ == (LLMInitMixin, LightGCN)
    assert get_model("LightGCN").stock_class is LightGCN


@pytest.mark.parametrize("strategy", ["none", "var"])
def test_models_are_pickled_and_copied(strategy: str, llm: dict[str, Any], tmp_path: Path) -> None:
    config, train_data = prepare("BPR", {**llm, "init_strategy": strategy})
    model, *_ = build(get_model("BPR"), config, train_data)
    torch.save(model, tmp_path / "model.pth")
    for other in (torch.load(tmp_path / "model.pth", weights_only=False), copy.deepcopy(model)):
        assert type(other) is type(model)
        assert torch.equal(other.item_embedding.weight, model.item_embedding.weight)
        assert other.item_embedding.weight is not model.item_embedding.weight


class Subclass(get_model("BPR")):
    """A user's own model on top of the subclass made here."""

    def predict(self, interaction: Any) -> torch.Tensor:
        return 2 * super().predict(interaction)


def test_a_subclass_of_the_subclass_is_itself(llm: dict[str, Any], tmp_path: Path) -> None:
    config, train_data = prepare(Subclass, llm)
    assert config.model_class is Subclass
    model, *_ = build(get_model(config.model_class), config, train_data)
    assert type(model) is Subclass
    assert model.init_report.items_with_vector == 29
    torch.save(model, tmp_path / "model.pth")
    assert type(torch.load(tmp_path / "model.pth", weights_only=False)) is Subclass


class Lean(get_model("BPR")):
    """A user's own model that is not pickled whole."""

    def __init__(self, config: Config, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.local = lambda: None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "local"}


def test_a_models_own_way_to_be_pickled(llm: dict[str, Any]) -> None:
    config, train_data = prepare(Lean, llm)
    model, *_ = build(get_model(Lean), config, train_data)
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(other.item_embedding.weight, model.item_embedding.weight)
    assert not hasattr(other, "local")


def test_the_id_fields_of_the_dataset_are_found_among_the_token_fields(
    tmp_path: Path, llm: dict[str, Any], tiny_vectors: dict[str, np.ndarray]
) -> None:
    """FM on a dataset whose ids have names of their own."""
    folder = tmp_path / "named"
    folder.mkdir()
    text = (DATA / "tiny" / "tiny.inter").read_text().replace("user_id:", "uid:").replace("item_id:", "asin:")
    (folder / "named.inter").write_text(text)
    settings = {**llm, "dataset": "named", "data_path": str(tmp_path), "USER_ID_FIELD": "uid", "ITEM_ID_FIELD": "asin",
                "load_col": {"inter": ["uid", "asin", "rating"]}, "threshold": {"rating": 3}}  # fmt: skip
    config, train_data = prepare("FM", settings)
    model, *_ = build(get_model("FM"), config, train_data)
    columns = model.init_report.reductions[16]["dimensions"]
    weight = model.token_embedding_table.embedding.weight.detach()
    for item, token in enumerate(train_data._dataset.field2id_token["asin"][1:], start=1):
        np.testing.assert_array_equal(weight[41 + item], tiny_vectors[token][columns])
    assert [table.label.partition("[")[2] for table in model.init_report.tables] == ["0:41]", "41:71]"]


class OwnHook(BPR):
    """A user's model whose own hook takes no module."""

    def __init__(self, config: Config, dataset: Any) -> None:
        super().__init__(config, dataset)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.constant_(self.user_embedding.weight, 7)
        nn.init.constant_(self.item_embedding.weight, 7)


def test_a_users_own_model_and_its_own_hook(llm: dict[str, Any], tiny_vectors: dict[str, np.ndarray]) -> None:
    config, train_data = prepare(f"{__name__}.OwnHook", llm)
    assert config.model_class is OwnHook
    model, *_ = build(get_model(f"{__name__}.OwnHook"), config, train_data)
    token = train_data._dataset.field2id_token["item_id"][1]
    columns = model.init_report.reductions[16]["dimensions"]
    assert model.item_embedding.weight[0].tolist() == [7] * 16
    np.testing.assert_array_equal(model.item_embedding.weight[1].detach(), tiny_vectors[token][columns])


def test_as_many_users_as_items(tmp_path: Path, llm: dict[str, Any]) -> None:
    folder = tmp_path / "square"
    folder.mkdir()
    rows = [f"u{user}\tB{item:03d}\t{user * 10 + item}" for user in range(1, 9) for item in range(1, 9) if user != item]
    (folder / "square.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    settings = {**llm, "dataset": "square", "data_path": str(tmp_path), "init_strategy": "uni"}
    config, train_data = prepare(f"{__name__}.Unnamed", settings)
    with pytest.raises(LLMInitError, match=naming("P.weight", "9 rows", "as many users as items")):
        build(get_model(Unnamed), config, train_data)
    config, train_data = prepare(Unnamed, {**settings, "init_tables": {"user": ["P.weight"], "item": ["Q.weight"]}})
    model, *_ = build(get_model(Unnamed), config, train_data)
    assert [(table.name, table.side) for table in model.init_report.tables] == [
        ("P.weight", "user"),
        ("Q.weight", "item"),
    ]


class Unnamed(BPR):
    """A model whose tables are called P and Q."""

    def __init__(self, config: Config, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.P, self.Q = self.user_embedding, self.item_embedding
        del self.user_embedding, self.item_embedding
