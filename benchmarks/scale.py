"""Time and memory of each strategy on stores of up to 2,000,000 items x 1024 dimensions, beside a plain read.

``python benchmarks/scale.py --data=FOLDER``

The vectors (float16, a power-law spectrum in a random basis, a common direction) are written once into FOLDER as
stores of Arrow shards; interactions are random, popularity heavy-tailed, five per item and ten for ``lae``. Every
measurement is in a process of its own, with the files in the page cache or, with ``--cold``, dropped from it first.
*Seconds* are those of fit and reduction of all items to 128 columns; *reads* are these seconds in those of a plain
sequential read of the same files in the same process. What takes less than ten is run again three times, whose median
counts, after as much memory as the values need was touched and freed; the *first* run besides takes new memory, which
can cost a virtual machine two seconds per gigabyte. *Peak* is anonymous memory above that with the imports until the
last value; the dataset, that is names and interactions, is in it. Prints the medians, writes ``scale.csv``
(``scale_cold.csv``) after each round, where what was measured replaces former figures of the same, and of both
``scale.md`` and ``scale.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from memory import anonymous, give_back_freed, watch_memory
from scipy.sparse import csr_matrix
from tqdm import tqdm

import recbole_llminit.integration.config  # noqa: F401  registers the strategies
from recbole_llminit.initialization.rows import reduce_rows
from recbole_llminit.strategies.base import get_strategy
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import append_shard

WIDTH, N_COMPONENTS, EACH, EACH_OF_LAE = 1024, 128, 5, 10
# Seconds after which a measurement is not repeated in its process.
ENOUGH = 10
SHARD_ROWS = 32_768
STRATEGIES = {
    "uni": ("uni", {}),
    "rand": ("rand", {}),
    "var": ("var", {}),
    "prefix": ("prefix", {}),
    "rp": ("rp", {}),
    "pca": ("pca", {}),
    "whiten": ("whiten", {}),
    "cca": ("cca", {}),
    "whiten, smooth 0.5": ("whiten", {"smooth": 0.5}),
    "lae": ("lae", {}),
}
WITH_COVARIANCE = ("pca", "whiten", "cca", "whiten, smooth 0.5")


def tokens(count: int) -> list[str]:
    """Return the item tokens in the order of the store."""
    return [f"B{item:09d}" for item in range(count)]


def write_store(folder: Path, count: int) -> None:
    """Write a store of vectors whose std along the i-th direction falls as i ** -0.5, beside a mean as long as all."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))
    stds = np.arange(1, WIDTH + 1) ** -0.5
    stds /= np.sqrt((stds**2).sum())
    mixing = (stds[:, None] * basis).astype(np.float32)
    mean = generator.standard_normal(WIDTH, dtype=np.float32) / np.float32(np.sqrt(WIDTH))
    names = tokens(count)
    for first in tqdm(range(0, count, SHARD_ROWS), desc=f"writing {count:,} vectors"):
        ids = names[first : first + SHARD_ROWS]
        vectors = generator.standard_normal((len(ids), WIDTH), dtype=np.float32) @ mixing + mean
        append_shard(folder, ids, [""] * len(ids), vectors.astype(np.float16), {"model": "synthetic"})


def make_interactions(count: int, each: int) -> csr_matrix:
    """Return random interactions of half as many users, so many per item, whose popularity has a heavy tail."""
    generator = np.random.default_rng(1)
    users = generator.integers(1, count // 2 + 1, each * count)
    items = 1 + (generator.random(each * count) ** 3 * count).astype(np.int64)
    matrix = csr_matrix((np.ones(each * count, dtype=np.float32), (users, items)), shape=(count // 2 + 1, count + 1))
    matrix.data[:] = 1
    return matrix


def read_plainly(folder: Path) -> tuple[float, int]:
    """Read all files of a store from the first byte to the last; return seconds and bytes."""
    buffer = memoryview(bytearray(8 << 20))
    began, total = time.perf_counter(), 0
    for path in sorted(folder.glob("*.arrow")):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return time.perf_counter() - began, total


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the files' pages."""
    for path in folder.glob("*.arrow"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(name: str, folder: Path, count: int, *, cold: bool) -> dict[str, float]:
    """Return one measurement."""
    if cold:
        drop_from_cache(folder)
    else:
        read_plainly(folder)
    plain, size = read_plainly(folder)
    if cold:
        drop_from_cache(folder)
    before = anonymous()
    # What a training run has before: RecBole's names of the items, in another order than the store's.
    names = np.array(["[PAD]", *tokens(count)])
    np.random.default_rng(2).shuffle(names[1:])
    interactions = make_interactions(count, EACH_OF_LAE if name == "lae" else EACH)
    table = len(names) * N_COMPONENTS * np.dtype(np.float32).itemsize
    give_back_freed()
    dataset = anonymous()
    with watch_memory(0.02) as peak:
        times = [time.perf_counter()]
        embeddings: AlignedEmbeddings = read_embeddings(folder).align(names, "scale")
        times.append(time.perf_counter())
        strategy = get_strategy(*STRATEGIES[name])
        runs: list[tuple[float, float]] = []
        while not runs or (len(runs) < 4 and not cold and sum(fit + reduce for fit, reduce in runs) < ENOUGH):
            if runs:
                np.ones(table, dtype=np.int8)
            began = time.perf_counter()
            fit = strategy.fit(embeddings, N_COMPONENTS, interactions=interactions, seed=0)
            reduction = fit.reduction(N_COMPONENTS)
            fitted = time.perf_counter()
            reduce_rows(fit.embeddings, reduction, N_COMPONENTS)
            runs.append((fitted - began, time.perf_counter() - fitted))
    align = times[1] - times[0]
    first = sum(runs[0])
    again = sorted(runs[1:] or runs, key=sum)
    fit_seconds, reduce_seconds = again[len(again) // 2]
    both = fit_seconds + reduce_seconds
    return {
        "plain": plain,
        "first": first,
        "align": align,
        "fit": fit_seconds,
        "reduce": reduce_seconds,
        "seconds": both,
        "reads": both / plain,
        "gb_per_second": size / 1e9 / both,
        "peak_mb": peak.megabytes - before,
        "dataset_mb": dataset - before,
        "table_mb": table / 2**20,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("scale-data"), help="the folder of the stores, 6.4 GB")
    parser.add_argument("--page", action="store_true", help="write the page of the CSV files that are there")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 2_000_000])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, count = options.one
        sys.stdout.write(json.dumps(measure(name, options.data / count, int(count), cold=options.cold)))
        return
    if options.page:
        write_page(options.out)
        return
    for count in options.items:
        folder = options.data / str(count)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            write_store(unfinished, count)
            unfinished.rename(folder)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
        f"pyarrow {pa.__version__}"
    )
    path = options.out / f"scale{'_cold' if options.cold else ''}.csv"
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame()
    if len(kept):
        kept = kept[~(kept["items"].isin(options.items) & kept["strategy"].isin(options.strategies))]
    runs = []
    for repeat in range(options.repeats):
        for count, name in itertools.product(options.items, options.strategies):
            command = [sys.executable, __file__, "--data", str(options.data), "--one", name, str(count)]
            found = subprocess.run(
                [*command, "--cold"] if options.cold else command, stdout=subprocess.PIPE, text=True, check=True
            )
            measured = json.loads(found.stdout)
            runs.append({"items": count, "strategy": name, "repeat": repeat, **measured, "machine": machine})
            print(runs[-1], flush=True)
        frame = pd.concat([kept, pd.DataFrame(runs)], ignore_index=True)
        frame = frame.sort_values(["items", "strategy", "repeat"], key=in_order, ignore_index=True)
        frame.round(3).to_csv(path, index=False)
    print(frame.groupby(["items", "strategy"], sort=False).median(numeric_only=True).round(2).to_string())
    write_page(options.out)


def in_order(column: pd.Series) -> pd.Series:
    """Return what a column of results is sorted by."""
    return column.map(list(STRATEGIES).index) if column.name == "strategy" else column


def merged(panels: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Return the lines of panels and their names, each name once."""
    named = {name: line for panel in panels for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    return list(named.values()), list(named)


def exponent(seconds: pd.Series) -> float:
    """Return the power of the number of items by which the seconds grow, from 100,000 items on."""
    large = seconds[seconds.index >= 100_000]
    return float(np.polyfit(np.log(large.index), np.log(large), 1)[0]) if len(large) > 1 else np.nan


def bound(name: str, table: float) -> float:
    """Return the memory in MiB that a strategy is meant to stay below; ``lae`` keeps components of all vectors."""
    return 6e9 / 2**20 if name == "lae" else table + 512 + (8 if name in WITH_COVARIANCE else 0)


def write_page(folder: Path) -> None:
    """Write ``scale.md`` and ``scale.png`` from the CSV files of warm and cold runs that are there."""
    files = {"warm": folder / "scale.csv", "cold": folder / "scale_cold.csv"}
    frames = {kind: pd.read_csv(path) for kind, path in files.items() if path.exists()}
    lines = [
        "# Time and memory up to 2,000,000 items x 1024 dimensions",
        "",
        "Made by [`benchmarks/scale.py`](../benchmarks/scale.py), which says what is measured; medians. *Reads*: the",
        "seconds in those of a plain sequential read of the same files in the same process. *Exponent*: the power of",
        "the number of items by which the seconds grow, from 100,000 on. *First*: the seconds at the largest number in",
        "the first run of a process, which takes memory that nothing had touched; the others do not, where they take",
        "less than ten seconds. *Runs*: the processes of each figure. *Peak*: anonymous memory above that of the",
        "imports; the dataset's names and interactions are in it. *Bound*: the table of values, a covariance where one",
        "is needed, and 512 MiB; for `lae` 6 GB.",
        "",
        "![Seconds and memory over the number of items](scale.png)",
    ]
    for kind, frame in frames.items():
        medians = frame.groupby(["strategy", "items"], sort=False).median(numeric_only=True).reset_index()
        seconds = medians.pivot_table(index="strategy", columns="items", values="seconds", sort=False)
        largest = medians.sort_values("items").groupby("strategy", sort=False).last()
        rows = [
            {
                "strategy": f"`{name}`",
                **{f"{items:,} items, s": f"{value:.2f}" for items, value in seconds.loc[name].dropna().items()},
                "exponent": f"{exponent(seconds.loc[name].dropna()):.2f}",
                **({"first, s": f"{largest.loc[name, 'first']:.2f}"} if kind == "warm" else {}),
                "reads": f"{largest.loc[name, 'reads']:.1f}",
                "runs": f"{int(frame.loc[frame['strategy'] == name, 'repeat'].max()) + 1}",
                "GB/s": f"{largest.loc[name, 'gb_per_second']:.2f}",
                "peak, MiB": f"{largest.loc[name, 'peak_mb']:,.0f}",
                "bound, MiB": f"{bound(name, largest.loc[name, 'table_mb']):,.0f}",
            }
            for name in seconds.index
            if name in largest.index
        ]
        title = "files in the page cache" if kind == "warm" else "files dropped from the page cache"
        plain, align = largest["plain"].median(), largest["align"].median()
        lines += [
            "",
            f"## {title.capitalize()}",
            "",
            pd.DataFrame(rows).replace("nan", None).fillna("").to_markdown(index=False),
            "",
            f"At {medians['items'].max():,} items the plain "
            f"read takes {plain:.2f} s, and to open and align the store {align:.2f} s; the dataset takes "
            f"{largest['dataset_mb'].median():,.0f} MiB of the peak. {frame['machine'][0]}.",
        ]
    (folder / "scale.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(frames.get("warm", next(iter(frames.values()))), folder / "scale.png")


def draw(shown: pd.DataFrame, path: Path) -> None:
    """Draw seconds and memory over the number of items."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    medians = shown.groupby(["strategy", "items"], sort=False)
    for name, group in medians.median(numeric_only=True).reset_index().groupby("strategy", sort=False):
        for panel, column in zip(panels, ("seconds", "peak_mb"), strict=True):
            panel.plot(group["items"], group[column], marker="o", markersize=3, label=name)
    plain, table = shown.groupby("items")["plain"].median(), shown.groupby("items")["table_mb"].first()
    panels[0].plot(plain.index, plain, color="black", linestyle=":", label="plain read")
    panels[1].plot(table.index, table + 512, color="black", linestyle="--", label="bound without covariance")
    panels[0].set(xscale="log", yscale="log", xlabel="items", ylabel="seconds, fit and values")
    panels[1].set(ylim=(0, None), xlabel="items, millions", ylabel="peak of anonymous memory, MiB")
    panels[1].xaxis.set_major_formatter(lambda items, _: f"{items / 1e6:g}")
    figure.legend(*merged(panels), loc="outside right upper", frameon=False, fontsize=7)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
