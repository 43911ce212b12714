r"""The study of strategies: its tables, tests and figures.

Each stage is a comparison, all in one folder, so that none trains again what another has trained::

    for stage in strategies scales options finalists finalists_sgcl finalists_sgl finalists_sasrec \
                 beauty_bpr beauty_lightgcn sparse ml100k ml100k_patient collapse; do
        recbole-llminit compare --config_files=yaml/study/$stage.yaml --out=study
    done
    python benchmarks/adjusted_correlation.py
    python benchmarks/strategies.py --study=study

Arguments as ``--llm_encoder=PATH`` go to every stage, as they do to ``compare``. The text is in
``benchmarks/strategies.md``, a template. Writes ``results/strategies.md``, ``strategies.csv`` (a row for each line and
seed of each stage), ``strategies_tests.csv`` and the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.compare.reporting.figures import draw_figures
from recbole_llminit.compare.reporting.lines import FULL_DATA, LINE_COLUMNS
from recbole_llminit.compare.reporting.report import Report
from recbole_llminit.compare.reporting.statistics import holm, paired_test, user_differences
from recbole_llminit.compare.reporting.table import draw_markdown
from recbole_llminit.compare.trial import TrialResult, read_trial

# Models and data on which no strategy was chosen; of amazon-beauty the scale of cca was.
ELSEWHERE = ("finalists_sgcl", "finalists_sgl", "finalists_sasrec", "beauty_bpr", "beauty_lightgcn")
STAGES = ("strategies", "scales", "options", "finalists", *ELSEWHERE,
          "sparse", "ml100k", "ml100k_patient", "collapse")  # fmt: skip
RECOMMENDED = "cca"
# What the recommended initialization is meant to be better than.
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


def draw_stage(stage: Stage, drop: str = FULL_DATA) -> str:
    """Draw the lines of a stage, with the validation score by which choices were made, and the best epoch."""
    runs = stage.report.runs[stage.report.runs["drop"] == drop]
    means = runs.groupby(["model", "initialization"])[["valid_score", "best_epoch"]].mean()
    rows = []
    (section,) = [section for section in stage.report.sections() if section.part.drop == drop]
    for row in section.rows:
        valid, epoch = means.loc[(row.model, row.initialization)]
        rows.append(
            {
                "model": row.model,
                "initialization": row.initialization,
                "validation NDCG@10": f"{valid:.4f}",
                **{metric: cell.to_markdown() for metric, cell in row.cells.items()},
                **{f"against {name}": " ".join(map(str, changes)) for name, changes in row.against.items()},
                "best epoch": f"{epoch:.0f}" if row.initialization else "-",
            }
        )
    return draw_markdown(pd.DataFrame(rows))


def draw_drops(stage: Stage) -> str:
    """Draw a stage's validation and test scores over the share of the training interactions that was dropped."""
    runs = stage.report.runs
    parts = []
    for column in ("valid_score", *METRICS):
        table = runs.pivot_table(index=["model", "initialization"], columns="drop", values=column, sort=False)
        table = table.map("{:.4f}".format).rename(columns={"none": "0"}).sort_index(axis="columns")
        name = "validation NDCG@10" if column == "valid_score" else column
        table.columns = [f"{name}, {share} dropped" for share in table.columns]
        parts.append(draw_markdown(table.reset_index()))
    return "\n\n".join(parts)


def draw_adjusted_correlation(path: Path) -> str:
    """Draw the adjusted correlation that its benchmark measured: of the vectors, and of vectors in random orders."""
    measured = pd.read_csv(path)
    is_shuffled = measured["shuffled"] != "no"
    keys, value = ["dataset", "dropped", "items a user"], "adjusted correlation"
    found = measured[~is_shuffled].set_index(keys)[value]
    shuffled = measured[is_shuffled].groupby(keys, sort=False)[value].agg(["mean", "std"])
    rows = [
        {
            "data": data,
            "interactions dropped": f"{dropped:.0%}",
            "training items a user": f"{items:.1f}",
            value: f"{found[data, dropped, items]:.2f}",
            "in random order": f"{mean:.2f} ± {std:.2f}",
        }
        for (data, dropped, items), (mean, std) in shuffled.iterrows()
    ]
    return draw_markdown(pd.DataFrame(rows))


def test_recommended(stages: Sequence[Stage]) -> pd.DataFrame:
    """Test the recommended initialization of each model against its rivals, corrected by metric."""
    rows = []
    for stage in stages:
        runs = stage.report.runs
        recommended = runs.loc[runs["initialization"] == RECOMMENDED, ["dataset", "model"]]
        for dataset, model in recommended.drop_duplicates().to_numpy():
            ours = _runs_of(runs, model, RECOMMENDED)
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
    """Test the recommended initialization against a rival over the users of all stages, for models that all have."""
    found = []
    for stage in stages:
        runs = stage.report.runs
        found.append(set(runs.loc[runs["initialization"] == RECOMMENDED, "model"]))
    rows = []
    for model in sorted(set.intersection(*found)):
        for metric in METRICS:
            parts = []
            for stage in stages:
                runs = stage.report.runs
                ours = _runs_of(runs, model, RECOMMENDED)
                parts.append(_differences(stage, ours, _rival(runs, model, rival), metric)[0])
            rows.append({"data": "both", "model": model, "against": rival, "metric": metric,
                         **vars(paired_test(pd.concat(parts, ignore_index=True)))})  # fmt: skip
    return pd.DataFrame(rows)


def _runs_of(runs: pd.DataFrame, model: str, initialization: str) -> pd.DataFrame:
    return runs[(runs["model"] == model) & (runs["initialization"] == initialization)]


def _rival(runs: pd.DataFrame, model: str, rival: str) -> pd.DataFrame:
    """Return the runs of another initialization of the model, or of a baseline."""
    of_model = _runs_of(runs, model, rival)
    return of_model if len(of_model) else _runs_of(runs, rival, "")


def _differences(
    stage: Stage, ours: pd.DataFrame, others: pd.DataFrame, metric: str
) -> tuple[pd.Series, tuple[int, ...]]:
    first, second = (
        {row.seed: stage.results[row.trial].users.set_index("user_id")[metric] for row in lines.itertuples(index=False)}
        for lines in (ours, others)
    )
    return user_differences(first, second)


def measure_speed(stage: Stage) -> pd.DataFrame:
    """Find the epoch at which each run first reaches the tuned stock initialization's best validation score."""
    runs = stage.report.runs
    rows = []
    for tuned in runs[runs["initialization"] == "none tuned"].itertuples(index=False):
        for run in runs[(runs["model"] == tuned.model) & (runs["seed"] == tuned.seed)].itertuples(index=False):
            curve = stage.results[run.trial].content["curve"]
            reached = next((point["epoch"] for point in curve if point["score"] >= tuned.valid_score), None)
            rows.append(
                {
                    "data": run.dataset,
                    "model": run.model,
                    "initialization": run.initialization,
                    "seed": run.seed,
                    "epoch": reached,
                    "of_tuned": tuned.best_epoch,
                    "share": reached and reached / tuned.best_epoch,
                }
            )
    return pd.DataFrame(rows)


def draw_speed(speed: pd.DataFrame) -> str:
    """Draw the median epochs and shares; a seed that never gets there counts as later than any that does."""
    rows = []
    for (data, model, initialization), lines in speed.groupby(["data", "model", "initialization"], sort=False):
        rows.append(
            {
                "data": data,
                "model": model,
                "initialization": initialization,
                "epochs (median)": _median(lines["epoch"], "{:.0f}"),
                "share of the tuned stock initialization's own (median)": _median(lines["share"], "{:.2f}"),
                "seeds that get there": f"{lines['epoch'].notna().sum()} of {len(lines)}",
            }
        )
    return draw_markdown(pd.DataFrame(rows))


def _median(values: pd.Series, form: str) -> str:
    median = values.astype(float).fillna(float("inf")).median()
    return form.format(median) if median < float("inf") else "never"


def draw_tests(tests: pd.DataFrame) -> str:
    """Draw the tests of the recommended initialization: a line for each rival, with the differences in both metrics."""
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
    return draw_markdown(pd.DataFrame(rows))


def draw_figure(stage: Stage) -> Figure:
    """Draw the test metrics of a stage's initializations, with the tuned stock initialization and EASE as lines."""
    runs = stage.report.runs
    models = list(runs.loc[runs["role"] != "baseline", "model"].unique())
    means = runs.groupby(["model", "initialization", "role"], sort=False)[list(METRICS)].mean().reset_index()
    figure = Figure(figsize=(9, 0.26 * means["initialization"].nunique() + 1.2), layout="constrained")
    panels = figure.subplots(1, 2 * len(models), sharey=True)
    colors = {"llm": "#d95f02", "control": "#8c8c8c", "stock": "black"}
    for number, (model, metric) in enumerate((model, metric) for model in models for metric in METRICS):
        panel, lines = panels[number], means[means["model"] == model]
        panel.scatter(lines[metric], lines["initialization"], color=[colors[role] for role in lines["role"]], s=18)
        for name, style in (("none tuned", ":"), ("EASE", "--")):
            level = _rival(means, model, name)[metric]
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
    ranks = spectra[spectra["side"] == "item"].groupby(LINE_COLUMNS)["effective_rank"].mean().rename("effective rank")
    means = stage.report.runs.groupby(LINE_COLUMNS, sort=False)[list(METRICS)].mean().join(ranks).reset_index()
    # Every comparison has the stock initialization, which is here the one of its width as well.
    means = means[means["initialization"].str.contains(r" \d+$")]
    means[["initialization", "width"]] = means["initialization"].str.extract(r"(.*) (\d+)$")
    means = means.astype({"width": int})
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for panel, column in zip(figure.subplots(1, 3), (*METRICS, "effective rank"), strict=True):
        for initialization, lines in means.groupby("initialization", sort=False):
            panel.plot(lines["width"], lines[column], marker="o", markersize=3, label=initialization)
        panel.set(xlabel="width of the tables", ylabel=column, xscale="log")
        panel.set_xticks(sorted(set(means["width"])), [str(width) for width in sorted(set(means["width"]))])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    widths = np.array(sorted(set(means["width"])))
    panel.plot(widths, widths, color="black", linestyle=":", linewidth=0.8, label="the width")
    panel.legend(frameon=False, fontsize=8)
    table = means.pivot_table(index="initialization", columns="width", values=[*METRICS, "effective rank"], sort=False)
    parts = []
    for column, form in ((METRICS[0], "{:.4f}"), (METRICS[1], "{:.4f}"), ("effective rank", "{:.1f}")):
        part = table[column][widths].map(form.format)
        part.columns = [f"{column}, d = {width}" for width in widths]
        parts.append(draw_markdown(part.reset_index()))
    return "\n\n".join(parts), figure


def write_figures(stages: Mapping[str, Stage], out: Path) -> None:
    """Write the figures of the first stage and of the finalists."""
    draw_figure(stages["strategies"]).savefig(out / "strategies.png", dpi=130, facecolor="white")
    convergence = draw_figures(stages["finalists"].report)["amazon-office convergence"]
    convergence.savefig(out / "strategies_convergence.png", dpi=130, facecolor="white")


def test_all(stages: Mapping[str, Stage]) -> dict[str, pd.DataFrame]:
    """Return the tests of the recommended initialization: of the finalists, elsewhere, and over two datasets."""
    pooled = [test_pooled([stages["finalists"], stages[name]]) for name in ("beauty_bpr", "beauty_lightgcn")]
    return {
        "goal": test_recommended([stages["finalists"]]),
        "elsewhere": test_recommended([stages[name] for name in ELSEWHERE]),
        "pooled": pd.concat(pooled),
    }


def measure_all_speeds(stages: Mapping[str, Stage]) -> dict[str, pd.DataFrame]:
    """Return how soon each initialization of the finalists, and the recommended one elsewhere, is as good as stock."""
    elsewhere = pd.concat([measure_speed(stages[name]) for name in ELSEWHERE])
    return {
        "finalists": measure_speed(stages["finalists"]),
        "elsewhere": elsewhere[elsewhere["initialization"].str.startswith(RECOMMENDED)],
    }


def render_text(stages: Mapping[str, Stage], tests: Mapping[str, pd.DataFrame], collapse: str, out: Path) -> str:
    """Render the template with the tables."""
    # Some trials are part of several stages.
    seconds = {trial: found.content["seconds"] for stage in stages.values() for trial, found in stage.results.items()}
    template = Environment(undefined=StrictUndefined, trim_blocks=True).from_string(  # noqa: S701  markdown needs none
        Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    )
    return template.render(
        tables={name: draw_stage(stage) for name, stage in stages.items() if name != "collapse"},
        legends={name: stage.report.legend for name, stage in stages.items()},
        sparse=draw_stage(stages["sparse"], "0.8"),
        adjusted_correlation=draw_adjusted_correlation(out / "adjusted_correlation.csv"),
        drops=draw_drops(stages["ml100k"]),
        tests={name: draw_tests(frame) for name, frame in tests.items()},
        speed={name: draw_speed(frame) for name, frame in measure_all_speeds(stages).items()},
        collapse=collapse,
        stages=STAGES,
        seconds=sum(seconds.values()),
        trials=len(seconds),
        environment=dict.fromkeys(line for stage in stages.values() for line in stage.report.environment),
    )


def main() -> None:
    """Read the stages and write text, tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("study"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options, arguments = parser.parse_known_args()
    stages = {name: read_stage(name, options.study, arguments) for name in STAGES}
    runs = [stage.report.runs.assign(stage=name) for name, stage in stages.items()]
    pd.concat(runs).to_csv(options.out / "strategies.csv", index=False)
    tests = test_all(stages)
    tests_of_all = pd.concat([frame.assign(table=name) for name, frame in tests.items()])
    tests_of_all.to_csv(options.out / "strategies_tests.csv", index=False)
    write_figures(stages, options.out)
    collapse, figure = draw_collapse(stages["collapse"])
    figure.savefig(options.out / "strategies_collapse.png", dpi=130, facecolor="white")
    text = render_text(stages, tests, collapse, options.out)
    (options.out / "strategies.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
