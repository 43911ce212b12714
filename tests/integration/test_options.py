"""The ``init_*`` and ``llm_*`` keys, read from configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recbole.model.general_recommender import BPR

from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.strategies.selection import Uniform, Variance
from tests.messages import naming
from tests.stock import stock_config


def options(**settings: Any) -> InitOptions:
    """The options of a run of BPR on ml-100k."""
    return InitOptions.from_config(Config("BPR", "ml-100k", config_dict=settings))


def refused(match: str, model: Any = "BPR", arguments: Sequence[str] = (), **settings: Any) -> None:
    """Assert that a configuration is refused with a message."""
    with pytest.raises(LLMInitError, match=match):
        Config(model, "ml-100k", config_dict=settings, arguments=arguments)


class OwnModel(BPR):
    """A model of the user's own, which may read any key."""


@pytest.mark.parametrize("value", [None, "none", "None", "null", "NONE"])
def test_none_in_all_its_forms(value: str | None) -> None:
    assert options(init_strategy=value, init_args=value, llm_embedding=value) == options()
    assert options().strategy is None


def test_defaults() -> None:
    found = options(init_strategy="var")
    assert found == InitOptions(
        Variance(popular_ratio=0.2), None, "mean", "model", None, True, False, None, found.encode
    )
    assert found.encode == EncodeOptions.from_files([], ["--dataset=ml-100k"])
    assert found.encode.are_default


def test_values_from_yaml(tmp_path: Path) -> None:
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


def test_values_from_the_command_line() -> None:
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


def test_numbers_are_read_as_in_a_file() -> None:
    config = Config("BPR", "ml-100k", arguments=["--init_strategy=var", "--init_args={popular_ratio: 1e0}"])
    assert InitOptions.from_config(config).strategy == Variance(popular_ratio=1.0)


def test_a_stock_configuration_is_read_as_well() -> None:
    assert (
        InitOptions.from_config(stock_config("BPR", {"dataset": "ml-100k", "init_strategy": "uni"})).strategy
        == Uniform()
    )


def test_unknown_strategy() -> None:
    refused(
        r"init_strategy.*'varience'.*'var'.*rand, uni, var, prefix, pca, whiten, cca, rp, lae, auto, noise",
        init_strategy="varience",
    )
    refused(
        "init_strategy.*True.*none.*rand, uni, var, prefix, pca, whiten, cca, rp, lae, auto, noise",
        init_strategy=True,
    )


@pytest.mark.parametrize("key", ["init_stategy", "init-strategy", "INIT_STRATEGY", "init_strategies"])
def test_unknown_init_key(key: str) -> None:
    refused(rf"the key '{key}' is unknown: did you mean 'init_strategy'\?", **{key: "var"})


def test_a_models_own_init_key_is_no_mistake_in_a_stock_run() -> None:
    assert Config(OwnModel, "ml-100k", config_dict={"init_std": 0.1})["init_std"] == 0.1
    refused("the key 'init_std' is unknown", init_std=0.1)
    refused("the key 'init_std' is unknown", model=OwnModel, init_std=0.1, init_strategy="var")


def test_unknown_llm_key() -> None:
    refused(
        r"the key 'llm_embeddings' is unknown: did you mean 'llm_embedding'\?",
        arguments=["--llm_embeddings=x"],
    )


def test_values_that_are_refused() -> None:
    refused("init_scale.*'big'.*raw, model, score.*number", init_scale="big")
    refused("init_scale.*-1", init_scale=-1)
    refused("init_scale.*nan", init_scale=float("nan"))
    refused("init_scale.*True", init_scale=True)
    refused("init_scale.*1e-300.*0", init_scale=1e-300)
    refused(r"init_user.*'means'.*'mean'.*mean, degree, idf, none", init_user="means")
    refused(r"init_missing.*'keep'.*model, mean, error", init_missing="keep")
    refused(r"init_args.*\[1\].*mapping", init_strategy="var", init_args=[1])
    refused("init_args.*'{a'.*YAML", init_strategy="var", init_args="{a")
    refused(
        r"popular_ratio.*2.*\(0, 1\]",
        init_strategy="var",
        init_args={"popular_ratio": 2},
    )
    refused("init_tables.*'items'.*user and item", init_tables={"items": ["a"]})
    refused("init_tables.*a.weight.*names", init_tables={"item": [["a.weight"]]})
    refused("init_args.*7.*'var'", init_strategy="var", init_args={7: 2})


@pytest.mark.parametrize("model", ["ItemKNN", "Pop", "NCEPLRec"])
def test_closed_form_models_are_refused_at_once(model: str) -> None:
    refused(
        rf"{model} has no trainable user or item table \(closed form\): remove init_strategy or choose a model that has one",
        model=model, init_strategy="var",
    )  # fmt: skip
    assert Config(model, "ml-100k")["model"] == model


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [("NeuMF", "use_pretrain", True), ("NAIS", "pretrain_path", "a.pth"), ("ConvNCF", "train_method", "after_pretrain"),
     ("RaCT", "train_stage", "finetune"), ("S3Rec", "train_stage", "finetune")],
)  # fmt: skip
def test_pretrained_weights_are_not_overwritten(model: str, key: str, value: Any) -> None:
    settings = {key: value, "train_neg_sample_args": None, "init_strategy": "var"}
    refused(
        rf"{model} reads pre-trained weights \({key}: {value}\), which init_strategy would overwrite",
        model=model,
        **settings,
    )
    assert Config(model, "ml-100k", config_dict={**settings, "init_strategy": None})[key] == value


@pytest.mark.parametrize("key", ["llm_text_fields", "llm_text_template", "llm_prompt", "llm_encoder", "llm_dtype"])
def test_the_packaged_vectors_are_the_default_encoders_alone(key: str) -> None:
    values = {"llm_text_fields": ["movie_title"], "llm_text_template": "{movie_title}", "llm_dtype": "float32"}
    assert not options(init_strategy="var", **{key: values.get(key, "other")}).encode.are_default


def test_encoder_keys_are_checked_with_a_strategy() -> None:
    refused("llm_pooling 'max' is unknown", init_strategy="var", llm_pooling="max")
    refused("llm_max_length is 'long'", init_strategy="var", arguments=["--llm_max_length=long"])
    refused(r"the key 'llm_encodr' is unknown: did you mean 'llm_encoder'\?", llm_encodr="x")


def test_the_texts_of_a_dataset_are_where_recbole_looks() -> None:
    found = InitOptions.from_config(Config("BPR", "toy", config_dict={"init_strategy": "var", "data_path": "d"}))
    assert found.encode.text_file == Path("d/toy/toy.item")
    assert options(init_strategy="var").encode.text_file.exists()


def test_one_name_needs_no_list() -> None:
    assert options(init_strategy="var", init_tables={"item": "a.weight"}).tables == {"item": ["a.weight"]}


def test_scale() -> None:
    assert options(init_strategy="var").scale is None
    assert options(init_strategy="var", init_scale="score").scale == "score"
    assert options(init_strategy="whiten", init_scale="raw").scale == "raw"
    assert options(init_strategy="whiten", init_scale=0.2).scale == 0.2


def test_users_start_at_an_aggregation_or_at_a_file(tmp_path: Path) -> None:
    (tmp_path / "users.npy").touch()
    assert options(init_strategy="var").user == "mean"
    assert options(init_strategy="var", init_user="degree").user == "degree"
    assert options(init_strategy="var", init_user=str(tmp_path / "users.npy")).user == tmp_path / "users.npy"
    refused("init_user.*users/own.npy.*mean, degree, idf, none.*path", init_strategy="var", init_user="users/own.npy")  # fmt: skip
    refused("init_user.*users.npy.*'noise'.*mean, degree, idf or none", init_strategy="noise", init_user=tmp_path / "users.npy")  # fmt: skip
    refused("init_user.*'degre'.*'degree'", init_strategy="var", init_user="degre")


def test_users_start_as_a_strategy_of_clicks_says(tmp_path: Path) -> None:
    assert options(init_strategy="lae").user is options(init_strategy="auto").user is None
    assert options(init_strategy="lae", init_user="mean").user == "mean"
    assert options(init_strategy="lae", init_user="none").user == options(init_strategy="lae", init_user=None).user
    assert options(init_strategy="lae", init_user="none").user == "none"
    (tmp_path / "users.npy").touch()
    assert options(init_strategy="lae", init_user=tmp_path / "users.npy").user == tmp_path / "users.npy"


def test_ease_takes_lae_alone_and_nothing_of_tables() -> None:
    assert options(init_strategy="lae", init_args={"lam": 5}).strategy == LinearAutoencoder(lam=5)
    config = Config("EASE", "ml-100k", config_dict={"init_strategy": "lae", "init_shuffle": True})
    assert InitOptions.from_config(config).shuffle
    for strategy in ("var", "auto", "noise"):
        refused(naming("EASE", "closed form", "init_strategy: lae"), model="EASE", init_strategy=strategy)
    unread = {"init_scale": "score", "init_user": "mean", "init_missing": "mean", "init_trainable": False,
              "init_tables": {"item": ["item_similarity"]}}  # fmt: skip
    for key, value in unread.items():
        facts = naming(key, repr(value), "EASE", "no tables", "remove it")
        refused(facts, model="EASE", init_strategy="lae", **{key: value})
    assert Config("EASE", "ml-100k")["model"] == "EASE"


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("lam", 0, "above 0"),
        ("lam", -1, "above 0"),
        ("lam", "much", "above 0"),
        ("lam", True, "above 0"),
        ("lam", float("inf"), "above 0"),
        ("kappa", -1, "from 0 to 1e+06"),
        ("kappa", [1], "from 0 to 1e+06"),
        ("kappa", float("nan"), "from 0 to 1e+06"),
        ("lam", 1e300, "up to 1e+06"),
        ("rho", 0, "above 0"),
        ("rho", None, "above 0"),
        ("power", 1.5, "from 0 to 1"),
        ("power", -0.5, "from 0 to 1"),
        ("exponent", 2, "from 0 to 1"),
        ("memory", 0, "GB, above 0"),
        ("memory", "4 GB", "GB, above 0"),
    ],
)
def test_bad_arguments_of_lae(argument: str, value: Any, expected: str) -> None:
    refused(naming(f"init_args {argument} is {value!r}", expected), init_strategy="lae", init_args={argument: value})


def test_the_threshold_of_auto_is_gone() -> None:
    refused(naming("'threshold'", "'auto'", "takes none"), init_strategy="auto", init_args={"threshold": 2})
