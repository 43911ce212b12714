import os
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from recbole_llminit.encode.sentence_encoder import EncoderSettings, SentenceEncoder, hash_folder, resolve_commit
from recbole_llminit.errors import LLMInitError
from tests.encoders import MINILM, WORDS, embed_one_by_one, ended_in, tiny_transformer

TEXTS = ["Green tea leaves", "Guitar strap", "tea", "Steel string guitar " * 3, "Earl Grey, unknown words, and a"]


def cosines(one, other):
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def encoder(model, **settings):
    return SentenceEncoder(EncoderSettings(str(model), device="cpu", **settings))


@pytest.fixture(scope="module")
def minilm():
    return SentenceTransformer(str(MINILM), device="cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_transformer(tmp_path_factory.mktemp("bert"), "bert")


def test_vectors_are_those_of_sentence_transformers(minilm):
    expected = minilm.encode(TEXTS)
    found = encoder(MINILM, batch_size=2).encode(TEXTS)
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.9999
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert cosines(found.astype(np.float16), expected).min() > 0.999


def test_what_the_model_decides_is_described():
    found = encoder(MINILM)
    assert found.description == {
        "pooling": "mean",
        "normalize": True,
        "max_length": 256,
        "prompt": None,
        "arithmetic": "float32",
    }


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_pooling_equals_one_text_at_a_time_without_padding(tmp_path, family, pooling, padding_side):
    folder = tiny_transformer(tmp_path, family, padding_side)
    expected = np.stack([embed_one_by_one(folder, text, pooling) for text in TEXTS])
    found = encoder(folder, pooling=pooling, batch_size=len(TEXTS))
    np.testing.assert_allclose(found.encode(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert found.description["pooling"] == pooling
    # The oracle tells the poolings apart.
    others = [
        np.stack([embed_one_by_one(folder, text, other) for text in TEXTS]) for other in ("mean", "cls", "lasttoken")
    ]
    assert sum(np.allclose(expected, other, atol=1e-3) for other in others) == 1


def test_a_plain_model_has_mean_pooling(bert):
    assert encoder(bert).description["pooling"] == "mean"


def test_a_models_own_pooling_is_respected_and_can_be_set(minilm):
    assert encoder(MINILM, pooling="cls").description == {**encoder(MINILM).description, "pooling": "cls"}
    found = encoder(MINILM, pooling="cls").encode(["Green tea leaves"])[0]
    states = minilm.encode(["Green tea leaves"], output_value="token_embeddings")[0][0].numpy()
    np.testing.assert_allclose(found, states / np.linalg.norm(states), atol=1e-6)


def test_prompts(minilm, tmp_path):
    expected = minilm.encode(["item: Green tea leaves"])
    np.testing.assert_allclose(encoder(MINILM, prompt="item: ").encode(["Green tea leaves"]), expected, atol=1e-6)
    # The name of one of the model's own prompts, and its default.
    own = SentenceTransformer(str(MINILM), device="cpu", prompts={"document": "item: "})
    own.save(str(tmp_path / "named"))
    own.default_prompt_name = "document"
    own.save(str(tmp_path / "default"))
    named = encoder(tmp_path / "named", prompt="document")
    assert named.description["prompt"] == "item: "
    np.testing.assert_allclose(named.encode(["Green tea leaves"]), expected, atol=1e-6)
    np.testing.assert_allclose(encoder(tmp_path / "default").encode(["Green tea leaves"]), expected, atol=1e-6)
    np.testing.assert_allclose(
        encoder(tmp_path / "named").encode(["Green tea leaves"]), minilm.encode(["Green tea leaves"]), atol=1e-6
    )


def test_a_prompt_of_the_models_that_is_empty_is_empty(minilm, tmp_path):
    """sentence-transformers gives every model a prompt "document" of no words."""
    expected = minilm.encode(["Green tea leaves"])
    np.testing.assert_allclose(encoder(MINILM, prompt="document").encode(["Green tea leaves"]), expected, atol=1e-6)
    own = SentenceTransformer(str(MINILM), device="cpu", prompts={"document": "item: "}, default_prompt_name="document")
    own.save(str(tmp_path))
    np.testing.assert_allclose(encoder(tmp_path, prompt="").encode(["Green tea leaves"]), expected, atol=1e-6)


def test_a_mistyped_name_of_a_prompt_is_told(caplog):
    encoder(MINILM, prompt="passage")
    assert "llm_prompt 'passage' is none of the model's prompts (query, document): it is put before" in caplog.text


def test_maximum_length_and_what_it_cuts(bert):
    long = " ".join(WORDS)
    found = encoder(bert, max_length=6)
    vectors = found.encode([long, "a b c d", "tea", "a b c d e"])
    # [CLS], four words, [SEP].
    assert found.truncated == 2
    np.testing.assert_allclose(vectors[0], found.encode([" ".join(WORDS[:4])])[0], atol=1e-6)
    assert found.description["max_length"] == 6
    assert found.truncated == 2
    prompted = encoder(bert, max_length=6, prompt="a b ")
    prompted.encode(["c d", "c d e"])
    assert prompted.truncated == 1


def test_lengths_are_tokens(bert):
    assert encoder(bert).lengths(["tea", " ".join(WORDS), "green tea"]).tolist() == [3, 20, 4]


def test_a_length_beyond_the_models_is_refused(bert):
    with pytest.raises(LLMInitError, match="llm_max_length is 65, and .* reads at most 64 tokens: set at most 64"):
        encoder(bert, max_length=65)


def test_positions_that_are_the_paddings_do_not_count(tmp_path):
    roberta = tiny_transformer(tmp_path, "roberta")
    with pytest.raises(LLMInitError, match="reads at most 63 tokens"):
        encoder(roberta, max_length=64)
    found = encoder(roberta, max_length=63)
    found.encode(["tea " * 100])
    assert found.truncated == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_precision(minilm, dtype):
    found = encoder(MINILM, dtype=dtype)
    assert found.description["arithmetic"] == dtype
    assert cosines(found.encode(TEXTS), minilm.encode(TEXTS)).min() > (0.9999 if dtype == "float32" else 0.99)
    assert EncoderSettings("m", dtype=dtype).storage == (np.float32 if dtype == "float32" else np.float16)
    assert EncoderSettings("m").storage == np.float16


def test_loading_and_encoding_draw_no_random_numbers(bert, tmp_path):
    # A layer that the checkpoint lacks starts from random numbers.
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    encoder(tmp_path).encode(TEXTS)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_a_model_that_is_not_there():
    with pytest.raises(LLMInitError, match=r"nobody/nothing cannot be loaded .*check llm_encoder"):
        encoder("nobody/nothing")
    with pytest.raises(LLMInitError, match="cannot be loaded .*llm_device"):
        SentenceEncoder(EncoderSettings(str(MINILM), device="abacus"))


def test_the_commit_of_a_hub_model_is_known(hub):
    assert resolve_commit("org/tiny", "main") == resolve_commit("org/tiny", None) == hub
    assert resolve_commit("org/tiny", "v2") == hub[::-1]
    assert resolve_commit("nobody/nothing", hub) == hub
    with pytest.raises(LLMInitError, match="the hub does not give its revision v3 |hub does not give its revision v3"):
        resolve_commit("org/tiny", "v3")


def test_a_commit_is_what_is_loaded(hub):
    one, other = (SentenceEncoder(EncoderSettings("org/tiny", device="cpu"), commit) for commit in (hub, hub[::-1]))
    assert not np.allclose(one.encode(["Green tea"]), other.encode(["Green tea"]), atol=1e-3)


def test_a_folder_is_its_content(bert, tmp_path):
    copy = shutil.copytree(bert, tmp_path / "elsewhere")
    (copy / "README.md").write_text("a document")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").touch()
    assert hash_folder(copy) == hash_folder(bert)
    assert hash_folder(bert).startswith("sha256:")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert hash_folder(copy) != hash_folder(bert)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_folder_with_a_pipe_or_a_device_is_told_at_once(bert, tmp_path, kind):
    copy = shutil.copytree(bert, tmp_path / "copy")
    if kind == "pipe":
        os.mkfifo(copy / "vocab.txt")
    else:
        (copy / "vocab.txt").symlink_to("/dev/zero")
    with (
        ended_in(60),
        pytest.raises(LLMInitError, match="copy/vocab.txt is a pipe or a device: expected a file of a model"),
    ):
        hash_folder(copy)


def test_a_folder_that_is_no_models_is_not_read(tmp_path):
    (tmp_path / "huge.bin").touch()
    with pytest.raises(LLMInitError, match="holds no .json file: expected the folder of a model"):
        hash_folder(tmp_path)


def test_long_texts_are_measured_by_their_beginning(bert):
    lengths = encoder(bert).lengths(["tea " * 4000, "tea " * 400_000])
    # [CLS], words, [SEP]: of the second the first 20,000 characters.
    assert lengths.tolist() == [4002, 5002]
    found = encoder(bert)
    found.encode(["tea " * 400_000])
    assert found.truncated == 1


@pytest.mark.parametrize("name", ["a b", "a//b", "x" * 300, "--", "a/b/c", "~no-such-user/x"])
def test_names_that_no_model_can_have(hub, name):
    with pytest.raises(LLMInitError, match="cannot be loaded"):
        resolve_commit(name, None)
