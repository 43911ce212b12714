"""RecBole's own keys: which are read, and which values they can have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import recbole
from recbole.model.general_recommender import BPR

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from tests.all_models import MODELS, settings_of, stand_ins

# Made by RecBole's configuration itself.
SET_BY_RECBOLE = {
    "device",
    "single_spec",
    "eval_type",
    "MODEL_TYPE",
    "MODEL_INPUT_TYPE",
    "valid_neg_sample_args",
    "test_neg_sample_args",
}
# Made by its transforms and datasets, and put into the configuration.
SET_BY_RECBOLE |= {
    "MASK_INDEX",
    "MASK_ITEM_SEQ",
    "POS_ITEMS",
    "NEG_ITEMS",
    "CROP_ITEM_SEQ",
    "CROP_ITEM_SEQ_LEN",
    "INVERSE_ITEM_SEQ",
    "REORDER_ITEM_SEQ",
}


def refused(match: str, model: Any = "BPR", arguments: Sequence[str] = (), **settings: Any) -> None:
    """Assert that a configuration is refused with a message."""
    with pytest.raises(LLMInitError, match=match):
        Config(model, "ml-100k", config_dict=settings, arguments=arguments)


class OwnModel(BPR):
    """A model of the user's own, which may read any key."""


def keys_read_in(path: Path) -> set[str]:
    """The keys that a file of RecBole's reads from a configuration."""
    return set(re.findall(r"""config\[\s*["'](\w+)["']\s*\]""", path.read_text())) - SET_BY_RECBOLE


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("learning_rte", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("epoch", "epochs"),
        ("config_file", "config_files"),
    ],
)
def test_arguments_that_are_nearly_recboles(argument: str, meant: str) -> None:
    refused(rf"the key '{argument}' is unknown.*: did you mean '{meant}'\?", arguments=[f"--{argument}=1"])
    refused(rf"the key '{argument}' is unknown.*: did you mean '{meant}'\?", **{argument: 1})
    refused(
        rf"the key '{argument}' is unknown.*: did you mean '{meant}'\?", model=OwnModel, arguments=[f"--{argument}=1"]
    )


def test_keys_that_nothing_reads() -> None:
    refused("'foo_bar_baz'.*unknown.*leave it out", arguments=["--foo_bar_baz=2"])
    refused("the key 'foo_bar_baz' is unknown", foo_bar_baz=2)
    config = Config(OwnModel, "ml-100k", arguments=["--my_models_width=7"], config_dict={"epoch": 3})
    assert config["my_models_width"] == 7
    assert config.unread_keys() == ["epoch", "my_models_width"]


def test_keys_of_other_models() -> None:
    refused(
        "BPR does not read n_facet_emb",
        arguments=["--n_facet_emb=2"],
    )
    shared = Config("BPR", "ml-100k", config_dict={"n_layers": 3, "require_pow": True})
    assert shared.unread_keys() == ["n_layers"]
    assert Config("LightGCN", "ml-100k", config_dict={"n_layers": 3}).unread_keys() == []


def test_every_key_that_recboles_code_reads_is_known() -> None:
    package = Path(recbole.__file__).parent
    data = [path for part in ("data", "evaluator") for path in (package / part).rglob("*.py")]
    shared = {key for path in data if path.stem != "decisiontree_dataset" for key in keys_read_in(path)}
    assert {"encoding", "mask_ratio", "tail_ratio", "load_col"} <= shared
    wrong = {}
    for name, (family, model_class) in MODELS.items():
        if family in ("exlib",) or name == "SGCL":
            continue
        path = package / f"{model_class.__module__.removeprefix('recbole.').replace('.', '/')}.py"
        with stand_ins():
            settings = {key: value for key, value in settings_of(name).items() if key not in ("dataset", "data_path")}
            config = Config(model_class, "ml-100k", config_dict={**settings, "transform": "mask_itemseq"})
        # The networks inside KD_DAGFM have configurations of their own.
        inner = {"cin", "feature_num"} if name == "KD_DAGFM" else set()
        unknown = (shared | (keys_read_in(path) - inner)) - config.known_keys()
        if unknown:
            wrong[name] = unknown
    assert wrong == {}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", "", "a whole number from 1 on"), ("epochs", 0, "from 1 on"), ("epochs", 2.5, "from 1 on"),
        ("epochs", "three", "from 1 on"), ("epochs", True, "from 1 on"), ("seed", "abc", "a whole number from 0 to"),
        ("seed", -1, "from 0"), ("seed", 2**32, "from 0 to 4294967295"), ("embedding_size", 0, "a whole number from 1 on"),
        ("embedding_size", 8.5, "a whole number from 1 on"), ("embedding_size", "wide", "a number"),
        ("learning_rate", "fast", "a number"), ("learning_rate", 0, "a number above 0"),
        ("learning_rate", float("nan"), "a number"), ("worker", -1, "from 0 on"), ("train_batch_size", 0, "from 1 on"),
        ("eval_batch_size", [1], "from 1 on"), ("stopping_step", -1, "from 0 on"), ("topk", 0, "a whole number above 0, or a list"),
        ("topk", [10, "a"], "above 0, or a list"), ("topk", None, "above 0, or a list"), ("metrics", [], r"names such as \[Recall"),
        ("metrics", ["Foo"], "which RecBole does not know"), ("metrics", "Recal", "did you mean 'recall'"),
        ("learner", "adan", "did you mean 'adam'"), ("eval_args", "full", "a mapping"), ("load_col", [1], "a mapping"),
        ("eval_args", {"splt": {"LS": "valid_and_test"}}, "did you mean 'split'"), ("shuffle", "maybe", "True or False"),
        ("checkpoint_dir", 5, "a text"), ("data_path", ["a"], "a text"), ("valid_metric", 5, "a text"),
        ("benchmark_filename", "train", "a list"), ("normalize_all", "yes", "True or False"), ("clip_grad_norm", 5, "a mapping"),
    ],
)  # fmt: skip
def test_values_that_recbole_would_find_out_late(key: str, value: Any, expected: str) -> None:
    refused(f"{key}.*{expected}", **{key: value})


@pytest.mark.parametrize("value", ["foo@1", "NDCG@7", "NDCG", "AUC", "Precision@"])
def test_a_validation_metric_that_is_not_computed(value: str) -> None:
    refused(f"valid_metric is {value}, and it is none of metrics", valid_metric=value)


def test_validation_metrics_that_are_computed() -> None:
    for metrics, named in ((["NDCG"], "ndcg@10"), (["Recall", "GAUC"], "GAUC"), ("MRR", "MRR@10")):
        assert (
            Config("BPR", "ml-100k", config_dict={"metrics": metrics, "valid_metric": named})["valid_metric"] == named
        )


def test_the_teacher_of_kd_dagfm_is_not_evaluated() -> None:
    refused("teacher is .*expected one of CrossNet, CIN", model="KD_DAGFM", teacher="__import__('os').getpid()")
