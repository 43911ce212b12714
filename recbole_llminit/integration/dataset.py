"""RecBole's dataset of a configuration: loaded and split, and the training interactions in it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.sparse import csr_matrix

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import is_folder, reason, require_file
from recbole_llminit.initialization.embedding_table import Side
from recbole_llminit.integration.checkpoints.trust import trusting
from recbole_llminit.integration.cold_start import drop_while_preparing
from recbole_llminit.integration.recbole_keys import describe_given
from recbole_llminit.integration.recbole_version import check_recbole_version
from recbole_llminit.processes import Ranks
from recbole_llminit.suggest import suggest

check_recbole_version()

import recbole  # noqa: E402  after the check that it is there
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import EvaluatorType  # noqa: E402
from recbole.utils.argument_list import dataset_arguments  # noqa: E402

_DATA_KEYS = (*dataset_arguments, "eval_args", "train_neg_sample_args", "encoding", "discretization", "kg_reverse_r",
              "worker", "train_batch_size", "eval_batch_size", "transform")  # fmt: skip


def load_splits(config: Any, ranks: Ranks | None = None) -> tuple[Any, Any]:
    """Load a configuration's dataset, and its training, validation and test data loaders.

    Parameters
    ----------
    config : recbole.config.Config
        The configuration.
    ranks : Ranks, optional
        The processes of the run. Where RecBole downloads or saves the dataset, the first process does so before the
        others look for it.

    Returns
    -------
    dataset : recbole.data.dataset.Dataset
        The whole dataset.
    loaders : tuple
        The loaders of the three splits.

    Raises
    ------
    LLMInitError
        If the data are not there, or cannot be loaded or split as the configuration says.
    """
    _require_data(config)
    try:
        dataset = _create_dataset(config, ranks or Ranks())
        splits = drop_while_preparing(config, dataset, data_preparation)
    except LLMInitError:
        raise
    except Exception as error:
        # RecBole raises what its insides happen to raise over a file or a value.
        raise LLMInitError(
            f"RecBole cannot load the dataset {config['dataset']} from {config['data_path']} ({reason(error)}): check "
            f"its files, and the keys that say how it is read, filtered and split{describe_given(config, _DATA_KEYS)}"
        ) from error
    longest = max(config["topk"])
    if config["eval_type"] == EvaluatorType.RANKING and longest > dataset.item_num:
        raise LLMInitError(
            f"topk is {config['topk']}, and {config['dataset']} has {dataset.item_num - 1:,} items: set topk to no more"
        )
    return dataset, splits


def will_be_downloaded(config: Any) -> bool:
    """Return whether RecBole downloads the dataset when it is loaded: it is not here, and RecBole knows its address."""
    return not is_folder(config["data_path"]) and _has_download(config)


def training_interactions(dataset: Any, config: Any) -> csr_matrix:
    """Return the training interactions of a RecBole dataset, 0 or 1, shape ``[n_users, n_items]``.

    Parameters
    ----------
    dataset : recbole.data.dataset.Dataset
        The training split. A sequential dataset's first items, which its augmentation drops, are restored
        (``SequentialDataset.inter_matrix``). So are the histories of sequences that come split in files of their own
        (``benchmark_filename``), whose items may have no row.
    config : recbole.config.Config
        Where the dataset has the field ``LABEL_FIELD``, rows with label 0 do not count.

    Notes
    -----
    A pair of user and item counts once, however often it occurs.
    """
    label = config["LABEL_FIELD"] if config["LABEL_FIELD"] in dataset.inter_feat else None
    found = dataset.inter_matrix(form="coo", value_field=label)
    positive = np.asarray(found.data) > 0
    rows, columns = np.asarray(found.row)[positive], np.asarray(found.col)[positive]
    histories = f"{dataset.iid_field}{config['LIST_SUFFIX']}"
    if config["benchmark_filename"] is not None and histories in dataset.inter_feat:
        items = dataset.inter_feat[histories].numpy()
        users = np.repeat(dataset.inter_feat[dataset.uid_field].numpy(), items.shape[1])
        known = items.ravel() > 0
        rows, columns = np.concatenate([rows, users[known]]), np.concatenate([columns, items.ravel()[known]])
    matrix = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=found.shape)
    matrix.data[:] = 1.0
    return matrix


def id_fields(dataset: Any) -> dict[Side, str]:
    """Return the fields of a RecBole dataset that hold the user and the item ids."""
    return {"user": dataset.uid_field, "item": dataset.iid_field}


def _has_download(config: Any) -> bool:
    """Return whether RecBole knows where to download the dataset."""
    urls = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    return config["dataset"] in yaml.safe_load(urls.read_text(encoding="utf-8"))


def _require_data(config: Any) -> None:
    """Raise where RecBole would find no interactions, and does not know where to download them."""
    folder, name = Path(config["data_path"]), config["dataset"]
    if config["dataset_save_path"]:
        return
    if not is_folder(folder):
        if not _has_download(config):
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


def _create_dataset(config: Any, ranks: Ranks) -> Any:
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
