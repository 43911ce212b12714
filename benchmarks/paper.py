# ruff: noqa: E501  the text is markdown
"""The paper's table on amazon-office beside the published figures.

``recbole-llminit compare --config_files=yaml/paper/amazon-office.yaml --out=masked``
``recbole-llminit compare --config_files=yaml/paper/amazon-office.yaml --repeatable=True --out=repeatable`` (any models)
``python benchmarks/paper.py --masked=masked --repeatable=repeatable``

Writes ``results/paper.md`` and ``results/paper.csv`` (a row per run).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.table import SectionRow, draw_markdown

# The LLMInit paper, arXiv 2503.01814 (second hand, from a summary): Recall@10 and NDCG@10 of random and var.
PUBLISHED = {("LightGCN", "none"): ".0745 / -", ("LightGCN", "var"): ".0816 / -",
             ("SGCL", "none"): ".0647 / .0298", ("SGCL", "var"): ".0776 / .0366"}  # fmt: skip
# sachamullers/RecSysGroup3, commit 05ee14a: all-mpnet-base-v2, one seed.
RERUN = {("LightGCN", "none"): ".0745 / .0365", ("LightGCN", "rand"): ".0380 / .0186",
         ("LightGCN", "uni"): ".0764 / .0375", ("LightGCN", "var"): ".0761 / .0381",
         ("SGL", "none"): ".0635 / .0252", ("SGL", "rand"): ".0782 / .0403",
         ("SGL", "uni"): ".0813 / .0407", ("SGL", "var"): ".0791 / .0394",
         ("SGCL", "none"): ".0500 / .0194", ("SGCL", "rand"): ".0779 / .0404",
         ("SGCL", "uni"): ".0755 / .0389", ("SGCL", "var"): ".0801 / .0407"}  # fmt: skip
TEXT = """# The paper's table on amazon-office

Recall@10 / NDCG@10 at test. **Masked**: a user's training items are neither ranked at evaluation nor drawn as negatives, RecBole's
way for general models. **Unmasked** (`repeatable: True`): they are both, as the official release has it. Seeds: {seeds}.

{table}

Against the stock initialization of the same model: ▲ significantly higher, ▼ significantly lower, = not significant; paired t-test over
{users} users, Holm's correction over the tests of a column and metric, p < 0.05; bold: the best of its model, where it is better. One
split: the tests weigh the choice of users, not the chance of the split or of the initialization. "-": not run here (for want of time), or not
published.

Unmasked, NDCG@10 of LightGCN and SGCL is 50 to 60 % of what it is masked: a user's own training items may stand at the top of the
list. Where the masked LightGCN differs between initializations, the unmasked one does not.

## What differs

| | here | paper | independent rerun |
|---|---|---|---|
| source of the figures | [`paper.csv`](paper.csv) | LLMInit, arXiv 2503.01814, through a summary: random and Var alone | sachamullers/RecSysGroup3, commit 05ee14a |
| data | amazon-office: a part of the 2018 Office Products 5-core set, October 2016 to November 2018; 3,231 users, 3,317 items, 21,188 interactions; no ratings | the 2014 Office set, ratings of 4 and more | the same as the paper's |
| encoder, text | all-MiniLM-L6-v2 (384), titles | all-mpnet-base-v2 (768) by default, descriptions | all-mpnet-base-v2; `normalize_all: True` bends every vector column to [0, 1] |
| `rand` | distinct dimensions | drawn with replacement | as the paper |
| a user without training items | keeps the model's initialization | 0 / 0 | as the paper |
| training items at evaluation | both ways, see above | unmasked (`repeatable: True`) | unmasked |
| SGCL | this package's, from the loss as the paper's release has it | the release | the release |
| the same | d = 128, 2 layers, reg 1e-5, Adam 1e-3, batch 256, 300 epochs, patience 10 on NDCG@10, one uniform negative, leave one out in random order, full ranking, seed 2020 | | |

amazon-beauty was not run at these settings, for want of time; the file for it is
[`yaml/paper/amazon-beauty.yaml`](../yaml/paper/amazon-beauty.yaml).

So levels cannot be compared between the columns; the direction from `none` to the LLM initializations can. In every column `rand`, `uni`
and `var` lie close together. No controls are in this table, because the paper has none: with a tuned stock initialization, noise and
shuffled rows beside them see [`office.md`](office.md).

## How it was made

```bash
{masked}
{repeatable}
python benchmarks/paper.py --masked=masked --repeatable=repeatable
```

{environment}
"""


def _draw_cells(row: SectionRow) -> str:
    """Draw both metrics of a row, each with its change from the stock initialization where that is tested."""
    cells = [cell.to_markdown() for cell in row.cells.values()]
    changes = [f" ({change})" for change in row.against.get("none", ())] or [""] * len(cells)
    return " / ".join(f"{cell}{change}" for cell, change in zip(cells, changes, strict=True))


def main() -> None:
    """Read both comparisons and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masked", type=Path, required=True)
    parser.add_argument("--repeatable", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    reports = {"masked": Report.read(options.masked), "unmasked": Report.read(options.repeatable)}
    cells = {
        name: {
            (row.model, row.initialization): _draw_cells(row) for section in report.sections() for row in section.rows
        }
        for name, report in reports.items()
    }
    masked = reports["masked"]
    rows = [
        {
            "model": model,
            "initialization": initialization,
            **{name: found.get((model, initialization), "-") for name, found in cells.items()},
            "paper": PUBLISHED.get((model, initialization), "-"),
            "independent rerun": RERUN.get((model, initialization), "-"),
        }
        for model, initialization in cells["masked"]
    ]
    runs = pd.concat([report.runs.assign(protocol=name) for name, report in reports.items()])
    runs.to_csv(options.out / "paper.csv", index=False)
    text = TEXT.format(
        table=draw_markdown(pd.DataFrame(rows)),
        seeds=", ".join(str(seed) for seed in sorted(set(masked.runs["seed"]))),
        users=f"{masked.tests['users'].max():,}",
        masked=masked.command,
        repeatable=reports["unmasked"].command,
        environment="; ".join(masked.environment) + ".",
    )
    (options.out / "paper.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
