"""Fewer training interactions, to see how a model fares with colder users and items."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from recbole.utils import ModelType

from recbole_llminit.errors import LLMInitError
from recbole_llminit.settings import is_none

Drop = float | Literal["all_but_one"]
Prepared = TypeVar("Prepared")


def read_drop(config: Any) -> Drop | None:
    """Read the key ``drop_train`` of a RecBole configuration.

    Raises
    ------
    LLMInitError
        If it is neither none, nor a share between 0 and 1, nor ``all_but_one``, or the model is trained on sequences.
    """
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
            f"drop_train is set and {config['model']} is trained on sequences, which a dropped interaction would stay "
            f"in: leave drop_train out, or choose a model that is not sequential"
        )
    if config["dataloaders_save_path"]:
        raise LLMInitError("drop_train is set, and dataloaders_save_path loads data that is split already: drop one")
    return value  # type: ignore[no-any-return]


def kept_interactions(users: npt.NDArray[Any], drop: Drop, seed: int) -> npt.NDArray[np.int64]:
    """Choose at random which training interactions stay, from a generator of its own.

    Parameters
    ----------
    users : ndarray of int, shape [n]
        The user of each interaction.
    drop : float or "all_but_one"
        The share to remove, of all interactions alike, so that users and items may be left with none; or all but one of
        each user's.
    seed : int
        Seed of the generator. A larger share with the same seed removes what a smaller one does, and more.

    Returns
    -------
    ndarray of int
        The rows that stay, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(users))
    if drop == "all_but_one":
        _, first = np.unique(users[order], return_index=True)
        return np.sort(order[first])
    return np.sort(order[round(drop * len(users)) :])


def drop_while_preparing(config: Any, dataset: Any, prepare: Callable[[Any, Any], Prepared]) -> Prepared:
    """Call RecBole's ``data_preparation`` so that training interactions are dropped after the split.

    Validation and test stay as they were. What is dropped was never there for the model: it is not trained on, not
    masked at evaluation, and may be drawn as a negative.
    """
    drop = read_drop(config)
    if drop is None:
        return prepare(config, dataset)
    build = dataset.build

    def build_and_drop() -> list[Any]:
        # The parts are copies of the dataset with all its attributes.
        del dataset.build
        train, *others = build()
        users = train.inter_feat[train.uid_field].numpy()
        kept = kept_interactions(users, drop, config["seed"])
        if not len(kept):
            raise LLMInitError(
                f"drop_train is {drop}, and none of the {len(users):,} training interactions is left: set a smaller one"
            )
        getLogger().info(f"drop_train is {drop}: {len(kept):,} of {len(users):,} training interactions are kept")
        return [train.copy(train.inter_feat[kept]), *others]

    dataset.build = build_and_drop
    return prepare(config, dataset)
