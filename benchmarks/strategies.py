r"""The study of strategies: its tables, tests and figures.

Each stage is a comparison, all in one folder, so that none trains again what another has trained::

    for stage in strategies scales options finalists finalists_sgcl finalists_sgl finalists_sasrec \
                 beauty_bpr beauty_lightgcn sparse ml100k ml100k_patient collapse; do
        recbole-llminit compare --config_files=yaml/study/$stage.yaml --out=study
    done
    python benchmarks/agreement.py
    python benchmarks/strategies.py --study=study

Arguments as ``--llm_encoder=PATH`` go to every stage, as they do to ``compare``. The words of the page are in
``benchmarks/strategies.md``. Writes ``results/strategies.md``, ``strategies.csv`` (a row for each line and seed of each
stage), ``strategies_tests.csv`` and the figures.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from recbole_llminit.compare.figures import draw_figures
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.compare.report import LINE, Cell, Report
from recbole_llminit.compare.statistics import holm, paired_test, user_differences
from recbole_llminit.compare.trial import TrialResult, read_trial

# Models and data on which no strategy was chosen; of amazon-beauty the scale of cca was.
ELSEWHERE = ("finalists_sgcl", "finalists_sgl", "finalists_sasrec", "beauty_bpr", "beauty_lightgcn")
STAGES = ("strategies", "scales", "options", "finalists", *ELSEWHERE,
          "sparse", "ml100k", "ml100k_patient", "collapse")  # fmt: skip
RECOMMENDED = "cca"
# What the recommended start is to be better than.
RIVALS = ("var", "none tuned", "noise", "var shuffled", "cca shuffled", "EASE")
METRICS = ("recall@10", "ndcg@10")


@dataclass(frozen=True)
class Stage:
    """A stage of the study that has finished."""

    name: str
    report: Report
    results: Mapping[str, TrialResult]


def read_stage(name: str, study: Path, arguments: Sequence[str]) -> Stage:
    """Read the trials of a stage's file from the study's folder."""
    path = Path("yaml/study") / f"{name}.yaml"
    plan = make_plan(CompareOptions.from_files([path], arguments))
    found = {trial: read_trial(study / "trials", trial) for trial in plan.trials}
    results = {trial: result for trial, result in found.items() if result is not None}
    command = f"recbole-llminit compare --config_files={path} --out=study"
    return Stage(name, Report.of(plan.entries, results, plan.options, command=command), results)


def draw_stage(stage: Stage, drop: str = "none") -> str:
    """Draw a stage's lines with what was chosen by and what it cost."""
    runs = stage.report.runs[stage.report.runs["drop"] == drop]
    means = runs.groupby(["model", "start"])[["valid_score", "best_epoch"]].mean()
    rows = []
    (section,) = [section for section in stage.report.sections() if section.drop == drop]
    for row in section.rows:
        # Without its letter, which is all that a baseline's has.
        start = re.sub(r" ?\([a-z]\)$", "", row.initialization)
        valid, epoch = means.loc[(row.model, start)]
        rows.append(
            {
                "model": row.model,
                "start": row.initialization,
                "validation NDCG@10": f"{valid:.4f}",
                **{metric: Cell.to_markdown(cell) for metric, cell in row.cells.items()},
                "best epoch": f"{epoch:.0f}" if start else "-",
            }
        )
    table: str = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return table


def draw_drops(stage: Stage) -> str:
    """Draw a stage's validation and test scores over the share of the training interactions that was dropped."""
    runs = stage.report.runs
    parts = []
    for column in ("valid_score", *METRICS):
        table = runs.pivot_table(index=["model", "start"], columns="drop", values=column, sort=False)
        table = table.map("{:.4f}".format).rename(columns={"none": "0"}).sort_index(axis="columns")
        name = "validation NDCG@10" if column == "valid_score" else column
        table.columns = [f"{name}, {share} dropped" for share in table.columns]
        parts.append(table.reset_index().to_markdown(index=False, disable_numparse=True))
    return "\n\n".join(parts)


def draw_agreement(path: Path) -> str:
    """Draw what ``benchmarks/agreement.py`` measured: that of the vectors, and of vectors in random orders."""
    measured = pd.read_csv(path)
    by_chance = measured["shuffled"] != "no"
    keys = ["dataset", "dropped", "items a user"]
    found = measured[~by_chance].set_index(keys)["agreement"]
    shuffled = measured[by_chance].groupby(keys, sort=False)["agreement"].agg(["mean", "std"])
    rows = [
        {
            "data": data,
            "interactions dropped": f"{dropped:.0%}",
            "training items a user": f"{items:.1f}",
            "agreement": f"{found[data, dropped, items]:.2f}",
            "in random order": f"{mean:.2f} ± {deviation:.2f}",
        }
        for (data, dropped, items), (mean, deviation) in shuffled.iterrows()
    ]
    table: str = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return table


def test_recommended(stages: Sequence[Stage]) -> pd.DataFrame:
    """Test the recommended start of each model against its rivals, Holm over all tests of a metric."""
    rows = []
    for stage in stages:
        runs = stage.report.runs
        for dataset, model in runs.loc[runs["start"] == RECOMMENDED, ["dataset", "model"]].drop_duplicates().to_numpy():
            ours = runs[(runs["model"] == model) & (runs["start"] == RECOMMENDED)]
            for rival in RIVALS:
                others = _rival(runs, model, rival)
                for metric in METRICS if len(others) else ():
                    differences, seeds = _differences(stage, ours, others, metric)
                    rows.append({"data": dataset, "model": model, "against": rival, "metric": metric,
                                 "recommended": ours[metric].mean(), "rival": others[metric].mean(),
                                 **vars(paired_test(differences, len(seeds)))})  # fmt: skip
    tests = pd.DataFrame(rows)
    tests["p_holm"] = tests.groupby("metric")["p"].transform(lambda p: holm(p.to_list()))
    return tests


def test_pooled(stages: Sequence[Stage], rival: str = "EASE") -> pd.DataFrame:
    """Test the recommended start of the models that all stages have against a rival, over the users of all stages."""
    found = [set(stage.report.runs.loc[stage.report.runs["start"] == RECOMMENDED, "model"]) for stage in stages]
    rows = []
    for model in sorted(set.intersection(*found)):
        for metric in METRICS:
            parts = []
            for stage in stages:
                runs = stage.report.runs
                ours = runs[(runs["model"] == model) & (runs["start"] == RECOMMENDED)]
                parts.append(_differences(stage, ours, _rival(runs, model, rival), metric)[0])
            rows.append({"data": "both", "model": model, "against": rival, "metric": metric,
                         **vars(paired_test(pd.concat(parts, ignore_index=True)))})  # fmt: skip
    return pd.DataFrame(rows)


def _rival(runs: pd.DataFrame, model: str, rival: str) -> pd.DataFrame:
    """Return the runs of another start of the model, or of a baseline."""
    of_model = runs[(runs["model"] == model) & (runs["start"] == rival)]
    return of_model if len(of_model) else runs[(runs["model"] == rival) & (runs["start"] == "")]


def _differences(
    stage: Stage, ours: pd.DataFrame, others: pd.DataFrame, metric: str
) -> tuple[pd.Series, tuple[int, ...]]:
    first, second = (
        {row.seed: stage.results[row.trial].users.set_index("user_id")[metric] for row in lines.itertuples(index=False)}
        for lines in (ours, others)
    )
    return user_differences(first, second)


def measure_speed(stage: Stage) -> pd.DataFrame:
    """Measure at which epoch each start first has the tuned stock start's best validation score, seed by seed."""
    runs = stage.report.runs
    rows = []
    for tuned in runs[runs["start"] == "none tuned"].itertuples(index=False):
        for run in runs[(runs["model"] == tuned.model) & (runs["seed"] == tuned.seed)].itertuples(index=False):
            curve = stage.results[run.trial].content["curve"]
            reached = next((point["epoch"] for point in curve if point["score"] >= tuned.valid_score), None)
            rows.append({"data": run.dataset, "model": run.model, "start": run.start, "seed": run.seed,
                         "epoch": reached, "of_tuned": tuned.best_epoch,
                         "share": reached and reached / tuned.best_epoch})  # fmt: skip
    return pd.DataFrame(rows)


def draw_speed(speed: pd.DataFrame) -> str:
    """Draw the median epochs and shares; a seed that never gets there counts as later than any that does."""
    rows = []
    for (data, model, start), lines in speed.groupby(["data", "model", "start"], sort=False):
        rows.append(
            {
                "data": data,
                "model": model,
                "start": start,
                "epochs (median)": _median(lines["epoch"], "{:.0f}"),
                "share of the tuned start's own (median)": _median(lines["share"], "{:.2f}"),
                "seeds that get there": f"{lines['epoch'].notna().sum()} of {len(lines)}",
            }
        )
    table: str = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return table


def _median(values: pd.Series, form: str) -> str:
    median = values.astype(float).fillna(float("inf")).median()
    return form.format(median) if median < float("inf") else "never"


def draw_tests(tests: pd.DataFrame) -> str:
    """Draw the tests of the recommended start: a line for each rival, with the differences in both metrics."""
    p_values = "p_holm" if "p_holm" in tests else "p"
    rows = []
    for (data, model, rival), lines in tests.groupby(["data", "model", "against"], sort=False):
        row = {"data": data, "model": model, f"{RECOMMENDED} against": rival}
        for metric, line in lines.set_index("metric").iterrows():
            row[f"{metric}: difference [95 % interval]"] = (
                f"{line['difference']:+.4f} [{line['low']:+.4f}, {line['high']:+.4f}]"
            )
            # Smaller ones underflow.
            row[f"{metric}: p"] = f"{line[p_values]:.2g}" if line[p_values] else "< 1e-300"
        rows.append(row)
    table: str = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return table


def draw_figure(stage: Stage) -> Figure:
    """Draw the test metrics of a stage's starts, with the tuned stock start and EASE as lines."""
    runs = stage.report.runs
    models = list(runs.loc[runs["role"] != "baseline", "model"].unique())
    means = runs.groupby(["model", "start", "role"], sort=False)[list(METRICS)].mean().reset_index()
    figure = Figure(figsize=(9, 0.26 * means["start"].nunique() + 1.2), layout="constrained")
    panels = figure.subplots(1, 2 * len(models), sharey=True)
    colours = {"llm": "#d95f02", "control": "#8c8c8c", "stock": "black"}
    for number, (model, metric) in enumerate((model, metric) for model in models for metric in METRICS):
        panel, lines = panels[number], means[means["model"] == model]
        panel.scatter(lines[metric], lines["start"], color=[colours[role] for role in lines["role"]], s=18)
        for name, style in (("none tuned", ":"), ("EASE", "--")):
            level = means.loc[(means["start"] == name) & (means["model"] == model) | (means["model"] == name), metric]
            if len(level):
                panel.axvline(level.iloc[0], color="black", linestyle=style, linewidth=0.8)
        panel.set_title(f"{model}, {metric}", fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(axis="y", alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].margins(y=0.02)
    panels[0].invert_yaxis()
    return figure


def draw_collapse(stage: Stage) -> tuple[str, Figure]:
    """Draw quality and effective rank of the trained item tables over their width."""
    spectra = stage.report.spectra
    ranks = spectra[spectra["side"] == "item"].groupby(LINE)["effective_rank"].mean().rename("effective rank")
    means = stage.report.runs.groupby(LINE, sort=False)[list(METRICS)].mean().join(ranks).reset_index()
    # The stock start that every comparison has is the one of its width as well.
    means = means[means["start"].str.contains(r" \d+$")]
    means[["start", "width"]] = means["start"].str.extract(r"(.*) (\d+)$")
    means = means.astype({"width": int})
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for panel, column in zip(figure.subplots(1, 3), (*METRICS, "effective rank"), strict=True):
        for start, lines in means.groupby("start", sort=False):
            panel.plot(lines["width"], lines[column], marker="o", markersize=3, label=start)
        panel.set(xlabel="width of the tables", ylabel=column, xscale="log")
        panel.set_xticks(sorted(set(means["width"])), [str(width) for width in sorted(set(means["width"]))])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    widths = np.array(sorted(set(means["width"])))
    panel.plot(widths, widths, color="black", linestyle=":", linewidth=0.8, label="the width")
    panel.legend(frameon=False, fontsize=8)
    table = means.pivot_table(index="start", columns="width", values=[*METRICS, "effective rank"], sort=False)
    rows = [
        {
            "start": start,
            **{f"{column}, d = {width}": f"{table.loc[start, (column, width)]:.{places}f}" for width in widths},
        }
        for column, places in ((METRICS[0], 4), (METRICS[1], 4), ("effective rank", 1))
        for start in table.index
    ]
    parts = [pd.DataFrame(rows[place : place + len(table)]) for place in range(0, len(rows), len(table))]
    return "\n\n".join(part.to_markdown(index=False, disable_numparse=True) for part in parts), figure


def main() -> None:
    """Read the stages and write the page, the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("study"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options, arguments = parser.parse_known_args()
    stages = {name: read_stage(name, options.study, arguments) for name in STAGES}
    runs = [stage.report.runs.assign(stage=name) for name, stage in stages.items()]
    pd.concat(runs).to_csv(options.out / "strategies.csv", index=False)
    tests = {
        "goal": test_recommended([stages["finalists"]]),
        "elsewhere": test_recommended([stages[name] for name in ELSEWHERE]),
        "pooled": pd.concat(
            [test_pooled([stages["finalists"], stages[name]]) for name in ("beauty_bpr", "beauty_lightgcn")]
        ),
    }
    pd.concat([frame.assign(table=name) for name, frame in tests.items()]).to_csv(
        options.out / "strategies_tests.csv", index=False
    )
    elsewhere = pd.concat([measure_speed(stages[name]) for name in ELSEWHERE])
    speed = {
        "finalists": measure_speed(stages["finalists"]),
        "elsewhere": elsewhere[elsewhere["start"].str.startswith(RECOMMENDED)],
    }
    draw_figure(stages["strategies"]).savefig(options.out / "strategies.png", dpi=130, facecolor="white")
    convergence = draw_figures(stages["finalists"].report)["amazon-office convergence"]
    convergence.savefig(options.out / "strategies_convergence.png", dpi=130, facecolor="white")
    collapse, figure = draw_collapse(stages["collapse"])
    figure.savefig(options.out / "strategies_collapse.png", dpi=130, facecolor="white")
    # Some trials are part of several stages.
    spent = {trial: found.content["seconds"] for stage in stages.values() for trial, found in stage.results.items()}
    page = Environment(undefined=StrictUndefined, trim_blocks=True).from_string(  # noqa: S701  markdown needs none
        Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    )
    text = page.render(
        tables={name: draw_stage(stage) for name, stage in stages.items() if name != "collapse"},
        legends={name: stage.report.legend for name, stage in stages.items()},
        sparse=draw_stage(stages["sparse"], "0.8"),
        agreement=draw_agreement(options.out / "agreement.csv"),
        drops=draw_drops(stages["ml100k"]),
        tests={name: draw_tests(frame) for name, frame in tests.items()},
        speed={name: draw_speed(frame) for name, frame in speed.items()},
        collapse=collapse,
        stages=STAGES,
        seconds=sum(spent.values()),
        trials=len(spent),
        environment=dict.fromkeys(line for stage in stages.values() for line in stage.report.environment),
    )
    (options.out / "strategies.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
