import copy
import pickle

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR, LightGCN
from recbole.utils import get_model as get_stock_model
from recbole.utils import init_seed
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.model import LLMInitMixin, get_model, training_interactions, with_llm_init
from recbole_llminit.strategies.base import list_strategies
from tests.all_models import load
from tests.stock import DATA

# What sequential models need on the tiny dataset.
NEEDS = {name: {"train_neg_sample_args": None} for name in ("SASRec", "GRU4Rec", "BERT4Rec", "MultiVAE")}


def prepare(model, settings):
    return load(model, {**settings, **NEEDS.get(model, {})})


def build(model_class, config, train_data):
    """A model and the random states after its constructor."""
    init_seed(config["seed"], config["reproducibility"])
    model = model_class(config, train_data._dataset)
    return model, torch.get_rng_state(), np.random.get_state()[1].copy()


@pytest.mark.parametrize("model", ["BPR", "SASRec", "GRU4Rec", "SGL"])
def test_without_a_strategy_the_model_is_stock(model, tiny):
    config, train_data = prepare(model, tiny)
    stock, *stock_states = build(get_stock_model(model), config, train_data)
    ours, *our_states = build(get_model(model), config, train_data)
    assert ours.init_report is None
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in stock.state_dict().items())
    assert torch.equal(stock_states[0], our_states[0])
    assert (stock_states[1] == our_states[1]).all()


@pytest.mark.parametrize("name", [entry.name for entry in list_strategies()])
def test_the_random_states_are_those_after_the_stock_constructor(name, llm):
    config, train_data = prepare("LightGCN", {**llm, "init_strategy": name})
    _, *stock_states = build(LightGCN, config, train_data)
    _, *our_states = build(get_model("LightGCN"), config, train_data)
    assert torch.equal(stock_states[0], our_states[0])
    assert (stock_states[1] == our_states[1]).all()


def test_the_subclass_is_made_once_and_named():
    assert (
        with_llm_init(LightGCN)
        is get_model("LightGCN")
        is get_model(LightGCN)
        is with_llm_init(with_llm_init(LightGCN))
    )
    assert get_model("LightGCN").__name__ == "LLMInitLightGCN"
    assert issubclass(get_model("LightGCN"), (LLMInitMixin, LightGCN))
    assert get_model("LightGCN").stock_class is LightGCN


@pytest.mark.parametrize("strategy", ["none", "var"])
def test_models_are_pickled_and_copied(strategy, llm, tmp_path):
    config, train_data = prepare("BPR", {**llm, "init_strategy": strategy})
    model, *_ = build(get_model("BPR"), config, train_data)
    torch.save(model, tmp_path / "model.pth")
    for other in (torch.load(tmp_path / "model.pth", weights_only=False), copy.deepcopy(model)):
        assert type(other) is type(model)
        assert torch.equal(other.item_embedding.weight, model.item_embedding.weight)
        assert other.item_embedding.weight is not model.item_embedding.weight


class Subclass(get_model("BPR")):
    """A user's own model on top of the subclass made here."""

    def predict(self, interaction):
        return 2 * super().predict(interaction)


def test_a_subclass_of_the_subclass_is_itself(llm, tmp_path):
    config, train_data = prepare(Subclass, llm)
    assert config.model_class is Subclass
    model, *_ = build(get_model(config.model_class), config, train_data)
    assert type(model) is Subclass
    assert model.init_report.items_with_vector == 29
    torch.save(model, tmp_path / "model.pth")
    assert type(torch.load(tmp_path / "model.pth", weights_only=False)) is Subclass


class Lean(get_model("BPR")):
    """A user's own model that is not pickled whole."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.local = lambda: None

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "local"}


def test_a_models_own_way_to_be_pickled(llm):
    config, train_data = prepare(Lean, llm)
    model, *_ = build(get_model(Lean), config, train_data)
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(other.item_embedding.weight, model.item_embedding.weight)
    assert not hasattr(other, "local")


def test_the_id_fields_of_the_dataset_are_found_among_the_token_fields(tmp_path, llm, tiny_vectors):
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


def test_presplit_histories_count(presplit, tiny):
    config, train_data = prepare("GRU4Rec", {**tiny, **presplit})
    dataset = train_data._dataset
    found = training_interactions(dataset, config)
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    pairs = {(users[row], items[column]) for row, column in zip(*found.nonzero(), strict=True)}
    assert pairs == {("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u2", "b")}
    assert set(found.data) == {1.0}


class OwnHook(BPR):
    """A user's model whose own hook takes no module."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self._init_weights()

    def _init_weights(self):
        nn.init.constant_(self.user_embedding.weight, 7)
        nn.init.constant_(self.item_embedding.weight, 7)


def test_a_users_own_model_and_its_own_hook(llm, tiny_vectors):
    config, train_data = prepare(f"{__name__}.OwnHook", llm)
    assert config.model_class is OwnHook
    model, *_ = build(get_model(f"{__name__}.OwnHook"), config, train_data)
    token = train_data._dataset.field2id_token["item_id"][1]
    columns = model.init_report.reductions[16]["dimensions"]
    assert model.item_embedding.weight[0].tolist() == [7] * 16
    np.testing.assert_array_equal(model.item_embedding.weight[1].detach(), tiny_vectors[token][columns])


def test_as_many_users_as_items(tmp_path, llm):
    folder = tmp_path / "square"
    folder.mkdir()
    rows = [f"u{user}\tB{item:03d}\t{user * 10 + item}" for user in range(1, 9) for item in range(1, 9) if user != item]
    (folder / "square.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    settings = {**llm, "dataset": "square", "data_path": str(tmp_path), "init_strategy": "uni"}
    config, train_data = prepare(f"{__name__}.Unnamed", settings)
    with pytest.raises(LLMInitError, match=r"has the table P.weight of 9 rows, and there are as many users as items"):
        build(get_model(Unnamed), config, train_data)
    config, train_data = prepare(Unnamed, {**settings, "init_tables": {"user": ["P.weight"], "item": ["Q.weight"]}})
    model, *_ = build(get_model(Unnamed), config, train_data)
    assert [(table.name, table.side) for table in model.init_report.tables] == [
        ("P.weight", "user"),
        ("Q.weight", "item"),
    ]


class Unnamed(BPR):
    """A model whose tables are called P and Q."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.P, self.Q = self.user_embedding, self.item_embedding
        del self.user_embedding, self.item_embedding


class Interactions:
    """What `training_interactions` asks of a dataset."""

    iid_field = "item_id"

    def __init__(self, users, items, labels=None):
        self.inter_feat = {"label"} if labels is not None else set()
        self.found = (users, items, labels)

    def inter_matrix(self, form, value_field):
        from scipy.sparse import coo_matrix

        users, items, labels = self.found
        values = labels if value_field else np.ones(len(users))
        return coo_matrix((values, (users, items)), shape=(3, 4))


KEYS = {"LABEL_FIELD": "label", "LIST_SUFFIX": "_list", "benchmark_filename": None}


def test_an_interaction_counts_once():
    matrix = training_interactions(Interactions([1, 1, 2, 1], [2, 2, 3, 1]), KEYS)
    assert matrix.toarray().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]


def test_only_positive_labels_count():
    matrix = training_interactions(Interactions([1, 1, 2], [2, 3, 3], labels=[1, 0, 1]), KEYS)
    assert matrix.toarray().tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("model", ["BPR", "SASRec", "FM"])
def test_only_training_interactions_count(model, tiny):
    """Against the atomic file: every user's last two are held out, the context model's labels are ratings >= 3."""
    settings = {**tiny, "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    if model == "SASRec":
        settings["train_neg_sample_args"] = None
    if model == "FM":
        settings.update(threshold={"rating": 3}, train_neg_sample_args=None, metrics=["AUC"], valid_metric="AUC",
                        eval_args={**settings["eval_args"], "mode": "labeled"},
                        load_col={"inter": ["user_id", "item_id", "rating", "timestamp"]})  # fmt: skip
    config, train_data = prepare(model, settings)
    dataset = train_data._dataset
    from tests.stock import DATA

    lines = [line.split("\t") for line in (DATA / "tiny" / "tiny.inter").read_text().splitlines()[1:]]
    mean = np.mean([float(rating) for _, _, rating, _ in lines if rating])
    expected = {}
    for user, item, rating, time in lines:
        expected.setdefault(user, []).append((float(time), item, float(rating or mean)))
    expected = {user: sorted(rows)[:-2] for user, rows in expected.items()}
    if model == "FM":
        expected = {user: [row for row in rows if row[2] >= 3] for user, rows in expected.items()}
    matrix = training_interactions(dataset, config)
    assert set(matrix.data) == {1.0}
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    found = {user: set() for user in expected}
    for row, column in zip(*matrix.nonzero(), strict=True):
        found[users[row]].add(items[column])
    assert found == {user: {item for _, item, _ in rows} for user, rows in expected.items()}


def test_users_start_at_vectors_of_their_own(llm, tmp_path):
    """A file keyed by user token, in another order than the dataset's; one user has none."""
    config, train_data = prepare("BPR", llm)
    dataset = train_data._dataset
    tokens = dataset.field2id_token["user_id"][1:]
    vectors = np.random.default_rng(3).normal(size=(len(tokens), 80)).astype(np.float32)
    np.save(tmp_path / "users.npy", vectors[:0:-1])
    (tmp_path / "users.txt").write_text("\n".join(tokens[:0:-1]))
    stock = build(get_model("BPR"), config, train_data)[0]
    config["init_user"] = str(tmp_path / "users.npy")
    ours = build(get_model("BPR"), config, train_data)[0]
    columns = list(ours.init_report.reductions[16]["dimensions"])
    np.testing.assert_allclose(ours.user_embedding.weight[2:].detach(), vectors[1:, columns], rtol=1e-6)
    assert torch.equal(ours.item_embedding.weight, stock.item_embedding.weight)
    assert ours.init_report.users_with_items == len(tokens) - 1
    assert "users.npy)" in str(ours.init_report)


def test_a_users_file_of_other_users_is_refused(llm, tmp_path):
    config, train_data = prepare("BPR", llm)
    np.save(tmp_path / "users.npy", np.ones((3, 80), dtype=np.float32))
    (tmp_path / "users.txt").write_text("x\ny\nz")
    config["init_user"] = str(tmp_path / "users.npy")
    with pytest.raises(
        LLMInitError, match=r"none of the .* users of tiny is in .*users.npy .*expected the dataset's user ids"
    ):
        build(get_model("BPR"), config, train_data)
