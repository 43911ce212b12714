"""Kill ``recbole-llminit encode`` with SIGKILL while it encodes, let it finish, and compare with an undisturbed run.

``python benchmarks/kill_resume.py --data_path=dataset --dataset=amazon-office --encoder=<folder of all-MiniLM-L6-v2>``

Each round begins with an empty store, waits until a random number of the items is in whole shards, kills the run within
the next second, and runs again to the end. A round counts if something was kept and something was left to encode;
others are repeated, up to as many as there are rounds. A round passes if the second run encodes exactly the items that
were not in a whole shard, and every vector equals the undisturbed run's (batches differ, so up to float16's rounding).
"""

from __future__ import annotations

import argparse
import math
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
from recbole_llminit.vectors.store import read_rows

TIMEOUT = 1800


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


def count_kept(cache: Path, dataset: str) -> int:
    """Return how many items are in whole shards."""
    stores = list((cache / dataset).glob("*/"))
    return int(read_rows(stores[0])["item_id"].nunique()) if stores else 0


def kill(options: argparse.Namespace, cache: Path, least: int, pause: float) -> int:
    """Kill a run some time after so many items were in whole shards; return how many are."""
    run = subprocess.Popen(command(options, cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + TIMEOUT
    while count_kept(cache, options.dataset) < least and run.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(pause)
    run.send_signal(signal.SIGKILL)
    run.wait(timeout=TIMEOUT)
    return count_kept(cache, options.dataset)


def encode(options: argparse.Namespace, cache: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Run to the end; return how many items were encoded, and the store's vectors by item."""
    ran = subprocess.run(command(options, cache), check=True, capture_output=True, text=True, timeout=TIMEOUT)
    counted = re.search(r"encoded\s+\| ([\d,]+);", ran.stdout)
    if counted is None:
        raise RuntimeError(ran.stdout)
    found = read_embeddings(next((cache / options.dataset).iterdir()))
    return int(counted[1].replace(",", "")), dict(
        zip(found.tokens.to_pylist(), np.concatenate(found.chunks), strict=True)
    )


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest difference of two stores' vectors; infinite if an item is in one of them alone."""
    if found.keys() != expected.keys():
        return math.inf
    return max(float(np.abs(found[item].astype(np.float32) - expected[item]).max()) for item in expected)


def main() -> None:
    """Run the rounds, and exit with 1 if one fails or too few count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-office")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    generator = random.Random(options.seed)  # noqa: S311  moments, not keys
    counted = right = tried = 0
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        items, expected = encode(options, Path(scratch) / "undisturbed")
        print(f"undisturbed: {items:,} items in {time.perf_counter() - began:.1f} s", flush=True)
        while counted < options.rounds and tried < 2 * options.rounds:
            tried += 1
            cache = Path(scratch) / str(tried)
            least, pause = generator.randrange(1, items), generator.uniform(0, 1)
            kept = kill(options, cache, least, pause)
            killed = f"killed {pause:.2f} s after {least:5,} items: {kept:5,} kept"
            if not 0 < kept < items:
                print(f"{killed}, nothing kept or nothing left: not counted", flush=True)
                continue
            encoded, found = encode(options, cache)
            difference = compare(found, expected)
            passed = kept + encoded == items and difference < 1e-3
            counted, right = counted + 1, right + passed
            print(
                f"{killed}, {encoded:5,} encoded then, {kept + encoded:,} in all; "
                f"largest difference {difference:.6f}: {'right' if passed else 'WRONG'}",
                flush=True,
            )
    print(f"{right} of {counted} right, each killed inside the encoding; {tried - counted} repeated")
    sys.exit(right < options.rounds)


if __name__ == "__main__":
    main()
