"""Every model of RecBole, and of this package: what is written into it, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from recbole.utils import init_seed

from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.report import InitReport
from recbole_llminit.initialization.tables import find_embedding_tables
from recbole_llminit.integration.model import build_model
from recbole_llminit.integration.model_scores import ModelScores
from recbole_llminit.integration.model_support import list_models
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from tests.all_models import MODELS, NAMED, first_loss, prepare, settings_of, stand_ins
from tests.messages import logged
from tests.model_support import DOCUMENT, in_document, support_of, write_wide_store

COMMITTED = {row.model: row for row in list_models()}
WITHOUT_DGL = pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="DGL has no wheel for this Python")
INITIALIZED = [
    pytest.param(name, marks=WITHOUT_DGL if name == "KGAT" else ())
    for name, row in COMMITTED.items()
    if row.initialized != "no"
]


@pytest.fixture(autouse=True, scope="module")
def _stand_ins() -> Iterator[None]:
    """Replace what is not installed while this module's tests run."""
    with stand_ins():
        yield


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A store as wide as the widest table, and its vectors by item."""
    folder = tmp_path_factory.mktemp("wide") / "store"
    return folder, write_wide_store(folder)


def random_states() -> tuple[Any, ...]:
    """The states of all generators of random numbers."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_the_table_has_every_model() -> None:
    assert set(COMMITTED) == set(MODELS)
    assert DOCUMENT.read_text(encoding="utf-8") == in_document(list_models())
    counts = Counter(row.initialized for row in COMMITTED.values())
    readme = (DOCUMENT.parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Which models")[2].partition("\n## ")[0]
    numbers = re.findall(r"\b\d+\b", section)
    assert numbers[:3] == [str(counts[kind]) for kind in ("yes", "named", "no")]


@pytest.mark.parametrize("name", [name for name, row in COMMITTED.items() if row.initialized == "no"])
def test_models_without_a_table_are_refused(name: str, wide: tuple[Path, dict[str, np.ndarray]]) -> None:
    support = support_of(name, wide[0])
    assert support.model is None
    assert support.row == COMMITTED[name]
    assert re.match(rf"{name} .*no trainable .*remove init_strategy", support.refusal)


@pytest.mark.parametrize("name", INITIALIZED)
def test_every_model_is_initialized_from_the_vectors(name: str, wide: tuple[Path, dict[str, np.ndarray]]) -> None:
    """Its row is the committed one; what is written is what the paper says, and all else as in the stock model."""
    folder, vectors = wide
    support = support_of(name, folder)
    after_initialized = random_states()
    assert support.row == COMMITTED[name]

    model, train_data = support.model, support.train_data
    dataset = train_data._dataset
    config = dataset.config
    init_seed(config["seed"], config["reproducibility"])
    stock = MODELS[name][1](config, dataset)
    assert random_states() == after_initialized
    assert list(model.state_dict()) == list(stock.state_dict())

    assert_only_these_are_written(model, stock, expected_values(model.init_report, dataset, vectors))
    assert_no_table_is_found_by_chance(model, dataset, stock)
    if name == "KSR":
        # RecBole multiplies these float64 values with float32 ones.
        model.relation_Matrix = model.relation_Matrix.float()
    assert_what_is_written_is_read(model, train_data)


# By parameter: whether items or users are the columns, their rows, and what they hold.
Expected = dict[str, list[tuple[bool, torch.Tensor, torch.Tensor]]]


def expected_values(report: InitReport, dataset: Any, vectors: dict[str, np.ndarray]) -> Expected:
    """The values that the paper's formulas give for the tables of a report."""
    tokens = dataset.field2id_token[dataset.iid_field]
    matrix = torch.zeros(len(tokens), len(next(iter(vectors.values()))))
    for item, token in enumerate(tokens[1:], start=1):
        matrix[item] = torch.from_numpy(vectors[token])
    pairs = training_pairs(dataset)
    expected: Expected = {}
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


def training_pairs(dataset: Any) -> torch.Tensor:
    """1 for each pair of a user and an item that have a positive training interaction, shape [n_users, n_items]."""
    label = "label" if "label" in dataset.inter_feat else None
    pairs = torch.zeros(dataset.user_num, dataset.item_num)
    found = dataset.inter_matrix(form="coo", value_field=label)
    for user, item, positive in zip(found.row, found.col, found.data, strict=True):
        pairs[user, item] = max(float(positive > 0), float(pairs[user, item]))
    return pairs


def assert_only_these_are_written(model: Any, stock: Any, expected: Expected) -> None:
    """The stock model's values with the expected ones in their places are the model's; the stock class loads them."""
    before = {key: value.detach().clone() for key, value in (*stock.named_parameters(), *stock.named_buffers())}
    stock.load_state_dict(model.state_dict())
    assert expected.keys() <= before.keys()
    for key, value in before.items():
        for columns, rows, values in expected.get(key, ()):
            part = value.T if columns else value
            assert (part[rows] != values).any(), "the initialization changes nothing"
            part[rows] = values
        torch.testing.assert_close(
            model.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )


def assert_no_table_is_found_by_chance(model: Any, dataset: Any, stock: Any) -> None:
    """With as many users as any other matrix has rows, what is written stays the same, less users, or is refused."""
    whole = [(table.name, table.side) for table in model.init_report.tables]
    for size in {int(weight.shape[0]) for weight in stock.parameters() if weight.dim() == 2}:
        try:
            found = find_embedding_tables(stock, size, dataset.item_num).tables
        except LLMInitError:
            continue
        assert {(table.name, table.side) for table in found} <= set(whole), size


def assert_what_is_written_is_read(model: Any, train_data: Any) -> None:
    """The loss is finite, and each table that was written gets a gradient."""
    written = {table.name for table in model.init_report.tables}
    assert written
    parameters = dict(model.named_parameters())
    for _ in range(20):
        assert torch.isfinite(first_loss(model, train_data))
        # LINE draws which of its tables a batch is about.
        if all(parameters[table].grad is not None for table in written):
            break
    for table in written:
        assert parameters[table].grad.abs().sum() > 0, f"{table} is written, and the model does not read it"


# A width has to be one of the 30 directions of the tiny dataset's clicks.
NARROW: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("GRU4RecKG", "KSR")},
    **{name: {"mlp_hidden_size": [16]} for name in ("MultiDAE", "MultiVAE", "RaCT")},
    "DiffRec": {"dims_dnn": [16]},
    "LDiffRec": {"in_dims": [16, 8]},
    "DMF": {key: [16, 16] for key in ("user_hidden_size_list", "item_hidden_size_list")}
    | {"user_embedding_size": 16, "item_embedding_size": 16},
    "GCMC": {"gcn_output_dim": 16},
    "NeuMF": {"mf_embedding_size": 16, "mlp_embedding_size": 16},
    "NNCF": {"ui_embedding_size": 16, "neigh_embedding_size": 16},
    "RecVAE": {"hidden_dimension": 16, "latent_dimension": 16},
}


@pytest.mark.parametrize("name", INITIALIZED)
def test_every_model_is_initialized_from_the_factors(name: str, wide: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The tables of the items, and of the users where there are any, by the scale of the model's own scores."""
    settings = {"init_strategy": "lae", "init_args": {"lam": 5, "kappa": 20}, "init_scale": "score",
                "llm_embedding": str(wide[0]), **NARROW.get(name, {"embedding_size": 16, "hidden_size": 16})}  # fmt: skip
    if name in NAMED:
        settings["init_tables"] = NAMED[name]
    config, train_data = prepare(name, **settings)
    init_seed(config["seed"], config["reproducibility"])
    stock = MODELS[name][1](config, train_data._dataset)
    after_stock = random_states()
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, train_data._dataset)
    assert random_states() == after_stock
    report, before = model.init_report, dict(stock.named_parameters())
    assert report.user == "factors" and report.scale == "score"
    # The tables that var fills.
    described = [re.sub(r" \(n_\w+ x .*", "", table) for table in COMMITTED[name].written.split("; ")]
    assert [re.sub(r"\[\d+:\d+\]", f"[{table.side}s]", table.label) for table in report.tables] == described
    written = {table.name for table in report.tables}
    for key, value in model.named_parameters():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, before[key]) != (key in written), key
    assert all(table.unit or 1e-3 < table.std_after < 10 for table in report.tables)
    scores = ModelScores(config, train_data._dataset)
    if name in ("BPR", "LightGCN", "SGL", "FPMC", "GRU4Rec", "CKE", "MCCLK"):
        assert scores.std(model) == pytest.approx(LinearAutoencoder.score_std, rel=0.03)


# Three general, four sequential, three context-aware, four knowledge-aware.
@pytest.mark.parametrize(
    "name",
    ["LightGCN", "SGCL", "GCMC", "MultiVAE", "SASRec", "BERT4Rec", "FPMC", "DIN", "FM", "FFM", "DSSM", "CFKG", "KTUP", "KGIN",
     pytest.param("KGAT", marks=WITHOUT_DGL)],
)  # fmt: skip
def test_two_epochs_from_the_command_line(
    name: str, wide: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**settings_of(name), "checkpoint_dir": str(tmp_path / "saved"), "init_strategy": "var"}
    if name in NAMED:
        settings["init_tables"] = NAMED[name]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["run", f"--model={name}", f"--config_files={tmp_path / 'run.yaml'}", f"--llm_embedding={wide[0]}"]
    with caplog.at_level("INFO"):
        assert main(arguments) == 0
    assert logged(caplog, "epoch 1 training")
    assert logged(caplog, "test result")
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    report = json.loads(checkpoint.with_suffix(".json").read_text())
    assert report["items_with_vector"] == report["items"] > 20


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    counts = Counter(row.initialized for row in COMMITTED.values())
    assert f"\n{counts['yes']} yes, {counts['named']} named, {counts['no']} no" in printed
    assert sum(line.split("|")[0].strip() in COMMITTED for line in printed.splitlines()) == len(COMMITTED)
    assert main(["models", "BERT4Rec"]) == 0
    assert "item_embedding.weight[items] (n_items x 64)" in capsys.readouterr().out


def test_the_command_suggests_the_nearest_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "Bert"]) == 2
    assert "did you mean 'BERT4Rec'?" in capsys.readouterr().err
