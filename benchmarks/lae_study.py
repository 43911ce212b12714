"""Make ``results/lae.md`` of the comparisons of ``yaml/study/lae_*.yaml``.

``python benchmarks/lae_study.py --study=study``

Each comparison stands in a folder of its own name under ``--study``. The page has its verdict and its table; the whole
report of each is published beside it by ``benchmarks/publish_comparison.py``. Below stands how far the score before
training foretells the one after it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from scipy import stats

from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.runner import PLAN

STAGES = {
    "lae_office_bpr": "BPR on amazon-office",
    "lae_office_lightgcn": "LightGCN on amazon-office",
    "lae_office_wide": "Tables of 384 columns on amazon-office",
    "lae_ml100k": "BPR and LightGCN on ml-100k",
}
INTRODUCTION = """# `auto` and `lae` against tuned baselines

`auto` takes `lae`, `cca` or `whiten` by held-out training clicks; which one it took stands in the column `strategy`
of the CSV files. *Clicks alone* is `lae` with `kappa: 0`, a control that reads no text. *Shuffled* gives the vectors
to the items in random order. Vectors: all-MiniLM-L6-v2 of the titles (ml-100k: titles and genres). The strategy's
parameters that nobody sets (`rho`, `power`, `exponent`, the scale of the scores) were chosen by validation on amazon-
office, amazon-beauty and ml-100k with seed 2020, which is among the seeds below. How to read the tables: each stands
with its legend in the whole report.
"""


def describe(name: str, report: Report) -> str:
    """Return the section of a comparison: verdict, table, what was tuned, and a link to the whole report."""
    tuned = report.to_dataframe()
    chosen = "; ".join(
        f"{row.model} {row.initialization}".strip() + f": {row.tuned}"
        for row in tuned.itertuples()
        if isinstance(row.tuned, str) and row.tuned
    )
    parts = [
        f"## {STAGES[name]}",
        *report.verdict,
        report.to_markdown(),
        f"Tuning chose: {chosen}." if chosen else "",
        f"The whole report: [`{name}.md`]({name}.md). Made by "
        f"`recbole-llminit compare --config_files=yaml/study/{name}.yaml --out=study/{name}`.",
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def describe_foretelling(reports: dict[str, Report]) -> str:
    """Return a table of the rank correlation of the scores before and after training, over the initializations."""
    rows = []
    for report in reports.values():
        runs = report.runs
        if "epoch 0 valid_score" not in runs:
            continue
        runs = runs[runs["epoch 0 valid_score"].notna() & (runs["tuned"] == "")]
        for (dataset, model), group in runs.groupby(["dataset", "model"], sort=False):
            means = group.groupby("initialization", sort=False)[["epoch 0 valid_score", "valid_score"]].mean()
            if len(means) < 3:
                continue
            order = means.sort_values("epoch 0 valid_score", ascending=False)
            listed = ", ".join(f"{name} {before:.3f} → {after:.3f}" for name, before, after in order.itertuples())
            correlation = stats.spearmanr(means["epoch 0 valid_score"], means["valid_score"]).statistic
            rows.append([dataset, model, f"{correlation:.2f}", listed])
    columns = ["data", "model", "rank correlation", "initializations: before → after"]
    table: str = pd.DataFrame(rows, columns=columns).to_markdown(index=False)
    return (
        "## Does the score before training foretell the one after it?\n\n"
        "Means of the validation score over the seeds, and Spearman's rank correlation over the initializations that "
        f"were not tuned.\n\n{table}"
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("study"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    found = [name for name in STAGES if (options.study / name / PLAN).exists()]
    reports = {name: Report.read(options.study / name) for name in found}
    sections = [describe(name, report) for name, report in reports.items()]
    page = "\n\n".join([INTRODUCTION.strip(), *sections, describe_foretelling(reports)])
    (options.out / "lae.md").write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
