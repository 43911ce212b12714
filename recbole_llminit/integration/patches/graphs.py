"""Patches of RecBole's graph models: faster adjacency matrices, mixed precision, and today's DGL.

Each function patches the modules of one model class, and may be called again;
`recbole_llminit.integration.patches.compat.patch_model` runs them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch

from recbole_llminit.integration.patches.adjacency import (
    bipartite_adjacency,
    degree_scales,
    interaction_normal,
    laplacian,
    symmetric_normal,
)
from recbole_llminit.integration.patches.patching import Patches, StandInModule

_patches = Patches()


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
        if path in GRAPH_BUILDERS:
            name, build = GRAPH_BUILDERS[path]
            _patches.wrap(entry, name, functools.partial(_built_by, build))


def _built_by(build: Callable[..., Any], _: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of one model's own, since several models share a builder."""

    def built(self: Any, *arguments: Any, **options: Any) -> Any:
        return build(self, *arguments, **options)

    return built


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


GRAPH_BUILDERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "general_recommender.lightgcn.LightGCN": ("get_norm_adj_mat", _norm_adj_mat),
    "general_recommender.ngcf.NGCF": ("get_norm_adj_mat", _norm_adj_mat),
    "general_recommender.ncl.NCL": ("get_norm_adj_mat", _norm_adj_mat_and_scales),
    "general_recommender.gcmc.GCMC": ("get_norm_adj_mat", _norm_adj_mat),
    "general_recommender.spectralcf.SpectralCF": ("get_laplacian_matrix", _laplacian_matrix),
    "knowledge_aware_recommender.kgin.KGIN": ("get_norm_inter_matrix", _norm_inter_matrix),
    "knowledge_aware_recommender.mcclk.MCCLK": ("get_norm_inter_matrix", _norm_inter_matrix),
}
"""The models that build a graph, by their path in ``recbole.model``: the method that does, and what replaces it."""


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
        module = sys.modules.get(name)
        # Some modules, as some of the abstract models', do not import torch by its name.
        if module is not None and hasattr(module, "torch"):
            _patches.override(module, "torch", sparse=_full_precision_sparse)


def _full_precision_mm(matrix: torch.Tensor, other: torch.Tensor, *others: Any) -> torch.Tensor:
    """Multiply as `torch.sparse.mm`; under autocast in float32."""
    multiply: Callable[..., torch.Tensor] = torch.sparse.mm
    if not torch.is_autocast_enabled(matrix.device.type):
        return multiply(matrix, other, *others)
    with torch.autocast(matrix.device.type, enabled=False):
        return multiply(matrix.float(), other.float(), *others)


_full_precision_sparse = StandInModule(torch.sparse)
_full_precision_sparse.override({"mm": _full_precision_mm})


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
    _patches.wrap(dgl, "edge_subgraph", _accepting_preserve_nodes)
    _patches.wrap(dgl.DGLGraph, "adjacency_matrix", _accepting_scipy_format)


def _accepting_preserve_nodes(edge_subgraph: Callable[..., Any]) -> Callable[..., Any]:
    def accepting(*arguments: Any, preserve_nodes: bool | None = None, **options: Any) -> Any:
        if preserve_nodes is not None:
            options["relabel_nodes"] = not preserve_nodes
        return edge_subgraph(*arguments, **options)

    return accepting


def _accepting_scipy_format(adjacency_matrix: Callable[..., Any]) -> Callable[..., Any]:
    def accepting(self: Any, *arguments: Any, **options: Any) -> Any:
        if "scipy_fmt" in options:
            return self.adj_external(*arguments, **options)
        return adjacency_matrix(self, *arguments, **options)

    return accepting
