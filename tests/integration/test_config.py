import contextlib
import copy
import os
import pickle
import re
import sys
import zlib
from pathlib import Path

import pytest
import recbole
import recbole.config
import torch
import yaml
from recbole.model.general_recommender import BPR

from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model import with_llm_init
from recbole_llminit.integration.model_class import resolve_model_class
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.settings import parse_arguments, read_value
from recbole_llminit.strategies.selection import Uniform, Variance
from tests.all_models import MODELS, settings_of, stand_ins
from tests.stock import stock_config

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


def options(**settings):
    return InitOptions.from_config(Config("BPR", "ml-100k", config_dict=settings))


def refused(match, model="BPR", arguments=(), **settings):
    with pytest.raises(LLMInitError, match=match):
        Config(model, "ml-100k", config_dict=settings, arguments=arguments)


@pytest.mark.parametrize("value", [None, "none", "None", "null", "NONE"])
def test_none_in_all_its_forms(value):
    assert options(init_strategy=value, init_args=value, llm_embedding=value) == options()
    assert options().strategy is None


def test_defaults():
    found = options(init_strategy="var")
    assert found == InitOptions(
        Variance(popular_ratio=0.2), None, "mean", "model", None, True, False, None, found.encode
    )
    assert found.encode == EncodeOptions.from_files([], ["--dataset=ml-100k"])
    assert found.encode.are_default


def test_values_from_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "init_strategy: var\ninit_args: {popular_ratio: 0.5}\ninit_scale: 0.1\ninit_user: none\ninit_missing: mean\n"
        "init_tables: {item: [item_embedding.weight]}\nllm_embedding: ~/vectors\n"
        "init_trainable: false\ninit_shuffle: true\n"
    )
    found = InitOptions.from_config(Config("BPR", "ml-100k", [path]))
    assert found == InitOptions(
        Variance(popular_ratio=0.5),
        0.1,
        "none",
        "mean",
        {"item": ["item_embedding.weight"]},
        False,
        True,
        Path.home() / "vectors",
        found.encode,
    )


def test_values_from_the_command_line():
    arguments = ["--init_strategy=uni", "--init_args={}", "--init_scale=5e-2", "--init_user=None",
                 "--init_tables={item: [a.weight], user: [b.weight]}", "--llm_embedding=/emb/dt=2026-01-01",
                 "--init_trainable=False", "--init_shuffle=True", "--epochs=7", "--train_neg_sample_args=None"]  # fmt: skip
    config = Config("BPR", "ml-100k", arguments=arguments)
    found = InitOptions.from_config(config)
    assert found == InitOptions(
        Uniform(),
        0.05,
        "none",
        "model",
        {"item": ["a.weight"], "user": ["b.weight"]},
        False,
        True,
        Path("/emb/dt=2026-01-01"),
        found.encode,
    )
    assert config["epochs"] == 7
    assert config["train_neg_sample_args"]["distribution"] == "none"


def test_numbers_are_read_as_in_a_file():
    config = Config("BPR", "ml-100k", arguments=["--init_strategy=var", "--init_args={popular_ratio: 1e0}"])
    assert InitOptions.from_config(config).strategy == Variance(popular_ratio=1.0)


def test_our_values_are_never_evaluated():
    # RecBole evaluates values as Python: a name of one of its variables would be replaced.
    config = Config(
        "BPR",
        "ml-100k",
        arguments=["--llm_embedding=key"],
        config_dict={"init_strategy": "param"[:0] + "var"},
    )
    assert config["llm_embedding"] == "key"


def test_precedence_is_recboles(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 1\nlearning_rate: 0.1\nseed: 1\n")
    config = Config("BPR", "ml-100k", [str(tmp_path / "a.yaml")], {"learning_rate": 0.2, "seed": 2}, ["--seed=3"])
    assert (config["epochs"], config["learning_rate"], config["seed"]) == (1, 0.2, 3)


def test_sys_argv_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--epochs=99", "--init_strategy=uni", "nonsense"])
    config = Config("BPR", "ml-100k")
    assert config["epochs"] == 300
    assert config["init_strategy"] is None


def test_the_dictionary_given_is_not_changed():
    given = {
        "epochs": "5",
        "train_neg_sample_args": {"distribution": "uniform"},
        "init_args": {"popular_ratio": 0.3},
    }
    before = copy.deepcopy(given)
    Config("BPR", "ml-100k", config_dict=given)
    assert given == before


@pytest.mark.parametrize("model", ["BPR", BPR, with_llm_init(BPR), "recbole.model.general_recommender.bpr.BPR"])
def test_the_configuration_keeps_the_stock_model(model):
    config = Config(model, "ml-100k", config_dict={"init_strategy": "var"})
    assert config.model_class is BPR
    assert config["model"] == "BPR"
    assert config["embedding_size"] == 64  # properties/model/BPR.yaml


def test_model_and_dataset_from_a_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"model": "recbole.model.general_recommender.bpr.BPR", "dataset": "ml-100k"}))
    config = Config(config_file_list=[path])
    assert (config["model"], config["dataset"], config.model_class) == ("BPR", "ml-100k", BPR)


def test_pickles_as_recboles_own():
    config = Config("BPR", "ml-100k", config_dict={"init_strategy": "var"})
    stored = pickle.dumps(config)
    assert b"recbole_llminit" not in stored
    loaded = pickle.loads(stored)
    assert type(loaded) is recbole.config.Config
    assert loaded.final_config_dict == config.final_config_dict
    assert loaded["init_strategy"] == "var"
    assert loaded.device == torch.device("cpu")
    assert vars(loaded).keys() == vars(stock_config("BPR", {"dataset": "ml-100k"})).keys()


def test_a_stock_configuration_is_read_as_well():
    assert (
        InitOptions.from_config(stock_config("BPR", {"dataset": "ml-100k", "init_strategy": "uni"})).strategy
        == Uniform()
    )


def test_unknown_strategy():
    refused(
        r"init_strategy 'varience' is unknown: did you mean 'var'\? \(rand, uni, var, prefix, pca, whiten, cca, rp, auto, noise\)",
        init_strategy="varience",
    )
    refused(
        "init_strategy is True: expected none or one of rand, uni, var, prefix, pca, whiten, cca, rp, auto, noise",
        init_strategy=True,
    )


@pytest.mark.parametrize("key", ["init_stategy", "init-strategy", "INIT_STRATEGY", "init_strategies"])
def test_unknown_init_key(key):
    refused(rf"the key '{key}' is unknown: did you mean 'init_strategy'\?", **{key: "var"})


class OwnModel(BPR):
    """A model of the user's own, which may read any key."""


def test_a_models_own_init_key_is_no_mistake_in_a_stock_run():
    assert Config(OwnModel, "ml-100k", config_dict={"init_std": 0.1})["init_std"] == 0.1
    refused("the key 'init_std' is unknown", init_std=0.1)
    refused("the key 'init_std' is unknown", model=OwnModel, init_std=0.1, init_strategy="var")


def test_keys_are_texts():
    with pytest.raises(LLMInitError, match="has the key 7, a int: expected keys that are texts"):
        Config("BPR", "ml-100k", config_dict={7: "seven"})


def test_unknown_llm_key():
    refused(
        r"the key 'llm_embeddings' is unknown: did you mean 'llm_embedding'\?",
        arguments=["--llm_embeddings=x"],
    )


def test_values_that_are_refused():
    refused("init_scale is 'big': expected raw, model, score or a number above 0", init_scale="big")
    refused("init_scale is -1", init_scale=-1)
    refused("init_scale is nan", init_scale=float("nan"))
    refused("init_scale is True", init_scale=True)
    refused("init_scale is 1e-300, at which every score is 0", init_scale=1e-300)
    refused(r"init_user 'means' is unknown: did you mean 'mean'\? \(mean, degree, idf, none\)", init_user="means")
    refused(r"init_missing 'keep' is unknown \(model, mean, error\)", init_missing="keep")
    refused(r"init_args is \[1\]: expected a mapping", init_strategy="var", init_args=[1])
    refused("init_args is '{a', which is not YAML", init_strategy="var", init_args="{a")
    refused(
        r"popular_ratio is 2: expected a number in \(0, 1\]",
        init_strategy="var",
        init_args={"popular_ratio": 2},
    )
    refused("init_tables has the key 'items': expected user and item", init_tables={"items": ["a"]})
    refused("init_tables is .*: expected parameter names by side", init_tables={"item": [["a.weight"]]})
    refused("init_args 7 is unknown to init_strategy 'var'", init_strategy="var", init_args={7: 2})


@pytest.mark.parametrize("argument", ["epochs=3", "--epochs", "-epochs=3", "3", "--=3", "----epochs=3"])
def test_arguments_recbole_would_ignore(argument):
    refused(
        f"the argument '{argument}' would be ignored by RecBole: write it as --key=value",
        arguments=[argument],
    )


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("learning_rte", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("epoch", "epochs"),
        ("config_file", "config_files"),
    ],
)
def test_arguments_that_are_nearly_recboles(argument, meant):
    refused(rf"the key '{argument}' is unknown.*: did you mean '{meant}'\?", arguments=[f"--{argument}=1"])
    refused(rf"the key '{argument}' is unknown.*: did you mean '{meant}'\?", **{argument: 1})
    refused(
        rf"the key '{argument}' is unknown.*: did you mean '{meant}'\?", model=OwnModel, arguments=[f"--{argument}=1"]
    )


def test_keys_that_nothing_reads():
    refused(
        "the key 'foo_bar_baz' is unknown, nothing of RecBole's reads it: leave it out", arguments=["--foo_bar_baz=2"]
    )
    refused("the key 'foo_bar_baz' is unknown", foo_bar_baz=2)
    config = Config(OwnModel, "ml-100k", arguments=["--my_models_width=7"], config_dict={"epoch": 3})
    assert config["my_models_width"] == 7
    assert config.unread_keys() == ["epoch", "my_models_width"]


def test_keys_of_other_models():
    refused(
        "BPR does not read n_facet_emb",
        arguments=["--n_facet_emb=2"],
    )
    shared = Config("BPR", "ml-100k", config_dict={"n_layers": 3, "require_pow": True})
    assert shared.unread_keys() == ["n_layers"]
    assert Config("LightGCN", "ml-100k", config_dict={"n_layers": 3}).unread_keys() == []


def keys_read_in(path):
    """What a file of RecBole's asks of a configuration."""
    return set(re.findall(r"""config\[\s*["'](\w+)["']\s*\]""", path.read_text())) - SET_BY_RECBOLE


def test_every_key_that_recboles_code_reads_is_known():
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
def test_values_that_recbole_would_find_out_late(key, value, expected):
    refused(f"{key}.*{expected}", **{key: value})


@pytest.mark.parametrize("value", ["foo@1", "NDCG@7", "NDCG", "AUC", "Precision@"])
def test_a_validation_metric_that_is_not_computed(value):
    refused(f"valid_metric is {value}, and it is none of metrics", valid_metric=value)


def test_validation_metrics_that_are_computed():
    for metrics, named in ((["NDCG"], "ndcg@10"), (["Recall", "GAUC"], "GAUC"), ("MRR", "MRR@10")):
        assert (
            Config("BPR", "ml-100k", config_dict={"metrics": metrics, "valid_metric": named})["valid_metric"] == named
        )


def test_the_teacher_of_kd_dagfm_is_not_evaluated():
    refused("teacher is .*expected one of CrossNet, CIN", model="KD_DAGFM", teacher="__import__('os').getpid()")


EVIL = "__import__('pathlib').Path('canary').touch()"


@pytest.mark.parametrize(
    "key", ["epochs", "data_path", "nproc", "drop_train", "metrics", "eval_args", "init_args", "llm_prompt"]
)
def test_no_value_is_evaluated(key, tmp_path):
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
def test_literals_are_read_and_everything_else_is_text(text, value):
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


def test_lists_and_mappings_of_yaml_on_the_command_line():
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
        ("a: &a [*a]", "an alias names what it stands in"),
        ("a: !!python/object/apply:os.getpid []", "cannot be read"),
        (
            "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]),
            "100,000 values",
        ),
        ("a: " + "x" * 1_100_000, "of 1 MB at most"),
    ],
    ids=["text", "list", "number", "open", "deep", "itself", "object", "bomb", "large"],
)
def test_files_that_are_no_configuration(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(LLMInitError, match=f"a.yaml.*{message}"):
        Config("BPR", "ml-100k", [tmp_path / "a.yaml"])


def test_an_empty_file_and_aliases_are_configurations(tmp_path):
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "b.yaml").write_text("mlp_hidden_size: &sizes [8, 8]\nmetrics: &m [NDCG]\nvalid_metric: NDCG@10\n")
    config = Config("NeuMF", "ml-100k", [tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert (config["mlp_hidden_size"], config["metrics"]) == ([8, 8], ["NDCG"])


def test_what_is_no_file_of_settings(tmp_path):
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
    with pytest.raises(LLMInitError, match="config_file_list is 'a.yaml': expected a list of paths"):
        Config("BPR", "ml-100k", "a.yaml")


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "", ".", "..", "x" * 300, "a\0b", 5, ["a"]])
def test_names_of_datasets(name):
    with pytest.raises(LLMInitError, match="dataset"):
        Config("BPR", name)


def test_a_model_that_is_no_name():
    with pytest.raises(LLMInitError, match="the model is 5, a int"):
        Config(config_dict={"model": 5, "dataset": "ml-100k"})


@pytest.mark.parametrize("source", ["def broken(:", "1 / 0", "import nothing_of_that_name"])
def test_a_module_of_ones_own_that_is_broken(source, tmp_path, monkeypatch):
    name = f"broken_{abs(zlib.crc32(source.encode()))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LLMInitError, match=f"the model '{name}.Mine' cannot be imported"):
        resolve_model_class(f"{name}.Mine")


def test_an_argument_given_twice():
    refused("--epochs is given twice, as '3' and '4'", arguments=["--epochs=3", "--epochs=4"])
    assert parse_arguments(["--a=1", "--a=1", "--b=x=y"]) == {"a": "1", "b": "x=y"}


@pytest.mark.parametrize("model", ["EASE", "ItemKNN", "Pop"])
def test_closed_form_models_are_refused_at_once(model):
    refused(
        rf"{model} has no trainable user or item table \(closed form\): remove init_strategy or choose a model that has one",
        model=model, init_strategy="var",
    )  # fmt: skip
    assert Config(model, "ml-100k")["model"] == model


def test_model_that_cannot_be_imported():
    with pytest.raises(LLMInitError, match="the model 'my.module.Model' cannot be imported"):
        resolve_model_class("my.module.Model")
    with pytest.raises(LLMInitError, match="has no attribute 'Nothing'"):
        resolve_model_class("recbole.model.general_recommender.bpr.Nothing")
    with pytest.raises(
        LLMInitError, match="the model 'os.path' is <module .*: expected a subclass of one of RecBole's"
    ):
        resolve_model_class("os.path")


@pytest.mark.parametrize("name", ["LigthGCN", "lightgcn", "LightGNC"])
def test_misspelt_model_names_the_nearest(name):
    with pytest.raises(LLMInitError, match=rf"the model '{name}' is none of RecBole's: did you mean 'LightGCN'\?"):
        resolve_model_class(name)


def test_a_subclass_of_ours_stays_itself():
    class Mine(with_llm_init(BPR)):
        pass

    assert resolve_model_class(Mine) is Mine
    assert with_llm_init(Mine) is Mine
    assert resolve_model_class(with_llm_init(BPR)) is BPR


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [("NeuMF", "use_pretrain", True), ("NAIS", "pretrain_path", "a.pth"), ("ConvNCF", "train_method", "after_pretrain"),
     ("RaCT", "train_stage", "finetune"), ("S3Rec", "train_stage", "finetune")],
)  # fmt: skip
def test_pretrained_weights_are_not_overwritten(model, key, value):
    settings = {key: value, "train_neg_sample_args": None, "init_strategy": "var"}
    refused(
        rf"{model} reads pre-trained weights \({key}: {value}\), which init_strategy would overwrite",
        model=model,
        **settings,
    )
    assert Config(model, "ml-100k", config_dict={**settings, "init_strategy": None})[key] == value


def test_lacking_model_dataset_and_file():
    with pytest.raises(LLMInitError, match="no model is given"):
        Config(dataset="ml-100k")
    with pytest.raises(LLMInitError, match="no dataset is given"):
        Config("BPR")
    with pytest.raises(LLMInitError, match=r"there is no nowhere.yaml .*expected a configuration file"):
        Config("BPR", "ml-100k", ["nowhere.yaml"])


def test_vectors_are_provided(tmp_path):
    packaged = options(init_strategy="var").provide_embedding()
    assert list(packaged.glob("*.arrow"))
    assert options(init_strategy="var", llm_batch_size=4).provide_embedding() == packaged
    assert options(init_strategy="var", llm_embedding=str(tmp_path)).provide_embedding() == tmp_path
    with pytest.raises(LLMInitError, match=r"llm_embedding is nowhere, and nothing is there .*or leave it out"):
        options(init_strategy="var", llm_embedding="nowhere").provide_embedding()
    with pytest.raises(LLMInitError, match="a stock run has no vectors"):
        options().provide_embedding()


@pytest.mark.parametrize("key", ["llm_text_fields", "llm_text_template", "llm_prompt", "llm_encoder", "llm_dtype"])
def test_the_packaged_vectors_are_the_default_encoders_alone(key):
    values = {"llm_text_fields": ["movie_title"], "llm_text_template": "{movie_title}", "llm_dtype": "float32"}
    assert not options(init_strategy="var", **{key: values.get(key, "other")}).encode.are_default


def test_encoder_keys_are_checked_with_a_strategy():
    refused("llm_pooling 'max' is unknown", init_strategy="var", llm_pooling="max")
    refused("llm_max_length is 'long'", init_strategy="var", arguments=["--llm_max_length=long"])
    refused(r"the key 'llm_encodr' is unknown: did you mean 'llm_encoder'\?", llm_encodr="x")


def test_the_texts_of_a_dataset_are_where_recbole_looks():
    found = InitOptions.from_config(Config("BPR", "toy", config_dict={"init_strategy": "var", "data_path": "d"}))
    assert found.encode.text_file == Path("d/toy/toy.item")
    assert options(init_strategy="var").encode.text_file.exists()


def test_a_file_that_is_not_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("a: b: c")
    with pytest.raises(
        LLMInitError,
        match=r"a.yaml cannot be read \(ScannerError: mapping values are not allowed.*expected a configuration",
    ):
        Config("BPR", "ml-100k", [tmp_path / "a.yaml"])


def test_one_name_needs_no_list():
    assert options(init_strategy="var", init_tables={"item": "a.weight"}).tables == {"item": ["a.weight"]}


def test_a_model_of_ones_own_without_its_module():
    with pytest.raises(LLMInitError, match=r"is none of RecBole's \(a class of your own is named with its module"):
        resolve_model_class("MyOwnRecommender")
    with pytest.raises(LLMInitError, match="RecBole's LightGBM cannot be imported: pip install lightgbm"):
        resolve_model_class("LightGBM")


def test_what_recbole_refuses_is_an_error_of_one_line():
    with pytest.raises(
        LLMInitError, match="RecBole refuses the configuration .*train_neg_sample_args .* should be None"
    ):
        Config("SASRec", "ml-100k")


def test_scale():
    assert options(init_strategy="var").scale is None
    assert options(init_strategy="var", init_scale="score").scale == "score"
    assert options(init_strategy="whiten", init_scale="raw").scale == "raw"
    assert options(init_strategy="whiten", init_scale=0.2).scale == 0.2


def test_users_start_at_an_aggregation_or_at_a_file(tmp_path):
    (tmp_path / "users.npy").touch()
    assert options(init_strategy="var").user == "mean"
    assert options(init_strategy="var", init_user="degree").user == "degree"
    assert options(init_strategy="var", init_user=str(tmp_path / "users.npy")).user == tmp_path / "users.npy"
    refused("init_user is users/own.npy, and nothing is there .*expected mean, degree, idf, none, or the path of the users' "
            "own vectors", init_strategy="var", init_user="users/own.npy")  # fmt: skip
    refused("init_user is .*users.npy, and init_strategy 'noise' reads no vectors: set init_user to mean, degree, idf or "
            "none", init_strategy="noise", init_user=tmp_path / "users.npy")  # fmt: skip
    refused("init_user 'degre' is unknown: did you mean 'degree'", init_strategy="var", init_user="degre")
