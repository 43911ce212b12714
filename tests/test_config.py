import copy
import pickle
import sys
from pathlib import Path

import pytest
import recbole.config
import torch
import yaml
from recbole.model.general_recommender import BPR

from recbole_llminit.config import Config, InitOptions, resolve_model_class
from recbole_llminit.encode_options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.model import with_llm_init
from recbole_llminit.selection import Uniform, Variance
from recbole_llminit.settings import parse_arguments
from tests.stock import stock_config


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


def test_a_models_own_init_key_is_no_mistake_in_a_stock_run():
    assert Config("BPR", "ml-100k", config_dict={"init_std": 0.1, 7: "seven"})["init_std"] == 0.1
    refused("the key 'init_std' is unknown", init_std=0.1, init_strategy="var")


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
    refused(rf"the argument --{argument} is unknown: did you mean --{meant}\?", arguments=[f"--{argument}=1"])


def test_arguments_of_ones_own_are_taken():
    assert Config("BPR", "ml-100k", arguments=["--my_models_width=7"])["my_models_width"] == 7


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
    with pytest.raises(LLMInitError, match=r"there is no configuration file nowhere.yaml"):
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
        LLMInitError, match=r"a configuration file is not YAML \(.*a.yaml: mapping values are not allowed"
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
        LLMInitError, match="RecBole refuses the configuration: train_neg_sample_args .* should be None"
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
