"""What a comparison found: the table, the tests behind it, strata, and efficiency."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from recbole_llminit.compare.options import Role
from recbole_llminit.compare.plan import Entry
from recbole_llminit.compare.runner import FAILED, PLAN, TRIALS, seconds_per_epoch
from recbole_llminit.compare.statistics import holm, paired_test, user_differences
from recbole_llminit.compare.strata import item_strata, user_strata
from recbole_llminit.compare.trial import TrialResult, read_trial
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, require_file
from recbole_llminit.spectrum import Spectrum
from recbole_llminit.text_table import draw_table

LEVEL = 0.05
LINE = ["dataset", "drop", "model", "initialization"]
FULL = "none"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Cell:
    """A mean over seeds with its deviation, and the letters of what it differs from."""

    mean: float
    deviation: float
    better: str
    worse: str
    bold: bool

    @property
    def spread(self) -> str:
        """The deviation; nothing for one seed, which has none."""
        return "" if math.isnan(self.deviation) else f" ± {self.deviation:.4f}"

    def __str__(self) -> str:
        """Write the cell for the terminal: bold is a star."""
        return " ".join(filter(None, [f"{self.mean:.4f}{'*' * self.bold}{self.spread}", self._marks]))

    def to_markdown(self) -> str:
        """Write the cell for markdown."""
        mean = f"**{self.mean:.4f}**" if self.bold else f"{self.mean:.4f}"
        return mean + self.spread + (f" <sup>{self._marks}</sup>" if self._marks else "")

    def to_latex(self) -> str:
        """Write the cell for LaTeX: what is better is above, what is worse below."""
        mean = f"\\textbf{{{self.mean:.4f}}}" if self.bold else f"{self.mean:.4f}"
        marks = (f"^{{{self.better}}}" if self.better else "") + (f"_{{{self.worse}}}" if self.worse else "")
        return mean + self.spread.replace("±", "$\\pm$") + f"${marks}$" * bool(marks)

    @property
    def _marks(self) -> str:
        return " ".join(filter(None, [self.better, f"-{self.worse}" if self.worse else ""]))


@dataclass(frozen=True)
class SectionRow:
    """A line of the table: model, initialization with its letter, how many seeds, and a cell for each metric."""

    model: str
    initialization: str
    seeds: int
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Section:
    """The part of the table for one dataset and one amount of dropped interactions."""

    dataset: str
    drop: str
    rows: tuple[SectionRow, ...]

    @property
    def title(self) -> str:
        """What the part is of."""
        return part_title(self.dataset, self.drop)

    def draw(self, cell: Callable[[Cell], str], text: Callable[[str], str] = str) -> pd.DataFrame:
        """Return the part as a frame of texts."""
        return pd.DataFrame(
            [
                {"model": text(row.model), "initialization": text(row.initialization), "seeds": str(row.seeds)}
                | {metric: cell(value) for metric, value in row.cells.items()}
                for row in self.rows
            ]
        )

    def to_markdown(self) -> str:
        """Draw the part as a table in markdown."""
        return draw_markdown(self.draw(Cell.to_markdown, escape_markdown))


@dataclass(frozen=True)
class Report:
    """The outcome of a comparison; prints as its table.

    A *line* is a dataset, an amount of dropped training interactions (``drop``), a model and a initialization; the
    initialization of a baseline is empty.

    Parameters
    ----------
    options : mapping
        What was compared.
    command : str
        The command that asked for it; empty where it was none.
    valid_metric : str
        The metric of early stopping and tuning.
    metrics : tuple of str
        The metrics that are tested: those at the cut-off of the validation metric.
    runs : DataFrame
        A row for each line and seed: the trial that stands for it (of a grid the best by validation), its test metrics,
        times, memory.
    tests : DataFrame
        A row for each pair of lines that is tested and each metric: `PairedTest` and ``p_holm``,
        corrected over all tests of the same dataset,
        ``drop`` and metric.
    strata : DataFrame
        A row for each line, side (user, item) and stratum: counts and metrics, means over the seeds.
    efficiency : DataFrame
        A row for each line: parameters, times, memory; medians over the seeds.
    curves : DataFrame
        A row for each line, seed and validation.
    spectra : DataFrame
        A row for each line, seed and trained table that starts from vectors in an LLM initialization: its singular
        values, effective rank and information abundance (see `Spectrum`).
    protocol : DataFrame
        A row for each dataset and ``drop``: counts, means over the seeds, and the settings that its models share.
    environment : tuple of str
        The versions and machines of the trials, and the vectors that were read.
    problems : tuple of str
        What failed, is broken, or has not finished.
    incomplete : frozenset
        Dataset, ``drop`` and model of which a initialization without an LLM is missing: nothing of them is bold.
    """

    options: Mapping[str, Any]
    command: str
    valid_metric: str
    metrics: tuple[str, ...]
    runs: pd.DataFrame
    tests: pd.DataFrame
    strata: pd.DataFrame
    efficiency: pd.DataFrame
    curves: pd.DataFrame
    spectra: pd.DataFrame
    protocol: pd.DataFrame
    environment: tuple[str, ...]
    problems: tuple[str, ...]
    incomplete: frozenset[tuple[str, str, str]]

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """Make the report of the finished trials in a comparison's folder.

        Broken files are left out and named in ``problems``; so are failed trials.

        Raises
        ------
        LLMInitError
            If the folder holds no comparison, or none of its trials has finished.
        """
        folder = Path(folder)
        require_file(folder / PLAN, f"the plan of a comparison, which {folder} holds none of")
        with foreign_reader(folder / PLAN, "the plan of a comparison"):
            plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            entries = [Entry(**{**entry, "trials": tuple(entry["trials"])}) for entry in plan["entries"]]
            unknown = {entry.role for entry in entries} - set(get_args(Role))
            if unknown or not isinstance(plan["options"], dict) or not isinstance(plan.get("command", ""), str):
                raise ValueError(f"options {plan['options']!r}, command {plan.get('command')!r}, roles {unknown}")
        results: dict[str, TrialResult] = {}
        problems: list[str] = []
        failed: set[str] = set()
        for name in dict.fromkeys(name for entry in entries for name in entry.trials):
            try:
                result = read_trial(folder / TRIALS, name)
            except LLMInitError as error:
                problems.append(str(error))
                continue
            reason = folder / TRIALS / f"{name}{FAILED}"
            if result is not None:
                results[name] = result
            elif reason.exists():
                failed.add(name)
                problems.append(f"the trial {name} failed: {reason.read_text(encoding='utf-8').strip()}")
        with foreign_reader(folder, "the finished trials of a comparison"):
            return cls.of(entries, results, plan["options"], failed, problems, plan.get("command", ""))

    @classmethod
    def of(
        cls,
        entries: Sequence[Entry],
        results: Mapping[str, TrialResult],
        options: Mapping[str, Any],
        failed: Iterable[str] = (),
        problems: Sequence[str] = (),
        command: str = "",
    ) -> Report:
        """Make the report of finished trials.

        Parameters
        ----------
        entries : sequence of Entry
            The plan. The means of a model's initializations are over the same seeds: one with a trial that has not
            finished is left out for all of them, and so is one with a failed trial, unless that initialization failed
            with every seed. Then the initialization is left out.
        results : mapping of str to TrialResult
            The finished trials by name.
        options : mapping
            The plan's.
        failed : iterable of str
            The trials that failed.
        problems : sequence of str
            What else is to be named.
        command : str
            The command that asked for it.
        """
        kept, left_out, incomplete = _complete(entries, set(results), set(failed))
        chosen: dict[tuple[Any, ...], dict[int, TrialResult]] = {}
        roles: dict[tuple[Any, ...], str] = {}
        rows = []
        for entry in kept:
            candidates = [results[name] for name in entry.trials if name in results]
            best = _best(candidates)
            line = _line(entry)
            chosen.setdefault(line, {})[entry.seed] = best
            roles[line] = entry.role
            rows.append({**dict(zip(LINE, line, strict=True)), "role": entry.role, "seed": entry.seed,
                         **_run(best.content, entry.tuned, _grid_of(entry, options), len(candidates))})  # fmt: skip
        if not rows:
            named = "".join(f"\n{problem}" for problem in problems[:5])
            raise LLMInitError(f"no model of the comparison has finished a seed: there is nothing to report{named}")
        # All of a dataset have the same protocol.
        first = next(result for by_seed in chosen.values() for result in by_seed.values())
        metrics = tested_metrics(first.content["valid_metric"], first.content["test_result"], first.users)
        return cls(
            options=options,
            command=command,
            valid_metric=first.content["valid_metric"],
            metrics=metrics,
            runs=pd.DataFrame(rows),
            tests=_tests(chosen, roles, metrics),
            strata=_strata(chosen, options, metrics),
            efficiency=_efficiency(chosen),
            curves=_curves(chosen),
            spectra=_spectra(chosen),
            protocol=_protocol(chosen),
            environment=tuple(
                dict.fromkeys(line for result in results.values() for line in _environment(result.content))
            ),
            problems=(*problems, *left_out),
            incomplete=incomplete,
        )

    @property
    def references(self) -> dict[str, str]:
        """The letter of each initialization and baseline that others are tested against."""
        names = dict.fromkeys(self.tests["reference"]) if len(self.tests) else {}
        return dict(zip(names, _LETTERS, strict=False))

    def to_dataframe(self) -> pd.DataFrame:
        """Return the table: a row for each line, with mean and deviation over the seeds of every test metric.

        Beside the tested metrics stand ``better_than`` and ``worse_than``: the letters (`references`) of what the line
        differs from with a corrected p-value below 0.05.
        """
        metrics = [column for column in self.runs.columns if "@" in column]
        grouped = self.runs.groupby(LINE, sort=False)
        columns = {"seeds": grouped["seed"].nunique(), "role": grouped["role"].first(),
                   "tuned": grouped["tuned"].agg(_unique)}  # fmt: skip
        for metric in metrics:
            columns[metric] = grouped[metric].mean()
            columns[f"{metric} deviation"] = grouped[metric].std()
        table = pd.DataFrame(columns).reset_index()
        for metric in self.metrics:
            for column, sign in (("better_than", 1), ("worse_than", -1)):
                table[f"{metric} {column}"] = [self._letters(line, metric, sign) for line in table[LINE].to_numpy()]
        return table

    def to_markdown(self) -> str:
        """Return the table in markdown, a section for each dataset and each amount of dropped interactions."""
        return "\n".join(
            f"{escape_markdown(section.title)}\n\n{section.to_markdown()}\n" for section in self.sections()
        )

    def to_latex(self) -> str:
        """Return the table in LaTeX (``booktabs``)."""
        return "\n".join(
            section.draw(Cell.to_latex, _escape_latex).to_latex(
                index=False, escape=False, caption=_escape_latex(section.title)
            )
            for section in self.sections()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything in JSON types."""
        frames = {
            name: json.loads(getattr(self, name).to_json(orient="records"))
            for name in ("runs", "tests", "strata", "efficiency", "spectra")
        }
        content = {"options": self.options, "metrics": self.metrics, "references": self.references, **frames}
        found: dict[str, Any] = json.loads(json.dumps({**content, "problems": self.problems}))
        return {**found, "environment": list(self.environment)}

    def __str__(self) -> str:
        """Draw the table, say what its letters mean, and name the problems."""
        return "\n\n".join(filter(None, [self.draw(), self.legend, *self.problems]))

    def draw(self) -> str:
        """Draw the table as it stands in the terminal."""
        parts = []
        for section in self.sections():
            cells = section.draw(str)
            table = draw_table(list(cells.columns), cells.to_numpy().tolist())
            parts.append(f"{section.title}\n{table}")
        return "\n\n".join(parts)

    @property
    def legend(self) -> str:
        """What the letters and the bold figures of the table mean."""
        if not self.references:
            return ""
        letters = ", ".join(f"{letter} {name}" for name, letter in self.references.items())
        return (
            f"Mean ± standard deviation over the seeds. A letter says that the line is better (-letter: worse) than "
            f"{letters}; paired t-test over users, their differences averaged over the seeds, p < {LEVEL} after Holm's "
            f"correction over all tests of the metric. * (bold): the best of its model, and better than every "
            f"initialization "
            f"without an LLM that is listed. {self._fairness}"
        )

    @property
    def _fairness(self) -> str:
        """Who was tuned, and what one seed is worth."""
        tuned = {
            "none": "Only baselines are tuned.",
            "stock": "Only baselines and the lines called tuned are tuned, the LLM initializations are not.",
            "all": "The lines called tuned, and the baselines, are tuned.",
        }[str(self.options["tune"])]
        one = " One seed: the tests weigh the choice of users, not the chance of split, negatives and initialization."
        return tuned + one * (len(set(self.runs["seed"])) == 1)

    def _letters(self, line: Sequence[Any], metric: str, sign: int) -> str:
        if not len(self.tests):
            return ""
        found = self._tests_of(line, metric)
        found = found[(found["p_holm"] < LEVEL) & (np.sign(found["difference"]) == sign)]
        return "".join(sorted(self.references[name] for name in found["reference"] if name in self.references))

    def _tests_of(self, line: Sequence[Any], metric: str) -> pd.DataFrame:
        same = (self.tests[LINE] == list(line)).all(axis=1)
        return self.tests[same & (self.tests["metric"] == metric)]

    def _is_bold(self, row: pd.Series, table: pd.DataFrame, metric: str) -> bool:
        """Whether a line is the best of its model, by its tests against all initializations without an LLM."""
        model = row[LINE[:3]].to_list()
        rivals = table[(table[LINE[:3]] == model).all(axis=1)]
        if row["role"] != "llm" or row[metric] < rivals[metric].max() or tuple(model) in self.incomplete:
            return False
        if not len(self.tests):
            return False
        tests = self._tests_of(row[LINE], metric)
        tests = tests[tests["of_model"]]
        return bool(len(tests) and ((tests["p_holm"] < LEVEL) & (tests["difference"] > 0)).all())

    def sections(self) -> list[Section]:
        """Return the table in parts: one for each dataset and each amount of dropped interactions."""
        table = self.to_dataframe()
        sections = []
        for (dataset, drop), part in table.groupby(LINE[:2], sort=False):
            rows = []
            for _, row in part.iterrows():
                letter = self.references.get(row["initialization"] or row["model"])
                initialization = f"{row['initialization']} ({letter})".strip() if letter else row["initialization"]
                cells = {
                    metric: Cell(
                        mean=row[metric],
                        deviation=row[f"{metric} deviation"],
                        better=row[f"{metric} better_than"],
                        worse=row[f"{metric} worse_than"],
                        bold=self._is_bold(row, part, metric),
                    )
                    for metric in self.metrics
                }
                rows.append(SectionRow(row["model"], initialization, row["seeds"], cells))
            sections.append(Section(dataset, drop, tuple(rows)))
        return sections


def part_title(dataset: str, drop: str) -> str:
    """Name the part of the report for a dataset and an amount of dropped training interactions."""
    return dataset if drop == FULL else f"{dataset}, training interactions dropped: {drop}"


def tested_metrics(valid_metric: str, result: Mapping[str, float], users: pd.DataFrame) -> tuple[str, ...]:
    """Return the metrics at the cut-off of the validation metric, or the first one, that are means over users."""
    cuts = [metric.rpartition("@")[2] for metric in (valid_metric, *result) if "@" in metric]
    cut = cuts[0] if cuts else ""
    return tuple(metric for metric in result if metric.rpartition("@")[2] == cut and metric in users)


def _line(entry: Entry) -> tuple[str, str, str, str]:
    return entry.dataset, FULL if entry.drop is None else str(entry.drop), entry.model, entry.initialization


def _complete(
    entries: Sequence[Entry], finished: set[str], failed: set[str]
) -> tuple[list[Entry], list[str], frozenset[tuple[str, str, str]]]:
    """Choose the entries whose models have the same seeds for all initializations, and say what is left out."""
    waiting = {(_line(entry)[:3], entry.seed) for entry in entries if not finished | failed >= set(entry.trials)}
    settled = [entry for entry in entries if (_line(entry)[:3], entry.seed) not in waiting]
    lacking: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in settled:
        if not finished.intersection(entry.trials):
            lacking.setdefault(_line(entry), []).append(entry)
    gone = {line for line, without in lacking.items() if len(without) == sum(_line(entry) == line for entry in settled)}
    broken = {(line[:3], entry.seed) for line, without in lacking.items() if line not in gone for entry in without}
    kept = [entry for entry in settled if _line(entry) not in gone and (_line(entry)[:3], entry.seed) not in broken]
    messages = []
    for reason, blocks in (("not finished", waiting), ("a initialization failed", broken)):
        by_model: dict[tuple[str, str, str], list[int]] = {}
        for block, seed in sorted(blocks):
            by_model.setdefault(block, []).append(seed)
        named = "; ".join(
            f"{model} on {part_title(dataset, drop)} with seed {', '.join(map(str, seeds))}"
            for (dataset, drop, model), seeds in by_model.items()
        )
        messages += [f"{reason}, and left out: {named}"] * bool(blocks)
    for dataset, drop, model, initialization in sorted(gone):
        messages.append(
            f"failed with every seed, and left out: {model} {initialization} on {part_title(dataset, drop)}"
        )
    roles = {_line(entry): entry.role for entry in entries}
    return kept, messages, frozenset(line[:3] for line in gone if roles[line] != "llm")


def _grid_of(entry: Entry, options: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    grid: Mapping[str, Sequence[Any]] = (
        options["baselines"].get(entry.model, {}) if entry.role == "baseline" else options["tune_grid"]
    )
    return grid


def _is_at_edge(value: Any, tried: Sequence[Any]) -> bool:
    """Whether a value is the smallest or the largest of three numbers or more: a better one may lie beyond."""
    numbers = [number for number in tried if isinstance(number, (int, float))]
    return len(numbers) > 2 and value in (min(numbers), max(numbers))


def _best(candidates: Sequence[TrialResult]) -> TrialResult:
    sign = 1 if candidates[0].content["valid_score_bigger"] else -1
    return max(candidates, key=lambda result: sign * result.content["best_valid_score"])


def _run(
    content: Mapping[str, Any], keys: Sequence[str], grid: Mapping[str, Sequence[Any]], candidates: int
) -> dict[str, Any]:
    curve = content["curve"]
    report = content["init_report"]
    deviations = [table["std_after"] for table in (report or {}).get("tables", ()) if table["side"] == "item"]
    sign = 1 if content["valid_score_bigger"] else -1
    # As RecBole's early stopping: of equal scores the last.
    best = max(curve, key=lambda point: (sign * point["score"], point["epoch"]), default=None)
    return {
        "trial": content["name"],
        "tuned": ", ".join(f"{key} {content['config'][key]}" for key in keys),
        "at_edge": ", ".join(key for key in keys if _is_at_edge(content["config"][key], grid.get(key, ()))),
        "candidates": candidates,
        "best_epoch": best["epoch"] if best else None,
        "epochs": curve[-1]["epoch"] if curve else None,
        "at_limit": bool(curve) and curve[-1]["epoch"] >= content["config"]["epochs"] > 1,
        "seconds": content["seconds"],
        "seconds_per_epoch": seconds_per_epoch(curve),
        "initialization_seconds": content["initialization_seconds"],
        "peak_memory_bytes": content["peak_memory_bytes"],
        "parameters": content["parameters"],
        "strategy": None if report is None else report["strategy"],
        "item_std": deviations[0] if deviations else None,
        "valid_score": content["best_valid_score"],
        **content["test_result"],
    }


def _tests(
    chosen: Mapping[tuple[Any, ...], Mapping[int, TrialResult]],
    roles: Mapping[tuple[Any, ...], str],
    metrics: Sequence[str],
) -> pd.DataFrame:
    """Test each LLM initialization against those without an LLM, and each control against the stock one."""
    rows = []
    for line, results in chosen.items():
        for other, rivals in chosen.items():
            of_model = line[2] == other[2]
            tested = (
                roles[line] == "llm" and (roles[other] == "baseline" or (of_model and roles[other] != "llm"))
            ) or (roles[line] == "control" and roles[other] == "stock" and of_model)
            if not tested or line[:2] != other[:2]:
                continue
            for metric in metrics:
                differences, seeds = user_differences(_by_seed(results, metric), _by_seed(rivals, metric))
                if len(differences) < 2:
                    continue
                rows.append({**dict(zip(LINE, line, strict=True)), "reference": other[3] or other[2],
                             "of_model": of_model, "metric": metric,
                             **vars(paired_test(differences, len(seeds)))})  # fmt: skip
    tests = pd.DataFrame(rows)
    if len(tests):
        tests["p_holm"] = tests.groupby(["dataset", "drop", "metric"])["p"].transform(lambda p: holm(p.to_list()))
    return tests


def _by_seed(results: Mapping[int, TrialResult], metric: str) -> dict[int, pd.Series]:
    return {seed: result.users.set_index("user_id")[metric] for seed, result in results.items()}


def _strata(
    chosen: Mapping[tuple[Any, ...], Mapping[int, TrialResult]], options: Mapping[str, Any], metrics: Sequence[str]
) -> pd.DataFrame:
    cut = int(metrics[0].rpartition("@")[2]) if metrics else 10
    parts = []
    for line, results in chosen.items():
        for side in ("user", "item"):
            by_seed = [
                user_strata(result.users[["user_id", "train_interactions", *metrics]], options["user_strata"])
                if side == "user"
                else item_strata(result.ranks, options["item_strata"], [cut])
                for result in results.values()
            ]
            mean = pd.concat(by_seed).groupby(level=0, observed=False).mean().reset_index()
            mean.insert(0, "side", side)
            for column, value in reversed(list(zip(LINE, line, strict=True))):
                mean.insert(0, column, value)
            parts.append(mean.astype({"stratum": object}))
    return pd.concat(parts, ignore_index=True)


def _efficiency(chosen: Mapping[tuple[Any, ...], Mapping[int, TrialResult]]) -> pd.DataFrame:
    """Measure each line, and when it reaches the stock initialization's best validation score with the same seed."""
    rows = []
    for line, results in chosen.items():
        stock = chosen.get((*line[:3], "none"), {})
        seeds = [seed for seed in results if seed in stock]
        measured = []
        for seed, result in results.items():
            content = result.content
            row = {
                "parameters": content["parameters"],
                "initialization_seconds": content["initialization_seconds"],
                "seconds_per_epoch": seconds_per_epoch(content["curve"]),
                "peak_memory_bytes": content["peak_memory_bytes"],
            }
            reached = _reach(content, stock[seed].content["best_valid_score"]) if seed in stock else None
            row["best_epoch"], row["at_limit"] = (_run(content, (), {}, 1)[key] for key in ("best_epoch", "at_limit"))
            row["epochs_to_stock"], row["seconds_to_stock"] = reached or (None, None)
            measured.append(row)
        frame = pd.DataFrame(measured).astype(float)
        rows.append(
            {
                **dict(zip(LINE, line, strict=True)),
                **frame.median().to_dict(),
                "seeds_at_limit": int(frame["at_limit"].sum()),
                # A seed that does not get there counts as later than any that does.
                **{key: _median_of_all(frame[key]) for key in ("epochs_to_stock", "seconds_to_stock")},
                "seeds": len(seeds),
                "seeds_reaching_stock": int(frame["epochs_to_stock"].notna().sum()) if seeds else None,
            }
        )
    return pd.DataFrame(rows)


def _median_of_all(values: pd.Series) -> float:
    median = float(values.fillna(np.inf).median())
    return median if math.isfinite(median) else math.nan


def _reach(content: Mapping[str, Any], target: float) -> tuple[int, float] | None:
    """Return the epoch and the seconds of training at which the validation score is first as good as the target."""
    curve = content["curve"]
    for point in curve:
        if point["score"] >= target if content["valid_score_bigger"] else point["score"] <= target:
            # The first epoch's own time is not known apart from the loading before it.
            first = (seconds_per_epoch(curve) or 0.0) * curve[0]["epoch"]
            return point["epoch"], point["seconds"] - curve[0]["seconds"] + first
    return None


def _curves(chosen: Mapping[tuple[Any, ...], Mapping[int, TrialResult]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {**dict(zip(LINE, line, strict=True)), "seed": seed, **point}
            for line, results in chosen.items()
            for seed, result in results.items()
            for point in result.content["curve"]
        ],
        columns=[*LINE, "seed", "epoch", "score", "seconds"],
    )


def _spectra(chosen: Mapping[tuple[Any, ...], Mapping[int, TrialResult]]) -> pd.DataFrame:
    rows = []
    for line, results in chosen.items():
        for seed, result in results.items():
            # Trials of the version before have none.
            for table in result.content.get("spectra", ()):
                spectrum = Spectrum(tuple(table["spectrum"]["singular_values"]))
                rows.append(
                    {
                        **dict(zip(LINE, line, strict=True)),
                        "seed": seed,
                        "table": table["label"],
                        "side": table["side"],
                        "effective_rank": spectrum.effective_rank,
                        "information_abundance": spectrum.information_abundance,
                        "singular_values": list(spectrum.singular_values),
                    }
                )
    columns = [*LINE, "seed", "table", "side", "effective_rank", "information_abundance", "singular_values"]
    return pd.DataFrame(rows, columns=columns)


def _protocol(chosen: Mapping[tuple[Any, ...], Mapping[int, TrialResult]]) -> pd.DataFrame:
    """Count what the first line of each part was trained and tested on, and gather the settings all its lines share."""
    keys = ("eval_args", "repeatable", "metrics", "topk", "valid_metric", "epochs", "eval_step", "stopping_step",
            "learning_rate", "train_batch_size", "embedding_size", "train_neg_sample_args")  # fmt: skip
    parts: dict[tuple[Any, ...], list[TrialResult]] = {}
    for line, by_seed in chosen.items():
        parts.setdefault(line[:2], []).extend(by_seed.values())
    rows = []
    for part, results in parts.items():
        configs = [result.content["config"] for result in results]
        # What is not trained in epochs has settings that nothing reads.
        configs = [config for config in configs if config.get("epochs") != 1] or configs
        shared = {key: configs[0].get(key) for key in keys if len({str(config.get(key)) for config in configs}) == 1}
        users, ranks = results[0].users, results[0].ranks
        rows.append(
            {
                **dict(zip(LINE[:2], part, strict=True)),
                "users_tested": users["user_id"].nunique(),
                "their_training_interactions": int(users.groupby("user_id")["train_interactions"].first().sum()),
                "test_interactions": len(ranks),
                "items_tested": ranks["item_id"].nunique(),
                **{key: str(value) for key, value in shared.items()},
            }
        )
    return pd.DataFrame(rows)


def _environment(content: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    lines = [f"Python {content['python']}, {versions}; {content['machine']}; one thread"]
    read = content["init_report"]
    if read and read["llm_dim"]:
        encoder = Path(read["encoder"]).name if Path(read["encoder"]).is_absolute() else read["encoder"]
        lines.append(
            f"vectors of {content['dataset']}: {encoder}, {read['llm_dim']} dimensions [{read['fingerprint']}]"
        )
    return lines


def _unique(values: pd.Series) -> str:
    return "; ".join(f"{value} ({count}x)" if count > 1 else str(value) for value, count in
                     values[values != ""].value_counts(sort=False).items())  # fmt: skip


def _escape_latex(text: str) -> str:
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[&%$#_{}\\~^]", lambda found: named.get(found[0], f"\\{found[0]}"), text)


def escape_markdown(text: str) -> str:
    """Return a name or a sentence as markdown shows it: no HTML, on one line, in one cell of a table."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", r"\|")


def draw_markdown(frame: pd.DataFrame) -> str:
    """Draw a frame of texts in markdown as a table."""
    drawn: str = frame.to_markdown(index=False, disable_numparse=True)
    return drawn
