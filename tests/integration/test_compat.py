import json
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import scipy
import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration import compat
from recbole_llminit.integration.quick_start import run_recbole_llminit
from tests import stock

REFERENCE = json.loads((stock.DATA / "reference.json").read_text())
NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"
PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3
SCIPY_1_13 = tuple(int(part) for part in scipy.__version__.split(".")[:2]) >= (1, 13)
TORCH_2_6 = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)


def run_python(script, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(stock.DATA.parents[1])},
        check=False,
    )


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_ml100k_is_as_on_the_stack_recbole_was_written_for(model, tmp_path):
    expected = dict(REFERENCE["ml-100k"][model])
    found = stock.measure_ml100k(model, tmp_path)
    assert found.pop("test_result") == pytest.approx(expected.pop("test_result"), abs=5e-4)
    assert found == expected
    assert (found["n_users"], found["n_items"], found["split_sizes"]) == (944, 1683, [80808, 9596, 9596])


@pytest.mark.parametrize("case", stock.TINY)
def test_missing_values_are_filled_as_on_that_stack(case):
    assert stock.measure_tiny(stock.TINY[case]) == REFERENCE["tiny"][case]


def test_missing_values_literally():
    from recbole.data import create_dataset

    config = stock.stock_config("BPR", {"dataset": "tiny", "data_path": str(stock.DATA), **stock.TINY["features"]})
    dataset = create_dataset(config)
    ages = [float(line.split("\t")[1]) for line in (stock.DATA / "tiny/tiny.user").read_text().splitlines()[1:]
            if line.split("\t")[1]]  # fmt: skip
    users = dataset.user_feat.set_index("user_id")
    unknown_age = dataset.token2id("user_id", "u07")
    assert users.loc[unknown_age, "age"] == pytest.approx(np.mean(ages))
    assert users.loc[dataset.token2id("user_id", "u09"), "city"] == 0
    items = dataset.item_feat.set_index("item_id")
    assert items.loc[dataset.token2id("item_id", "B005"), "title"].tolist() == []
    assert len(items.loc[dataset.token2id("item_id", "B001"), "title"]) == 3
    assert not dataset.user_feat.isna().any().any()
    assert not dataset.item_feat.isna().any().any()


def test_presplit_sequences_keep_their_lengths(presplit):
    """`lengths_per_row` in ``SequentialDataset._benchmark_presets``."""
    from recbole.data import create_dataset

    config = stock.stock_config("GRU4Rec", presplit)
    train, valid, test = create_dataset(config).build()
    assert [split.inter_feat["item_length"].tolist() for split in (train, valid, test)] == [[2, 1], [3], [1]]


def test_dok_update_fills_the_matrix():
    matrix = scipy.sparse.dok_matrix((2, 2), dtype=np.float32)
    matrix._update({(0, 1): 3.0})
    assert matrix.toarray().tolist() == [[0, 3], [0, 0]]


def test_whole_checkpoints_are_loaded_in_recbole_only(tmp_path):
    import recbole.trainer.trainer as trainer

    trainer.torch.save({"config": {1, 2}, "weights": torch.ones(2)}, tmp_path / "c.pth", pickle_protocol=4)
    assert trainer.torch.load(tmp_path / "c.pth")["config"] == {1, 2}
    assert trainer.torch.isnan is torch.isnan
    assert torch.load is not trainer.torch.load


@pytest.mark.parametrize(
    "how",
    [
        "resolve_model_class('NeuMF')",
        "resolve_model_class('recbole.model.general_recommender.neumf.NeuMF')",
        "resolve_model_class(importlib.import_module('recbole.model.general_recommender').NeuMF)",
    ],
    ids=["name", "dotted path", "class"],
)
def test_pretrained_weights_of_a_model_are_loaded(how, tmp_path):
    """``neumf.py:84``, in a process of its own: the module is imported after the mends were applied."""
    script = f"""
    import importlib, sys, torch
    from recbole_llminit.integration.model_class import resolve_model_class
    module = sys.modules[{how}.__module__]
    torch.save({{"config": {{1, 2}}}}, "c.pth")
    assert module.torch.load("c.pth") == {{"config": {{1, 2}}}}
    """
    ran = run_python(script, tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_numpy_names_exist():
    assert (np.float_, np.complex_, np.unicode_) == (np.float64, np.complex128, np.str_)
    assert (np.float, np.bool, np.str) == (np.float64, np.bool_, np.str_)


def test_applying_again_changes_nothing():
    from recbole.data.dataset import Dataset

    before = (Dataset._fill_nan, sys.modules["recbole.trainer.trainer"].torch)
    compat.apply()
    assert before == (Dataset._fill_nan, sys.modules["recbole.trainer.trainer"].torch)


def test_another_recbole_is_refused(monkeypatch):
    monkeypatch.setattr("recbole.__version__", "1.2.0")
    with pytest.raises(
        LLMInitError, match=r"works with RecBole 1.2.1, this is RecBole 1.2.0: pip install recbole==1.2.1"
    ):
        compat.apply()


def test_no_recbole_is_one_sentence(monkeypatch):
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LLMInitError, match="RecBole is not installed: pip install recbole==1.2.1"):
        compat.apply()


# Each mend left out in a process of its own: what stock RecBole does on the versions concerned.
FAILURES = [
    pytest.param("restore_numpy_aliases", "Config('BPR', 'ml-100k')", "np.float_` was removed",
                 marks=pytest.mark.skipif(not NUMPY_2, reason="NumPy < 2 has the names")),
    pytest.param("restore_dok_update", "build('LightGCN')", "has no attribute '_update'",
                 marks=pytest.mark.skipif(not SCIPY_1_13, reason="SciPy < 1.13 has _update")),
    pytest.param("save_and_load_checkpoints_safely", "train('BPR')", "Weights only load failed",
                 marks=pytest.mark.skipif(not TORCH_2_6, reason="torch < 2.6 loads whole objects")),
    pytest.param("lengths_per_row", "build('BPR', load_col={'inter': ['user_id', 'item_id'], 'item': ['item_id', 'title']})",
                 "does not match length of index", marks=pytest.mark.skipif(not PANDAS_3, reason="pandas < 3")),
    pytest.param("fill_missing_sequences", "build('BPR', load_col={'inter': ['user_id', 'item_id'], 'item': ['item_id', 'title']})",
                 "'float' object has no attribute 'split'", marks=pytest.mark.skipif(not PANDAS_3, reason="pandas < 3")),
    pytest.param("fill_missing_values", "data = build('BPR', load_col={'inter': ['user_id', 'item_id', 'rating']}); "
                 "assert not data.inter_feat['rating'].isnan().any(), 'ratings are NaN'", "ratings are NaN",
                 marks=pytest.mark.skipif(not PANDAS_3, reason="pandas < 3")),
    pytest.param("accept_former_dgl_arguments", "build('KGAT', load_col={'inter': ['user_id', 'item_id'], 'link': ['item_id', "
                 "'entity_id'], 'kg': ['head_id', 'relation_id', 'tail_id']})", "unexpected keyword argument 'preserve_nodes'",
                 marks=pytest.mark.skipif(find_spec("dgl") is None, reason="DGL is not installed")),
    pytest.param("import_quick_start", "import recbole.quick_start", "has no attribute 'bool8'",
                 marks=pytest.mark.skipif(not NUMPY_2 or find_spec("ray") is None, reason="no ray, or NumPy < 2")),
]  # fmt: skip


@pytest.mark.parametrize(("mend", "code", "message"), FAILURES)
def test_the_ailment_without_its_mend(mend, code, message, tmp_path):
    script = f"""
    import sys
    from recbole_llminit.integration import compat
    setattr(compat, {mend!r}, lambda: None)
    compat.apply()
    from recbole.config import Config
    from tests import stock
    tiny = {{"dataset": "tiny", "data_path": str(stock.DATA), "load_col": {{"inter": ["user_id", "item_id"]}}, "epochs": 1}}
    def train(model, **settings):
        return stock.run_stock(model, {{**tiny, **settings}})
    def build(model, **settings):
        return train(model, **settings, eval_args={{"mode": "full"}})["splits"][0]
    {code}
    """
    ran = run_python(script, tmp_path)
    assert ran.returncode != 0
    assert message in ran.stderr


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NGCF", "DGCF", "GCMC", "SGL", "SpectralCF"])
def test_mixed_precision_trains_what_full_precision_does(model, tiny):
    """`multiply_sparse_matrices_in_full_precision`; stock RecBole's graph models raise here."""
    settings = {**tiny, "init_strategy": "none", "gpu_id": ""}
    if model == "GCMC":
        settings["embedding_size"] = 64
    losses = []
    for amp in (False, True):
        with mock.patch("recbole.trainer.trainer.Trainer._add_train_loss_to_tensorboard") as logged:
            run_recbole_llminit(model, config_dict={**settings, "enable_amp": amp})
        losses.append([np.sum(call.args[1]) for call in logged.call_args_list])
    assert len(losses[0]) == 3
    # bfloat16 has eight bits.
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


@pytest.mark.parametrize("other", [torch.ones(2, 3), torch.eye(2, 3).to_sparse()], ids=["dense", "sparse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_products_under_autocast_literally(other, dtype):
    from recbole.model.general_recommender import lightgcn

    compat.patch_model(lightgcn.LightGCN)
    matrix = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse().to(dtype)
    with torch.autocast("cpu"):
        found = lightgcn.torch.sparse.mm(matrix, other.to(dtype))
    assert found.dtype == torch.float32
    assert found.to_dense().tolist() == (matrix.float().to_dense() @ other.to_dense()).tolist()
    assert lightgcn.torch.sparse.sum is torch.sparse.sum and lightgcn.torch.cat is torch.cat


def test_the_memory_of_a_cpu_is_not_asked_of_a_gpu(monkeypatch):
    import recbole.utils.utils as utils

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    table = utils.get_environment({"device": torch.device("cpu"), "use_gpu": True}).draw()
    assert "0.0 / 0.0" in table
