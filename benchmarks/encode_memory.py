"""Peak memory of encoding a million short texts, the encoder replaced by a hash.

``python benchmarks/encode_memory.py``

Anonymous memory (``RssAnon`` in ``/proc/self/status``, every 20 ms) above that after the imports: what the store's
files take in the page cache is not in it. The texts lie in a Parquet file; the stand-in returns 384 numbers a text.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from memory import anonymous, watch_memory

from recbole_llminit import EncodeOptions
from recbole_llminit.encode import pipeline as encoding

WIDTH = 384


class HashEncoder:
    """A stand-in for an encoder: numbers from a hash of each text."""

    description: Mapping[str, Any] = {}
    truncated = 0
    batch_size = 64

    def __init__(self, *_: Any) -> None:
        pass

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of characters."""
        return np.array([len(text) for text in texts])

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a row of numbers per text."""
        seeds = np.array([hash(text) for text in texts]) % 1000
        return ((seeds[:, None] + np.arange(WIDTH)[None]) / 1000).astype(np.float32)


def write_texts(path: Path, count: int) -> None:
    """Write a table of synthetic titles, a block at a time."""
    words = np.array(["green", "tea", "guitar", "strap", "steel", "kettle", "travel", "bag", "lamp", "blue"])
    generator = np.random.default_rng(0)
    schema = pa.schema({"item_id": pa.string(), "title": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, 100_000):
            drawn = words[generator.integers(0, len(words), size=(min(100_000, count - first), 8))]
            ids = [f"B{number:09d}" for number in range(first, first + len(drawn))]
            titles = [f"{' '.join(row)} {number}" for number, row in enumerate(drawn, first)]
            writer.write_table(pa.table({"item_id": ids, "title": titles}, schema=schema))


def main() -> None:
    """Encode, encode again with nothing to do, and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args()
    encoding.EndpointEncoder = HashEncoder  # type: ignore[assignment, attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.parquet"
        write_texts(texts, options.items)
        arguments = [
            "--dataset=million",
            f"--llm_text_file={texts}",
            f"--llm_cache_dir={scratch}",
            "--llm_encoder=openai:hash",
        ]
        settings = EncodeOptions.from_files([], [*arguments, "--show_progress=False"])
        after_imports = anonymous()
        for name in ("encode", "nothing to do"):
            with watch_memory(0.02) as peak:
                began = time.perf_counter()
                report = encoding.encode_items(settings)
                seconds = time.perf_counter() - began
            size = sum(path.stat().st_size for path in report.folder.glob("*.arrow")) / 1e6
            above = peak.megabytes - after_imports
            print(
                f"{name}: {report.encoded:,} of {report.items:,} items encoded, {seconds:.1f} s, peak {above:.0f} MB "
                f"above the {after_imports:.0f} MB after imports; store {size:.0f} MB in "
                f"{len(list(report.folder.glob('*.arrow')))} shards"
            )
    print(f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}")


if __name__ == "__main__":
    main()
