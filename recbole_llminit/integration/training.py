"""One training run: checked and prepared, trained by RecBole's trainer, tested."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_llminit.encode.pipeline import provide_vectors
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import reason
from recbole_llminit.integration.checkpoints.files import require_writable, reserved_name
from recbole_llminit.integration.cold_start import read_drop
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.dataset import load_splits, will_be_downloaded
from recbole_llminit.integration.init_inputs import InitInputs
from recbole_llminit.integration.model import build_model_from
from recbole_llminit.integration.model_class import is_own_or_recboles
from recbole_llminit.integration.options import InitOptions, options_of
from recbole_llminit.integration.recbole_keys import describe_given, describe_unread
from recbole_llminit.integration.resume import check_resume, resume_
from recbole_llminit.integration.run_log import start_logging
from recbole_llminit.integration.untrained import evaluate_untrained
from recbole_llminit.processes import Ranks

from recbole.utils import ModelType, get_trainer, init_seed  # isort: skip
from recbole.utils.argument_list import dataset_arguments  # isort: skip

_logger = getLogger(__name__)


def prepare_run(config: Config, ranks: Ranks, *, saved: bool, resume: Path | None = None) -> InitOptions:
    """Check what can be checked and make the vectors before the data is loaded; seed, and start the log.

    Returns
    -------
    InitOptions
        The configuration's options, with the vectors that were found or made. The configuration gets their path as
        well, so that a checkpoint says which vectors it was initialized from.
    """
    if saved and "<locals>" in config.model_class.__qualname__:
        raise LLMInitError(
            f"{config['model']} is defined inside a function, and a checkpoint cannot name such a class: define it in "
            f"a module, or pass saved=False"
        )
    if ranks.world_size > 1:
        refuse_one_process_only(config)
    read_drop(config)
    if saved:
        require_writable(config["checkpoint_dir"])
    init_seed(config["seed"], config["reproducibility"])
    start_logging(config)
    for key in config.unread_keys():
        _logger.warning(describe_unread(key, config["model"]))
    options = options_of(config)
    if options.embedding is not None and options.encode is not None and not options.encode.are_default:
        _logger.warning("llm_embedding is set: the llm_ keys of the encoder and the texts are not used")
    # What RecBole downloads has its texts with it: then the vectors are made after the data is loaded.
    comes_later = options.embedding is None and will_be_downloaded(config)
    if resume is not None:
        check_resume(config, resume, saved=saved, trainable=options.trainable)
    elif options.wants_embedding and not comes_later:
        options = replace(options, embedding=provide_vectors(options.embedding, options.encode, ranks))
        config["llm_embedding"] = str(options.embedding)
    return options


def refuse_one_process_only(config: Config) -> None:
    """Raise `LLMInitError` for what several processes cannot do."""
    if config["MODEL_TYPE"] in (ModelType.TRADITIONAL, ModelType.DECISIONTREE):
        raise LLMInitError(f"{config['model']} is not trained in several processes: leave out nproc and world_size")
    if config["save_dataloaders"] or config["dataloaders_save_path"]:
        raise LLMInitError(
            "save_dataloaders and dataloaders_save_path are of runs of one process: leave them out, or nproc and "
            "world_size"
        )


def train_and_test(
    config: Config,
    options: InitOptions,
    ranks: Ranks,
    *,
    saved: bool,
    verbose: bool,
    callback_fn: Callable[[int, float], None] | None = None,
    resume: str | Path | None = None,
    untrained: bool = False,
) -> dict[str, Any]:
    """Load the data, build the model, train and test it; return the result of `run_recbole_llminit`."""
    dataset, (train_data, valid_data, test_data) = load_splits(config, ranks)
    if verbose:
        _logger.info(dataset)
    trainer = _make_trainer(config, options, ranks, train_data._dataset, verbose=verbose, write=resume is None)
    report = trainer.model.init_report
    if resume is not None:
        resume_(trainer, resume)
    at_start = evaluate_untrained(trainer, train_data, valid_data, test_data) if untrained and resume is None else {}
    with _own_checkpoint_name(trainer, ranks, wanted=saved and resume is None):
        if saved and report is not None and ranks.rank == 0:
            # Before training, so that an interrupted run's checkpoint has its report as well.
            report.save(Path(trainer.saved_model_file).with_suffix(".json"))
        best_valid_score, best_valid_result = _fit(
            trainer, train_data, valid_data, saved=saved, verbose=verbose, callback_fn=callback_fn
        )
    show_progress = verbose and config["show_progress"]
    validated = trainer.epochs - trainer.start_epoch >= trainer.eval_step > 0
    if resume is not None and best_valid_result is None and validated:
        _logger.info(f"No epoch was better than the one that was saved in {resume}")
        best_valid_result = trainer.evaluate(valid_data, load_best_model=True, show_progress=show_progress)
    test_result = trainer.evaluate(test_data, load_best_model=saved, show_progress=show_progress)
    return {
        "best_valid_score": float(best_valid_score),
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": _plain(best_valid_result),
        "test_result": _plain(test_result),
        "init_report": report,
        **at_start,
    }


def _make_trainer(
    config: Config, options: InitOptions, ranks: Ranks, train_split: Any, *, verbose: bool, write: bool
) -> Any:
    """Build the model, initialized from vectors where ``write`` is set, and RecBole's trainer of it."""
    inputs = InitInputs.read(options, config, train_split) if write else None
    init_seed(config["seed"], config["reproducibility"])
    with _refusing(config):
        model = build_model_from(inputs, config, train_split)
        if ranks.rank > 0:
            # The same model everywhere, and other negatives.
            init_seed(config["seed"] + ranks.rank, config["reproducibility"])
        if verbose:
            _logger.info(model)
        return get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


def _fit(
    trainer: Any,
    train_data: Any,
    valid_data: Any,
    *,
    saved: bool,
    verbose: bool,
    callback_fn: Callable[[int, float], None] | None,
) -> tuple[float, Mapping[str, Any] | None]:
    """Train by RecBole's trainer, and say how to go on where that is interrupted."""
    try:
        found: tuple[float, Mapping[str, Any] | None] = trainer.fit(
            train_data,
            valid_data,
            verbose=verbose,
            saved=saved,
            show_progress=verbose and trainer.config["show_progress"],
            # Not every trainer's fit takes one.
            **({} if callback_fn is None else {"callback_fn": callback_fn}),
        )
        return found
    except KeyError as error:
        if not str(error.args[0]).startswith(trainer.config["NEG_PREFIX"]):
            raise
        raise LLMInitError(
            f"{trainer.config['model']} is trained with negative items, and there are none (train_neg_sample_args: "
            f"{trainer.config['train_neg_sample_args']}): set their distribution, or leave the key out"
        ) from error
    except ValueError as error:
        if "nan" not in str(error).lower():
            raise
        raise LLMInitError(
            f"RecBole ends the training ({error}): set a smaller learning_rate or init_scale, and look at the data and "
            f"the vectors"
        ) from error
    except KeyboardInterrupt:
        if verbose and saved and Path(trainer.saved_model_file).is_file():
            _logger.warning(
                f"Interrupted; the best epoch so far is saved, go on with --resume={trainer.saved_model_file}"
            )
        raise


@contextlib.contextmanager
def _own_checkpoint_name(trainer: Any, ranks: Ranks, *, wanted: bool) -> Iterator[None]:
    """Give the checkpoint a name that no other run has, the same in all processes, if one is to be saved."""
    if not wanted:
        yield
        return
    with contextlib.ExitStack() as stack:
        name = trainer.saved_model_file
        if ranks.rank == 0:
            name = str(stack.enter_context(reserved_name(name)))
        trainer.saved_model_file = ranks.share(name)
        yield


@contextlib.contextmanager
def _refusing(config: Config) -> Iterator[None]:
    """Turn what one of RecBole's models or trainers raises when it is made into a clear error; a user's own passes."""
    try:
        yield
    except LLMInitError:
        raise
    except Exception as error:
        if not is_own_or_recboles(config.model_class):
            raise
        raise LLMInitError(
            f"RecBole's {config['model']} cannot be made with this configuration ({reason(error)}): check the values "
            f"of its keys{describe_given(config, config.external_config_dict.keys() - {*dataset_arguments})}"
        ) from error


def _plain(metrics: Mapping[str, Any] | None) -> OrderedDict[str, float] | None:
    """Turn NumPy scalars, which NumPy 2 prints as ``np.float64(...)``, into numbers."""
    return None if metrics is None else OrderedDict((name, float(value)) for name, value in metrics.items())
