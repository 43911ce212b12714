"""Whole runs: train, evaluate, search, load, as ``recbole.quick_start`` does them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_llminit.files import foreign_reader
from recbole_llminit.integration.checkpoints.reader import read_checkpoint
from recbole_llminit.integration.checkpoints.trust import trusting
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.dataset import load_splits
from recbole_llminit.integration.model import build_model_from
from recbole_llminit.integration.patches.distributed import group_of_run
from recbole_llminit.integration.run_log import start_logging
from recbole_llminit.integration.training import prepare_run, refuse_one_process_only, train_and_test
from recbole_llminit.processes import LAUNCH_KEYS, Launch, Ranks, ranks_of_run, refuse_several_processes

from recbole.utils import get_environment, init_seed, set_color  # isort: skip

_logger = getLogger(__name__)


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
    untrained: bool = False,
) -> dict[str, Any]:
    """Train and test a RecBole model, initialized from LLM embeddings where ``init_strategy`` says so.

    Parameters
    ----------
    model, dataset, config_file_list, config_dict, arguments
        As for `Config`: ``arguments`` (``--key=value``) win over the dictionary, and that over the YAML files.
        ``sys.argv`` is never read.
    saved : bool
        Whether the best model is kept as a checkpoint, with the init report as JSON beside it, and tested from it.
    callback_fn : callable, optional
        Called with the epoch and the validation score after each validation (RecBole's ``Trainer.fit``).
    resume : path, optional
        (Or the key ``resume``.) A checkpoint of the same configuration. Training goes on from its epoch, the best of
        its run, with new batches and negatives, and overwrites it. Nothing is written from vectors, and item rows that
        were frozen stay so.
    trust_pickles : bool
        Whether the checkpoints and saved datasets that the configuration names may hold any class, which can run code
        when they are read; see `load_data_and_model`.
    untrained : bool
        Whether the model is also evaluated before its training, which stays the same; see `evaluate_untrained`.

    Returns
    -------
    dict
        RecBole's ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``; and
        ``init_report``, an `InitReport`, or None for a stock run and for a resumed one. With ``untrained`` also what
        `evaluate_untrained` returns; nothing of it for a resumed run.

    Raises
    ------
    LLMInitError
        If an option, the vectors, the model or the checkpoint to resume cannot be used; before training.

    Notes
    -----
    Source: ``run_recbole`` and ``run`` in ``recbole/quick_start/quick_start.py``, without ``get_flops``, which draws
    random numbers for some models. Several processes (``nproc``, ``world_size``, torchrun): `_start_processes`.
    """
    if isinstance(model, type):
        # The class that get_model returns cannot be sent to another process, and does nothing more.
        model = vars(model).get("stock_class", model)
    read = functools.partial(Config, model, dataset, config_file_list)
    run = functools.partial(
        _run, read, config_dict, arguments, saved=saved, callback_fn=callback_fn, resume=resume,
        trust_pickles=trust_pickles, untrained=untrained,
    )  # fmt: skip
    return _start_processes(run, functools.partial(read, config_dict, arguments))


def _start_processes(run: Callable[..., dict[str, Any]], read: Callable[[], Config]) -> dict[str, Any]:
    """Call ``run`` in this process, in the processes that the configuration asks for, or as one of torchrun's.

    The model class and ``callback_fn`` have to stand in a module then, and the script's own code under
    ``if __name__ == "__main__"``. Every process of torchrun returns the result.
    """
    launch = Launch.from_torchrun()
    if launch is not None:
        return run(launch=launch)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    config = read()
    # With a local_rank, as RecBole gives it to the processes it starts, this is one of several already.
    launch = Launch.from_settings(config.final_config_dict) if config["single_spec"] else None
    if launch is None:
        return run(config=config)
    refuse_one_process_only(config)
    # RecBole has set it to one GPU for all.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return launch.start(run)


def _run(
    read: Callable[..., Config],
    config_dict: Mapping[str, Any] | None,
    arguments: Sequence[str],
    *,
    saved: bool,
    callback_fn: Callable[[int, float], None] | None,
    resume: str | Path | None,
    trust_pickles: bool,
    untrained: bool,
    config: Config | None = None,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Do one process's part of a run, with its configuration or as one of several."""
    if launch is not None:
        # The arguments would win over what the launch says.
        arguments = [text for text in arguments if text.partition("=")[0].removeprefix("--") not in LAUNCH_KEYS]
        config_dict = {**(config_dict or {}), **launch.settings}
    config = config or read(config_dict, arguments)
    resume = config["resume"] if resume is None else resume
    with trusting(trust_pickles, config.model_class), ranks_of_run(group_of_run(config)) as ranks:
        options = prepare_run(config, ranks, saved=saved, resume=None if resume is None else Path(resume))
        _logger.info(config)
        result = train_and_test(
            config, options, ranks, saved=saved, verbose=True, callback_fn=callback_fn, resume=resume,
            untrained=untrained,
        )  # fmt: skip
    _logger.info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    _logger.info(set_color("best valid ", "yellow") + f": {result['best_valid_result']}")
    _logger.info(set_color("test result", "yellow") + f": {result['test_result']}")
    return result


def objective_function(
    config_dict: Mapping[str, Any] | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Run one trial of RecBole's ``HyperTuning``; ``init_*`` keys can be searched like any other.

    Parameters
    ----------
    config_dict, config_file_list
        As for `Config`.
    saved : bool
        Whether the best model is kept as a checkpoint, and tested from it.

    Returns
    -------
    dict
        As `run_recbole_llminit`, and ``model``, the model's name.

    Notes
    -----
    Source: ``objective_function`` in ``recbole/quick_start/quick_start.py``, without its report to ray.
    """
    config = Config(config_file_list=config_file_list, config_dict=config_dict)
    refuse_several_processes(config.final_config_dict)
    options = prepare_run(config, Ranks(), saved=saved)
    return {"model": config["model"], **train_and_test(config, options, Ranks(), saved=saved, verbose=False)}


def load_data_and_model(model_file: str | Path, *, trust_pickles: bool = False) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Load a checkpoint with its dataset and split; the embedding store is not needed.

    Parameters
    ----------
    model_file : path
        A checkpoint.
    trust_pickles : bool
        Whether you trust whoever made the checkpoint, and the saved datasets that it names. RecBole's checkpoints are
        pickles, which can run code. Without trust, only numbers and RecBole's own classes are read. A checkpoint of a
        class of your own, or one that RecBole saved without this package, is read where you trust it.

    Returns
    -------
    tuple
        ``config, model, dataset, train_data, valid_data, test_data``; item rows that were frozen in training are
        frozen in the model.

    Raises
    ------
    LLMInitError
        If the file is no checkpoint, is damaged, or holds other classes and is not trusted.

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
        start_logging(config)
        dataset, (train_data, valid_data, test_data) = load_splits(config)
        _logger.info(dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = build_model_from(None, config, train_data._dataset)
        model.load_state_dict(checkpoint["state_dict"])
        model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data


def load_data(config: Config) -> tuple[Any, Any]:
    """Load a configuration's dataset as a run would, and return it with its training split."""
    init_seed(config["seed"], config["reproducibility"])
    dataset, (train_data, _, _) = load_splits(config)
    return dataset, train_data._dataset
