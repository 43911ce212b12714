"""Time and memory of fitting each strategy, over the number of items.

``python benchmarks/strategy_cost.py``

Random vectors (float16, 384 dimensions) lie in a memory-mapped file. There are one and a half users for each item, with
ten training items each; some items occur often. Each measurement runs in a process of its own. It takes the times to
*prepare* (smooth the vectors, where the strategy does), *fit* 128 components and *reduce* every vector to its values, a
block at a time. It also takes the peak of anonymous memory (``RssAnon``, every 10 ms) above that before the fit, which
is held by the ids of the vectors and by the interactions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from memory import anonymous, watch_memory
from scipy.sparse import csr_matrix

LLM_DIM, N_COMPONENTS, ITEMS_A_USER = 384, 128, 10
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "rand": ("rand", {}),
    "var": ("var", {}),
    "prefix": ("prefix", {}),
    "pca": ("pca", {}),
    "whiten": ("whiten", {}),
    "whiten, smooth 0.5": ("whiten", {"smooth": 0.5}),
    "cca": ("cca", {}),
    "cca, smooth 0.5": ("cca", {"smooth": 0.5}),
    "rp": ("rp", {}),
}


def draw_interactions(count: int) -> csr_matrix:
    """Return training interactions of one and a half users for each of ``count`` items."""
    users = np.repeat(np.arange(1, count * 3 // 2 + 1), ITEMS_A_USER)
    # The square of a uniform number: a few items occur often, most seldom.
    items = 1 + (np.random.default_rng(0).random(len(users)) ** 2 * count).astype(np.int64)
    ones = np.ones(len(users), dtype=np.float32)
    interactions = csr_matrix((ones, (users, items)), shape=(users[-1] + 1, count + 1))
    interactions.data[:] = 1
    return interactions


def measure(strategy: str, count: int, vectors: str) -> dict[str, float]:
    """Fit one strategy and reduce every vector, in this process."""
    from recbole_llminit.integration import config  # noqa: F401  registers the strategies
    from recbole_llminit.strategies.base import get_strategy
    from recbole_llminit.strategies.projection import Projection
    from recbole_llminit.vectors.embeddings import ItemEmbeddings

    tokens = [str(item) for item in range(count)]
    mapped = np.load(vectors, mmap_mode="r")
    embeddings = ItemEmbeddings(np.array(tokens, dtype=object), (mapped,), "benchmark", "0").align(
        ["[PAD]", *tokens], "benchmark"
    )
    interactions = draw_interactions(count)
    before = anonymous()
    with watch_memory(0.01) as peak:
        made = get_strategy(*STRATEGIES[strategy])
        times = [time.perf_counter()]
        # Smoothing is a part of the fit; it is measured apart.
        prepared = made.smoothed(embeddings, interactions) if isinstance(made, Projection) else embeddings
        times.append(time.perf_counter())
        fitted = replace(made, smooth=0.0) if isinstance(made, Projection) else made
        fit = fitted.fit(prepared, N_COMPONENTS, interactions=interactions, seed=0)
        reduction = fit.reduction(N_COMPONENTS)
        times.append(time.perf_counter())
        for _, block in prepared.blocks():
            reduction(block)  # type: ignore[operator]
        times.append(time.perf_counter())
    seconds = dict(zip(("prepare", "fit", "reduce"), np.diff(times), strict=True))
    return {**seconds, "peak_mb": peak.megabytes - before}


def measure_all(counts: list[int], repeats: int) -> pd.DataFrame:
    """Measure each strategy and number of items ``repeats`` times, each time in a process of its own."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            path = Path(folder) / f"{count}.npy"
            vectors = np.random.default_rng(1).standard_normal((count, LLM_DIM), dtype=np.float32)
            np.save(path, vectors.astype(np.float16))
            for repeat, strategy in ((repeat, name) for repeat in range(repeats) for name in STRATEGIES):
                command = [sys.executable, __file__, "--one", strategy, str(count), str(path)]
                found = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.append({"items": count, "strategy": strategy, "repeat": repeat, **json.loads(found.stdout)})
            path.unlink()
    return pd.DataFrame(runs)


def main() -> None:
    """Measure each strategy and number of items; print the medians and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_500, 50_000, 200_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        strategy, count, vectors = options.one
        sys.stdout.write(json.dumps(measure(strategy, int(count), vectors)))
        return
    frame = measure_all(options.items, options.repeats)
    frame["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    frame.to_csv(options.out / "strategy_cost.csv", index=False)
    columns = ["prepare", "fit", "reduce", "peak_mb"]
    medians = frame.pivot_table(index="strategy", columns="items", values=columns, aggfunc="median", sort=False)
    sys.stdout.write(f"{medians.round(2).to_string()}\n")


if __name__ == "__main__":
    main()
