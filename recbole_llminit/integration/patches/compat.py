"""The patches that RecBole 1.2.1 needs on today's Python stack: one function per bug.

Every function patches one thing inside RecBole, does nothing where nothing is broken, may be called again, and leaves
RecBole's results as they were on the stack that RecBole was written for (NumPy 1.26, pandas 2.2, SciPy 1.11). `apply`
runs all of them, and those of `distributed`. Nothing is patched by an import: every public entry of this package calls
`apply` or `patch_model` before it uses RecBole.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from recbole_llminit.integration.checkpoints import files as checkpoint_files
from recbole_llminit.integration.patches import distributed
from recbole_llminit.integration.patches.graphs import (
    accept_former_dgl_arguments,
    build_graph_from_arrays,
    multiply_sparse_matrices_in_full_precision,
)
from recbole_llminit.integration.patches.patching import Patches
from recbole_llminit.integration.recbole_version import check_recbole_version

_CHECKPOINT_MODULES = (
    "recbole.trainer.trainer",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.sequential_recommender.s3rec",
)
_PICKLE_MODULES = ("recbole.data.utils", "recbole.data.dataset.dataset")
_AGG_LEN_MODULES = (
    "recbole.data.dataset.dataset",
    "recbole.data.dataset.kg_dataset",
    "recbole.data.dataset.sequential_dataset",
)
_GPU_MEMORY_MODULES = ("recbole.utils.utils", "recbole.trainer.trainer")
_WARNING_MODULES = r"recbole\.data\.dataset"

_patches = Patches()


def apply() -> None:
    """Patch RecBole in this process; a second call changes nothing and costs next to nothing.

    Raises
    ------
    LLMInitError
        If the RecBole installed is not 1.2.1.
    """
    check_recbole_version()
    restore_numpy_aliases()
    restore_dok_update()
    save_and_load_checkpoints_safely()
    lengths_per_row()
    fill_missing_sequences()
    fill_missing_values()
    ignore_warnings_of_chained_fills()
    measure_memory_of_gpus_only()
    decay_weights_beside_a_list_of_regularizations()
    distributed.apply()


def patch_model(model_class: type) -> None:
    """Patch RecBole, and the modules of a model class, which may have been imported after an earlier `apply`.

    Parameters
    ----------
    model_class : type
        A model class of RecBole's, or one that is derived from it.
    """
    apply()
    build_graph_from_arrays(model_class)
    multiply_sparse_matrices_in_full_precision(model_class)
    if any(entry.__module__ == "recbole.model.knowledge_aware_recommender.kgat" for entry in model_class.__mro__):
        accept_former_dgl_arguments()


def restore_numpy_aliases() -> None:
    """Give NumPy the type names that RecBole reads from it.

    Where: ``recbole/config/configurator.py:625-635`` sets aliases from ``np.float_``, ``np.complex_`` and
    ``np.unicode_``; the aliases (``np.float``, ``np.bool``, ``np.long``, ``np.str``) are read in
    ``evaluator/metrics.py``, ``data/interaction.py``, ``data/dataset/dataset.py`` and ``model/layers.py``. A
    configuration that was unpickled never sets them.
    Versions: NumPy >= 2.0 removed the three names: every ``Config`` dies with ``AttributeError``.
    Until: RecBole stops using them.
    """
    for name, target in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if name not in vars(np):
            _patches.replace(np, name, target)
    from recbole.config import Config

    Config.compatibility_settings(None)


def restore_dok_update() -> None:
    """Give SciPy's ``dok_matrix`` back the unchecked update that RecBole's graph models call.

    Where: ``recbole/model/general_recommender/lightgcn.py:111``, ``ngcf.py:110``, ``ncl.py:131``, ``gcmc.py:174``,
    ``spectralcf.py:123``; ``knowledge_aware_recommender/kgin.py:356``, ``mcclk.py:425``.
    Versions: SciPy >= 1.13 removed ``dok_matrix._update``.
    Until: RecBole builds these matrices without it.
    """
    if not hasattr(scipy.sparse.dok_matrix, "_update"):
        _patches.replace(scipy.sparse.dok_matrix, "_update", lambda self, data: self._dict.update(data))


def save_and_load_checkpoints_safely() -> None:
    """Let RecBole load its own checkpoints without running what they hold, and save them whole or not at all.

    Where: ``torch.load`` in ``recbole/trainer/trainer.py:323,583`` and in the models that read a pre-trained RecBole
    checkpoint: ``convncf.py:82``, ``nais.py:127``, ``neumf.py:84-85``, ``ract.py:75,84``, ``kd_dagfm.py:56``,
    ``s3rec.py:120``; ``torch.save`` in ``trainer.py:308,770``; ``pickle`` in ``recbole/data/utils.py:61,99,122`` and
    ``data/dataset/dataset.py:1886``.
    Versions: torch >= 2.6 loads weights only unless told otherwise, and RecBole's checkpoints hold its ``Config``:
    ``UnpicklingError``. All: a checkpoint is saved in place, so that a full disk or a killed run loses the one that
    was there, and loading unpickles anything. See `recbole_llminit.integration.checkpoints.files`.
    Until: RecBole does so itself. Only RecBole's own calls are changed, in the modules that are imported; modules of
    models that are imported later are patched by `patch_model`.
    """
    importlib.import_module("recbole.trainer.trainer")
    for name in _CHECKPOINT_MODULES:
        if name in sys.modules:
            _patches.override(sys.modules[name], "torch", load=checkpoint_files.load, save=checkpoint_files.save)
    for name in _PICKLE_MODULES:
        module = importlib.import_module(name)
        _patches.override(module, "pickle", load=checkpoint_files.load_pickle, dump=checkpoint_files.dump_pickle)


def lengths_per_row() -> None:
    """Make ``Series.agg(len)`` mean the length of each row inside RecBole's dataset modules.

    Where: ``recbole/data/dataset/dataset.py:712,792,809,1217``, ``kg_dataset.py:316``, ``sequential_dataset.py:165``.
    Versions: pandas >= 3.0 calls the function once with the whole column. The datasets with a sequence column do not
    load, and ``_benchmark_presets`` silently takes the number of rows for every sequence's length.
    Until: RecBole uses ``map(len)``. The name ``len`` is shadowed in these modules alone, so pandas stays as it is.
    """
    for name in _AGG_LEN_MODULES:
        _patches.replace(importlib.import_module(name), "len", _length)


def _length(value: Any) -> Any:
    return value.map(builtins.len) if isinstance(value, pd.Series) else builtins.len(value)


def fill_missing_sequences() -> None:
    """Read atomic files as RecBole expects them: a missing sequence is an empty text.

    Where: ``recbole/data/dataset/dataset.py:486-501`` reads the file and fills its sequence columns through a chained
    ``fillna(inplace=True)``.
    Versions: pandas >= 3.0 (copy-on-write) leaves such a column as it was: ``'float' object has no attribute 'split'``.
    Until: RecBole assigns the filled column.
    """
    module = importlib.import_module("recbole.data.dataset.dataset")
    _patches.override(module, "pd", read_csv=_read_csv)


def _read_csv(*arguments: Any, **options: Any) -> pd.DataFrame:
    """Read as `pandas.read_csv`, and fill the missing values of columns named ``<field>:*_seq`` with empty texts."""
    frame = pd.read_csv(*arguments, **options)
    for column in frame.columns:
        if str(column).endswith("_seq"):
            frame[column] = frame[column].fillna("")
    return frame


def fill_missing_values() -> None:
    """Fill missing tokens with ``[PAD]`` and missing numbers with their mean, as RecBole says it does.

    Where: ``recbole/data/dataset/dataset.py:648,650`` fill through a chained ``fillna(inplace=True)``.
    Versions: pandas >= 3.0 leaves the columns as they were and only warns: ratings and features stay NaN, labels made
    from them change, and missing tokens become -9223372036854775808.
    Until: RecBole assigns the filled column.
    """
    from recbole.data.dataset import Dataset

    _patches.wrap(Dataset, "_fill_nan", _filling_first)


def _filling_first(fill_nan: Callable[[Any], None]) -> Callable[[Any], None]:
    from recbole.utils import FeatureType

    def filled(self: Any) -> None:
        for name in self.feat_name_list:
            features = getattr(self, name)
            for field in features:
                if self.field2type[field] == FeatureType.TOKEN:
                    features[field] = features[field].fillna(0)
                elif self.field2type[field] == FeatureType.FLOAT:
                    features[field] = features[field].fillna(features[field].mean())
        fill_nan(self)

    return filled


def ignore_warnings_of_chained_fills() -> None:
    """Ignore pandas's warning that a chained fill does nothing.

    Where: ``recbole/data/dataset/dataset.py:486-501,648,650``.
    Versions: pandas >= 3.0. `fill_missing_sequences` and `fill_missing_values` have filled the columns before, so that
    nothing is missing where pandas warns.
    Until: RecBole assigns the filled columns.
    """
    category = pd.errors.ChainedAssignmentError
    # A filter that is added again invalidates what Python remembers of all warnings, and each is shown once more.
    if not any(
        entry[2] is category and getattr(entry[3], "pattern", "") == _WARNING_MODULES for entry in warnings.filters
    ):
        warnings.filterwarnings("ignore", category=category, module=_WARNING_MODULES)


def measure_memory_of_gpus_only() -> None:
    """Let a run on the CPU finish where there is a GPU as well.

    Where: ``recbole/utils/utils.py:397,420``, ``trainer/trainer.py:270,619``.
    Versions: all; RecBole asks for the memory of the run's device wherever torch sees a GPU, and a CPU is an error. So
    the last line of the log loses the result of a run with ``gpu_id: ''`` in a process that has used its GPU before.
    Until: RecBole looks at the device.
    """
    for name in _GPU_MEMORY_MODULES:
        _patches.wrap(importlib.import_module(name), "get_gpu_usage", _zero_for_other_devices)


def _zero_for_other_devices(get_gpu_usage: Callable[..., str]) -> Callable[..., str]:
    def usage(device: torch.device | None = None) -> str:
        return "0.0 / 0.0" if device is not None and device.type != "cuda" else get_gpu_usage(device)

    return usage


def decay_weights_beside_a_list_of_regularizations() -> None:
    """Let a model whose ``reg_weight`` is a list be trained with ``weight_decay``.

    Where: ``recbole/trainer/trainer.py:169`` multiplies the two, for a warning that both are set.
    Versions: all; HGN and SHAN with a ``weight_decay`` above 0 raise a TypeError.
    Until: RecBole looks at the type.
    """
    from recbole.trainer import Trainer

    _patches.wrap(Trainer, "_build_optimizer", _without_listed_reg_weight)


def _without_listed_reg_weight(build: Callable[..., Any]) -> Callable[..., Any]:
    def built(self: Any, **options: Any) -> Any:
        config = self.config
        if not isinstance(config["reg_weight"], list):
            return build(self, **options)
        # It reads nothing else of the configuration.
        self.config = {"reg_weight": None}
        try:
            return build(self, **options)
        finally:
            self.config = config

    return built
