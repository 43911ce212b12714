"""The table of a report: means and standard deviations over seeds, and the change against named references."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from recbole_llminit.compare.reporting.lines import LINE_COLUMNS, MODEL_COLUMNS, PART_COLUMNS, Line, ModelKey, Part
from recbole_llminit.compare.reporting.references import choose_references
from recbole_llminit.compare.reporting.results import EPOCH_0
from recbole_llminit.compare.reporting.statistics import BETTER, UNDECIDED, WORSE
from recbole_llminit.text_table import draw_table

LINE_WIDTH = 120
"""The most columns of a line in the terminal."""

_MARKS = {BETTER: "▲", WORSE: "▼", UNDECIDED: "="}
_LATEX_MARKS = {BETTER: r"$\uparrow$", WORSE: r"$\downarrow$", UNDECIDED: "$=$"}


@dataclass(frozen=True)
class Cell:
    """A mean over the seeds with its standard deviation.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation over the seeds; ``std`` is NaN for a single seed.
    bold : bool
        Whether the line is the best of its model, and better than every initialization without an LLM.
    """

    mean: float
    std: float
    bold: bool

    @property
    def spread(self) -> str:
        """The standard deviation behind its sign; empty for a single seed, which has none."""
        return "" if math.isnan(self.std) else f" ± {self.std:.4f}"

    def __str__(self) -> str:
        """Write the cell for the terminal, where a star stands for bold."""
        return f"{self.mean:.4f}{'*' if self.bold else ''}{self.spread}"

    def to_markdown(self) -> str:
        """Write the cell for markdown."""
        return (f"**{self.mean:.4f}**" if self.bold else f"{self.mean:.4f}") + self.spread

    def to_latex(self) -> str:
        """Write the cell for LaTeX."""
        mean = f"\\textbf{{{self.mean:.4f}}}" if self.bold else f"{self.mean:.4f}"
        return mean + self.spread.replace("±", "$\\pm$")


@dataclass(frozen=True)
class Change:
    """The change of one metric against a reference.

    Parameters
    ----------
    share : float
        The difference over the reference's mean.
    outcome : {"better", "worse", "undecided"}
        What the tests say; see `correct_tests`.
    """

    share: float
    outcome: str

    @property
    def percent(self) -> str:
        """The change in percent with its sign."""
        return format_percent(self.share)

    @property
    def mark(self) -> str:
        """The sign of the outcome."""
        return _MARKS[self.outcome]

    def __str__(self) -> str:
        """Write the change for terminal and markdown."""
        return f"{self.percent}{self.mark}"

    def to_latex(self) -> str:
        """Write the change for LaTeX."""
        return escape_latex(self.percent) + _LATEX_MARKS[self.outcome]


@dataclass(frozen=True)
class SectionRow:
    """A row of the table.

    Parameters
    ----------
    model, initialization : str
        The line; the initialization of a baseline is empty.
    seeds : int
        The number of seeds.
    cells : mapping of str to Cell
        A cell for each metric that is shown.
    epoch_0 : float
        The mean of the first metric that is shown before the training; NaN where it was not measured.
    against : mapping of str to tuple of Change
        For each reference of the section the change of each metric that is shown; empty where the line is not tested
        against the reference.
    """

    model: str
    initialization: str
    seeds: int
    cells: Mapping[str, Cell]
    epoch_0: float
    against: Mapping[str, tuple[Change, ...]]

    @property
    def epoch_0_text(self) -> str:
        """The mean before the training as it is shown."""
        return "-" if math.isnan(self.epoch_0) else f"{self.epoch_0:.4f}"


@dataclass(frozen=True)
class Section:
    """The part of the table for one dataset and one amount of dropped training interactions.

    Parameters
    ----------
    part : Part
        Dataset and dropped interactions.
    metrics : tuple of str
        The metrics that are shown.
    references : tuple of str
        The names of the lines that others are shown against.
    rows : tuple of SectionRow
        A row for each line.
    epoch_0 : str
        The heading of the column of the first metric before the training; empty where it is left out.
    """

    part: Part
    metrics: tuple[str, ...]
    references: tuple[str, ...]
    rows: tuple[SectionRow, ...]
    epoch_0: str = ""

    @property
    def title(self) -> str:
        """The heading of the section."""
        return self.part.title

    def to_texts(
        self, cell: Callable[[Cell], str], change: Callable[[Change], str] = str, name: Callable[[str], str] = str
    ) -> pd.DataFrame:
        """Return the section as a frame of texts.

        Parameters
        ----------
        cell, change : callable
            Write a cell, and a change.
        name : callable
            Writes the name of a model or of an initialization.
        """
        rows = [
            {"model": name(row.model), "initialization": name(row.initialization), "seeds": str(row.seeds)}
            | dict(self._metric_texts(row, cell))
            | {f"against {name(reference)}": " ".join(map(change, found)) for reference, found in row.against.items()}
            for row in self.rows
        ]
        return pd.DataFrame(rows)

    def _metric_texts(self, row: SectionRow, cell: Callable[[Cell], str]) -> Iterator[tuple[str, str]]:
        """Yield heading and text of each metric of a row, behind the first what it was before the training."""
        for number, (metric, value) in enumerate(row.cells.items()):
            yield metric, cell(value)
            if self.epoch_0 and number == 0:
                yield self.epoch_0, row.epoch_0_text

    def draw(self) -> str:
        """Draw the section for the terminal, under its title."""
        texts = self.to_texts(str)
        # On two lines, the name of a reference is no wider than what stands below it.
        header = [re.sub(rf"^(against|{EPOCH_0}) ", r"\1\n", column) for column in texts.columns]
        return f"{self.title}\n{draw_table(header, texts.to_numpy().tolist())}"

    def to_markdown(self) -> str:
        """Draw the section as a table in markdown, without its title."""
        return draw_markdown(self.to_texts(Cell.to_markdown, name=escape_markdown))

    def to_latex(self) -> str:
        """Draw the section as a table in LaTeX (``booktabs``) with its title as the caption."""
        texts = self.to_texts(Cell.to_latex, Change.to_latex, escape_latex)
        drawn: str = texts.to_latex(index=False, escape=False, caption=escape_latex(self.title))
        return drawn


@dataclass(frozen=True)
class Table:
    """The table of a report.

    Parameters
    ----------
    runs, tests : DataFrame
        See `Report`.
    metrics, headline : tuple of str
        The metrics that are tested, and those of them that the sections show.
    valid_score_bigger : bool
        Whether a larger validation score is better.
    incomplete : frozenset of ModelKey
        The models that lack an initialization without an LLM: none of their cells is bold.
    """

    runs: pd.DataFrame
    tests: pd.DataFrame
    metrics: tuple[str, ...]
    headline: tuple[str, ...]
    valid_score_bigger: bool
    incomplete: frozenset[ModelKey]

    @property
    def references(self) -> tuple[str, ...]:
        """The names of all initializations and baselines that others are tested against."""
        return tuple(dict.fromkeys(self.tests["reference"])) if len(self.tests) else ()

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each line: seeds, role, tuned values, and of each metric mean, ``std`` and what it beats."""
        metrics = [column for column in self.runs.columns if "@" in column]
        grouped = self.runs.groupby(LINE_COLUMNS, sort=False)
        columns = {
            "seeds": grouped["seed"].nunique(),
            "role": grouped["role"].first(),
            "tuned": grouped["tuned"].agg(count_values),
        }
        for metric in metrics:
            columns[metric] = grouped[metric].mean()
            columns[f"{metric} std"] = grouped[metric].std()
        table = pd.DataFrame(columns).reset_index()
        lines = [Line(*values) for values in table[LINE_COLUMNS].to_numpy()]
        for metric in self.metrics:
            for outcome in (BETTER, WORSE):
                table[f"{metric} {outcome}_than"] = [self._names(line, metric, outcome) for line in lines]
        return table

    def sections(self) -> list[Section]:
        """Return the table in sections: one for each dataset and each amount of dropped training interactions."""
        table = self.to_dataframe()
        return [
            self._section(Part(*key), part, self.runs[(self.runs[PART_COLUMNS] == list(key)).all(axis=1)])
            for key, part in table.groupby(PART_COLUMNS, sort=False)
        ]

    def _section(self, part: Part, table: pd.DataFrame, runs: pd.DataFrame) -> Section:
        """Return the section of the rows of a part."""
        chosen = choose_references(runs, valid_score_bigger=self.valid_score_bigger)
        references = tuple(name for name in chosen if name in self.references)
        rows = tuple(self._row(row, table, references) for row in table.to_dict("records"))
        section = Section(part, self.headline, references, rows)
        if not rows or all(math.isnan(row.epoch_0) for row in rows):
            return section
        wider = replace(section, epoch_0=f"{EPOCH_0} {self.headline[0]}")
        return wider if max(map(len, wider.draw().splitlines())) <= LINE_WIDTH else section

    def _row(self, row: Mapping[str, Any], table: pd.DataFrame, references: tuple[str, ...]) -> SectionRow:
        line = Line(*(row[column] for column in LINE_COLUMNS))
        of_model = table[(table[MODEL_COLUMNS] == list(line.model_key)).all(axis=1) & (table["role"] != "baseline")]
        cells = {
            metric: Cell(row[metric], row[f"{metric} std"], self._is_bold(line, row, of_model, metric))
            for metric in self.headline
        }
        against = {reference: self._changes(line, reference) for reference in references}
        epoch_0 = row.get(f"{EPOCH_0} {self.headline[0]}", math.nan) if self.headline else math.nan
        return SectionRow(line.model, line.initialization, row["seeds"], cells, epoch_0, against)

    def _changes(self, line: Line, reference: str) -> tuple[Change, ...]:
        """Return the change of each metric that is shown; nothing where this is not tested."""
        found = []
        for metric in self.headline:
            tests = self._tests_of(line, metric)
            for test in tests[tests["reference"] == reference].itertuples(index=False):
                found.append(Change(relative_change(test.mean, test.reference_mean), test.outcome))
        return tuple(found)

    def _is_bold(self, line: Line, row: Mapping[str, Any], of_model: pd.DataFrame, metric: str) -> bool:
        """Whether a line is the best of its model, and tests better than all its initializations without an LLM."""
        if row["role"] != "llm" or row[metric] < of_model[metric].max() or line.model_key in self.incomplete:
            return False
        if not len(self.tests):
            return False
        tests = self._tests_of(line, metric)
        tests = tests[tests["of_model"]]
        return bool(len(tests) and (tests["outcome"] == BETTER).all())

    def _names(self, line: Line, metric: str, outcome: str) -> str:
        """Return the names of what the line is better or worse than."""
        if not len(self.tests):
            return ""
        found = self._tests_of(line, metric)
        return ", ".join(found.loc[found["outcome"] == outcome, "reference"])

    def _tests_of(self, line: Line, metric: str) -> pd.DataFrame:
        same = (self.tests[LINE_COLUMNS] == list(line)).all(axis=1)
        return self.tests[same & (self.tests["metric"] == metric)]


def relative_change(mean: float, reference_mean: float) -> float:
    """Return the difference over the reference's mean; infinite where that is 0 and the difference is not."""
    if reference_mean:
        return mean / reference_mean - 1
    return math.copysign(math.inf, mean) if mean else 0.0


def format_percent(share: float) -> str:
    """Write a share in percent with its sign; with a decimal below 1 %."""
    percent = 100 * share
    return f"{percent:+.{0 if abs(percent) >= 0.95 or percent == 0 else 1}f}%"


def escape_markdown(text: str) -> str:
    """Return a name or a sentence as markdown shows it: no HTML, on one line, in one cell of a table."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", r"\|")


def escape_latex(text: str) -> str:
    """Return a name with the characters escaped that LaTeX reads as commands."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[&%$#_{}\\~^]", lambda found: named.get(found[0], f"\\{found[0]}"), text)


def draw_markdown(frame: pd.DataFrame) -> str:
    """Draw a frame of texts as a table in markdown."""
    drawn: str = frame.to_markdown(index=False, disable_numparse=True)
    return drawn


def count_values(values: pd.Series) -> str:
    """Name each value that is not empty, with how often it occurs where that is more than once."""
    counts = values[values != ""].value_counts(sort=False)
    return "; ".join(f"{value} ({count}x)" if count > 1 else str(value) for value, count in counts.items())
