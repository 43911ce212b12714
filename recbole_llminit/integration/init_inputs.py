"""What an initialization reads of a configuration and its training split: options, vectors, interactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any

from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.encode.pipeline import provide_vectors
from recbole_llminit.files import reason
from recbole_llminit.initialization.initializer import InitSettings, fit_to_tables, initialize_embeddings_
from recbole_llminit.initialization.report import InitReport
from recbole_llminit.initialization.users import (
    FromItems,
    FromModel,
    FromStrategy,
    FromVectors,
    UserInitialization,
)
from recbole_llminit.integration.dataset import id_fields, training_interactions
from recbole_llminit.integration.ease import solve_ease_
from recbole_llminit.integration.final_vectors import final_vectors_of
from recbole_llminit.integration.model_scores import ModelScores
from recbole_llminit.integration.options import KEYS, InitOptions, options_of
from recbole_llminit.integration.recbole_version import check_recbole_version
from recbole_llminit.strategies.base import Fit, Strategy
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, no_vectors
from recbole_llminit.vectors.readers import read_embeddings

check_recbole_version()

from recbole.model.general_recommender import EASE  # noqa: E402  after the check that it is there

_logger = getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InitInputs:
    """The inputs of one initialization, read once.

    Parameters
    ----------
    strategy : Strategy
        The strategy.
    vectors : AlignedEmbeddings
        The item vectors by item id.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.
    seed : int
        The run's seed.
    settings : InitSettings
        How values become rows of tables.
    """

    strategy: Strategy
    vectors: AlignedEmbeddings
    interactions: csr_matrix
    seed: int
    settings: InitSettings

    @classmethod
    def read(cls, options: InitOptions, config: Any, dataset: Any) -> InitInputs | None:
        """Open the vectors, and read the training split; None for a stock run.

        Parameters
        ----------
        options : InitOptions
            The configuration's options.
        config : recbole.config.Config
            The configuration.
        dataset : recbole.data.dataset.Dataset
            The training split.

        Raises
        ------
        LLMInitError
            If the vectors are not there, cannot be made, or are not those of these items.
        """
        if options.strategy is None:
            _warn_of_unused_keys(config)
            return None
        return cls(
            strategy=options.strategy,
            vectors=_read_vectors(options, config, dataset),
            interactions=training_interactions(dataset, config),
            seed=config["seed"],
            settings=InitSettings(
                scale=options.scale,
                user=_user_initialization(options, config, dataset),
                missing=options.missing,
                trainable=options.trainable,
                shuffle=options.shuffle,
                tables=options.tables,
                id_fields=id_fields(dataset),
                score_std=_score_std(config, dataset),
                final_vectors=lambda model: final_vectors_of(model, config["device"]),
                sizes=model_sizes(config),
            ),
        )

    @classmethod
    def of_config(cls, config: Any, dataset: Any) -> InitInputs | None:
        """Read the options of any RecBole configuration as well; None for a stock run."""
        return cls.read(options_of(config), config, dataset)

    def fit(self, model: nn.Module) -> Fit:
        """Fit the strategy for a built model, before it is initialized."""
        return fit_to_tables(
            model, self.vectors, self.interactions, self.strategy, seed=self.seed, settings=self.settings
        )

    def initialize_(self, model: nn.Module, fit: Fit | None = None) -> InitReport:
        """Initialize a built model, in place, and log the report.

        Parameters
        ----------
        model : torch.nn.Module
            The model.
        fit : Fit, optional
            What `fit` returned for the model, if it was called before.
        """
        if isinstance(model, EASE):
            report = solve_ease_(
                model,
                self.vectors,
                self.interactions,
                self.strategy,
                seed=self.seed,
                shuffle=self.settings.shuffle,
            )
        else:
            report = initialize_embeddings_(
                model, self.vectors, self.interactions, fit or self.strategy, seed=self.seed, settings=self.settings
            )
        _logger.info(f"\n{report}")
        for warning in report.warnings:
            _logger.warning(warning)
        return report


def model_sizes(config: Any) -> Mapping[str, int | list[int]]:
    """Return the keys of a configuration that RecBole does not know as its own, and that hold sizes."""
    own = {key for keys in config.parameters.values() for key in keys}
    values = {key: value for key, value in config.final_config_dict.items() if key not in own}
    return {
        key: value
        for key, value in values.items()
        if type(value) is int or (isinstance(value, list) and value and all(type(size) is int for size in value))
    }


def _score_std(config: Any, dataset: Any) -> Callable[[nn.Module], float | None]:
    scores = ModelScores(config, dataset)

    def ask(model: nn.Module) -> float | None:
        try:
            return scores.std(model) if scores.can_ask(model) else None
        except Exception as error:
            # A model may need for its scores what its training sets up.
            _logger.warning(
                f"{config['model']} gives no scores before its training ({reason(error)}): init_scale score goes by "
                f"the products of user and item values"
            )
            return None

    return ask


def _warn_of_unused_keys(config: Any) -> None:
    keys = [key for key in KEYS if config[key] is not None]
    if "init_strategy" not in config and keys:
        _logger.warning(f"{keys[0]} is set, but init_strategy is not: the model is initialized as in stock RecBole")


def _read_vectors(options: InitOptions, config: Any, dataset: Any) -> AlignedEmbeddings:
    tokens = dataset.field2id_token[dataset.iid_field]
    if not options.wants_embedding:
        return no_vectors(tokens)
    path = provide_vectors(options.embedding, options.encode)
    return read_embeddings(path, dataset.iid_field).align(tokens, config["dataset"])


def _user_initialization(options: InitOptions, config: Any, dataset: Any) -> UserInitialization:
    if options.user is None:
        return FromStrategy()
    if options.user == "none":
        return FromModel()
    if isinstance(options.user, str):
        return FromItems(options.user)
    tokens = dataset.field2id_token[dataset.uid_field]
    return FromVectors(read_embeddings(options.user, dataset.uid_field).align(tokens, config["dataset"], "user"))
