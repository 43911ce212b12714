"""The adjusted correlation of vectors of co-consumed items, by which ``init_strategy: auto`` chooses.

``python benchmarks/adjusted_correlation.py`` (arguments as ``--llm_encoder=PATH`` go to the configuration)

It is measured for each dataset, whole and with training interactions dropped at random: for the vectors of its items,
and for the same vectors given to the items in random orders. Prints a table and writes
``results/adjusted_correlation.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llminit.integration.config import Config
from recbole_llminit.integration.init_inputs import InitInputs
from recbole_llminit.integration.quick_start import load_data
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "RO", "mode": "full"}
# As the study has them (yaml/study).
DATASETS: dict[str, dict[str, Any]] = {
    "amazon-office": {"eval_args": LEAVE_ONE_OUT, "llm_encoder": ENCODER},
    "amazon-beauty": {"eval_args": LEAVE_ONE_OUT, "llm_encoder": ENCODER},
    "ml-100k": {},
}
DROPS = (None, 0.5, 0.8, 0.9)
N_COMPONENTS = 64
SEED = 2020


def measure(dataset: str, drop: float | None, shuffles: int, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the adjusted correlation of the dataset's vectors, and of its vectors in random orders."""
    settings = {"init_strategy": "cca", "load_col": {"inter": ["user_id", "item_id"]}, "seed": SEED,
                "show_progress": False, "state": "WARNING", "drop_train": drop,
                **DATASETS[dataset], **arguments}  # fmt: skip
    config = Config("BPR", dataset, config_dict=settings)
    _, train_data = load_data(config)
    inputs = InitInputs.of_config(config, train_data)
    if inputs is None:
        raise ValueError("init_strategy is none: nothing is measured")
    lengths = np.diff(inputs.interactions.indptr)
    for seed in (None, *range(shuffles)):
        embeddings = inputs.vectors if seed is None else inputs.vectors.shuffled(seed)
        fit = CanonicalCorrelation().fit(embeddings, N_COMPONENTS, interactions=inputs.interactions, seed=SEED)
        yield {
            "dataset": dataset,
            "dropped": drop or 0.0,
            "items a user": lengths[lengths > 0].mean(),
            "shuffled": "no" if seed is None else f"seed {seed}",
            "adjusted correlation": fit.canonical.adjusted_correlation,
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
    frame.to_csv(options.out / "adjusted_correlation.csv", index=False, float_format="%.4f")
    frame["shuffled"] = frame["shuffled"] != "no"
    lines = frame.groupby(["dataset", "dropped", "items a user", "shuffled"], sort=False)["adjusted correlation"]
    print(lines.agg(["mean", "std", "max"]).reset_index().to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
