"""Time and memory from vectors on disk to a model's written tables, beside the route of the official release.

``python benchmarks/initialization.py --data=dataset/amazon-beauty --store=<a store of recbole-llminit encode>``

Both routes write the same ``user_embedding`` and ``item_embedding`` tables (this is checked), for init_strategy ``var``
with 128 of the LLM's dimensions. The interactions are those of the ``.inter`` file whose item has a vector.

- *store*: the Arrow store, `read_embeddings`, `align`, `initialize_embeddings_`.
- *official*: the ``.item`` file has a column of list literals, read with pandas and parsed by ``ast.literal_eval`` into
  one matrix; variance and selection as in the official release (DavidZWZ/LLMInit, commit 1241c3c), users by a loop.

Each measurement runs in a process of its own, and the two routes alternate. Peak memory is the highest resident set of
the process (Linux's ``VmHWM``) beyond that after the imports; it includes the interactions, the model and mapped pages
of the store. The medians are printed and written as CSV.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from recbole_llminit import initialize_embeddings_, read_embeddings
from recbole_llminit.strategies.selection import Variance

EMBEDDING_SIZE = 128


def megabytes() -> float:
    """Return the process's highest resident set so far; ``ru_maxrss`` would begin at that of the parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


AFTER_IMPORTS = megabytes()


def read_interactions(folder: Path, store: Path) -> tuple[list[str], csr_matrix]:
    """Return the item tokens by id and the interactions with items that have a vector.

    The other items are left out because the routes treat them differently: the official one takes zeros for a missing
    vector.
    """
    frame = pd.read_csv(folder / f"{folder.name}.inter", sep="\t", dtype=str, usecols=[0, 1])
    frame = frame[frame.iloc[:, 1].isin(read_embeddings(store).tokens.to_pylist())]
    users, _ = pd.factorize(frame.iloc[:, 0])
    items, tokens = pd.factorize(frame.iloc[:, 1])
    ones = np.ones(len(frame), dtype=np.float32)
    matrix = csr_matrix((ones, (users + 1, items + 1)), shape=(users.max() + 2, len(tokens) + 1))
    matrix.data[:] = 1
    return ["[PAD]", *tokens], matrix


def make_model(n_users: int, n_items: int) -> torch.nn.Module:
    """Return a model with a user and an item table of zeros."""
    model = torch.nn.Module()
    model.user_embedding = torch.nn.Embedding(n_users, EMBEDDING_SIZE)
    model.item_embedding = torch.nn.Embedding(n_items, EMBEDDING_SIZE)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def by_store(store: Path, tokens: list[str], interactions: csr_matrix, model: torch.nn.Module) -> None:
    """Write the tables from the store."""
    aligned = read_embeddings(store).align(tokens, "benchmark")
    initialize_embeddings_(model, aligned, interactions, Variance(), seed=2020)


def by_literals(item_file: Path, tokens: list[str], interactions: csr_matrix, model: torch.nn.Module) -> None:
    """Write the tables as the official release does."""
    import ast

    frame = pd.read_csv(item_file, sep="\t", dtype=str)
    by_token = {
        token: ast.literal_eval(text)
        for token, text in zip(frame["item_id:token"], frame["llm_embedding:float_seq"], strict=True)
    }
    width = len(next(iter(by_token.values())))
    matrix = torch.tensor([by_token.get(token, [0.0] * width) for token in tokens])
    degree = torch.from_numpy(np.asarray(interactions.sum(axis=0)).ravel())
    degree[0] = 1
    popular = torch.sort(degree, descending=True, stable=True).indices[: int(0.2 * len(tokens))]
    chosen = torch.sort(torch.topk(torch.var(matrix[popular], dim=0), EMBEDDING_SIZE).indices).values
    values = matrix[:, chosen]
    with torch.no_grad():
        model.get_parameter("item_embedding.weight").copy_(values)
        users = model.get_parameter("user_embedding.weight")
        for user in range(1, interactions.shape[0]):
            items = interactions.indices[interactions.indptr[user] : interactions.indptr[user + 1]]
            users[user] = values[items].mean(dim=0)


def measure(route: str, data: Path, store: Path, source: Path, tables: Path) -> None:
    """Run one route in this process and print its seconds and megabytes as JSON."""
    torch.set_num_threads(1)
    tokens, interactions = read_interactions(data, store)
    model = make_model(*interactions.shape)
    began = time.perf_counter()
    (by_store if route == "store" else by_literals)(source, tokens, interactions, model)
    print(json.dumps({"seconds": time.perf_counter() - began, "megabytes": megabytes() - AFTER_IMPORTS}))
    np.save(tables, np.concatenate([parameter.detach().numpy() for parameter in model.parameters()]))


def write_literals(store: Path, path: Path) -> None:
    """Write the store's vectors as the list column of an ``.item`` file, with the digits of their float32 values."""
    found = read_embeddings(store)
    rows = (vector.tolist() for chunk in found.chunks for vector in chunk.astype(np.float32))
    frame = pd.DataFrame(
        {"item_id:token": found.tokens.to_pylist(), "llm_embedding:float_seq": [str(row) for row in rows]}
    )
    frame.to_csv(path, sep="\t", index=False)


def measure_all(data: Path, store: Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Measure both routes, alternating, each time in a process of its own; check that their tables are equal."""
    found: dict[str, list[dict[str, float]]] = {"store": [], "official": []}
    with tempfile.TemporaryDirectory() as scratch:
        literals = Path(scratch) / "literals.item"
        write_literals(store, literals)
        for _ in range(repeats):
            for route, source in (("store", store), ("official", literals)):
                command = [sys.executable, __file__, f"--data={data}", f"--store={store}"]
                command += ["--measure", route, str(source), f"{scratch}/{route}.npy"]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                found[route].append(json.loads(ran.stdout))
        tables = [np.load(f"{scratch}/{route}.npy") for route in found]
        np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)
    return found


def main() -> None:
    """Compare the routes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--store", type=Path, required=True, help="its embedding store")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        route, source, tables = options.measure
        measure(route, options.data, options.store, Path(source), Path(tables))
        return
    found = measure_all(options.data, options.store, options.repeats)
    median = {
        route: {unit: statistics.median(run[unit] for run in runs) for unit in ("seconds", "megabytes")}
        for route, runs in found.items()
    }
    rows = pd.DataFrame(median).T
    rows.loc["official / store"] = rows.loc["official"] / rows.loc["store"]
    print(rows.round(3).to_string())
    print(
        f"{options.data.name}, {EMBEDDING_SIZE} of {read_embeddings(options.store).width} dimensions, median of "
        f"{options.repeats} alternating processes; Python {platform.python_version()}, numpy {np.__version__}, "
        f"pandas {pd.__version__}, torch {torch.__version__}, one thread"
    )
    if options.csv:
        rows.round(4).to_csv(options.csv, index_label="route")


if __name__ == "__main__":
    main()
