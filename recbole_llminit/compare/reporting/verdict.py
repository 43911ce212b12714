"""The verdict of a report: what beat what, by how much and how certainly, in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from recbole_llminit.compare.reporting.lines import FULL_DATA, PART_COLUMNS, Part
from recbole_llminit.compare.reporting.references import References, best_name, choose_references
from recbole_llminit.compare.reporting.statistics import BETTER, LEAST_SEEDS, UNDECIDED, WORSE
from recbole_llminit.compare.reporting.table import format_percent, relative_change

_NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# More models are counted, not listed.
_MOST_LISTED = 4


class Contrast(NamedTuple):
    """How a line differs from a reference in one metric, over the seeds that both have."""

    metric: str
    mean: float
    reference_mean: float
    outcome: str
    seeds: int
    p_holm: float
    p_seeds: float

    @property
    def percent(self) -> str:
        """The change in percent with its sign."""
        return format_percent(relative_change(self.mean, self.reference_mean)).replace("%", " %")

    @property
    def amount(self) -> str:
        """The change in percent without its sign."""
        return self.percent.lstrip("+-")

    @property
    def means(self) -> str:
        """Both means."""
        return f"{self.mean:.4f} against {self.reference_mean:.4f}"

    @property
    def p(self) -> str:
        """The p-values that decide: over users corrected, over seeds (where there are enough of them) not."""
        over_seeds = "" if math.isnan(self.p_seeds) else f", {_describe_p(self.p_seeds)} over seeds"
        return f"{_describe_p(self.p_holm)} over users{over_seeds}"


@dataclass(frozen=True)
class _Choice:
    """The initialization from vectors that validation chooses for a model, and what it is compared with.

    Parameters
    ----------
    model, initialization : str
        The line.
    score : float
        Its validation score; negative where a smaller one is better.
    references : References
        The lines without vectors that validation chooses for the model.
    tests : DataFrame
        The tests of all initializations of the model.
    stock_is_tuned : bool
        Whether the stock initialization of ``references`` is tuned.
    is_only : bool
        Whether the model has no other initialization from vectors.
    """

    model: str
    initialization: str
    score: float
    references: References
    tests: pd.DataFrame
    stock_is_tuned: bool
    is_only: bool

    @property
    def stock(self) -> str:
        """What the stock initialization is called in a sentence."""
        return "tuned stock initialization" if self.stock_is_tuned else "stock initialization"

    @property
    def name(self) -> str:
        """Model and initialization."""
        return f"{self.model} from {self.initialization}"

    def contrast(self, reference: str, metric: str) -> Contrast | None:
        """Return how the line differs from a reference; None where this was not tested."""
        return _find_contrast(self.tests, self.initialization, reference, metric)

    def is_beaten_by_none(self, reference: str, metric: str) -> bool:
        """Whether no initialization of the model is better than a reference."""
        against = self.tests[(self.tests["reference"] == reference) & (self.tests["metric"] == metric)]
        return bool((against["outcome"] != BETTER).all())


def make_verdict(
    runs: pd.DataFrame, tests: pd.DataFrame, metrics: Sequence[str], *, valid_score_bigger: bool
) -> tuple[str, ...]:
    """Return the verdict: a paragraph for each part that was tested, and one on seeds and epochs where they were few.

    Of each model the initialization from vectors with the best validation score is compared with the stock
    initialization (the tuned one if there is one), the best control, and the best baseline.

    Parameters
    ----------
    runs, tests : DataFrame
        See `Report`.
    metrics : sequence of str
        The metrics to name, the first of them in full.
    valid_score_bigger : bool
        Whether a larger validation score is better.
    """
    if not metrics or tests.empty:
        return ()
    paragraphs = []
    for key, of_part in runs.groupby(PART_COLUMNS, sort=False):
        tests_of_part = tests[(tests[PART_COLUMNS] == list(key)).all(axis=1)]
        choices = _choose(of_part, tests_of_part, valid_score_bigger=valid_score_bigger)
        paragraphs.append(_describe_part(Part(*key), choices, metrics))
    reservations = " ".join(filter(None, [_describe_few_seeds(tests), _describe_limit(runs)]))
    return tuple(filter(None, [*paragraphs, reservations]))


def _choose(runs: pd.DataFrame, tests: pd.DataFrame, *, valid_score_bigger: bool) -> list[_Choice]:
    """Return the choice of each model of a part; models without an initialization from vectors are left out."""
    is_baseline = runs["role"] == "baseline"
    choices = []
    for model in runs.loc[runs["role"] == "llm", "model"].unique():
        of_model = runs[(runs["model"] == model) | is_baseline]
        initialization = best_name(of_model, "llm", valid_score_bigger=valid_score_bigger)
        references = choose_references(of_model, valid_score_bigger=valid_score_bigger)
        chosen = of_model[(of_model["role"] == "llm") & (of_model["initialization"] == initialization)]
        stock = of_model[(of_model["role"] == "stock") & (of_model["initialization"] == references.stock)]
        choices.append(
            _Choice(
                model=model,
                initialization=initialization,
                score=chosen["valid_score"].mean() * (1 if valid_score_bigger else -1),
                references=references,
                tests=tests[tests["model"] == model],
                stock_is_tuned=bool((stock["tuned"] != "").any()),
                is_only=len(set(of_model.loc[of_model["role"] == "llm", "initialization"])) == 1,
            )
        )
    return choices


def _describe_part(part: Part, choices: Sequence[_Choice], metrics: Sequence[str]) -> str:
    where = _describe_place(part)
    if not choices:
        return f"{where}, no initialization from vectors was compared."
    compared = [choice for choice in choices if choice.contrast(choice.references.stock, metrics[0]) is not None]
    if not compared:
        opening = f"{where}, no stock initialization has finished to compare with."
    elif len(compared) == 1:
        opening = _describe_one(where, compared[0], metrics)
    else:
        opening = _describe_several(where, compared, metrics)
    # The baselines are the same for all models: the best of these meets the best of those.
    best = max(choices, key=lambda choice: choice.score)
    baseline = _describe_baseline(best, metrics, is_only=len(choices) == 1)
    return " ".join(filter(None, [opening, _describe_controls(compared, metrics[0]), baseline]))


def _describe_place(part: Part) -> str:
    if part.drop == FULL_DATA:
        return f"On {part.dataset}"
    if part.drop == "all_but_one":
        return f"On {part.dataset} with one training interaction a user"
    return f"On {part.dataset} without {100 * float(part.drop):.0f} % of the training interactions"


def _describe_one(where: str, choice: _Choice, metrics: Sequence[str]) -> str:
    """Compare the only model with its stock initialization."""
    first, *others = [found for metric in metrics if (found := choice.contrast(choice.references.stock, metric))]
    certainty = f"{first.mean - first.reference_mean:+.4f}; {_describe_seeds(first.seeds)}, {first.p}"
    also = "".join(f", and {_describe_change(other)}" for other in others)
    if first.outcome == BETTER:
        chosen = "" if choice.is_only else " (chosen by validation)"
        return (
            f"{where}, {choice.name}{chosen} has {_describe_change(first)} than its {choice.stock} "
            f"({first.means}, {certainty}){also}."
        )
    more = "significantly less: " if first.outcome == WORSE else ""
    numbers = f"{more}{first.means} ({first.percent}, {certainty}){also}."
    if choice.is_beaten_by_none(choice.references.stock, first.metric):
        return (
            f"{where}, no initialization from vectors gives {choice.model} significantly more {first.metric} than its "
            f"{choice.stock}: the best by validation, {choice.initialization}, has {numbers}"
        )
    return (
        f"{where}, the initialization from vectors that validation chooses for {choice.model}, "
        f"{choice.initialization}, does not give it significantly more {first.metric} than its {choice.stock}, but "
        f"others do: it has {numbers}"
    )


def _describe_several(where: str, choices: Sequence[_Choice], metrics: Sequence[str]) -> str:
    """Compare each model with its stock initialization: all of them where they are few, else the extremes."""
    metric, *others = metrics
    contrasts = ((choice.name, choice.contrast(choice.references.stock, metric)) for choice in choices)
    found = {name: contrast for name, contrast in contrasts if contrast is not None}
    against = " or ".join(dict.fromkeys(choice.references.stock for choice in choices))
    opening = f"{where}, in {metric} against the stock initialization ({against})"
    seeds = " or ".join(dict.fromkeys(_describe_seeds(contrast.seeds) for contrast in found.values()))
    if len(found) <= _MOST_LISTED:
        listed = ", ".join(
            f"{name} {contrast.percent} ({contrast.means}, {contrast.p}{_describe_outcome(contrast)})"
            for name, contrast in found.items()
        )
        otherwise = [
            f"{choice.name} in {differing}"
            for choice in choices
            if (differing := _describe_differing(choice, choice.references.stock, metric, others))
        ]
        also = f" Not so: {'; '.join(otherwise)}." if otherwise else ""
        return f"{opening}: {listed}; {seeds}.{also}"
    outcomes = [contrast.outcome for contrast in found.values()]
    ordered = sorted(found.items(), key=lambda item: relative_change(item[1].mean, item[1].reference_mean))
    (lowest, low), (highest, high) = ordered[0], ordered[-1]
    return (
        f"{opening}, the best initialization from vectors by validation is significantly better for "
        f"{outcomes.count(BETTER)} of {len(found)} models and worse for {outcomes.count(WORSE)}: from {lowest} "
        f"{low.percent} ({low.means}) to {highest} {high.percent} ({high.means}); {seeds}."
    )


def _describe_change(contrast: Contrast) -> str:
    if contrast.outcome == UNDECIDED:
        return f"no significant difference in {contrast.metric} ({contrast.percent})"
    return f"{contrast.amount} {'more' if contrast.outcome == BETTER else 'less'} {contrast.metric}"


def _describe_controls(choices: Sequence[_Choice], metric: str) -> str:
    """Name the gains that a control without knowledge has as well."""
    level = []
    for choice in choices:
        gain = choice.contrast(choice.references.stock, metric)
        found = choice.contrast(choice.references.control, metric)
        if gain is not None and gain.outcome == BETTER and found is not None and found.outcome != BETTER:
            level.append(f"{choice.name} is not significantly above {choice.references.control} ({found.means})")
    return f"The vectors do not explain every gain: {'; '.join(level)}." if level else ""


def _describe_baseline(choice: _Choice, metrics: Sequence[str], *, is_only: bool) -> str:
    """Compare the best choice with the best baseline."""
    metric, *others = metrics
    baseline = choice.references.baseline
    found = choice.contrast(baseline, metric)
    if found is None:
        return ""
    swapped = found._replace(mean=found.reference_mean, reference_mean=found.mean)
    ours = "it" if is_only else f"{choice.name}, the best of them by validation,"
    if found.outcome == BETTER:
        sentence = f"{'It' if is_only else ours} is {found.amount} above the best baseline, {baseline} ({found.means})"
    elif found.outcome == WORSE:
        sentence = f"The best baseline, {baseline}, is {swapped.amount} above {ours} ({swapped.means})"
    else:
        sentence = f"The best baseline, {baseline}, is not significantly different from {ours} ({swapped.means})"
    differing = _describe_differing(choice, baseline, metric, others)
    return f"{sentence}; not so in {differing}." if differing else f"{sentence}."


def _describe_differing(choice: _Choice, reference: str, metric: str, others: Sequence[str]) -> str:
    """Name the other metrics whose outcome is not that of the first, each with its change; empty where all agree."""
    first = choice.contrast(reference, metric)
    found = (choice.contrast(reference, other) for other in others)
    return ", ".join(
        f"{contrast.metric} ({contrast.percent}{_describe_outcome(contrast)})"
        for contrast in found
        if first is not None and contrast is not None and contrast.outcome != first.outcome
    )


def _describe_outcome(contrast: Contrast) -> str:
    return ", not significant" if contrast.outcome == UNDECIDED else ""


def _describe_few_seeds(tests: pd.DataFrame) -> str:
    fewest = int(tests["seeds"].min())
    if fewest >= LEAST_SEEDS:
        return ""
    seeds = _describe_seeds(fewest).capitalize()
    return f"{seeds}: the chance of split, negatives and initialization was not tested, only that of the users."


def _describe_limit(runs: pd.DataFrame) -> str:
    limited = runs[runs["at_limit"].astype(bool)]
    if limited.empty:
        return ""
    epochs = " or ".join(f"{number:.0f}" for number in sorted(set(limited["epochs"])))
    were = "was" if len(limited) == 1 else "were"
    return (
        f"{len(limited)} of {len(runs)} runs {were} ended by the limit of {epochs} epochs: more may change the result."
    )


def _describe_seeds(count: int) -> str:
    number = _NUMBER_WORDS[count] if count < len(_NUMBER_WORDS) else str(count)
    return f"{number} seed" if count == 1 else f"{number} seeds"


def _describe_p(p: float) -> str:
    """Write a p-value: two decimals from 0.1 on, below one digit that is not 0."""
    if p < 1e-4:
        return "p < .0001"
    rounded = f"{p:.2f}" if p >= 0.095 else np.format_float_positional(p, precision=1, fractional=False)
    return f"p = {rounded.removeprefix('0')}" if p < 0.995 else "p = 1"


def _find_contrast(tests: pd.DataFrame, initialization: str, reference: str, metric: str) -> Contrast | None:
    found = tests[
        (tests["initialization"] == initialization) & (tests["reference"] == reference) & (tests["metric"] == metric)
    ]
    if found.empty:
        return None
    return Contrast(*(found.iloc[0][field] for field in Contrast._fields))
