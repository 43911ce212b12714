"""Time and memory of fitting each strategy, over the number of items.

``python benchmarks/strategy_cost.py``

Random vectors (float16, 384 dimensions) lie in a memory-mapped file; one and a half users an item have ten training
items each, some items often. Each measurement is a process of its own: *prepare* (smoothing, where it is asked), *fit*
to 128 columns and *reduce* (every vector to its values, a block at a time), and the peak of anonymous memory
(``RssAnon``, every 10 ms) above that before the fit, which holds vectors' ids and interactions.
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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from memory import anonymous, watch_memory

WIDTH, SIZE, EACH = 384, 128, 10
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


def measure(strategy: str, count: int, vectors: str) -> dict[str, float]:
    """Fit one strategy and reduce every vector, in this process."""
    from scipy.sparse import csr_matrix

    from recbole_llminit.integration import config  # noqa: F401  registers the strategies
    from recbole_llminit.strategies.base import get_strategy
    from recbole_llminit.vectors.embeddings import ItemEmbeddings

    generator = np.random.default_rng(0)
    tokens = [str(item) for item in range(count)]
    mapped = np.load(vectors, mmap_mode="r")
    embeddings = ItemEmbeddings(np.array(tokens, dtype=object), (mapped,), "benchmark", "0").align(
        ["[PAD]", *tokens], "benchmark"
    )
    users = np.repeat(np.arange(1, count * 3 // 2 + 1), EACH)
    # The square of a uniform number: some items often, most seldom.
    items = 1 + (generator.random(len(users)) ** 2 * count).astype(np.int64)
    ones = np.ones(len(users), dtype=np.float32)
    interactions = csr_matrix((ones, (users, items)), shape=(users[-1] + 1, count + 1))
    interactions.data[:] = 1

    before = anonymous()
    with watch_memory(0.01) as peak:
        made = get_strategy(*STRATEGIES[strategy])
        times = [time.perf_counter()]
        prepared = made.prepare(embeddings, interactions)
        times.append(time.perf_counter())
        reduction = made.fit(prepared, SIZE, interactions=interactions, seed=0)
        times.append(time.perf_counter())
        for _, block in prepared.blocks():
            reduction(block)  # type: ignore[operator]
        times.append(time.perf_counter())
    prepare, fit, reduce = np.diff(times)
    return {"prepare": prepare, "fit": fit, "reduce": reduce, "peak_mb": peak.megabytes - before}


def main() -> None:
    """Measure each strategy and number of items in a process of its own; print and write the medians."""
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
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for count in options.items:
            path = Path(folder) / f"{count}.npy"
            np.save(path, np.random.default_rng(1).standard_normal((count, WIDTH), dtype=np.float32).astype(np.float16))
            for repeat, strategy in ((repeat, name) for repeat in range(options.repeats) for name in STRATEGIES):
                command = [sys.executable, __file__, "--one", strategy, str(count), str(path)]
                found = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.append({"items": count, "strategy": strategy, "repeat": repeat, **json.loads(found.stdout)})
            path.unlink()
    frame = pd.DataFrame(runs)
    frame["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    frame.to_csv(options.out / "strategy_cost.csv", index=False)
    columns = ["prepare", "fit", "reduce", "peak_mb"]
    medians = frame.pivot_table(index="strategy", columns="items", values=columns, aggfunc="median", sort=False)
    sys.stdout.write(f"{medians.round(2).to_string()}\n")


if __name__ == "__main__":
    main()
