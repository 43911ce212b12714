"""The local text encoder: a model that sentence-transformers loads.

sentence-transformers and transformers are imported when a model is loaded, not before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_llminit.encode.encoder import EncoderSettings, Pooling
from recbole_llminit.encode.model_files import local_folder
from recbole_llminit.errors import LLMInitError

_BATCH_SIZE = 64
_TOKENIZED_AT_ONCE = 4096
# Texts are sorted by the length of this many first characters: tokenizing thousands of longer ones would fill memory.
_MEASURED_CHARACTERS = 20_000
# The most tokens that a model puts around a text; [CLS] and [SEP] are two.
_SPECIAL_TOKENS = 8

_logger = logging.getLogger(__name__)


class SentenceEncoder:
    """A model that sentence-transformers loads, with its own pooling, prompts and normalization where it has them.

    Parameters
    ----------
    settings : EncoderSettings
        The model and how it is used.
    commit : str, optional
        The commit to load from the hub; None for a local folder.

    Raises
    ------
    LLMInitError
        If the model cannot be loaded, has no pooling that could be set, or cannot read texts of the length set.

    Notes
    -----
    Texts are padded on the right, whatever the tokenizer's own setting is: padding tokens there change neither the
    positions nor, in a causal model, the states of the text's own tokens.
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
        self._prompt = self._find_prompt(settings.prompt)

    @property
    def description(self) -> Mapping[str, Any]:
        """Pooling, normalization, maximum length, prompt and arithmetic precision as they are in use."""
        pooling = self._find_pooling()
        return {
            "pooling": None if pooling is None else _pooling_mode(self._model[pooling]),
            "normalize": any(type(module).__name__ == "Normalize" for module in self._model),
            "max_length": self._model.max_seq_length,
            "prompt": self._prompt or None,
            "arithmetic": str(next(self._model.parameters()).dtype).removeprefix("torch."),
        }

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of tokens in the first 20,000 characters of each text, uncut and without the prompt."""
        return self._count_tokens([text[:_MEASURED_CHARACTERS] for text in texts])

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return what ``SentenceTransformer.encode`` returns for the texts, shape ``[n, llm_dim]``.

        Raises
        ------
        LLMInitError
            If the memory of the GPU is too small for the batch.
        """
        import torch

        self.truncated += self._count_truncated(texts)
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

    def _count_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the maximum length."""
        limit = self._model.max_seq_length
        if not limit or self._tokenizer is None:
            return 0
        prompted = [self._prompt + text for text in texts]
        # A token is at least one byte: a text of fewer bytes than the limit cannot be longer than the limit.
        candidates = [text for text in prompted if len(text.encode()) + _SPECIAL_TOKENS > limit]
        return int((self._count_tokens(candidates) > limit).sum())

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

    def _find_tokenizer(self) -> Any:
        """Return the tokenizer if it is one of transformers, set to pad on the right; None if it is another kind."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return None
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            # A decoder has no padding token; the attention mask hides the token that is used in its place.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer

    def _find_prompt(self, given: str | None) -> str:
        """Return the words before each text: the model's default, one of its prompts by name, or the words given."""
        prompts = self._model.prompts
        if given is None:
            return prompts.get(self._model.default_prompt_name) or ""
        if given not in prompts and given.isidentifier():
            _logger.warning(
                f"llm_prompt {given!r} is none of the model's prompts ({', '.join(prompts)}): it is put before each "
                f"text as it stands"
            )
        return prompts.get(given, given) or ""

    def _find_pooling(self) -> int | None:
        """Return the position of the pooling module in the model."""
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
        positions = _count_positions(getattr(self._model[0], "auto_model", None))
        if positions is not None and 0 < positions < length:
            raise LLMInitError(
                f"llm_max_length is {length}, and {self._settings.model} reads at most {positions} tokens: set at "
                f"most {positions}"
            )
        self._model.max_seq_length = length


def _count_positions(model: Any) -> int | None:
    """Return the number of tokens that a transformer has positions for.

    RoBERTa and related models keep their first positions for padding; these do not count.
    """
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
        # Building the modules draws random numbers, which would change those of a training run.
        with torch.random.fork_rng(devices=[]):
            return SentenceTransformer(
                settings.model if folder is None else str(folder),
                revision=commit,
                device=_device_of_rank(settings.device),
                model_kwargs={} if settings.dtype is None else {"dtype": getattr(torch, settings.dtype)},
            )
    except Exception as error:
        message = " ".join(str(error).split())
        raise LLMInitError(
            f"the encoder {settings.model} cannot be loaded ({type(error).__name__}: {message}): expected a "
            f"sentence-transformers or Hugging Face model id that the network reaches, or a local folder; check "
            f"llm_encoder, llm_revision and llm_device"
        ) from error


def _device_of_rank(device: str | None) -> str | None:
    """Return the GPU of this process where torchrun started several processes, else the device asked for."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    if device not in (None, "cuda") or rank is None or not torch.cuda.is_available():
        return device
    return f"cuda:{int(rank) % torch.cuda.device_count()}"
