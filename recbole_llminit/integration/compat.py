"""What RecBole 1.2.1 needs on today's Python stack: one function per ailment.

Every function mends one thing inside RecBole, is a no-op where nothing is broken, may be called again, and leaves
RecBole's results as they were on the stack RecBole was written for (NumPy 1.26, pandas 2.2, SciPy 1.11). `apply` runs
all of them. ``recbole.quick_start`` is imported by `import_quick_start` alone, for scripts that use it: it imports ray,
whose pinned version does not import on NumPy 2 and has no wheel for Python 3.12.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration import checkpoint
from recbole_llminit.integration.adjacency import (
    bipartite_adjacency,
    degree_scales,
    interaction_normal,
    laplacian,
    symmetric_normal,
)

RECBOLE_VERSION = "1.2.1"

_CHECKPOINT_MODULES = (
    "recbole.trainer.trainer",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.sequential_recommender.s3rec",
)
_AGG_LEN_MODULES = (
    "recbole.data.dataset.dataset",
    "recbole.data.dataset.kg_dataset",
    "recbole.data.dataset.sequential_dataset",
)


def apply() -> None:
    """Mend RecBole in this process; calling it again does nothing more.

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
    measure_memory_of_gpus_only()
    # Nothing is missing any more where RecBole's chained fills warn that they do nothing.
    warnings.filterwarnings("ignore", category=pd.errors.ChainedAssignmentError, module=r"recbole\.data\.dataset")


def patch_model(model_class: type) -> None:
    """Mend what a model brings in with its own module, which may have been imported after `apply`."""
    save_and_load_checkpoints_safely()
    build_graph_from_arrays(model_class)
    multiply_sparse_matrices_in_full_precision(model_class)
    if any(entry.__module__ == "recbole.model.knowledge_aware_recommender.kgat" for entry in model_class.__mro__):
        accept_former_dgl_arguments()


def check_recbole_version() -> None:
    """Refuse a RecBole other than the one these mends were written for."""
    if importlib.util.find_spec("recbole") is None:
        raise LLMInitError(
            f"RecBole is not installed: pip install recbole=={RECBOLE_VERSION} "
            f"(on Python 3.12 and later: pip install --no-deps recbole=={RECBOLE_VERSION})"
        )
    found = importlib.import_module("recbole").__version__
    if found != RECBOLE_VERSION:
        raise LLMInitError(
            f"recbole-llminit works with RecBole {RECBOLE_VERSION}, this is RecBole {found}: "
            f"pip install recbole=={RECBOLE_VERSION}"
        )


def restore_numpy_aliases() -> None:
    """Give NumPy the type names that RecBole reads from it.

    Where: ``recbole/config/configurator.py:625-635`` sets aliases from ``np.float_``, ``np.complex_`` and
    ``np.unicode_``; the aliases (``np.float``, ``np.bool``, ``np.long``, ``np.str``) are read in
    ``evaluator/metrics.py``, ``data/interaction.py``, ``data/dataset/dataset.py`` and ``model/layers.py``. A
    configuration that was unpickled never sets them.
    Versions: NumPy >= 2.0 removed the three names: every ``Config`` dies with ``AttributeError``.
    Until: RecBole stops using them.
    """
    names = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    for name, target in names.items():
        if name not in vars(np):
            setattr(np, name, target)
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
        scipy.sparse.dok_matrix._update = lambda self, data: self._dict.update(data)


def save_and_load_checkpoints_safely() -> None:
    """Let RecBole load its own checkpoints, without running what they hold, and save them whole or not at all.

    Where: ``torch.load`` in ``recbole/trainer/trainer.py:323,583`` and in the models that read a pre-trained RecBole
    checkpoint: ``convncf.py:82``, ``nais.py:127``, ``neumf.py:84-85``, ``ract.py:75,84``, ``kd_dagfm.py:56``,
    ``s3rec.py:120``; ``torch.save`` in ``trainer.py:308,770``; ``pickle`` in ``recbole/data/utils.py:61,99,122`` and
    ``data/dataset/dataset.py:1886``.
    Versions: torch >= 2.6 loads weights only unless told otherwise, and RecBole's checkpoints hold its ``Config``:
    ``UnpicklingError``. All: a checkpoint is saved in place, so that a full disk or a killed run loses the one that
    was there, and loading unpickles anything. See `recbole_llminit.integration.checkpoint`.
    Until: RecBole does so itself. Only RecBole's own calls are changed, in the modules that are imported;
    `patch_model` calls this again.
    """
    importlib.import_module("recbole.trainer.trainer")
    for name in _CHECKPOINT_MODULES:
        module: Any = sys.modules.get(name)
        if module is not None and module.torch is torch:
            module.torch = _TorchWithCheckpoints("torch")
    for name in ("recbole.data.utils", "recbole.data.dataset.dataset"):
        module = importlib.import_module(name)
        if module.pickle is pickle:
            module.pickle = _TrustedPickles("pickle")


class _TorchWithCheckpoints(types.ModuleType):
    """The torch module with the ``load`` and ``save`` of `recbole_llminit.integration.checkpoint`."""

    load = staticmethod(checkpoint.load)
    save = staticmethod(checkpoint.save)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _TrustedPickles(types.ModuleType):
    """The module pickle for RecBole's saved datasets and data loaders."""

    load = staticmethod(checkpoint.unpickle)
    dump = staticmethod(checkpoint.pickle_into)

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)


def build_graph_from_arrays(model_class: type) -> None:
    """Let one of RecBole's graph models make its adjacency matrix from arrays instead of Python dictionaries.

    Where: ``get_norm_adj_mat`` in ``recbole/model/general_recommender/lightgcn.py:82``, ``ngcf.py:81``, ``ncl.py:102``,
    ``gcmc.py:145``; ``get_laplacian_matrix`` in ``spectralcf.py:97``; ``get_norm_inter_matrix`` in
    ``knowledge_aware_recommender/kgin.py:312``, ``mcclk.py:381``.
    Versions: all; 10,000,000 interactions take minutes and tens of GB. The matrices are the same to the last bit.
    Until: RecBole does so itself.
    """
    for entry in model_class.__mro__:
        path = f"{entry.__module__}.{entry.__name__}".removeprefix("recbole.model.")
        if path in _GRAPHS:
            name, build = _GRAPHS[path]
            stock = getattr(entry, name)
            if not hasattr(stock, "__wrapped__"):
                setattr(entry, name, functools.wraps(stock)(build))


def _norm_adj_mat(self: Any) -> torch.Tensor:
    adjacency = bipartite_adjacency(self.interaction_matrix, self.n_users + self.n_items)
    return symmetric_normal(adjacency, degree_scales(adjacency, -0.5))


def _norm_adj_mat_and_scales(self: Any) -> torch.Tensor:
    adjacency = bipartite_adjacency(self.interaction_matrix, self.n_users + self.n_items)
    scales = degree_scales(adjacency, -0.5)
    self.diag = torch.from_numpy(scales).to(self.device)
    return symmetric_normal(adjacency, scales)


def _laplacian_matrix(self: Any) -> torch.Tensor:
    return laplacian(bipartite_adjacency(self.interaction_matrix, self.n_users + self.n_items))


def _norm_inter_matrix(self: Any, mode: str = "bi") -> tuple[torch.Tensor, torch.Tensor]:
    adjacency = bipartite_adjacency(self.inter_matrix, self.n_users + self.n_entities)
    rows, whole = interaction_normal(adjacency, self.n_users, mode)
    return rows.to(self.device), whole.to(self.device)


_GRAPHS: dict[str, tuple[str, Callable[..., Any]]] = {
    "general_recommender.lightgcn.LightGCN": ("get_norm_adj_mat", _norm_adj_mat),
    "general_recommender.ngcf.NGCF": ("get_norm_adj_mat", _norm_adj_mat),
    "general_recommender.ncl.NCL": ("get_norm_adj_mat", _norm_adj_mat_and_scales),
    "general_recommender.gcmc.GCMC": ("get_norm_adj_mat", _norm_adj_mat),
    "general_recommender.spectralcf.SpectralCF": ("get_laplacian_matrix", _laplacian_matrix),
    "knowledge_aware_recommender.kgin.KGIN": ("get_norm_inter_matrix", _norm_inter_matrix),
    "knowledge_aware_recommender.mcclk.MCCLK": ("get_norm_inter_matrix", _norm_inter_matrix),
}


def multiply_sparse_matrices_in_full_precision(model_class: type) -> None:
    """Let graph models train in mixed precision (``enable_amp``): products with a sparse matrix stay in float32.

    Where: ``torch.sparse.mm`` in ``recbole/model/general_recommender/lightgcn.py:144``, ``ncl.py:164``, ``sgl.py:191``,
    ``spectralcf.py:173``, ``gcmc.py:393``, ``dgcf.py:154``, ``dmf.py:221``, ``knowledge_aware_recommender/kgin.py:72``,
    ``mcclk.py:76``, ``kgat.py:53``, and ``model/layers.py:234``, which NGCF uses.
    Versions: all; autocast makes one of the two operands half precision, and torch refuses the pair. Where autocast is
    off nothing is changed.
    Until: RecBole turns autocast off there, or torch knows the product.
    """
    names = {entry.__module__ for entry in model_class.__mro__ if entry.__module__.startswith("recbole.model.")}
    for name in {*names, "recbole.model.layers"}:
        module: Any = sys.modules.get(name)
        if module is not None and getattr(module, "torch", None) is torch:
            module.torch = _TorchWithFullSparse("torch")


class _FullSparse(types.ModuleType):
    """torch.sparse with a ``mm`` that autocast leaves alone."""

    @staticmethod
    def mm(matrix: torch.Tensor, other: torch.Tensor, *others: Any) -> torch.Tensor:
        """Multiply as `torch.sparse.mm`; under autocast in float32."""
        multiply: Callable[..., torch.Tensor] = torch.sparse.mm
        if not torch.is_autocast_enabled(matrix.device.type):
            return multiply(matrix, other, *others)
        with torch.autocast(matrix.device.type, enabled=False):
            return multiply(matrix.float(), other.float(), *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.sparse, name)


class _TorchWithFullSparse(types.ModuleType):
    """The torch module with that."""

    sparse = _FullSparse("torch.sparse")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def lengths_per_row() -> None:
    """Make ``Series.agg(len)`` mean the length of each row inside RecBole's dataset modules.

    Where: ``recbole/data/dataset/dataset.py:712,792,809,1217``, ``kg_dataset.py:316``, ``sequential_dataset.py:165``.
    Versions: pandas >= 3.0 calls the function once with the whole column. The datasets with a sequence column do not
    load, and ``_benchmark_presets`` silently takes the number of rows for every sequence's length.
    Until: RecBole uses ``map(len)``. The name ``len`` is shadowed in these modules alone, so pandas stays as it is.
    """
    for name in _AGG_LEN_MODULES:
        importlib.import_module(name).len = _length  # type: ignore[attr-defined]


def _length(value: Any) -> Any:
    return value.map(builtins.len) if isinstance(value, pd.Series) else builtins.len(value)


def fill_missing_sequences() -> None:
    """Read atomic files as RecBole expects them: an empty text for a missing sequence.

    Where: ``recbole/data/dataset/dataset.py:486-501`` reads the file and fills its sequence columns through a chained
    ``fillna(inplace=True)``.
    Versions: pandas >= 3.0 (copy-on-write) leaves such a column as it was: ``'float' object has no attribute 'split'``.
    Until: RecBole assigns the filled column.
    """
    module: Any = importlib.import_module("recbole.data.dataset.dataset")
    if module.pd is pd:
        module.pd = _PandasReadingObjects("pandas")


class _PandasReadingObjects(types.ModuleType):
    """The pandas module with a ``read_csv`` that returns missing sequences as empty text."""

    @staticmethod
    def read_csv(*arguments: Any, **options: Any) -> pd.DataFrame:
        """Read as `pandas.read_csv`; then columns named ``<field>:*_seq`` have no missing values."""
        frame = pd.read_csv(*arguments, **options)
        for column in frame.columns:
            if str(column).endswith("_seq"):
                frame[column] = frame[column].fillna("")
        return frame

    def __getattr__(self, name: str) -> Any:
        return getattr(pd, name)


def fill_missing_values() -> None:
    """Fill missing tokens with ``[PAD]`` and missing numbers with their mean, as RecBole says it does.

    Where: ``recbole/data/dataset/dataset.py:648,650`` fill through a chained ``fillna(inplace=True)``.
    Versions: pandas >= 3.0 leaves the columns as they were and only warns: ratings and features stay NaN, labels made
    from them change, and missing tokens become -9223372036854775808.
    Until: RecBole assigns the filled column.
    """
    from recbole.data.dataset import Dataset

    if not hasattr(Dataset._fill_nan, "__wrapped__"):
        Dataset._fill_nan = _filling_first(Dataset._fill_nan)


def _filling_first(fill_nan: Callable[[Any], None]) -> Callable[[Any], None]:
    from recbole.utils import FeatureType

    @functools.wraps(fill_nan)
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


def measure_memory_of_gpus_only() -> None:
    """Let a run on the CPU end where there is a GPU as well.

    Where: ``recbole/utils/utils.py:397,420``, ``trainer/trainer.py:270,619``.
    Versions: all; the memory of the run's device is asked for wherever torch sees a GPU, and a CPU is an error. So the
    last line of the log loses the result of a run with ``gpu_id: ''`` in a process that has used its GPU before.
    Until: RecBole looks at the device.
    """
    for name in ("recbole.utils.utils", "recbole.trainer.trainer"):
        module: Any = importlib.import_module(name)
        if not hasattr(module.get_gpu_usage, "__wrapped__"):
            module.get_gpu_usage = _of_gpus(module.get_gpu_usage)


def _of_gpus(get_gpu_usage: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(get_gpu_usage)
    def usage(device: torch.device | None = None) -> str:
        return "0.0 / 0.0" if device is not None and device.type != "cuda" else get_gpu_usage(device)

    return usage


def accept_former_dgl_arguments() -> None:
    """Let KGAT call DGL by the names of DGL 0.4.

    Where: ``recbole/model/knowledge_aware_recommender/kgat.py:154-156``.
    Versions: DGL >= 1.0 has ``relabel_nodes`` for ``preserve_nodes``, and ``adj_external`` for the ``scipy_fmt`` of
    ``adjacency_matrix``: ``TypeError``. Without DGL nothing is done, and KGAT says that it is missing.
    Until: RecBole uses today's names.
    """
    if importlib.util.find_spec("dgl") is None:
        return
    dgl: Any = importlib.import_module("dgl")
    if not hasattr(dgl.edge_subgraph, "__wrapped__"):
        dgl.edge_subgraph = _preserving_nodes(dgl.edge_subgraph)
        dgl.DGLGraph.adjacency_matrix = _in_scipy_format(dgl.DGLGraph.adjacency_matrix)


def _preserving_nodes(edge_subgraph: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(edge_subgraph)
    def accepting(*arguments: Any, preserve_nodes: bool | None = None, **options: Any) -> Any:
        if preserve_nodes is not None:
            options["relabel_nodes"] = not preserve_nodes
        return edge_subgraph(*arguments, **options)

    return accepting


def _in_scipy_format(adjacency_matrix: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(adjacency_matrix)
    def accepting(self: Any, *arguments: Any, **options: Any) -> Any:
        return (self.adj_external if "scipy_fmt" in options else functools.partial(adjacency_matrix, self))(
            *arguments, **options
        )

    return accepting


def import_quick_start() -> types.ModuleType:
    """Import ``recbole.quick_start`` also where ray is missing or broken.

    Where: ``recbole/quick_start/quick_start.py:19`` imports ``ray.tune``, which only a search with ray calls.
    Versions: RecBole pins ray <= 2.6.3: ``np.bool8`` fails on NumPy >= 2, ``pkg_resources`` on setuptools >= 81, and
    there is no wheel for Python >= 3.12. An empty module stands in while ``recbole.quick_start`` is imported; whoever
    imports ray afterwards gets its own error.
    Until: RecBole imports ray where it calls it.
    """
    name = "recbole.quick_start"
    try:
        return importlib.import_module(name)
    except Exception:
        # ray fails in many ways: ImportError, AttributeError, ...
        stand_in: Any = types.ModuleType("ray")
        stand_in.tune = types.ModuleType("ray.tune")
        before = {key: sys.modules.pop(key) for key in list(sys.modules) if key == "ray" or key.startswith(name)}
        sys.modules["ray"] = stand_in
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules["ray"]
            sys.modules.update({key: module for key, module in before.items() if key == "ray"})
