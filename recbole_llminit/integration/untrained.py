"""The evaluation of a model before its training, which leaves the training as it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from logging import getLogger
from typing import Any

from recbole_llminit.files import reason
from recbole_llminit.integration.model_scores import untouched

# After recbole_llminit.integration.model_scores, which checks that RecBole is there.
from recbole.evaluator import Collector  # isort: skip
from recbole.utils import ModelType, calculate_valid_score  # isort: skip

_logger = getLogger(__name__)


def evaluate_untrained(trainer: Any, train_data: Any, valid_data: Any, test_data: Any) -> dict[str, Any]:
    """Evaluate the model of a trainer before its training, which then goes on as if it had not been evaluated.

    Parameters
    ----------
    trainer : recbole.trainer.Trainer
        A trainer whose ``fit`` has not been called.
    train_data, valid_data, test_data : recbole.data.dataloader.AbstractDataLoader
        The loaders of the three splits.

    Returns
    -------
    dict
        ``untrained_valid_score``, ``untrained_test_result``, and ``untrained_seconds``: how long this took. Empty for a
        model that is not trained by gradients (EASE, Pop, trees), for one that gives no scores before its training (a
        warning says so), and where there is nothing to validate or to test.
    """
    model_type = trainer.config["MODEL_TYPE"]
    if model_type in (ModelType.TRADITIONAL, ModelType.DECISIONTREE) or not (valid_data and test_data):
        return {}
    began = time.perf_counter()
    try:
        with _as_before(trainer, valid_data, test_data):
            # As fit begins: some metrics count what is in the training data.
            trainer.eval_collector.data_collect(train_data)
            validated, tested = (
                trainer.evaluate(data, load_best_model=False, show_progress=False) for data in (valid_data, test_data)
            )
    except Exception as error:
        # A model may need for its scores what its training sets up.
        _logger.warning(
            f"{trainer.config['model']} is not evaluated before its training: it gives no scores ({reason(error)})"
        )
        return {}
    return {
        "untrained_valid_score": float(calculate_valid_score(validated, trainer.valid_metric)),
        "untrained_test_result": {name: float(value) for name, value in tested.items()},
        "untrained_seconds": time.perf_counter() - began,
    }


@contextlib.contextmanager
def _as_before(trainer: Any, *loaders: Any) -> Iterator[None]:
    """Give a trainer, its model, the random state and data loaders back as they were; lend an empty collector."""
    attributes = dict(vars(trainer))
    # Each pass over the data draws from the loader's own generator.
    states = [loader.generator.get_state() for loader in loaders]
    # An evaluation that raises leaves the lists of its first batches in the collector.
    trainer.eval_collector = Collector(trainer.config)
    with untouched(trainer.model):
        try:
            yield
        finally:
            vars(trainer).clear()
            vars(trainer).update(attributes)
            for loader, state in zip(loaders, states, strict=True):
                loader.generator.set_state(state)
