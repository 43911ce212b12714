"""Whole runs: train, evaluate, search, load, as ``recbole.quick_start`` does them."""

from __future__ import annotations

import functools
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import yaml

from recbole_llminit.cold_start import drop_while_preparing, read_drop
from recbole_llminit.config import Config, InitOptions
from recbole_llminit.distributed import group_of_run
from recbole_llminit.errors import LLMInitError
from recbole_llminit.freeze import frozen_rows
from recbole_llminit.model import build_model
from recbole_llminit.ranks import LAUNCH_KEYS, Launch, Ranks, ranks_of_run, refuse_several

# After recbole_llminit.config, which mends RecBole, and says so where it is not installed.
import recbole  # isort: skip
from recbole.data import create_dataset, data_preparation  # isort: skip
from recbole.utils import ModelType, get_environment, get_trainer, init_logger, init_seed, set_color  # isort: skip
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
        overwrites: RecBole's, or one that you or someone you trust trained (it is a pickle). RecBole saves the best
        epoch, so that is where it goes on, with new batches and negatives. Nothing is written from vectors, none are
        needed, and item rows that were frozen stay so.

    Returns
    -------
    dict
        RecBole's ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``; and
        ``init_report``, an `InitReport <recbole_llminit.initializer.InitReport>`, or None for a stock start and
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
        _run, model, dataset, config_file_list, config_dict, saved, arguments, callback_fn=callback_fn, resume=resume
    )
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
    with ranks_of_run(group_of_run(config)) as ranks:
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


def load_data_and_model(model_file: str | Path) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Load a checkpoint with its dataset and split; the embedding store is not needed.

    Parameters
    ----------
    model_file : path
        A checkpoint that you or someone you trust trained: RecBole's checkpoints are pickles.

    Returns
    -------
    tuple
        ``config, model, dataset, train_data, valid_data, test_data``; item rows that were frozen in training are so in
        the model.

    Notes
    -----
    Source: ``load_data_and_model`` in ``recbole/quick_start/quick_start.py``; works for a class of your own as well. A
    model trained on a GPU is loaded on the CPU where there is no GPU.
    """
    checkpoint = _read_checkpoint(Path(model_file))
    config = checkpoint["config"]
    if config["device"].type == "cuda" and not torch.cuda.is_available():
        config["device"] = torch.device("cpu")
    init_seed(config["seed"], config["reproducibility"])
    _start_logging(config)
    dataset = create_dataset(config)
    getLogger().info(dataset)
    train_data, valid_data, test_data = drop_while_preparing(config, dataset, data_preparation)
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, train_data._dataset, write=False)
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data


def load_data(config: Config) -> tuple[Any, Any]:
    """Load a configuration's dataset as a run would, and return it with its training split."""
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, _, _ = drop_while_preparing(config, dataset, data_preparation)
    return dataset, train_data._dataset


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of RecBole's trainer, with its configuration."""
    if not path.is_file():
        raise LLMInitError(f"there is no checkpoint {path} (looked in {Path.cwd()})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise LLMInitError(
            f"{path} was trained with a class of the module {error.name!r}, which is not on the Python path: run this "
            f"where that module is"
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise LLMInitError(f"{path} is no checkpoint of RecBole's ({error})") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "epoch"} <= checkpoint.keys():
        raise LLMInitError(f"{path} is no checkpoint of RecBole's trainer: expected config, state_dict and epoch in it")
    return checkpoint


def _refuse_resume(config: Config, path: Path, *, saved: bool) -> None:
    """Raise for a checkpoint that another configuration trained, or from which there is nothing to train."""
    checkpoint = _read_checkpoint(path)
    theirs = checkpoint["config"]
    for keys, reason in _SAME_TO_RESUME:
        for key in keys:
            if _settled(theirs[key]) != _settled(config[key]):
                raise LLMInitError(
                    f"{path} was trained with {key}: {theirs[key]}, and this run has {config[key]}: {reason}"
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
    init_seed(config["seed"], config["reproducibility"])
    _start_logging(config)
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
    if config["llm_embedding"] is not None or Path(config["data_path"]).is_dir():
        return False
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
    dataset = _create_dataset(config, ranks)
    if verbose:
        logger.info(dataset)
    train_data, valid_data, test_data = drop_while_preparing(config, dataset, data_preparation)
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, train_data._dataset, write=resume is None)
    if ranks.rank > 0:
        # The same model everywhere, and other negatives.
        init_seed(config["seed"] + ranks.rank, config["reproducibility"])
    if verbose:
        logger.info(model)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    if resume is not None:
        _resume(trainer, resume)
    if saved and model.init_report is not None and ranks.rank == 0:
        # Before training, so that an interrupted run's checkpoint has its report as well.
        model.init_report.save(Path(trainer.saved_model_file).with_suffix(".json"))
    show_progress = verbose and config["show_progress"]
    try:
        best_valid_score, best_valid_result = trainer.fit(
            train_data,
            valid_data,
            verbose=verbose,
            saved=saved,
            show_progress=show_progress,
            # Not every trainer's fit takes one.
            **({} if callback_fn is None else {"callback_fn": callback_fn}),
        )
    except KeyboardInterrupt:
        if verbose and saved and Path(trainer.saved_model_file).is_file():
            logger.warning(
                f"Interrupted; the best epoch so far is saved, go on with --resume={trainer.saved_model_file}"
            )
        raise
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


def _create_dataset(config: Config, ranks: Ranks) -> Any:
    """Load the data; where RecBole downloads or saves it, the first process does so before the others look."""
    first = ranks.share(config["save_dataset"] or not Path(config["data_path"]).is_dir())
    if first and ranks.rank > 0:
        ranks.wait()
        config["save_dataset"] = False
    dataset = create_dataset(config)
    if first and ranks.rank == 0:
        ranks.wait()
    return dataset


def _resume(trainer: Any, path: str | Path) -> None:
    try:
        trainer.resume_checkpoint(path)
    except (RuntimeError, ValueError) as error:
        raise LLMInitError(f"{path} does not fit the model of this configuration: {error}") from error
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
    finally:
        _own_handlers[:] = root.handlers
        root.handlers.extend(others)
