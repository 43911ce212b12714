"""Validation curves and test results of three models on amazon-office from the stock start and from LLM starts.

``python benchmarks/convergence.py --data_path=dataset --out=results``

Trains ``yaml/bpr_amazon-office.yaml`` and its kin (the vectors made as the files say) for every model, start and seed,
on one torch thread, through `run_recbole_llminit`; writes ``starts_amazon-office.csv`` (a row per run),
``starts_amazon-office_curves.csv`` (a row per epoch), ``starts_amazon-office.md`` (means over the seeds) and
``starts_amazon-office.png``. A run whose row stands in the CSV is not trained again. A seed sets split, negatives and
start. Two of the starts are controls: the stock start with a higher learning rate, and ``var`` at the deviation of the
stock start.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_llminit import run_recbole_llminit

CONFIGURATIONS = Path(__file__).parents[1] / "yaml"
NAME = "starts_amazon-office"
MODELS = ("BPR", "LightGCN", "SGCL")
STARTS: dict[str, dict[str, Any]] = {
    "none": {"init_strategy": "none"},
    "none, learning_rate 0.003": {"init_strategy": "none", "learning_rate": 0.003},
    "rand": {"init_strategy": "rand"},
    "uni": {"init_strategy": "uni"},
    "var": {"init_strategy": "var"},
    "var, init_scale model": {"init_strategy": "var", "init_scale": "model"},
}


def train(model: str, start: str, seed: int, settings: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train one model from one start with one seed; return its row and its curve."""
    run = {"model": model, "start": start, "seed": seed}
    curve: list[dict[str, Any]] = []
    began = time.perf_counter()
    result = run_recbole_llminit(
        config_file_list=[CONFIGURATIONS / f"{model.lower()}_amazon-office.yaml"],
        config_dict={**settings, **STARTS[start], "seed": seed, "show_progress": False, "state": "WARNING"},
        callback_fn=lambda epoch, score: curve.append({**run, "epoch": epoch + 1, "valid": float(score)}),
    )
    best = max(range(len(curve)), key=lambda index: curve[index]["valid"])
    row = {**run, "epochs": curve[best]["epoch"], "seconds": time.perf_counter() - began}
    return {**row, "valid ndcg@10": result["best_valid_score"], **result["test_result"]}, curve


def draw(curves: pd.DataFrame, path: Path) -> None:
    """Draw the mean validation curve of each start; a run that has stopped keeps its best score."""
    import matplotlib.pyplot as plt

    models = [model for model in MODELS if model in set(curves["model"])]
    figure, (panels,) = plt.subplots(
        1, len(models), figsize=(4.5 * len(models), 4.2), layout="constrained", sharey=True, squeeze=False
    )
    for axes, model in zip(panels, models, strict=True):
        of_model = curves[curves["model"] == model]
        last = int(of_model["epoch"].max())
        for start, style in zip(STARTS, ("k-", "k:", "C0-", "C1-", "C2-", "C2:"), strict=True):
            if not (of_model["start"] == start).any():
                continue
            runs = of_model[of_model["start"] == start].pivot_table(index="seed", columns="epoch", values="valid")
            best = runs.reindex(columns=range(1, last + 1)).cummax(axis=1).ffill(axis=1)
            axes.plot(best.columns, best.mean(), style, label=start)
            axes.fill_between(best.columns, best.min(), best.max(), color=style[:-1], alpha=0.1, linewidth=0)
        axes.set(xlabel="epoch", xlim=(1, last))
        axes.set_title(f"{model}, mean and range over {of_model['seed'].nunique()} seeds", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(0, 1.05 * float(curves["valid"].max()))
    panels[0].set_ylabel("best validation NDCG@10 so far")
    panels[-1].legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path, dpi=130)


def write_report(rows: pd.DataFrame, path: Path) -> None:
    """Write mean and deviation over the seeds as a markdown table."""
    metrics = ["recall@10", "ndcg@10", "recall@20", "ndcg@20"]
    seeds = sorted(int(seed) for seed in rows["seed"].unique())
    lines = [
        "# BPR, LightGCN and SGCL on amazon-office from the stock start and from LLM starts",
        "",
        f"Test results, mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))}); *epochs* is "
        "the best epoch by validation NDCG@10. A seed sets split, negatives and start, so that the deviation holds the "
        "split's as well. No significance test was made.",
        "",
        f"| model | start | epochs | {' | '.join(metrics)} |",
        f"|---|---|---|{'---|' * len(metrics)}",
    ]
    for model in dict.fromkeys(rows["model"]):
        for start in STARTS:
            runs = rows[(rows["model"] == model) & (rows["start"] == start)]
            if runs.empty:
                continue
            cells = [f"{runs[metric].mean():.4f} ± {runs[metric].std():.4f}" for metric in metrics]
            lines.append(f"| {model} | {start} | {runs['epochs'].mean():.0f} | {' | '.join(cells)} |")
    lines += [
        "",
        f"![validation curves]({NAME}.png)",
        "",
        "Made by `python benchmarks/convergence.py`: the settings of `yaml/bpr_amazon-office.yaml`, "
        "`yaml/lightgcn_amazon-office.yaml` and `yaml/sgcl_amazon-office.yaml`, vectors of `recbole-llminit encode` "
        "(all-MiniLM-L6-v2, titles), one "
        f"torch thread; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, pandas "
        f"{pd.__version__}. Every run stands in [{NAME}.csv]({NAME}.csv).",
        "",
    ]
    path.write_text("\n".join(lines))


def main() -> None:
    """Train what is missing, then draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, default=Path("dataset"))
    parser.add_argument("--store", type=Path, help="the vectors; left out, they are made as the files say")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"data_path": str(options.data_path.resolve())}
    if options.store:
        settings["llm_embedding"] = str(options.store.resolve())
    out = options.out.resolve()
    out.mkdir(exist_ok=True)
    rows_path, curves_path = out / f"{NAME}.csv", out / f"{NAME}_curves.csv"
    rows = pd.read_csv(rows_path).to_dict("records") if rows_path.exists() else []
    curves = pd.read_csv(curves_path).to_dict("records") if curves_path.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for model, seed, start in itertools.product(options.models, options.seeds, options.starts):
            if any((row["model"], row["seed"], row["start"]) == (model, seed, start) for row in rows):
                continue
            row, curve = train(model, start, seed, settings)
            print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
            rows.append(row)
            curves += curve
            pd.DataFrame(curves).to_csv(curves_path, index=False)
            pd.DataFrame(rows).round(4).to_csv(rows_path, index=False)
    draw(pd.DataFrame(curves), out / f"{NAME}.png")
    write_report(pd.DataFrame(rows), out / f"{NAME}.md")


if __name__ == "__main__":
    main()
