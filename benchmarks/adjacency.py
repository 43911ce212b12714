"""Time and memory to build the normalized graph of each of RecBole's graph models, from arrays and as RecBole does.

``python benchmarks/adjacency.py``

Distinct random interactions, ten per user, twice as many users as items. Every measurement is in a process of its own.
*Seconds* are those of the second build; those of the *first* one hold besides what it costs to touch memory for the
first time, which on some virtual machines is more than the build. Peak memory is anonymous memory above that before,
in builds that take a second together, or in one that takes longer. RecBole's own way is measured up to 1,000,000
interactions. Prints the medians and writes ``adjacency.csv``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import scipy
import scipy.sparse as sp
import torch
from memory import anonymous, give_back_freed, watch_memory

from recbole_llminit.integration.patches import compat
from recbole_llminit.integration.patches.graphs import GRAPH_BUILDERS

EACH, STOCK_UP_TO = 10, 1_000_000


def make_interactions(count: int) -> sp.coo_matrix:
    """Return distinct random interactions, in random order, without any of user 0 and item 0."""
    generator = np.random.default_rng(0)
    n_users = count // EACH
    n_items = n_users // 2
    users = np.repeat(np.arange(1, n_users + 1), EACH)
    items = 1 + (generator.integers(n_items, size=(n_users, 1)) + np.arange(EACH) * (n_items // EACH)) % n_items
    order = generator.permutation(count)
    ones = np.ones(count, dtype=np.float32)
    return sp.coo_matrix((ones, (users[order], items.ravel()[order])), shape=(n_users + 1, n_items + 1))


def measure(path: str, builder: str, count: int, figure: str) -> dict[str, float]:
    """Return the seconds of the first and of the second build, or the peak memory of a build."""
    # KGIN and MCCLK import torch-scatter, which the graph does not need.
    scatter: Any = types.ModuleType("torch_scatter")
    scatter.scatter_mean = scatter.scatter_softmax = None
    sys.modules.setdefault("torch_scatter", scatter)
    module, _, name = path.rpartition(".")
    model_class = getattr(importlib.import_module(f"recbole.model.{module}"), name)
    compat.apply()
    compat.patch_model(model_class)
    build = getattr(model_class, GRAPH_BUILDERS[path][0])
    matrix = make_interactions(count)
    n_users, n_items = matrix.shape
    model = SimpleNamespace(
        interaction_matrix=matrix,
        inter_matrix=matrix,
        n_users=n_users,
        n_items=n_items,
        n_entities=n_items,
        device=torch.device("cpu"),
    )
    model.get_eye_mat = lambda number: model_class.get_eye_mat(model, number)
    warnings.simplefilter("ignore")
    build = build if builder == "arrays" else build.__wrapped__
    give_back_freed()
    if figure == "peak_mb":
        before, began = anonymous(), time.perf_counter()
        with watch_memory(0.001) as peak:
            # One build may be over before the memory was read often enough.
            while time.perf_counter() - began < 1:
                build(model)
        return {"peak_mb": peak.megabytes - before}
    times = [time.perf_counter()]
    for _ in range(2):
        build(model)
        times.append(time.perf_counter())
    return {"first": times[1] - times[0], "seconds": times[2] - times[1]}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        path, builder, count, figure = options.one
        sys.stdout.write(json.dumps(measure(path, builder, int(count), figure)))
        return
    runs = []
    for count in options.interactions:
        for repeat in range(options.repeats):
            for path in GRAPH_BUILDERS:
                for builder in ["RecBole", "arrays"] if count <= STOCK_UP_TO else ["arrays"]:
                    row: dict[str, Any] = {"interactions": count, "model": path.rpartition(".")[2], "builder": builder}
                    for figure in ("seconds", "peak_mb"):
                        command = [sys.executable, __file__, "--one", path, builder, str(count), figure]
                        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                        row.update(json.loads(found.stdout))
                    runs.append({**row, "repeat": repeat})
    frame = pd.DataFrame(runs)
    frame["machine"] = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}, torch {torch.__version__}"
    )
    frame.round(3).to_csv(options.out / "adjacency.csv", index=False)
    medians = frame.pivot_table(
        index=["interactions", "model"], columns="builder", values=["first", "seconds", "peak_mb"], aggfunc="median"
    )
    for figure in ("first", "seconds"):
        medians[figure, "times faster"] = medians[figure, "RecBole"] / medians[figure, "arrays"]
    print(medians.round(2).to_string())


if __name__ == "__main__":
    main()
