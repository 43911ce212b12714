"""What every text encoder has in common: its interface, and the settings that say how it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

Pooling = Literal["mean", "cls", "lasttoken"]
Precision = Literal["float32", "bfloat16", "float16"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
PRECISIONS: tuple[str, ...] = get_args(Precision)


class TextEncoder(Protocol):
    """Turn texts into vectors, one batch at a time."""

    batch_size: int
    """The number of texts that one call of `encode` should be given."""
    truncated: int
    """The number of texts so far that were cut at the maximum length."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What the model decides itself (pooling, maximum length, ...), in JSON types."""

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the length of each text, shape ``[n]``; texts of similar length are encoded together."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector per text, shape ``[n, llm_dim]``, in the order of the texts."""


@dataclass(frozen=True)
class EncoderSettings:
    """The text encoder that is chosen and how it is used; None leaves a setting to the model.

    Parameters
    ----------
    model : str
        A model id of the Hugging Face hub or a local folder, or ``openai:<model>``.
    revision : str, optional
        The branch, tag or commit of a model on the hub.
    pooling : {"mean", "cls", "lasttoken"}, optional
        How token vectors are combined into one; for models that have no pooling of their own.
    prompt : str, optional
        Words that are put before each text, or the name of one of the model's own prompts.
    max_length : int, optional
        The number of tokens at which a text is cut.
    dtype : {"float32", "bfloat16", "float16"}, optional
        The precision of the encoder. Vectors are stored in float32 if it is float32, else in float16.
    device : str, optional
        A torch device; by default the GPU, where there is one.
    batch_size : int, optional
        The number of texts per forward pass, or per request.
    base_url : str, optional
        The address of the endpoint.
    timeout : float, optional
        The seconds that one attempt at a request to the endpoint may take.
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
        """The numpy type in which the store keeps the vectors."""
        return np.float32 if self.dtype == "float32" else np.float16
