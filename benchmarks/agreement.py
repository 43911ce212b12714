"""How much the vectors of co-consumed items agree: what ``init_strategy: auto`` goes by.

``python benchmarks/agreement.py`` (arguments as ``--llm_encoder=PATH`` go to the configuration)

For each dataset, whole and with training interactions dropped at random, the agreement of its vectors, and of the same
vectors given to the items in random orders. Prints a table and writes ``results/agreement.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model import read_vectors, training_interactions
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.integration.quick_start import load_data
from recbole_llminit.strategies.projection import CanonicalCorrelation

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "RO", "mode": "full"}
# As the study has them (yaml/study).
DATASETS: dict[str, dict[str, Any]] = {
    "amazon-office": {"eval_args": LEAVE_ONE_OUT, "llm_encoder": ENCODER},
    "amazon-beauty": {"eval_args": LEAVE_ONE_OUT, "llm_encoder": ENCODER},
    "ml-100k": {},
}
DROPS = (None, 0.5, 0.8, 0.9)
SIZE = 64


def measure(dataset: str, drop: float | None, shuffles: int, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the agreement of the dataset's vectors, and of its vectors in random orders."""
    settings = {"init_strategy": "cca", "load_col": {"inter": ["user_id", "item_id"]}, "seed": 2020,
                "show_progress": False, "state": "WARNING", "drop_train": drop,
                **DATASETS[dataset], **arguments}  # fmt: skip
    config = Config("BPR", dataset, config_dict=settings)
    data, train_data = load_data(config)
    vectors = read_vectors(InitOptions.from_config(config), config, data)
    interactions = training_interactions(train_data, config)
    lengths = np.diff(interactions.indptr)
    for seed in (None, *range(shuffles)):
        embeddings = vectors if seed is None else vectors.shuffled(seed)
        yield {
            "dataset": dataset,
            "dropped": drop or 0.0,
            "items a user": lengths[lengths > 0].mean(),
            "shuffled": "no" if seed is None else f"seed {seed}",
            "agreement": CanonicalCorrelation().agreement(embeddings, SIZE, interactions=interactions),
        }


def main() -> None:
    """Measure each dataset at each share of its training interactions; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--shuffles", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options, given = parser.parse_known_args()
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in given)
    rows = [
        row
        for dataset in options.datasets
        for drop in DROPS
        for row in measure(dataset, drop, options.shuffles, arguments)
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "agreement.csv", index=False, float_format="%.4f")
    frame["shuffled"] = frame["shuffled"] != "no"
    lines = frame.groupby(["dataset", "dropped", "items a user", "shuffled"], sort=False)["agreement"]
    print(lines.agg(["mean", "std", "max"]).reset_index().to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
