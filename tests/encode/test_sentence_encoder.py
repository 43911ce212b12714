"""The local encoder, compared with sentence-transformers and with transformers one text at a time."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from recbole_llminit.encode.encoder import EncoderSettings
from recbole_llminit.encode.sentence_encoder import SentenceEncoder
from recbole_llminit.errors import LLMInitError
from tests.encoders import MINILM, WORDS, embed_one_by_one, tiny_transformer
from tests.messages import own_lines

TEXTS = ["Green tea leaves", "Guitar strap", "tea", "Steel string guitar " * 3, "Earl Grey, unknown words, and a"]


def cosines(one: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.float64]:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def encoder(model: str | Path, **settings: Any) -> SentenceEncoder:
    return SentenceEncoder(EncoderSettings(str(model), device="cpu", **settings))


def test_vectors_are_those_of_sentence_transformers(minilm: SentenceTransformer) -> None:
    expected = minilm.encode(TEXTS)
    found = encoder(MINILM, batch_size=2).encode(TEXTS)
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.9999
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert cosines(found.astype(np.float16), expected).min() > 0.999


def test_what_the_model_decides_is_described() -> None:
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
def test_pooling_equals_one_text_at_a_time_without_padding(
    tmp_path: Path, family: str, pooling: str, padding_side: str
) -> None:
    folder = tiny_transformer(tmp_path, family, padding_side)
    expected = np.stack([embed_one_by_one(folder, text, pooling) for text in TEXTS])
    found = encoder(folder, pooling=pooling, batch_size=len(TEXTS))
    np.testing.assert_allclose(found.encode(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert found.description["pooling"] == pooling
    # The expected vectors of the three poolings differ.
    others = [
        np.stack([embed_one_by_one(folder, text, other) for text in TEXTS]) for other in ("mean", "cls", "lasttoken")
    ]
    assert sum(np.allclose(expected, other, atol=1e-3) for other in others) == 1


def test_a_plain_model_has_mean_pooling(bert: Path) -> None:
    assert encoder(bert).description["pooling"] == "mean"


def test_a_models_own_pooling_is_respected_and_can_be_set(minilm: SentenceTransformer) -> None:
    assert encoder(MINILM, pooling="cls").description == {**encoder(MINILM).description, "pooling": "cls"}
    found = encoder(MINILM, pooling="cls").encode(["Green tea leaves"])[0]
    states = minilm.encode(["Green tea leaves"], output_value="token_embeddings")[0][0].numpy()
    np.testing.assert_allclose(found, states / np.linalg.norm(states), atol=1e-6)


def test_prompts(minilm: SentenceTransformer, tmp_path: Path) -> None:
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


def test_a_prompt_of_the_model_may_be_empty(minilm: SentenceTransformer, tmp_path: Path) -> None:
    """sentence-transformers gives every model a prompt "document" of no words."""
    expected = minilm.encode(["Green tea leaves"])
    np.testing.assert_allclose(encoder(MINILM, prompt="document").encode(["Green tea leaves"]), expected, atol=1e-6)
    own = SentenceTransformer(str(MINILM), device="cpu", prompts={"document": "item: "}, default_prompt_name="document")
    own.save(str(tmp_path))
    np.testing.assert_allclose(encoder(tmp_path, prompt="").encode(["Green tea leaves"]), expected, atol=1e-6)


def test_a_mistyped_name_of_a_prompt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    encoder(MINILM, prompt="passage")
    (message,) = own_lines(caplog)
    assert "'passage'" in message
    assert "(query, document)" in message


def test_maximum_length_and_what_it_cuts(bert: Path) -> None:
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


def test_lengths_are_tokens(bert: Path) -> None:
    assert encoder(bert).lengths(["tea", " ".join(WORDS), "green tea"]).tolist() == [3, 20, 4]


def test_a_length_beyond_the_models_is_refused(bert: Path) -> None:
    with pytest.raises(LLMInitError, match="llm_max_length is 65.*at most 64"):
        encoder(bert, max_length=65)


def test_positions_for_padding_do_not_count(tmp_path: Path) -> None:
    roberta = tiny_transformer(tmp_path, "roberta")
    with pytest.raises(LLMInitError, match="llm_max_length is 64.*at most 63"):
        encoder(roberta, max_length=64)
    found = encoder(roberta, max_length=63)
    found.encode(["tea " * 100])
    assert found.truncated == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_precision(minilm: SentenceTransformer, dtype: str) -> None:
    found = encoder(MINILM, dtype=dtype)
    assert found.description["arithmetic"] == dtype
    assert cosines(found.encode(TEXTS), minilm.encode(TEXTS)).min() > (0.9999 if dtype == "float32" else 0.99)
    assert EncoderSettings("m", dtype=dtype).storage == (np.float32 if dtype == "float32" else np.float16)
    assert EncoderSettings("m").storage == np.float16


def test_loading_and_encoding_draw_no_random_numbers(bert: Path, tmp_path: Path) -> None:
    # A layer that the checkpoint lacks is initialized with random numbers.
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    encoder(tmp_path).encode(TEXTS)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_a_model_that_does_not_exist() -> None:
    with pytest.raises(LLMInitError, match="nobody/nothing.*llm_encoder"):
        encoder("nobody/nothing")
    with pytest.raises(LLMInitError, match="cannot be loaded.*llm_device"):
        SentenceEncoder(EncoderSettings(str(MINILM), device="abacus"))


def test_a_commit_is_what_is_loaded(hub: str) -> None:
    one, other = (SentenceEncoder(EncoderSettings("org/tiny", device="cpu"), commit) for commit in (hub, hub[::-1]))
    assert not np.allclose(one.encode(["Green tea"]), other.encode(["Green tea"]), atol=1e-3)


def test_long_texts_are_measured_by_their_beginning(bert: Path) -> None:
    lengths = encoder(bert).lengths(["tea " * 4000, "tea " * 40_000])
    # [CLS], words, [SEP]: of the second the first 20,000 characters.
    assert lengths.tolist() == [4002, 5002]
    found = encoder(bert)
    found.encode(["tea " * 40_000])
    assert found.truncated == 1
