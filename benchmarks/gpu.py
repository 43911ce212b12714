"""What a GPU changes: the same initialization, the memory they take there, and the time of an epoch.

``python benchmarks/gpu.py`` (on a machine with a GPU; ``--device=cpu`` tries the script without)

1. Tables of 1,000,000 items x 128 on the GPU are initialized by each strategy from random vectors (float16, 384
   dimensions) and compared with the same on the CPU; *peak* is the most GPU memory taken beyond the tables, which is to
   be far less than the vectors' 768 MB.
2. BPR and LightGCN train for three epochs on ml-100k with the packaged vectors, on the CPU and the GPU, in float32 and
   in mixed precision (``enable_amp``), trainable and with frozen items (``init_trainable: False``). The times are
   RecBole's own of training and validation, the last epoch's.

Prints the tables and writes ``gpu.csv`` and ``gpu_training.csv``.
"""

from __future__ import annotations

import argparse
import logging
import platform
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from recbole_llminit import initialize_embeddings_
from recbole_llminit.integration.quick_start import load_data_and_model, run_recbole_llminit
from recbole_llminit.strategies.base import get_strategy
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, ItemEmbeddings

WIDTH, N_COMPONENTS = 384, 128
STRATEGIES = ("rand", "uni", "var", "prefix", "rp", "pca", "whiten", "cca")


def make_data(count: int) -> tuple[AlignedEmbeddings, csr_matrix]:
    """Return random vectors and five interactions for each of as many users."""
    generator = np.random.default_rng(0)
    tokens = np.array([f"i{item}" for item in range(count)], dtype=object)
    vectors = generator.standard_normal((count, WIDTH), dtype=np.float32).astype(np.float16)
    embeddings = ItemEmbeddings(tokens, (vectors,), "benchmark", "0").align(["[PAD]", *tokens], "benchmark")
    users = np.repeat(np.arange(1, count + 1), 5)
    items = generator.integers(1, count + 1, len(users))
    matrix = csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=(count + 1, count + 1))
    matrix.data[:] = 1
    return embeddings, matrix


def make_model(count: int, device: torch.device) -> Any:
    """Return a module with a user and an item table, the same on every device."""
    model: Any = torch.nn.Module()
    for side in ("user", "item"):
        table = torch.nn.Embedding(count + 1, N_COMPONENTS, _weight=torch.zeros(count + 1, N_COMPONENTS))
        setattr(model, f"{side}_embedding", table)
    return model.to(device)


def compare_initializations(count: int, device: torch.device) -> pd.DataFrame:
    """Initialize tables on the device and on the CPU."""
    embeddings, interactions = make_data(count)
    rows = []
    for name in STRATEGIES:
        expected, found = make_model(count, torch.device("cpu")), make_model(count, device)
        # What cca found out is kept as long as the vectors are.
        again = replace(embeddings)
        began = time.perf_counter()
        initialize_embeddings_(expected, embeddings, interactions, get_strategy(name), seed=0)
        on_cpu = time.perf_counter() - began
        tables = 0
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            tables = torch.cuda.memory_allocated()
        began = time.perf_counter()
        initialize_embeddings_(found, again, interactions, get_strategy(name), seed=0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() - tables if device.type == "cuda" else 0
        differences = [
            float((one.cpu() - other).abs().max())
            for one, other in zip(found.parameters(), expected.parameters(), strict=True)
        ]
        rows.append(
            {
                "strategy": name,
                "cpu_seconds": on_cpu,
                "gpu_seconds": seconds,
                "largest_difference": max(differences),
                "peak_mb": peak / 1e6,
            }
        )
    return pd.DataFrame(rows)


class EpochTimes(logging.Handler):
    """Collects the times that RecBole's trainer logs."""

    def __init__(self) -> None:
        super().__init__()
        self.training: list[float] = []
        self.evaluating: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take the time of an epoch."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage())
        if found := re.match(r"epoch \d+ (training|evaluating) \[time: ([0-9.]+)s", text):
            getattr(self, found[1]).append(float(found[2]))


def train(devices: list[str]) -> pd.DataFrame:
    """Train on ml-100k."""
    rows = []
    for model in ("BPR", "LightGCN"):
        for device in devices:
            for amp in (False, True):
                for trainable in (True, False):
                    with tempfile.TemporaryDirectory() as folder:
                        times = EpochTimes()
                        logging.getLogger().addHandler(times)
                        settings = {
                            "init_strategy": "var",
                            "init_trainable": trainable,
                            "epochs": 3,
                            "enable_amp": amp,
                            "gpu_id": "" if device == "cpu" else "0",
                            "show_progress": False,
                            "checkpoint_dir": folder,
                        }
                        row: dict[str, Any] = {"model": model, "device": device, "amp": amp, "trainable": trainable}
                        try:
                            found = run_recbole_llminit(model, "ml-100k", config_dict=settings)
                        except RuntimeError as error:
                            # Half precision and sparse matrices: not everything of torch goes together everywhere.
                            rows.append({**row, "failed": str(error).splitlines()[0]})
                            continue
                        finally:
                            logging.getLogger().removeHandler(times)
                        (checkpoint,) = Path(folder).glob("*.pth")
                        trained = load_data_and_model(checkpoint)[1]
                        rows.append(
                            {
                                **row,
                                "training_seconds": times.training[-1],
                                "evaluating_seconds": times.evaluating[-1],
                                "recall@10": found["test_result"]["recall@10"],
                                "items_std": float(trained.item_embedding.weight.float().std()),
                            }
                        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use: try --device=cpu")
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    machine = f"{name}, Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    initialized = compare_initializations(options.items, torch.device(options.device)).assign(machine=machine)
    training = train(["cpu", "cuda"] if options.device == "cuda" else ["cpu"]).assign(machine=machine)
    options.out.mkdir(exist_ok=True)
    for frame, file in ((initialized, "gpu.csv"), (training, "gpu_training.csv")):
        print(frame.drop(columns="machine").round(5).to_string(index=False))
        frame.round(6).to_csv(options.out / file, index=False)
    print(machine)


if __name__ == "__main__":
    main()
