"""Kill ``recbole-llminit encode`` with SIGKILL at random moments, let it finish, and compare with an undisturbed run.

``python benchmarks/kill_resume.py --data_path=dataset --dataset=amazon-office --encoder=<folder of all-MiniLM-L6-v2>``

Each round starts from an empty store, kills the run after a random part of the undisturbed run's time, and runs again
to the end. A round passes if the second run encodes exactly the items that were not in a whole shard, and every vector
equals the undisturbed run's (batches differ, so up to float16's rounding).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from recbole_llminit import read_embeddings
from recbole_llminit.store import read_rows


def command(options: argparse.Namespace, cache: Path) -> list[str]:
    """Return the command line of one run."""
    keys = {
        "dataset": options.dataset,
        "data_path": options.data_path,
        "llm_encoder": options.encoder,
        "llm_cache_dir": cache,
        "show_progress": False,
    }
    return [sys.executable, "-m", "recbole_llminit", "encode", *(f"--{key}={value}" for key, value in keys.items())]


def encode(options: argparse.Namespace, cache: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Run to the end; return how many items were encoded, and the store's vectors by item."""
    ran = subprocess.run(command(options, cache), check=True, capture_output=True, text=True)
    counted = re.search(r"encoded\s+\| ([\d,]+);", ran.stdout)
    if counted is None:
        raise RuntimeError(ran.stdout)
    found = read_embeddings(next((cache / options.dataset).iterdir()))
    return int(counted[1].replace(",", "")), dict(
        zip(found.tokens.to_pylist(), np.concatenate(found.chunks), strict=True)
    )


def kill_and_resume(
    options: argparse.Namespace, cache: Path, after: float, expected: dict[str, np.ndarray]
) -> tuple[int, int, float]:
    """Kill a run, continue it; return the items that were kept, those encoded then, and the largest difference."""
    run = subprocess.Popen(command(options, cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    run.send_signal(signal.SIGKILL)
    run.wait()
    stores = list((cache / options.dataset).iterdir()) if (cache / options.dataset).is_dir() else []
    kept = read_rows(stores[0])["item_id"].nunique() if stores else 0
    encoded, found = encode(options, cache)
    if found.keys() != expected.keys():
        raise RuntimeError(f"{len(found.keys() ^ expected.keys())} items differ")
    difference = max(float(np.abs(found[item].astype(np.float32) - expected[item]).max()) for item in expected)
    return kept, encoded, difference


def main() -> None:
    """Run the rounds, and exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-office")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    generator = random.Random(options.seed)  # noqa: S311  moments, not keys
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        items, expected = encode(options, Path(scratch) / "undisturbed")
        whole = time.perf_counter() - began
        print(f"undisturbed: {items:,} items in {whole:.1f} s")
        for number in range(options.rounds):
            after = generator.uniform(0, whole)
            kept, encoded, difference = kill_and_resume(options, Path(scratch) / str(number), after, expected)
            right = kept + encoded == items and difference < 1e-3
            failed += not right
            print(
                f"killed after {after:5.1f} s: {kept:5,} kept, {encoded:5,} encoded then, {kept + encoded:,} in all; "
                f"largest difference {difference:.6f}: {'right' if right else 'WRONG'}",
                flush=True,
            )
    print(f"{options.rounds - failed} of {options.rounds} right")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
