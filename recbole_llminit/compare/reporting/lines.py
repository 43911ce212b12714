"""The lines of a report: what identifies them, and which of them are complete enough to be reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from recbole_llminit.compare.plan import Entry

FULL_DATA = "none"


class Part(NamedTuple):
    """A section of the report: one dataset with one amount of dropped training interactions.

    Parameters
    ----------
    dataset : str
        The dataset.
    drop : str
        The training interactions that are dropped (``drop_train``); ``"none"`` for the full data.
    """

    dataset: str
    drop: str

    @property
    def title(self) -> str:
        """The heading of the section."""
        return self.dataset if self.drop == FULL_DATA else f"{self.dataset}, training interactions dropped: {self.drop}"


class ModelKey(NamedTuple):
    """One model in one part of the report: the lines that share it are compared with each other."""

    dataset: str
    drop: str
    model: str

    @property
    def label(self) -> str:
        """The model and its part, as messages name them."""
        return f"{self.model} on {Part(self.dataset, self.drop).title}"


class Line(NamedTuple):
    """What identifies a line of the report.

    Parameters
    ----------
    dataset, drop, model : str
        See `Part`, `ModelKey`. Of a baseline ``model`` is its label.
    initialization : str
        The label of the initialization; empty for a baseline, which has none.
    """

    dataset: str
    drop: str
    model: str
    initialization: str

    @classmethod
    def of(cls, entry: Entry) -> Line:
        """Return the line of an entry of the plan."""
        drop = FULL_DATA if entry.drop is None else str(entry.drop)
        return cls(entry.dataset, drop, entry.model, entry.initialization)

    @property
    def part(self) -> Part:
        """The section in which the line stands."""
        return Part(self.dataset, self.drop)

    @property
    def model_key(self) -> ModelKey:
        """The model whose initializations the line is compared with."""
        return ModelKey(self.dataset, self.drop, self.model)


PART_COLUMNS = list(Part._fields)
MODEL_COLUMNS = list(ModelKey._fields)
LINE_COLUMNS = list(Line._fields)


class CompleteEntries(NamedTuple):
    """The entries that can be reported.

    Parameters
    ----------
    entries : list of Entry
        Those whose model has the same seeds for all of its initializations.
    messages : list of str
        What is left out, and why.
    incomplete : frozenset of ModelKey
        The models that lack an initialization without an LLM.
    """

    entries: list[Entry]
    messages: list[str]
    incomplete: frozenset[ModelKey]


def choose_complete(entries: Sequence[Entry], finished: set[str], failed: set[str]) -> CompleteEntries:
    """Choose the entries whose models have the same seeds for all initializations.

    A seed of a model is left out while one of its trials is neither finished nor failed. It is also left out where an
    initialization failed with it, unless that initialization failed with every seed: then the initialization is left
    out, and the seeds stay.

    Parameters
    ----------
    entries : sequence of Entry
        The entries of the plan.
    finished, failed : set of str
        The names of the trials that have finished and of those that have failed.
    """
    unfinished = {_model_and_seed(entry) for entry in entries if not finished | failed >= set(entry.trials)}
    settled = [entry for entry in entries if _model_and_seed(entry) not in unfinished]
    without_result = [entry for entry in settled if not finished.intersection(entry.trials)]
    lost = _lines_without_any_result(settled, without_result)
    broken = {_model_and_seed(entry) for entry in without_result if Line.of(entry) not in lost}
    kept = [entry for entry in settled if Line.of(entry) not in lost and _model_and_seed(entry) not in broken]
    messages = [
        *_describe_left_out("not finished", unfinished),
        *_describe_left_out("an initialization failed", broken),
        *(
            f"failed with every seed, and left out: {line.model} {line.initialization} on {line.part.title}"
            for line in sorted(lost)
        ),
    ]
    roles = {Line.of(entry): entry.role for entry in entries}
    return CompleteEntries(kept, messages, frozenset(line.model_key for line in lost if roles[line] != "llm"))


def _model_and_seed(entry: Entry) -> tuple[ModelKey, int]:
    return Line.of(entry).model_key, entry.seed


def _lines_without_any_result(settled: Iterable[Entry], without_result: Iterable[Entry]) -> set[Line]:
    """Return the lines of which no seed has a result."""
    seeds = Counter(Line.of(entry) for entry in settled)
    failures = Counter(Line.of(entry) for entry in without_result)
    return {line for line, count in failures.items() if count == seeds[line]}


def _describe_left_out(reason: str, models_and_seeds: Iterable[tuple[ModelKey, int]]) -> list[str]:
    """Return one message that names the models and seeds that are left out; none where there are none."""
    seeds_by_model: dict[ModelKey, list[int]] = {}
    for model, seed in sorted(models_and_seeds):
        seeds_by_model.setdefault(model, []).append(seed)
    if not seeds_by_model:
        return []
    named = (f"{model.label} with seed {', '.join(map(str, seeds))}" for model, seeds in seeds_by_model.items())
    return [f"{reason}, and left out: {'; '.join(named)}"]
