"""The report of an initialization: as a table, as JSON, and its warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.strategies.selection import Variance
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.initialization.toy_model import ToyModel, initialize


def test_report_prints_and_saves(vectors: AlignedEmbeddings, tmp_path: Path) -> None:
    report = initialize(ToyModel(words=(9, 2)), vectors, Variance(1.0))
    printed = str(report)
    for part in (
        "Variance(popular_ratio=1.0)",
        "3 of 3 items, 1 of 2 users",
        "words.weight: 9 rows, neither users nor items",
        "vectors (4 dimensions)",
        "4 x 2, 3 item rows written, 1 left",
    ):
        assert part in printed
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved == report.to_dict()
    assert saved["reductions"]["2"] == {"kind": "columns", "dimensions": [0, 1], "unit": False}
    assert saved["tables"][0]["shape"] == [3, 2]
    assert saved["skipped"] == {"words.weight": "9 rows, neither users nor items"}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.json"]


@pytest.mark.parametrize(("with_vector", "warned"), [(3, False), (2, False), (1, True)])
def test_low_coverage_is_a_warning(embed: Callable[..., AlignedEmbeddings], with_vector: int, warned: bool) -> None:
    rows = [[1 + number, 2, 3, 4] for number in range(with_vector)] + [None] * (4 - with_vector)
    model = nn.Module()
    model.items = nn.Embedding(5, 2)
    report = initialize(model, embed(*rows), interactions=csr_matrix(np.eye(3, 5, dtype=np.float32)))
    if warned:
        (warning,) = report.warnings
        assert "only 1 of 4 items (25%)" in warning and "in vectors" in warning and "check" in warning
    else:
        assert report.warnings == ()
