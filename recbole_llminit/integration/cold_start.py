"""Drops training interactions (``drop_train``), to see how a model ranks for users and items with fewer of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from recbole_llminit.errors import LLMInitError
from recbole_llminit.settings import is_none

Drop = float | Literal["all_but_one"]
Prepared = TypeVar("Prepared")

_logger = logging.getLogger(__name__)


def read_drop(config: Any) -> Drop | None:
    """Read the key ``drop_train`` of a RecBole configuration.

    Returns
    -------
    float, "all_but_one" or None
        The share of the training interactions to drop; or all but one of each user's; or none.

    Raises
    ------
    LLMInitError
        If the value is none of these, the model is trained on sequences, or the data comes split from a file.
    """
    from recbole.utils import ModelType

    value = config["drop_train"]
    if is_none(value):
        return None
    share = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1
    if not share and value != "all_but_one":
        raise LLMInitError(
            f"drop_train is {value!r}: expected a share of the training interactions above 0 and below 1, or "
            f"all_but_one, where each user keeps one"
        )
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        raise LLMInitError(
            f"drop_train is set, but {config['model']} is trained on sequences, which would still contain the dropped "
            f"interactions: leave drop_train out, or choose a model that is not sequential"
        )
    if config["dataloaders_save_path"]:
        raise LLMInitError(
            "drop_train is set, but dataloaders_save_path loads data that is split already: leave one of them out"
        )
    return value  # type: ignore[no-any-return]


def kept_interactions(users: npt.NDArray[Any], drop: Drop, seed: int) -> npt.NDArray[np.int64]:
    """Choose at random which training interactions are kept, by a random generator of its own.

    Parameters
    ----------
    users : ndarray of int, shape [n]
        The user of each interaction.
    drop : float or "all_but_one"
        The share to drop, drawn from all interactions alike, so that some users and items may keep none; or all but one
        of each user's.
    seed : int
        The generator's seed. With the same seed, a larger share drops all that a smaller one does, and more.

    Returns
    -------
    ndarray of int, shape [n_kept]
        The rows that are kept, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(users))
    if drop == "all_but_one":
        _, first = np.unique(users[order], return_index=True)
        return np.sort(order[first])
    return np.sort(order[round(drop * len(users)) :])


def drop_while_preparing(config: Any, dataset: Any, prepare: Callable[[Any, Any], Prepared]) -> Prepared:
    """Call RecBole's ``data_preparation`` so that training interactions are dropped after the split.

    Validation and test are unchanged. A dropped interaction does not exist for the model: it is not trained on, not
    masked at evaluation, and may be drawn as a negative.

    Parameters
    ----------
    config : recbole.config.Config
        Its ``drop_train`` says what is dropped; None leaves everything as it is.
    dataset : recbole.data.dataset.Dataset
        The whole dataset.
    prepare : callable
        RecBole's ``data_preparation``, or a function with its arguments, which splits the dataset.

    Returns
    -------
    Any
        What ``prepare`` returns.

    Raises
    ------
    LLMInitError
        If ``drop_train`` cannot be used, or leaves no training interaction.
    """
    drop = read_drop(config)
    if drop is None:
        return prepare(config, dataset)
    build = dataset.build

    def build_and_drop() -> list[Any]:
        # The parts are copies of the dataset with all its attributes, and this function must not be one of them.
        del dataset.build
        train, *others = build()
        users = train.inter_feat[train.uid_field].numpy()
        kept = kept_interactions(users, drop, config["seed"])
        if not len(kept):
            raise LLMInitError(
                f"drop_train is {drop}, and none of the {len(users):,} training interactions is left: set a smaller "
                f"share"
            )
        _logger.info(f"drop_train is {drop}: {len(kept):,} of {len(users):,} training interactions are kept")
        return [train.copy(train.inter_feat[kept]), *others]

    dataset.build = build_and_drop
    return prepare(config, dataset)
