"""Time to find and write the tables of a built model with a million items, beyond the arithmetic of the strategy.

``python benchmarks/write.py``

The vectors (float16, 384 dimensions, random) and the model (tables of 128 columns) are in memory. *strategy* is the fit
and the reduction of every vector; *initialize* is `initialize_embeddings_`, which does the same and finds the tables,
checks, writes and reports. Both are measured in turn on two torch threads; the medians and their difference are
printed and written as CSV, without users and with the mean of ten interactions for each of a million users.
"""

from __future__ import annotations

import argparse
import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from recbole_llminit import initialize_embeddings_
from recbole_llminit.initialization.initializer import InitSettings
from recbole_llminit.initialization.users import FromItems, FromModel
from recbole_llminit.strategies.selection import Variance
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings

ITEMS, USERS, EACH, LLM_DIM, N_COMPONENTS = 1_000_000, 1_000_000, 10, 384, 128
STRATEGY = Variance()


def make_embeddings(generator: np.random.Generator) -> AlignedEmbeddings:
    """Return random vectors of all items, in another order than the dataset's."""
    tokens = np.array([f"i{item}" for item in range(ITEMS)], dtype=object)
    vectors = generator.standard_normal((ITEMS, LLM_DIM), dtype=np.float32).astype(np.float16)
    return ItemEmbeddings(tokens, (vectors,), "benchmark", "0").align(
        ["[PAD]", *tokens[generator.permutation(ITEMS)]], "benchmark"
    )


def make_interactions(generator: np.random.Generator) -> csr_matrix:
    """Return distinct random items for each user."""
    users = np.repeat(np.arange(1, USERS + 1), EACH)
    items = 1 + (generator.integers(ITEMS, size=(USERS, 1)) + np.arange(EACH) * 99_991) % ITEMS
    ones = np.ones(len(users), dtype=np.float32)
    return csr_matrix((ones, (users, items.ravel())), shape=(USERS + 1, ITEMS + 1))


def make_model() -> torch.nn.Module:
    """Return a model with a user and an item table."""
    model = torch.nn.Module()
    model.user_embedding = torch.nn.Embedding(USERS + 1, N_COMPONENTS)
    model.item_embedding = torch.nn.Embedding(ITEMS + 1, N_COMPONENTS)
    return model


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(2)
    generator = np.random.default_rng(0)
    embeddings, interactions, model = make_embeddings(generator), make_interactions(generator), make_model()

    def strategy() -> None:
        reduction = STRATEGY.fit(embeddings, N_COMPONENTS, interactions=interactions, seed=0).reduction(N_COMPONENTS)
        values = np.zeros((embeddings.n_items, N_COMPONENTS), dtype=np.float32)
        for items, block in embeddings.blocks():
            values[items] = reduction(block)  # type: ignore[operator]

    runs = []
    for _ in range(options.repeats):
        alone = seconds(strategy)
        for settings in (InitSettings(user=FromModel()), InitSettings(user=FromItems("mean"))):
            initialize = functools.partial(
                initialize_embeddings_, model, embeddings, interactions, STRATEGY, seed=0, settings=settings
            )
            whole = seconds(initialize)
            runs.append(
                {"init_user": settings.user.label, "strategy": alone, "initialize": whole, "beyond": whole - alone}
            )
    frame = pd.DataFrame(runs)
    medians = frame.groupby("init_user", sort=False).median().round(2)
    print(f"{ITEMS:,} items, {LLM_DIM} -> {N_COMPONENTS} dimensions, seconds, medians of {options.repeats}")
    print(medians.to_string())
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}"
    )
    options.out.mkdir(exist_ok=True)
    frame.round(3).to_csv(options.out / "write.csv", index=False)


if __name__ == "__main__":
    main()
