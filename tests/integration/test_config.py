"""RecBole's configuration: what is read from where, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import recbole
import recbole.config
import torch
import yaml
from recbole.model.general_recommender import BPR

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model import with_llm_init
from recbole_llminit.settings import parse_arguments, read_value
from tests.stock import stock_config


def refused(match: str, model: Any = "BPR", arguments: Sequence[str] = (), **settings: Any) -> None:
    """Assert that a configuration is refused with a message."""
    with pytest.raises(LLMInitError, match=match):
        Config(model, "ml-100k", config_dict=settings, arguments=arguments)


EVIL = "__import__('pathlib').Path('canary').touch()"


def test_our_values_are_never_evaluated() -> None:
    # RecBole evaluates values as Python: a name of one of its variables would be replaced.
    config = Config(
        "BPR",
        "ml-100k",
        arguments=["--llm_embedding=key"],
        config_dict={"init_strategy": "param"[:0] + "var"},
    )
    assert config["llm_embedding"] == "key"


def test_precedence_is_recboles(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 1\nlearning_rate: 0.1\nseed: 1\n")
    config = Config("BPR", "ml-100k", [str(tmp_path / "a.yaml")], {"learning_rate": 0.2, "seed": 2}, ["--seed=3"])
    assert (config["epochs"], config["learning_rate"], config["seed"]) == (1, 0.2, 3)


def test_sys_argv_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--epochs=99", "--init_strategy=uni", "nonsense"])
    config = Config("BPR", "ml-100k")
    assert config["epochs"] == 300
    assert config["init_strategy"] is None


def test_the_dictionary_given_is_not_changed() -> None:
    given = {
        "epochs": "5",
        "train_neg_sample_args": {"distribution": "uniform"},
        "init_args": {"popular_ratio": 0.3},
    }
    before = copy.deepcopy(given)
    Config("BPR", "ml-100k", config_dict=given)
    assert given == before


@pytest.mark.parametrize("model", ["BPR", BPR, with_llm_init(BPR), "recbole.model.general_recommender.bpr.BPR"])
def test_the_configuration_keeps_the_stock_model(model: str | type) -> None:
    config = Config(model, "ml-100k", config_dict={"init_strategy": "var"})
    assert config.model_class is BPR
    assert config["model"] == "BPR"
    assert config["embedding_size"] == 64  # properties/model/BPR.yaml


def test_model_and_dataset_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"model": "recbole.model.general_recommender.bpr.BPR", "dataset": "ml-100k"}))
    config = Config(config_file_list=[path])
    assert (config["model"], config["dataset"], config.model_class) == ("BPR", "ml-100k", BPR)


def test_pickles_as_recboles_own() -> None:
    config = Config("BPR", "ml-100k", config_dict={"init_strategy": "var"})
    stored = pickle.dumps(config)
    assert b"recbole_llminit" not in stored
    loaded = pickle.loads(stored)
    assert type(loaded) is recbole.config.Config
    assert loaded.final_config_dict == config.final_config_dict
    assert loaded["init_strategy"] == "var"
    assert loaded.device == torch.device("cpu")
    assert vars(loaded).keys() == vars(stock_config("BPR", {"dataset": "ml-100k"})).keys()


def test_keys_are_texts() -> None:
    with pytest.raises(LLMInitError, match="key 7, a int.*texts"):
        Config("BPR", "ml-100k", config_dict={7: "seven"})


@pytest.mark.parametrize("argument", ["epochs=3", "--epochs", "-epochs=3", "3", "--=3", "----epochs=3"])
def test_arguments_recbole_would_ignore(argument: str) -> None:
    refused(
        f"the argument '{argument}' would be ignored by RecBole: write it as --key=value",
        arguments=[argument],
    )


@pytest.mark.parametrize(
    "key", ["epochs", "data_path", "nproc", "drop_train", "metrics", "eval_args", "init_args", "llm_prompt"]
)
def test_no_value_is_evaluated(key: str, tmp_path: Path) -> None:
    for given in ({"arguments": [f"--{key}={EVIL}"]}, {"config_dict": {key: EVIL}}, {"config_dict": {key: [EVIL]}}):
        with contextlib.suppress(LLMInitError):
            Config("BPR", "ml-100k", **given)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({key: EVIL}))
    with contextlib.suppress(LLMInitError):
        Config("BPR", "ml-100k", [tmp_path / "a.yaml"])
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[Recall, NDCG]", ["Recall", "NDCG"]), ("{split: {LS: valid_and_test}}", {"split": {"LS": "valid_and_test"}}),
        ("{'RS': [0.8, 0.1, 0.1]}", {"RS": [0.8, 0.1, 0.1]}), ("1e-3", 0.001), ("-7", -7), ("None", None), ("true", True),
        ("False", False), ("(1, 2)", (1, 2)), ("2**10", "2**10"), ("1/3", "1/3"), ("max", "max"), ("", ""), ("null", "null"),
        ("[1e-3, a]", [0.001, "a"]), ("b'x'", "b'x'"), ("[" * 10_000, "[" * 10_000), ("-" * 100_000 + "1", "-" * 100_000 + "1"),
    ],
)  # fmt: skip
def test_literals_are_read_and_everything_else_is_text(text: str, value: Any) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


def test_lists_and_mappings_of_yaml_on_the_command_line() -> None:
    given = [
        "--metrics=[Recall, NDCG]",
        "--eval_args={split: {LS: valid_and_test}, order: TO}",
        "--valid_metric=NDCG@10",
    ]
    config = Config("BPR", "ml-100k", arguments=given)
    assert config["metrics"] == ["Recall", "NDCG"]
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just a text", "holds a str: expected lines of key: value"),
        ("[1, 2]", "holds a list"),
        ("5: 3", "has the key 5, a int"),
        ("[" * 2000, "cannot be read"),
        ("a: &a [1]\nb: " + "[" * 2000 + "]" * 2000, "RecursionError"),
        ("a: &a [*a]", "an alias contains itself"),
        ("a: !!python/object/apply:os.getpid []", "cannot be read"),
        (
            "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]),
            "100,000 values",
        ),
        ("a: " + "x" * 1_100_000, "of 1 MB at most"),
    ],
    ids=["text", "list", "number", "open", "deep", "itself", "object", "bomb", "large"],
)
def test_files_that_are_no_configuration(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(LLMInitError, match=f"a.yaml.*{message}"):
        Config("BPR", "ml-100k", [tmp_path / "a.yaml"])


def test_an_empty_file_and_aliases_are_configurations(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "b.yaml").write_text("mlp_hidden_size: &sizes [8, 8]\nmetrics: &m [NDCG]\nvalid_metric: NDCG@10\n")
    config = Config("NeuMF", "ml-100k", [tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert (config["mlp_hidden_size"], config["metrics"]) == ([8, 8], ["NDCG"])


def test_what_is_no_file_of_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "is a pipe or a device"),
        ("/dev/zero", "is a pipe or a device"),
        (tmp_path, "is a folder"),
        ("x" * 300, "there is no x"),
        ("a\0b", "there is no a"),
    ):
        with pytest.raises(LLMInitError, match=message):
            Config("BPR", "ml-100k", [path])
    with pytest.raises(LLMInitError, match="config_file_list.*'a.yaml'.*list of paths"):
        Config("BPR", "ml-100k", "a.yaml")


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "", ".", "..", "x" * 300, "a\0b", 5, ["a"]])
def test_names_of_datasets(name: Any) -> None:
    with pytest.raises(LLMInitError, match="dataset"):
        Config("BPR", name)


def test_an_argument_given_twice() -> None:
    refused("--epochs is given twice, as '3' and '4'", arguments=["--epochs=3", "--epochs=4"])
    assert parse_arguments(["--a=1", "--a=1", "--b=x=y"]) == {"a": "1", "b": "x=y"}


def test_lacking_model_dataset_and_file() -> None:
    with pytest.raises(LLMInitError, match="no model is given"):
        Config(dataset="ml-100k")
    with pytest.raises(LLMInitError, match="no dataset is given"):
        Config("BPR")
    with pytest.raises(LLMInitError, match=r"nowhere.yaml.*configuration file"):
        Config("BPR", "ml-100k", ["nowhere.yaml"])


def test_a_file_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: b: c")
    with pytest.raises(
        LLMInitError,
        match=r"a.yaml.*ScannerError: mapping values are not allowed.*configuration",
    ):
        Config("BPR", "ml-100k", [tmp_path / "a.yaml"])


def test_what_recbole_refuses_is_an_error_of_one_line() -> None:
    with pytest.raises(
        LLMInitError, match="RecBole refuses the configuration .*train_neg_sample_args .* should be None"
    ):
        Config("SASRec", "ml-100k")
