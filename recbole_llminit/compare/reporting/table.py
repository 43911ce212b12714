"""The table of a report: means and standard deviations over seeds, with letters for what differs."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_llminit.compare.reporting.lines import LINE_COLUMNS, MODEL_COLUMNS, PART_COLUMNS, Line, ModelKey, Part
from recbole_llminit.text_table import draw_table

SIGNIFICANCE_LEVEL = 0.05
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Cell:
    """A mean over the seeds with its standard deviation, and the letters of what it differs from.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation over the seeds; ``std`` is NaN for a single seed.
    better, worse : str
        The letters of what the line is significantly better and worse than.
    bold : bool
        Whether the line is the best of its model, and better than every initialization without an LLM.
    """

    mean: float
    std: float
    better: str
    worse: str
    bold: bool

    @property
    def spread(self) -> str:
        """The standard deviation behind its sign; empty for a single seed, which has none."""
        return "" if math.isnan(self.std) else f" ± {self.std:.4f}"

    def __str__(self) -> str:
        """Write the cell for the terminal, where a star stands for bold."""
        mean = f"{self.mean:.4f}*" if self.bold else f"{self.mean:.4f}"
        return " ".join(filter(None, [f"{mean}{self.spread}", self._marks]))

    def to_markdown(self) -> str:
        """Write the cell for markdown."""
        mean = f"**{self.mean:.4f}**" if self.bold else f"{self.mean:.4f}"
        return mean + self.spread + (f" <sup>{self._marks}</sup>" if self._marks else "")

    def to_latex(self) -> str:
        """Write the cell for LaTeX: the letters of ``better`` above, those of ``worse`` below."""
        mean = f"\\textbf{{{self.mean:.4f}}}" if self.bold else f"{self.mean:.4f}"
        above = f"^{{{self.better}}}" if self.better else ""
        below = f"_{{{self.worse}}}" if self.worse else ""
        marks = f"${above}{below}$" if above or below else ""
        return mean + self.spread.replace("±", "$\\pm$") + marks

    @property
    def _marks(self) -> str:
        return " ".join(filter(None, [self.better, f"-{self.worse}" if self.worse else ""]))


@dataclass(frozen=True)
class SectionRow:
    """A row of the table.

    Parameters
    ----------
    model, initialization : str
        The line; the initialization of a baseline is empty.
    letter : str
        The letter by which cells refer to the row; empty where nothing is tested against it.
    seeds : int
        The number of seeds.
    cells : mapping of str to Cell
        A cell for each tested metric.
    """

    model: str
    initialization: str
    letter: str
    seeds: int
    cells: Mapping[str, Cell]

    @property
    def label(self) -> str:
        """The initialization with its letter."""
        return f"{self.initialization} ({self.letter})".strip() if self.letter else self.initialization


@dataclass(frozen=True)
class Section:
    """The part of the table for one dataset and one amount of dropped training interactions."""

    part: Part
    rows: tuple[SectionRow, ...]

    @property
    def title(self) -> str:
        """The heading of the section."""
        return self.part.title

    def to_texts(self, cell: Callable[[Cell], str], name: Callable[[str], str] = str) -> pd.DataFrame:
        """Return the section as a frame of texts.

        Parameters
        ----------
        cell : callable
            Writes a cell.
        name : callable
            Writes the name of a model or of an initialization.
        """
        return pd.DataFrame(
            [
                {"model": name(row.model), "initialization": name(row.label), "seeds": str(row.seeds)}
                | {metric: cell(value) for metric, value in row.cells.items()}
                for row in self.rows
            ]
        )

    def draw(self) -> str:
        """Draw the section for the terminal, under its title."""
        texts = self.to_texts(str)
        return f"{self.title}\n{draw_table(list(texts.columns), texts.to_numpy().tolist())}"

    def to_markdown(self) -> str:
        """Draw the section as a table in markdown, without its title."""
        return draw_markdown(self.to_texts(Cell.to_markdown, escape_markdown))

    def to_latex(self) -> str:
        """Draw the section as a table in LaTeX (``booktabs``) with its title as the caption."""
        texts = self.to_texts(Cell.to_latex, escape_latex)
        drawn: str = texts.to_latex(index=False, escape=False, caption=escape_latex(self.title))
        return drawn


@dataclass(frozen=True)
class Table:
    """The table of a report.

    Parameters
    ----------
    runs, tests : DataFrame
        See `Report`.
    metrics : tuple of str
        The metrics that are tested.
    incomplete : frozenset of ModelKey
        The models that lack an initialization without an LLM: none of their cells is bold.
    """

    runs: pd.DataFrame
    tests: pd.DataFrame
    metrics: tuple[str, ...]
    incomplete: frozenset[ModelKey]

    @property
    def references(self) -> dict[str, str]:
        """The letter of each initialization and baseline that others are tested against."""
        names = dict.fromkeys(self.tests["reference"]) if len(self.tests) else {}
        return dict(zip(names, _LETTERS, strict=False))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each line: seeds, role, tuned values, and mean, ``std`` and letters of the metrics."""
        metrics = [column for column in self.runs.columns if "@" in column]
        grouped = self.runs.groupby(LINE_COLUMNS, sort=False)
        columns = {
            "seeds": grouped["seed"].nunique(),
            "role": grouped["role"].first(),
            "tuned": grouped["tuned"].agg(_count_values),
        }
        for metric in metrics:
            columns[metric] = grouped[metric].mean()
            columns[f"{metric} std"] = grouped[metric].std()
        table = pd.DataFrame(columns).reset_index()
        lines = [Line(*values) for values in table[LINE_COLUMNS].to_numpy()]
        for metric in self.metrics:
            for column, sign in (("better_than", 1), ("worse_than", -1)):
                table[f"{metric} {column}"] = [self._letters(line, metric, sign) for line in lines]
        return table

    def sections(self) -> list[Section]:
        """Return the table in sections: one for each dataset and each amount of dropped training interactions."""
        table = self.to_dataframe()
        return [
            Section(Part(*key), tuple(self._section_row(row, part) for row in part.to_dict("records")))
            for key, part in table.groupby(PART_COLUMNS, sort=False)
        ]

    def _section_row(self, row: Mapping[str, Any], part: pd.DataFrame) -> SectionRow:
        line = Line(*(row[column] for column in LINE_COLUMNS))
        of_model = part[(part[MODEL_COLUMNS] == list(line.model_key)).all(axis=1)]
        cells = {
            metric: Cell(
                mean=row[metric],
                std=row[f"{metric} std"],
                better=row[f"{metric} better_than"],
                worse=row[f"{metric} worse_than"],
                bold=self._is_bold(line, row, of_model, metric),
            )
            for metric in self.metrics
        }
        letter = self.references.get(line.name, "")
        return SectionRow(line.model, line.initialization, letter, row["seeds"], cells)

    def _is_bold(self, line: Line, row: Mapping[str, Any], of_model: pd.DataFrame, metric: str) -> bool:
        """Whether a line is the best of its model, and tests better than all its initializations without an LLM."""
        if row["role"] != "llm" or row[metric] < of_model[metric].max() or line.model_key in self.incomplete:
            return False
        if not len(self.tests):
            return False
        tests = self._tests_of(line, metric)
        tests = tests[tests["of_model"]]
        return bool(len(tests) and ((tests["p_holm"] < SIGNIFICANCE_LEVEL) & (tests["difference"] > 0)).all())

    def _letters(self, line: Line, metric: str, sign: int) -> str:
        """Return the letters of what the line is better (sign 1) or worse (-1) than."""
        if not len(self.tests):
            return ""
        found = self._tests_of(line, metric)
        found = found[(found["p_holm"] < SIGNIFICANCE_LEVEL) & (np.sign(found["difference"]) == sign)]
        return "".join(sorted(self.references[name] for name in found["reference"] if name in self.references))

    def _tests_of(self, line: Line, metric: str) -> pd.DataFrame:
        same = (self.tests[LINE_COLUMNS] == list(line)).all(axis=1)
        return self.tests[same & (self.tests["metric"] == metric)]


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


def _count_values(values: pd.Series) -> str:
    """Name each value that is not empty, with how often it occurs where that is more than once."""
    counts = values[values != ""].value_counts(sort=False)
    return "; ".join(f"{value} ({count}x)" if count > 1 else str(value) for value, count in counts.items())
