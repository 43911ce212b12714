"""Bad files, bad inputs and interrupted saves: nothing lost, nothing executed, nothing silently wrong.

``python benchmarks/robustness.py`` runs all three parts, some 20 minutes on two cores; ``--part=files --count=5000
--out=/tmp/some`` fewer files; ``--part=inputs --only=^store --keep=/tmp/wrong --out=/tmp/some`` one class of the table.

*files*: ``--count`` whole files of every form that the package reads (vectors, ids, stores, item texts, YAML,
checkpoints, trials, reports) are damaged at random and read, lazily mapped values too. Each must become a result or an
`LLMInitError`: no other exception, no crash, none over 10 s in 8 GiB of address space. A result is not compared with
the whole file's: a flipped bit of a vector is a vector.

*inputs*: a table of bad and unusual configurations, commands and files, each run through the real command line in a
fresh folder. A bad one must be one clear error of one line (exit status 2) before training, and name what was given; a
right one must succeed; an unusual one may do either. It is WRONG where there is a traceback, several messages, a crash,
more than 60 s, an error after training began, a canary file that only executed text can make, or success where there
must be none.

*saves*: BPR and LightGCN save again into the checkpoint of an earlier run, and the save is cut: at random bytes (a
limit on the size of files, as a full disk), by SIGKILL at random moments, by an exception inside it. After each the
earlier checkpoint, or a whole new one, must load, and nothing else that is visible may stand beside it.

Written are ``OUT_files.csv`` (by reader and damage), ``OUT_inputs.csv`` (a row a case), ``OUT_saves.csv`` (a row a
cut) and ``OUT.md`` with the totals of the parts that ran; what is wrong is printed as it is found. ``--keep`` keeps
files and output of what is wrong. The exit status is 1 where anything is.

The parts stand in modules beside this one: ``robustness_files`` with ``robustness_readers`` and
``robustness_mutations``; ``robustness_inputs`` with the tables ``robustness_cases`` (of ``robustness_values``),
``_vectors``, ``_ids``, ``_checkpoints``, ``_stores``, ``_hostile`` and ``_calls``, and what they share in
``robustness_making``; and ``robustness_saves``. ``robustness_valid`` makes the whole files, ``robustness_children``
runs forked children. Linux only; the network is never used beyond this machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")

import pandas as pd
import torch
from robustness_files import read_damaged
from robustness_inputs import Outcome, all_cases, run_cases, write_home
from robustness_saves import cut_saves

# Imported once, before the children are forked.
_IMPORTED = (
    "matplotlib.figure",
    "openai",
    "recbole.data.dataloader",
    "recbole.model.general_recommender",
    "recbole.model.sequential_recommender.sasrec",
    "recbole_llminit.compare.comparison",
    "recbole_llminit.encode.pipeline",
    "recbole_llminit.inspection",
    "tensorboard.plugins.hparams.summary_v2",
    "torch._dynamo",
    "torch.utils.tensorboard",
)
_PACKAGES = ("recbole", "torch", "numpy", "pandas", "pyarrow", "safetensors", "yaml")
_HOME = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """The outcome of a part.

    Parameters
    ----------
    name : str
        Its name.
    rows : DataFrame
        What is written as CSV.
    summary : DataFrame
        The totals, for the page.
    tried, wrong : int
        How many were tried, and how many did what they must not.
    seconds : float
        How long it took.
    """

    name: str
    rows: pd.DataFrame
    summary: pd.DataFrame
    tried: int
    wrong: int
    seconds: float


def try_files(options: argparse.Namespace, folder: Path) -> Part:
    """Damage and read files."""
    began = time.perf_counter()
    rows, findings = read_damaged(options.count, options.seed, folder, options.keep)
    for finding in findings:
        what = f"{finding.kind} of {finding.file}, number {finding.number}"
        print(f"WRONG {finding.subject} | {what} | {' '.join(finding.what.split())}")
    counted = ["files", "results", "errors", "other_exceptions", "crashes", "slow"]
    groups = rows.groupby("reader", sort=False)
    summary = groups[counted].sum().join(groups["slowest_seconds"].max()).reset_index()
    wrong = int(rows[["other_exceptions", "crashes", "slow"]].to_numpy().sum())
    return Part("files", rows.round(2), _with_total(summary), int(rows["files"].sum()), wrong, _since(began))


def try_inputs(options: argparse.Namespace, folder: Path) -> Part:
    """Run the table of inputs."""
    began = time.perf_counter()
    cases = [case for case in all_cases() if re.search(options.only, f"{case.group}: {case.what}")]
    found: dict[str, Outcome] = {}
    for outcome in run_cases(cases, folder, options.keep):
        found[f"{outcome.case.group} {outcome.case.what}"] = outcome
        if outcome.wrong:
            said = outcome.message[:300].replace("\0", "\\0")
            print(f"WRONG {outcome.case.group} | {outcome.case.what} | {outcome.wrong} | {said}", flush=True)
    rows = pd.DataFrame([_row(found[f"{case.group} {case.what}"], folder) for case in cases])
    counts = _counts(rows, "class", "outcome", ["error", "right", "WRONG"])
    wrong = int((rows["outcome"] == "WRONG").sum())
    return Part("inputs", rows, _with_total(counts), len(rows), wrong, _since(began))


def try_saves(options: argparse.Namespace, folder: Path) -> Part:
    """Cut saves."""
    began = time.perf_counter()
    work = folder / "saves"
    work.mkdir()
    rows = pd.DataFrame(cut_saves(options.cuts, options.seed, work))
    for row in rows[rows["wrong"] != ""].itertuples():
        print(f"WRONG {row.model} | {row.how} {row.place} | {row.found}: {row.wrong}")
    what = rows["found"].where(rows["found"].isin(["earlier", "new"]), "broken")
    counts = _counts(rows.assign(found=what), "how", "found", ["earlier", "new", "broken"])
    return Part("saves", rows, _with_total(counts), len(rows), int((rows["wrong"] != "").sum()), _since(began))


_PARTS: dict[str, Callable[[argparse.Namespace, Path], Part]] = {
    "inputs": try_inputs,
    "saves": try_saves,
    "files": try_files,
}


def _row(outcome: Outcome, folder: Path) -> dict[str, object]:
    message = re.sub(r"\x1b\[[0-9;]*m", "", outcome.message)
    message = re.sub(rf"{re.escape(str(folder))}/(case\d+|home)", "", message).replace(str(_HOME), "")
    return {
        "class": outcome.case.group,
        "what": outcome.case.what.replace(str(_HOME), ""),
        "outcome": outcome.word,
        "wrong": outcome.wrong,
        "status": outcome.ending.status,
        "seconds": round(outcome.ending.seconds, 1),
        "message": message[:200] if outcome.word != "right" else "",
    }


def _counts(rows: pd.DataFrame, by: str, of: str, words: list[str]) -> pd.DataFrame:
    """Count how often each word stands in a column, by another column."""
    groups = rows.groupby(by, sort=False)[of]
    return pd.DataFrame(
        {word: groups.agg(lambda found, word=word: int((found == word).sum())) for word in words}
    ).reset_index()


def _with_total(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a line with the sums, and of seconds the most."""
    name, *others = frame.columns
    total = {other: frame[other].max() if other == "slowest_seconds" else frame[other].sum() for other in others}
    return pd.concat([frame, pd.DataFrame([{name: "all", **total}])], ignore_index=True)


def _since(began: float) -> float:
    return time.perf_counter() - began


def write_page(parts: list[Part], options: argparse.Namespace, path: Path) -> None:
    """Write the totals, and how they were made."""
    versions = ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in _PACKAGES)
    lines = [
        "# Bad files, bad inputs, interrupted saves",
        "",
        f"`{' '.join(['python', *options.command])}`, seed {options.seed}, on Python {platform.python_version()}, "
        f"{versions}; {os.cpu_count()} cores. What is tried and what counts as wrong: "
        "[`benchmarks/robustness.py`](../benchmarks/robustness.py).",
        "",
        "| part | tried | wrong | minutes |",
        "|---|---|---|---|",
        *(f"| {part.name} | {part.tried:,} | {part.wrong:,} | {part.seconds / 60:.1f} |" for part in parts),
    ]
    for part in parts:
        names = [str(name).replace("_", " ") for name in part.summary.columns]
        lines += ["", f"## {part.name}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in part.summary.itertuples(index=False)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Run the parts, write the outcome, and exit with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*_PARTS, "all"), default="all")
    parser.add_argument("--count", type=int, default=50_000, help="damaged files")
    parser.add_argument("--cuts", type=int, default=50, help="saves that are cut at a byte, and as many by SIGKILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the inputs those whose class and command match")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    parser.add_argument("--keep", type=Path, help="a folder for the files and the output of what is wrong")
    options = parser.parse_args()
    options.command = [str(Path("benchmarks") / Path(sys.argv[0]).name), *sys.argv[1:]]
    torch.set_num_threads(1)
    for name in _IMPORTED:
        importlib.import_module(name)
    # RecBole measures the processor for a second at the end of each run.
    psutil: Any = importlib.import_module("psutil")
    psutil.cpu_percent = lambda *_, **__: 0.0
    with tempfile.TemporaryDirectory(prefix="robustness", ignore_cleanup_errors=True) as scratch:
        write_home(Path(scratch))
        chosen = [part for name, part in _PARTS.items() if options.part in (name, "all")]
        parts = [part(options, Path(scratch)) for part in chosen]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        part.rows.to_csv(f"{options.out}_{part.name}.csv", index=False)
        print(f"\n{part.summary.to_string(index=False)}")
        print(f"{part.wrong:,} of {part.tried:,} {part.name} wrong, {part.seconds:.0f} s")
    write_page(parts, options, options.out.with_suffix(".md"))
    sys.exit(any(part.wrong for part in parts))


if __name__ == "__main__":
    main()
