"""Whole runs: train, evaluate, search, load, as ``recbole.quick_start`` does them."""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, is_folder, reason, require_file
from recbole_llminit.initialization.freeze import frozen_rows
from recbole_llminit.integration.checkpoint import read_checkpoint, require_writable, reserved_name, trusting
from recbole_llminit.integration.cold_start import drop_while_preparing, read_drop
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.distributed import group_of_run
from recbole_llminit.integration.model import build_model
from recbole_llminit.integration.model_class import is_own_or_recboles
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.integration.recbole_keys import describe_given, describe_unread
from recbole_llminit.processes import LAUNCH_KEYS, Launch, Ranks, ranks_of_run, refuse_several
from recbole_llminit.suggest import suggest

# After recbole_llminit.integration.config, which mends RecBole, and says so where it is not installed.
import recbole  # isort: skip
from recbole.data import create_dataset, data_preparation  # isort: skip
from recbole.utils import EvaluatorType, ModelType, get_environment, get_trainer, init_logger, init_seed, set_color  # isort: skip
from recbole.utils.argument_list import dataset_arguments  # isort: skip

_SAME_TO_RESUME = (
    (
        # What decides which interactions are trained on, and the ids.
        ("model", "dataset", "seed", "eval_args", "drop_train", *dataset_arguments, "kg_reverse_r",
         "entity_kg_num_interval", "relation_kg_num_interval"),
        "resume the same model on the same data and split, else it is tested on what it was trained on",
    ),
    (
        ("valid_metric", "learner", "learning_rate", "weight_decay"),
        "RecBole goes on with the checkpoint's best score and optimizer, so resume with the same",
    ),
)  # fmt: skip

_OF_DATA = (*dataset_arguments, "eval_args", "train_neg_sample_args", "encoding", "discretization", "kg_reverse_r",
            "worker", "train_batch_size", "eval_batch_size", "transform")  # fmt: skip

_own_handlers: list[logging.Handler] = []


def run_recbole_llminit(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    *,
    arguments: Sequence[str] = (),
    callback_fn: Callable[[int, float], None] | None = None,
    resume: str | Path | None = None,
    trust_pickles: bool = False,
) -> dict[str, Any]:
    """Train and test a RecBole model, started from LLM embeddings where ``init_strategy`` says so.

    Parameters
    ----------
    model : str or class, optional
        A RecBole model's name, a model class, or the dotted path of one; else the key ``model`` of the configuration.
    dataset : str, optional
        The dataset's name; else the key ``dataset``.
    config_file_list : sequence of path, optional
        YAML files.
    config_dict : mapping, optional
        Wins over the files.
    saved : bool
        Whether the best model is kept as a checkpoint, with the init report as JSON beside it, and tested from it.
    arguments : sequence of str, optional
        Command-line arguments ``--key=value``; they win over files and dictionary. ``sys.argv`` is never read.
    callback_fn : callable, optional
        Called with the epoch and the validation score after each validation (RecBole's ``Trainer.fit``).
    resume : path, optional
        (Or the key ``resume``.) A checkpoint of the same configuration, from which training goes on, and which it
        overwrites. RecBole saves the best epoch, so that is where it goes on, with new batches and negatives. Nothing
        is written from vectors, none are needed, and item rows that were frozen stay so.
    trust_pickles : bool
        Whether the checkpoints and saved datasets that the configuration names may hold any class, which can run code
        when they are read; see `load_data_and_model`.

    Returns
    -------
    dict
        RecBole's ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``; and
        ``init_report``, an `InitReport`, or None for a stock start and
        for a resumed run.

    Raises
    ------
    LLMInitError
        If an option, the vectors, the model or the checkpoint to resume cannot be used; before training.

    Notes
    -----
    Source: ``run_recbole`` in ``recbole/quick_start/quick_start.py``, without ``get_flops``, which draws random numbers
    for some models. With ``nproc``, ``world_size``, ``ip``, ``port`` and ``group_offset`` as ``run`` there, and under
    torchrun as torchrun says: model class and ``callback_fn`` then have to stand in a module, and the script's own code
    under ``if __name__ == "__main__"``. Every process of torchrun returns the result.
    """
    if isinstance(model, type):
        # The class that get_model returns cannot be sent to another process, and does nothing more.
        model = vars(model).get("stock_class", model)
    run = functools.partial(
        _run, model, dataset, config_file_list, config_dict, saved, arguments, callback_fn=callback_fn, resume=resume,
        trust_pickles=trust_pickles,
    )  # fmt: skip
    launch = Launch.from_torchrun()
    if launch is not None:
        return run(launch=launch)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    config = Config(model, dataset, config_file_list, config_dict, arguments)
    # With a local_rank, as RecBole gives it to the processes it starts, this is one of several already.
    launch = Launch.from_settings(config.final_config_dict) if config["single_spec"] else None
    if launch is None:
        return run(config=config)
    _refuse_several(config)
    # RecBole has set it to one GPU for all.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return launch.start(run)


def _run(
    model: str | type | None,
    dataset: str | None,
    config_file_list: Sequence[str | Path] | None,
    config_dict: Mapping[str, Any] | None,
    saved: bool,
    arguments: Sequence[str],
    *,
    callback_fn: Callable[[int, float], None] | None,
    resume: str | Path | None,
    trust_pickles: bool,
    config: Config | None = None,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Do one process's part of a run, with its configuration or as one of several."""
    if launch is not None:
        # The arguments would win over what the launch says.
        arguments = [text for text in arguments if text.partition("=")[0].removeprefix("--") not in LAUNCH_KEYS]
        config_dict = {**(config_dict or {}), **launch.settings}
    config = config or Config(model, dataset, config_file_list, config_dict, arguments)
    resume = config["resume"] if resume is None else resume
    with trusting(trust_pickles, config.model_class), ranks_of_run(group_of_run(config)) as ranks:
        _prepare(config, ranks, saved=saved, write=resume is None)
        if resume is not None:
            _refuse_resume(config, Path(resume), saved=saved)
        getLogger().info(config)
        result = _train_and_test(config, ranks, saved=saved, verbose=True, callback_fn=callback_fn, resume=resume)
    getLogger().info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    getLogger().info(set_color("best valid ", "yellow") + f": {result['best_valid_result']}")
    getLogger().info(set_color("test result", "yellow") + f": {result['test_result']}")
    return result


def objective_function(
    config_dict: Mapping[str, Any] | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Run one trial of RecBole's ``HyperTuning``; ``init_*`` keys can be searched like any other.

    Returns
    -------
    dict
        As `run_recbole_llminit`, and ``model``, the model's name.

    Notes
    -----
    Source: ``objective_function`` in ``recbole/quick_start/quick_start.py``, without its report to ray.
    """
    config = Config(config_file_list=config_file_list, config_dict=config_dict)
    refuse_several(config.final_config_dict)
    _prepare(config, Ranks(), saved=saved)
    return {"model": config["model"], **_train_and_test(config, Ranks(), saved=saved, verbose=False)}


def load_data_and_model(model_file: str | Path, *, trust_pickles: bool = False) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Load a checkpoint with its dataset and split; the embedding store is not needed.

    Parameters
    ----------
    model_file : path
        A checkpoint.
    trust_pickles : bool
        Whether you trust whoever made it, and the saved datasets that it names. RecBole's checkpoints are pickles,
        which can run code: left out, what is read holds nothing but numbers and RecBole's own classes. One of a class
        of your own, or that RecBole has saved without this package, is read where you trust it.

    Returns
    -------
    tuple
        ``config, model, dataset, train_data, valid_data, test_data``; item rows that were frozen in training are so in
        the model.

    Raises
    ------
    LLMInitError
        If the file is no checkpoint, damaged, or holds other classes and is not trusted.

    Notes
    -----
    Source: ``load_data_and_model`` in ``recbole/quick_start/quick_start.py``; works for a class of your own as well. A
    model trained on a GPU is loaded on the CPU where there is no GPU.
    """
    with trusting(trust_pickles):
        return _load_data_and_model(Path(model_file))


def _load_data_and_model(path: Path) -> tuple[Any, Any, Any, Any, Any, Any]:
    checkpoint = read_checkpoint(path)
    config = checkpoint["config"]
    with foreign_reader(path, "a checkpoint whose configuration, data and weights belong together"):
        if config["device"].type == "cuda" and not torch.cuda.is_available():
            config["device"] = torch.device("cpu")
        init_seed(config["seed"], config["reproducibility"])
        _start_logging(config)
        dataset, (train_data, valid_data, test_data) = _load_splits(config, Ranks())
        getLogger().info(dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = build_model(config, train_data._dataset, write=False)
        model.load_state_dict(checkpoint["state_dict"])
        model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data


def load_data(config: Config) -> tuple[Any, Any]:
    """Load a configuration's dataset as a run would, and return it with its training split."""
    init_seed(config["seed"], config["reproducibility"])
    dataset, (train_data, _, _) = _load_splits(config, Ranks())
    return dataset, train_data._dataset


def _refuse_resume(config: Config, path: Path, *, saved: bool) -> None:
    """Raise for a checkpoint that another configuration trained, or from which there is nothing to train."""
    checkpoint = read_checkpoint(path)
    lacking = {"optimizer", "cur_step", "best_valid_score"} - checkpoint.keys()
    if lacking:
        raise LLMInitError(f"{path} has no {' and no '.join(sorted(lacking))}: there is nothing to go on with")
    for key, kind in (("epoch", int), ("cur_step", int), ("best_valid_score", int | float)):
        if not isinstance(checkpoint[key], kind) or (kind is int and checkpoint[key] < 0):
            raise LLMInitError(
                f"{path} has {checkpoint[key]!r} as its {key}: expected a number, take another checkpoint"
            )
    theirs = checkpoint["config"]
    for keys, why in _SAME_TO_RESUME:
        for key in keys:
            if _settled(theirs[key]) != _settled(config[key]):
                raise LLMInitError(
                    f"{path} was trained with {key}: {theirs[key]}, and this run has {config[key]}: {why}"
                )
    if theirs["data_path"] != config["data_path"]:
        getLogger().warning(
            f"{path} was trained on {theirs['data_path']}, this run reads {config['data_path']}: if the files differ, "
            f"it is tested on what it was trained on"
        )
    if config["MODEL_TYPE"] in (ModelType.TRADITIONAL, ModelType.DECISIONTREE):
        raise LLMInitError(f"{config['model']} is not trained in epochs: there is nothing to resume")
    if config["model"] == "RecVAE":
        raise LLMInitError("RecBole cannot resume RecVAE, whose checkpoint holds one of its two optimizers")
    if config["epochs"] <= checkpoint["epoch"] + 1:
        raise LLMInitError(
            f"{path} is of epoch {checkpoint['epoch'] + 1}, the best of its run, and epochs is {config['epochs']}: "
            f"nothing is left to train, set more epochs"
        )
    if not saved:
        raise LLMInitError("resume needs saved=True: training goes on in the checkpoint's file")
    options = InitOptions.from_config(config)
    if theirs["init_strategy"] != config["init_strategy"]:
        getLogger().warning(
            f"{path} was started with init_strategy: {theirs['init_strategy']}; the {config['init_strategy']} of this "
            f"run is not used"
        )
    if not options.trainable and "frozen_rows" not in (checkpoint.get("other_parameter") or {}):
        raise LLMInitError(f"init_trainable is False, but {path} was trained without it and has no frozen rows")


def _settled(value: Any) -> Any:
    """Make values equal that RecBole reads alike: no columns however that is said, a tuple or a list."""
    if isinstance(value, dict):
        return {key: _settled(inner) for key, inner in value.items()} or None
    return (list(value) or None) if isinstance(value, list | tuple) else value


def _prepare(config: Config, ranks: Ranks, *, saved: bool, write: bool = True) -> None:
    """Check what can be checked and make the vectors before the data is loaded; seed and start the log."""
    if saved and "<locals>" in config.model_class.__qualname__:
        raise LLMInitError(
            f"{config['model']} is defined inside a function, and a checkpoint cannot name such a class: define it in "
            f"a module, or pass saved=False"
        )
    if ranks.world > 1:
        _refuse_several(config)
    read_drop(config)
    if saved:
        require_writable(config["checkpoint_dir"])
    init_seed(config["seed"], config["reproducibility"])
    _start_logging(config)
    for key in config.unread_keys():
        getLogger().warning(describe_unread(key, config["model"]))
    options = InitOptions.from_config(config)
    if options.embedding is not None and options.encode is not None and not options.encode.are_default:
        getLogger().warning("llm_embedding is set: the llm_ keys of the encoder and the texts are not used")
    if write and options.wants_embedding and not _comes_later(config):
        config["llm_embedding"] = str(options.provide_embedding(ranks))


def _refuse_several(config: Config) -> None:
    """Raise for what several processes cannot do."""
    if config["MODEL_TYPE"] in (ModelType.TRADITIONAL, ModelType.DECISIONTREE):
        raise LLMInitError(f"{config['model']} is not trained in several processes: leave out nproc and world_size")
    if config["save_dataloaders"] or config["dataloaders_save_path"]:
        raise LLMInitError(
            "save_dataloaders and dataloaders_save_path are of runs of one process: leave them out, or nproc and "
            "world_size"
        )


def _comes_later(config: Config) -> bool:
    """Whether RecBole downloads the dataset, with its texts: then the model's constructor makes the vectors."""
    return config["llm_embedding"] is None and not is_folder(config["data_path"]) and _is_downloaded(config)


def _is_downloaded(config: Config) -> bool:
    """Whether RecBole knows where to download the dataset."""
    urls = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    return config["dataset"] in yaml.safe_load(urls.read_text(encoding="utf-8"))


def _train_and_test(
    config: Config,
    ranks: Ranks,
    *,
    saved: bool,
    verbose: bool,
    callback_fn: Callable[[int, float], None] | None = None,
    resume: str | Path | None = None,
) -> dict[str, Any]:
    logger = getLogger()
    dataset, (train_data, valid_data, test_data) = _load_splits(config, ranks)
    if verbose:
        logger.info(dataset)
    init_seed(config["seed"], config["reproducibility"])
    with _refusals(config):
        model = build_model(config, train_data._dataset, write=resume is None)
        if ranks.rank > 0:
            # The same model everywhere, and other negatives.
            init_seed(config["seed"] + ranks.rank, config["reproducibility"])
        if verbose:
            logger.info(model)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    if resume is not None:
        _resume(trainer, resume)
    with _named_apart(trainer, ranks, wanted=saved and resume is None):
        if saved and model.init_report is not None and ranks.rank == 0:
            # Before training, so that an interrupted run's checkpoint has its report as well.
            model.init_report.save(Path(trainer.saved_model_file).with_suffix(".json"))
        best_valid_score, best_valid_result = _fit(
            trainer, train_data, valid_data, saved=saved, verbose=verbose, callback_fn=callback_fn
        )
    show_progress = verbose and config["show_progress"]
    if (
        resume is not None
        and best_valid_result is None
        and trainer.epochs - trainer.start_epoch >= trainer.eval_step > 0
    ):
        logger.info(f"No epoch was better than the one that was saved in {resume}")
        best_valid_result = trainer.evaluate(valid_data, load_best_model=True, show_progress=show_progress)
    test_result = trainer.evaluate(test_data, load_best_model=saved, show_progress=show_progress)
    return {
        "best_valid_score": float(best_valid_score),
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": _plain(best_valid_result),
        "test_result": _plain(test_result),
        "init_report": model.init_report,
    }


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
            getLogger().warning(
                f"Interrupted; the best epoch so far is saved, go on with --resume={trainer.saved_model_file}"
            )
        raise


@contextlib.contextmanager
def _named_apart(trainer: Any, ranks: Ranks, *, wanted: bool) -> Iterator[None]:
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
def _refusals(config: Any) -> Iterator[None]:
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


def _load_splits(config: Any, ranks: Ranks) -> tuple[Any, Any]:
    """Load a configuration's dataset, and its training, validation and test data.

    Raises
    ------
    LLMInitError
        If the data are not there, or cannot be loaded or split as the configuration says.
    """
    _refuse_no_data(config)
    try:
        dataset = _create_dataset(config, ranks)
        splits = drop_while_preparing(config, dataset, data_preparation)
    except LLMInitError:
        raise
    except Exception as error:
        # RecBole raises what its insides happen to raise over a file or a value.
        raise LLMInitError(
            f"RecBole cannot load the dataset {config['dataset']} from {config['data_path']} ({reason(error)}): check "
            f"its files, and the keys that say how it is read, filtered and split{describe_given(config, _OF_DATA)}"
        ) from error
    longest = max(config["topk"])
    if config["eval_type"] == EvaluatorType.RANKING and longest > dataset.item_num:
        raise LLMInitError(
            f"topk is {config['topk']}, and {config['dataset']} has {dataset.item_num - 1:,} items: set topk to no more"
        )
    return dataset, splits


def _refuse_no_data(config: Any) -> None:
    """Raise where RecBole would find no interactions, and does not know where to download them."""
    folder, name = Path(config["data_path"]), config["dataset"]
    if config["dataset_save_path"]:
        return
    if not is_folder(folder):
        if not _is_downloaded(config):
            there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if is_folder(folder.parent) else []
            raise LLMInitError(
                f"there is no folder {folder} of the dataset {name} (looked in {Path.cwd()}){suggest(name, there)}; "
                f"check dataset and data_path"
            )
        return
    parts = config["benchmark_filename"]
    for part in [None] if parts is None else parts:
        require_file(
            folder / (f"{name}.inter" if part is None else f"{name}.{part}.inter"),
            f"the interactions of the dataset {name}"
            + ("" if part is None else f", one of benchmark_filename: {', '.join(map(str, parts))}"),
        )
    for path in folder.glob(f"{glob.escape(name)}.*"):
        # A pipe would be read for ever.
        if not path.is_dir():
            require_file(path, f"a file of the dataset {name}")


def _create_dataset(config: Config, ranks: Ranks) -> Any:
    """Load the data; where RecBole downloads or saves it, the first process does so before the others look."""
    first = ranks.share(config["save_dataset"] or not Path(config["data_path"]).is_dir())
    if first and ranks.rank > 0:
        ranks.wait()
        config["save_dataset"] = False
        with trusting(True, config.model_class):
            # The first process has saved it, or read it before.
            return create_dataset(config)
    dataset = create_dataset(config)
    if first:
        ranks.wait()
    return dataset


def _resume(trainer: Any, path: str | Path) -> None:
    with foreign_reader(path, "a checkpoint of the model of this configuration"):
        trainer.resume_checkpoint(path)
    frozen = sum(len(rows["ids"]) for rows in frozen_rows(trainer.model).values())
    getLogger().info(
        f"Nothing is written from vectors: training goes on after epoch {trainer.start_epoch}, the best of the run "
        f"that saved {path}" + f"; {frozen:,} frozen rows stay so" * bool(frozen)
    )


def _plain(metrics: Mapping[str, Any] | None) -> OrderedDict[str, float] | None:
    """Turn NumPy scalars, which NumPy 2 prints as ``np.float64(...)``, into numbers."""
    return None if metrics is None else OrderedDict((name, float(value)) for name, value in metrics.items())


def _start_logging(config: Any) -> None:
    """Start RecBole's log for this run, beside handlers of the user's own and instead of an earlier run's.

    RecBole's ``init_logger`` does nothing where the root logger has a handler: a second run in one process would write
    into the first one's file, and a notebook with a handler would see nothing.
    """
    root = getLogger()
    for handler in _own_handlers:
        root.removeHandler(handler)
        handler.close()
    others, root.handlers[:] = root.handlers[:], []
    try:
        init_logger(config)
    except OSError as error:
        raise LLMInitError(f"RecBole's log cannot be written to {Path('log').absolute()} ({reason(error)})") from error
    finally:
        _own_handlers[:] = root.handlers
        root.handlers.extend(others)
