"""Open checkpoints with stock RecBole where ``recbole_llminit`` cannot be imported, and print their test results.

What RecBole 1.2.1 needs on a new stack is done here by hand, as a user without the package would.
"""

import json
import logging
import sys
from typing import Any

sys.modules["recbole_llminit"] = None  # importing it raises ImportError

import numpy as np  # noqa: E402
import scipy.sparse  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_
np.bool, np.float, np.long, np.str = np.bool_, np.float64, np.int_, np.str_
if not hasattr(scipy.sparse.dok_matrix, "_update"):
    scipy.sparse.dok_matrix._update = lambda self, data: self._dict.update(data)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

logging.disable()


def read(path: str) -> dict[str, Any]:
    """The test result of a checkpoint's model, and the modules of its configuration and model class."""
    checkpoint = torch.load(path, weights_only=False)
    config = checkpoint["config"]
    if type(config) is not Config:
        raise TypeError(type(config))
    init_seed(config["seed"], config["reproducibility"])
    _, _, test_data = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, test_data._dataset)
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint["other_parameter"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    result = trainer.evaluate(test_data, load_best_model=False)
    names = [type(config).__module__, config.model_class.__module__]
    return {"result": {name: float(value) for name, value in result.items()}, "modules": names}


for path in sys.argv[1:]:
    print(json.dumps(read(path)))
