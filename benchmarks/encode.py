"""Time from item texts to vectors on disk, beside ``SentenceTransformer.encode`` with its defaults and ``numpy.save``.

``python benchmarks/encode.py --data_path=dataset --dataset=amazon-beauty --encoder=<folder of all-MiniLM-L6-v2>``

Both routes get the same list of texts, load the model, and end with the vectors on disk; they alternate in one
process, after one warm-up each on a few texts, and the medians are printed and written as CSV.

- *sentence-transformers*: ``encode(texts)`` with its defaults, ``numpy.save``, and the ids as JSON.
- *recbole-llminit*: `encode_items` into an empty store (the longest texts first by their number of tokens, 64 at a
  time, float16 shards that are synced to disk as the work goes on). Its time includes reading the ``.item`` file.

``bfloat16`` is the same with the model's weights in bfloat16. *nothing to do* is a second `encode_items` in a process
of its own, from after its imports; the encoder is not imported (checked).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

from recbole_llminit import EncodeOptions, encode_items, read_embeddings
from recbole_llminit.encode.dataset_texts import read_texts
from recbole_llminit.encode.item_text import ItemTexts

AGAIN = """
import sys, time
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.encode.pipeline import encode_items
began = time.perf_counter()
report = encode_items(EncodeOptions.from_files([], sys.argv[1:]))
assert report.encoded == 0 and "sentence_transformers" not in sys.modules
print(time.perf_counter() - began)
"""


def by_sentence_transformers(texts: ItemTexts, encoder: str, folder: Path, dtype: str) -> None:
    """Encode with the defaults and save."""
    model = SentenceTransformer(encoder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    vectors = model.encode(list(texts.texts))
    np.save(folder / "vectors.npy", vectors)
    (folder / "vectors.json").write_text(json.dumps(texts.ids))


def settings(options: argparse.Namespace, folder: Path, dtype: str) -> list[str]:
    """Return the arguments of ``recbole-llminit encode``."""
    chosen = {
        "dataset": options.dataset,
        "data_path": options.data_path,
        "llm_encoder": options.encoder,
        "llm_device": "cpu",
        # float32 is the model's own; vectors are stored in float16 by default.
        "llm_dtype": None if dtype == "float32" else dtype,
        "llm_cache_dir": folder,
        "show_progress": False,
    }
    return [f"--{key}={value}" for key, value in chosen.items()]


def least_cosine(folder: Path, store: Path) -> float:
    """Return the smallest cosine between the two routes' vectors of an item."""
    found = read_embeddings(store)
    reference = read_embeddings(folder / "vectors.npy")
    rows = pd.Index(reference.tokens.to_pylist()).get_indexer(pd.Index(found.tokens.to_pylist()))
    one, other = np.concatenate(found.chunks).astype(np.float64), reference.chunks[0][rows].astype(np.float64)
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


def run(texts: ItemTexts, options: argparse.Namespace, dtypes: Sequence[str]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the seconds of each route and repeat, and the least cosine for each precision."""
    rows, cosines = [], {}
    for repeat in range(options.repeats):
        for dtype in dtypes:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                began = time.perf_counter()
                by_sentence_transformers(texts, options.encoder, folder, dtype)
                middle = time.perf_counter()
                report = encode_items(EncodeOptions.from_files([], settings(options, folder, dtype)))
                ended = time.perf_counter()
                cosines[dtype] = least_cosine(folder, report.folder)
                rows.append((repeat, dtype, "sentence-transformers", middle - began))
                rows.append((repeat, dtype, "recbole-llminit", ended - middle))
                if dtype == dtypes[0]:
                    command = [sys.executable, "-c", AGAIN, *settings(options, folder, dtype)]
                    ran = subprocess.run(command, check=True, capture_output=True, text=True)
                    rows.append((repeat, dtype, "nothing to do", float(ran.stdout)))
        print(rows[-1])
    return pd.DataFrame(rows, columns=["repeat", "dtype", "route", "seconds"]), cosines


def main() -> None:
    """Compare the routes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--encoder", required=True, help="a local folder: nothing is downloaded")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="where to write every run")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    texts = read_texts(EncodeOptions.from_files([], settings(options, Path("unused"), "float32")))
    SentenceTransformer(options.encoder, device="cpu").encode(list(texts.texts[:64]))
    dtypes = options.dtypes.split(",")
    runs, cosines = run(texts, options, dtypes)
    medians = runs.groupby(["dtype", "route"])["seconds"].median().round(2)
    print(medians.to_string())
    for dtype in dtypes:
        pairs = runs[runs["dtype"] == dtype].pivot_table(index="repeat", columns="route", values="seconds")
        ratios = pairs["sentence-transformers"] / pairs["recbole-llminit"]
        print(
            f"{dtype}: sentence-transformers / recbole-llminit {statistics.median(ratios):.2f} (median; "
            f"{ratios.min():.2f} to {ratios.max():.2f}); least cosine between them {cosines[dtype]:.5f}"
        )
    print(
        f"{options.dataset}, {len(texts.ids):,} texts, {options.repeats} alternating runs; Python "
        f"{platform.python_version()}, sentence-transformers {sentence_transformers.__version__}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads"
    )
    if options.csv:
        runs.round({"seconds": 2}).to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
