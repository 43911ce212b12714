"""Every model of RecBole, and of this package: what is written into it, and nothing else."""

import importlib.util
import random
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from recbole.utils import init_seed

from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.tables import find_embedding_tables
from recbole_llminit.integration.model import build_model
from recbole_llminit.integration.model_support import list_models
from tests.all_models import MODELS, NAMED, first_loss, prepare, settings_of, stand_ins
from tests.model_support import DOCUMENT, in_document, start, support_of, write_wide_store

COMMITTED = {row.model: row for row in list_models()}
WITHOUT_DGL = pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="DGL has no wheel for this Python")
STARTING = [
    pytest.param(name, marks=WITHOUT_DGL if name == "KGAT" else ())
    for name, row in COMMITTED.items()
    if row.initialized != "no"
]


@pytest.fixture(autouse=True, scope="module")
def _stand_ins():
    with stand_ins():
        yield


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A store as wide as the widest table, and its vectors."""
    folder = tmp_path_factory.mktemp("wide") / "store"
    return folder, write_wide_store(folder)


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_the_table_has_every_model():
    assert set(COMMITTED) == set(MODELS)
    assert DOCUMENT.read_text(encoding="utf-8") == in_document(list_models())
    counts = Counter(row.initialized for row in COMMITTED.values())
    readme = (DOCUMENT.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{counts['yes']} start from the one line, {counts['named']} more where" in readme
    assert f"and {counts['no']} have nothing" in readme


@pytest.mark.parametrize("name", [name for name, row in COMMITTED.items() if row.initialized == "no"])
def test_models_without_a_table_are_refused(name, wide):
    row, model, _ = support_of(name, wide[0])
    assert model is None
    assert row == COMMITTED[name]
    with pytest.raises(LLMInitError, match=f"^{name} has no trainable .*: remove init_strategy"):
        start(name, wide[0])


@pytest.mark.parametrize("name", STARTING)
def test_every_model_starts_from_the_vectors(name, wide):
    folder, vectors = wide
    row, _, _ = support_of(name, folder)
    assert row == COMMITTED[name]

    settings = {"init_tables": NAMED[name]} if name in NAMED else {}
    config, train_data = prepare(name, init_strategy="var", llm_embedding=str(folder), **settings)
    dataset = train_data._dataset
    init_seed(config["seed"], config["reproducibility"])
    stock = MODELS[name][1](config, dataset)
    after_stock = random_states()
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, dataset)
    assert random_states() == after_stock
    assert list(model.state_dict()) == list(stock.state_dict())

    before = {key: value.detach().clone() for key, value in (*stock.named_parameters(), *stock.named_buffers())}
    stock.load_state_dict(model.state_dict())
    expected = expected_values(model.init_report, dataset, vectors)
    for key, value in before.items():
        for columns, rows, values in expected.pop(key, ()):
            part = value.T if columns else value
            assert (part[rows] != values).any(), "the start changes nothing"
            part[rows] = values
        torch.testing.assert_close(
            model.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert not expected

    no_table_by_chance(model, dataset, stock)

    if name == "KSR":
        # RecBole multiplies these float64 values with float32 ones.
        model.relation_Matrix = model.relation_Matrix.float()
    written = {table.name for table in model.init_report.tables}
    parameters = dict(model.named_parameters())
    for _ in range(20):
        assert torch.isfinite(first_loss(model, train_data))
        # LINE draws which of its tables a batch is about.
        if all(parameters[table].grad is not None for table in written):
            break
    for table in written:
        assert parameters[table].grad.abs().sum() > 0, f"{table} is written, and {name} does not read it"


def no_table_by_chance(model, dataset, stock):
    """With as many users as any other matrix has rows, what is written stays the same, less users, or is refused."""
    whole = [(table.name, table.side) for table in model.init_report.tables]
    for size in {int(weight.shape[0]) for weight in stock.parameters() if weight.dim() == 2}:
        try:
            found = find_embedding_tables(stock, size, dataset.item_num).tables
        except LLMInitError:
            continue
        assert {(table.name, table.side) for table in found} <= set(whole), size


def expected_values(report, dataset, vectors):
    """The paper's values by parameter: the rows, whether they are columns, and what they hold."""
    tokens = dataset.field2id_token[dataset.iid_field]
    matrix = torch.zeros(len(tokens), len(next(iter(vectors.values()))))
    for item, token in enumerate(tokens[1:], start=1):
        matrix[item] = torch.from_numpy(vectors[token])
    label = "label" if "label" in dataset.inter_feat else None
    pairs = torch.zeros(dataset.user_num, dataset.item_num)
    found = dataset.inter_matrix(form="coo", value_field=label)
    for user, item, positive in zip(found.row, found.col, found.data, strict=True):
        pairs[user, item] = max(float(positive > 0), float(pairs[user, item]))
    expected = {}
    for table in report.tables:
        items = matrix[:, report.reductions[table.shape[1]]["dimensions"]]
        has_value = torch.arange(len(items)) > 0
        if table.side == "user":
            has_value = pairs.sum(dim=1) > 0
            items = pairs @ items / pairs.sum(dim=1, keepdim=True).clamp(min=1)
        values = items[has_value]
        if table.unit:
            values = values / values.norm(dim=1, keepdim=True)
        # Users come first in GCMC and in the fields of context-aware models; DSSM's fields of a user lie between.
        first = int(table.label.partition("[")[2].partition(":")[0] or 0)
        rows = first + torch.nonzero(has_value).ravel()
        expected.setdefault(table.name, []).append((".T" in table.label, rows, values))
    return expected


# Three general, four sequential, three context-aware, four knowledge-aware.
@pytest.mark.parametrize(
    "name",
    ["LightGCN", "SGCL", "GCMC", "MultiVAE", "SASRec", "BERT4Rec", "FPMC", "DIN", "FM", "FFM", "DSSM", "CFKG", "KTUP", "KGIN",
     pytest.param("KGAT", marks=WITHOUT_DGL)],
)  # fmt: skip
def test_two_epochs_from_the_command_line(name, wide, tmp_path, caplog):
    settings = {**settings_of(name), "checkpoint_dir": str(tmp_path / "saved"), "init_strategy": "var"}
    if name in NAMED:
        settings["init_tables"] = NAMED[name]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["run", f"--model={name}", f"--config_files={tmp_path / 'run.yaml'}", f"--llm_embedding={wide[0]}"]
    with caplog.at_level("INFO"):
        assert main(arguments) == 0
    assert "epoch 1 training" in caplog.text
    assert "test result" in caplog.text
    assert len(list((tmp_path / "saved").glob("*.pth"))) == 1


def test_the_command_prints_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    counts = {kind: sum(row.initialized == kind for row in COMMITTED.values()) for kind in ("yes", "named", "no")}
    assert f"\n{counts['yes']} yes, {counts['named']} named, {counts['no']} no (named: where init_tables" in printed
    assert sum(line.split("|")[0].strip() in COMMITTED for line in printed.splitlines()) == len(COMMITTED)
    assert main(["models", "BERT4Rec"]) == 0
    assert "item_embedding.weight[items] (n_items x 64)" in capsys.readouterr().out
    assert main(["models", "Bert"]) == 2
    assert "did you mean 'BERT4Rec'?" in capsys.readouterr().err
