"""Text encoders: what turns texts into vectors. Here the local ones, over sentence-transformers.

sentence-transformers and transformers are imported when a model is loaded, not before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import exists, foreign_reader, hash_files, is_folder, require_file

Pooling = Literal["mean", "cls", "lasttoken"]
Precision = Literal["float32", "bfloat16", "float16"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
PRECISIONS: tuple[str, ...] = get_args(Precision)

COMMIT = re.compile("[0-9a-f]{40}")
"""The name of a commit on the hub."""

_BATCH_SIZE = 64
_TOKENIZED_AT_ONCE = 4096
# Characters by which texts of like length are found; thousands of longer ones at once would fill the memory.
_MEASURED = 20_000
# Tokens that models put around a text, at most; [CLS] and [SEP] are two.
_SPECIAL_TOKENS = 8


class TextEncoder(Protocol):
    """Turns texts into vectors, one call at a time."""

    batch_size: int
    """How many texts `encode` takes at once."""
    truncated: int
    """How many texts were cut at the maximum length so far."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What the model decided itself (pooling, maximum length, ...), in JSON types."""

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return a length per text, shape ``[n]``: texts of like length are encoded together."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector per text, shape ``[n, llm_dim]``, in their order."""


@dataclass(frozen=True)
class EncoderSettings:
    """A text encoder and how it is used; None leaves a setting to the model.

    Parameters
    ----------
    model : str
        A model id of the Hugging Face hub or a local folder, or ``openai:<model>``.
    revision : str, optional
        Branch, tag or commit of a model on the hub.
    pooling : {"mean", "cls", "lasttoken"}, optional
        How token vectors become one; for plain models that come without a pooling of their own.
    prompt : str, optional
        Words put before each text, or the name of one of the model's own prompts.
    max_length : int, optional
        Tokens at which a text is cut.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Precision of the encoder. Vectors are stored in float32 if it is float32, else in float16.
    device : str, optional
        A torch device; the GPU where there is one.
    batch_size : int, optional
        Texts per forward pass, or per request.
    base_url : str, optional
        The endpoint's address.
    timeout : float, optional
        Seconds that one try of a request to the endpoint may take.
    """

    model: str
    revision: str | None = None
    pooling: Pooling | None = None
    prompt: str | None = None
    max_length: int | None = None
    dtype: Precision | None = None
    device: str | None = None
    batch_size: int | None = None
    base_url: str | None = None
    timeout: float | None = None

    @property
    def storage(self) -> type[np.floating[Any]]:
        """The type in which vectors are stored."""
        return np.float32 if self.dtype == "float32" else np.float16


def local_folder(model: str) -> Path | None:
    """Return the folder that a model's name is the path of, if one is there."""
    # expanduser raises for a user that is not known.
    folder = Path(os.path.expanduser(model))  # noqa: PTH111
    return folder if is_folder(folder) else None


def hash_folder(folder: Path) -> str:
    """Hash the files of a local model, wherever it lies: names and content, without documents and hidden files.

    Raises
    ------
    LLMInitError
        If it is no model's folder, or holds what is no regular file: reading it might never end.
    """
    digest = hashlib.sha256()
    with foreign_reader(folder, "the folder of a model"):
        # Not all of a disk for a path that ends too early: every model has its configuration at its top.
        if not any(path.suffix == ".json" for path in folder.iterdir()):
            raise LLMInitError(f"{folder} holds no .json file: expected the folder of a model, with its configuration")
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            hidden = any(part.startswith((".", "__")) for part in relative.parts)
            if hidden or path.suffix.lower() == ".md" or is_folder(path) or not exists(path):
                continue
            require_file(path, "a file of a model")
            digest.update(f"{relative.as_posix()}\0{hash_files([path])}\0".encode())
    return f"sha256:{digest.hexdigest()[:40]}"


def resolve_commit(model: str, revision: str | None) -> str:
    """Return the commit of a model on the hub at a branch or tag, from the hub, else from its cache on this machine.

    Raises
    ------
    LLMInitError
        If neither knows it.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub

    # As sentence-transformers completes names without an owner.
    names = [model] if "/" in model else [f"sentence-transformers/{model}", model]
    failures = []
    for name in names:
        try:
            sha = huggingface_hub.HfApi().model_info(name, revision=revision).sha
        except Exception as error:
            failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            return str(sha)
    for name in names:
        for file in ("config.json", "modules.json"):
            # Raises for what can be no model's name.
            with contextlib.suppress(ValueError, OSError):
                path = huggingface_hub.try_to_load_from_cache(
                    name, file, cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"), revision=revision
                )
                if isinstance(path, str):
                    return Path(path).parts[Path(path).parts.index("snapshots") + 1]
    raise LLMInitError(
        f"the encoder {model} cannot be loaded: the Hugging Face hub does not give its revision {revision or 'main'} "
        f"({failures[0]}), and it is not in the hub's cache on this machine; check llm_encoder, llm_revision and the "
        f"network, or give a local folder"
    )


class SentenceEncoder:
    """A model that sentence-transformers loads: its own pooling, prompts and normalisation, where it has them.

    Parameters
    ----------
    settings : EncoderSettings
        The model and how it is used.
    commit : str, optional
        The commit to load from the hub; not for a local folder.

    Raises
    ------
    LLMInitError
        If the model cannot be loaded, has no pooling to set, or cannot read texts of the length set.

    Notes
    -----
    Texts are padded on the right, whatever the tokenizer says: there a padding token changes neither the positions
    nor, in a causal model, the states of the text's own tokens.
    """

    def __init__(self, settings: EncoderSettings, commit: str | None = None) -> None:
        self.batch_size = settings.batch_size or _BATCH_SIZE
        self.truncated = 0
        self._settings = settings
        self._model = _load(settings, commit)
        self._tokenizer = self._find_tokenizer()
        if settings.pooling is not None:
            self._set_pooling(settings.pooling)
        if settings.max_length is not None:
            self._set_max_length(settings.max_length)
        prompts = self._model.prompts
        if settings.prompt is None:
            self._prompt: str = prompts.get(self._model.default_prompt_name) or ""
        else:
            # The name of one of the model's prompts (which may be empty), or the prompt itself.
            self._prompt = prompts.get(settings.prompt, settings.prompt) or ""
            if settings.prompt not in prompts and settings.prompt.isidentifier():
                logging.getLogger().warning(
                    f"llm_prompt {settings.prompt!r} is none of the model's prompts ({', '.join(prompts)}): it is put "
                    f"before each text as it stands"
                )

    @property
    def description(self) -> Mapping[str, Any]:
        """Pooling, normalisation, maximum length, prompt and arithmetic as they are in use."""
        pooling = self._find_pooling()
        return {
            "pooling": None if pooling is None else _pooling_mode(self._model[pooling]),
            "normalize": any(type(module).__name__ == "Normalize" for module in self._model),
            "max_length": self._model.max_seq_length,
            "prompt": self._prompt or None,
            "arithmetic": str(next(self._model.parameters()).dtype).removeprefix("torch."),
        }

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each text's first 20,000 characters, uncut and without the prompt."""
        return self._count_tokens([text[:_MEASURED] for text in texts])

    def _count_tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        if self._tokenizer is None:
            return np.array([len(text) for text in texts], dtype=np.int64)
        counts = np.empty(len(texts), dtype=np.int64)
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            tokens = self._tokenizer(
                list(texts[start : start + _TOKENIZED_AT_ONCE]),
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            counts[start : start + len(tokens)] = [len(row) for row in tokens]
        return counts

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return what ``SentenceTransformer.encode`` returns for the texts, shape ``[n, llm_dim]``."""
        import torch

        limit = self._model.max_seq_length
        # A token is a byte at least: only texts of more bytes than the limit are tokenized once more.
        long = [text for text in texts if limit and len((self._prompt + text).encode()) + _SPECIAL_TOKENS > limit]
        if long and self._tokenizer is not None:
            self.truncated += int((self._count_tokens([self._prompt + text for text in long]) > limit).sum())
        try:
            vectors = self._model.encode(
                list(texts), prompt=self._prompt, batch_size=self.batch_size, show_progress_bar=False
            )
        except torch.cuda.OutOfMemoryError as error:
            raise LLMInitError(
                f"{self._settings.model} ran out of memory on {self._model.device} with {len(texts)} texts at once: "
                f"set llm_batch_size below {len(texts)}, or llm_max_length, or llm_dtype: bfloat16"
            ) from error
        return np.asarray(vectors, dtype=np.float32)

    def _find_tokenizer(self) -> Any:
        """Return the tokenizer if it is transformers' own, set up for padding on the right."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return None
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            # A decoder has none; the attention mask hides whatever stands there.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer

    def _find_pooling(self) -> int | None:
        return next((index for index, module in enumerate(self._model) if type(module).__name__ == "Pooling"), None)

    def _set_pooling(self, mode: Pooling) -> None:
        index = self._find_pooling()
        if index is None:
            raise LLMInitError(
                f"{self._settings.model} has no pooling that llm_pooling {mode!r} could set: leave llm_pooling out"
            )
        # Renamed in sentence-transformers 6.
        old, new = "get_word_embedding_dimension", "get_embedding_dimension"
        width = getattr(self._model[0], new if hasattr(self._model[0], new) else old)()
        self._model[index] = type(self._model[index])(width, pooling_mode=mode)

    def _set_max_length(self, length: int) -> None:
        positions = _positions(getattr(self._model[0], "auto_model", None))
        if positions is not None and 0 < positions < length:
            raise LLMInitError(
                f"llm_max_length is {length}, and {self._settings.model} reads at most {positions} tokens: set at "
                f"most {positions}"
            )
        self._model.max_seq_length = length


def _positions(model: Any) -> int | None:
    """Return how many tokens a transformer has positions for; RoBERTa and its kin use some for padding."""
    for name, module in model.named_modules() if model is not None else ():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            return int(module.num_embeddings) - (0 if module.padding_idx is None else int(module.padding_idx) + 1)
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def _pooling_mode(pooling: Any) -> str:
    mode = pooling.pooling_mode if hasattr(pooling, "pooling_mode") else pooling.get_pooling_mode_str()
    return mode if isinstance(mode, str) else "+".join(mode)


def _load(settings: EncoderSettings, commit: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise LLMInitError(
            f"the encoder {settings.model} needs sentence-transformers ({error}): pip install sentence-transformers"
        ) from error
    import torch

    folder = local_folder(settings.model)
    try:
        # Building the modules draws random numbers, which a training run would miss.
        with torch.random.fork_rng(devices=[]):
            return SentenceTransformer(
                settings.model if folder is None else str(folder),
                revision=commit,
                device=_device_of_rank(settings.device),
                model_kwargs={} if settings.dtype is None else {"dtype": getattr(torch, settings.dtype)},
            )
    except Exception as error:
        said = " ".join(str(error).split())
        raise LLMInitError(
            f"the encoder {settings.model} cannot be loaded ({type(error).__name__}: {said}): expected a "
            f"sentence-transformers or Hugging Face model id that the network reaches, or a local folder; check "
            f"llm_encoder, llm_revision and llm_device"
        ) from error


def _device_of_rank(device: str | None) -> str | None:
    """Return the GPU of this process where torchrun started several, else the device asked for."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    if device not in (None, "cuda") or rank is None or not torch.cuda.is_available():
        return device
    return f"cuda:{int(rank) % torch.cuda.device_count()}"
