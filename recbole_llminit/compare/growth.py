"""A plan that grows while its trials finish, as the searches over grids go on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from recbole_llminit.compare.grids import Grid, Point, count_points
from recbole_llminit.compare.plan import CheckedComparison, Plan
from recbole_llminit.compare.search import Candidate, next_points
from recbole_llminit.compare.trial import Trial, TrialResult
from recbole_llminit.errors import LLMInitError

_logger = logging.getLogger(__name__)


class GrowingPlan:
    """A plan, and the trials that follow from those that have finished.

    What is added depends on the validation scores of finished trials alone: an interrupted comparison that goes on
    reaches the same trials.

    Parameters
    ----------
    checked : CheckedComparison
        Makes the trials.
    plan : Plan
        The trials to begin with.
    """

    def __init__(self, checked: CheckedComparison, plan: Plan) -> None:
        self.plan = plan
        self._checked = checked
        self._ended: dict[str, Candidate | None] = {}
        self._numbers: dict[str, list[int]] = {}
        for number, entry in enumerate(plan.entries):
            self._register(number, entry.trials)

    def take(self, name: str, result: TrialResult | None) -> list[str]:
        """Take the end of a trial; return the names of the trials that are added, in the order in which to run them.

        Parameters
        ----------
        name : str
            The name of the trial.
        result : TrialResult or None
            Its result; None if it has failed.
        """
        self._ended[name] = None if result is None else Candidate.of(result)
        return [added for number in tuple(self._numbers.get(name, ())) for added in self._grow(number)]

    def take_finished(self, names: Iterable[str], read: Callable[[str], TrialResult | None]) -> list[str]:
        """Take those of some trials that have finished, and of the trials that these add; return the names of the rest.

        Parameters
        ----------
        names : iterable of str
            Names of trials of the plan.
        read : callable
            Takes the name of a trial and returns its result; None if it has not finished.

        Returns
        -------
        list of str
            The names of the trials to run, in order.
        """
        pending, unfinished = deque(names), []
        while pending:
            name = pending.popleft()
            result = read(name)
            if result is None:
                unfinished.append(name)
            else:
                pending.extendleft(reversed(self.take(name, result)))
        return unfinished

    @property
    def later_trials(self) -> int:
        """How many trials of grids are still to come that are searched after others; widening may add more."""
        return sum(
            count_points(grid)
            for number, entry in enumerate(self.plan.entries)
            for grid in entry.grids[1:]
            if not self._has_begun(number, grid)
        )

    def _has_begun(self, number: int, grid: Grid) -> bool:
        """Whether an entry has a trial with another value of a grid's keys than the first had."""
        first, *others = (self.plan.trials[name].settings for name in self.plan.entries[number].trials)
        return any(settings.get(key) != first.get(key) for settings in others for key in grid)

    def _register(self, number: int, names: tuple[str, ...]) -> None:
        for name in names:
            self._numbers.setdefault(name, []).append(number)

    def _grow(self, number: int) -> list[str]:
        """Add the next trials of an entry once all of its trials have ended; return the names of those not planned."""
        entry = self.plan.entries[number]
        if not entry.grids or not all(name in self._ended for name in entry.trials):
            return []
        candidates = [one for name in entry.trials if (one := self._ended[name]) is not None]
        for points in next_points(entry.grids, candidates):
            trials = [trial for trial in (self._trial(number, point) for point in points) if trial is not None]
            added = {trial.name: trial for trial in trials if trial.name not in entry.trials}
            if added:
                unplanned = [name for name in added if name not in self.plan.trials]
                self.plan = self.plan.with_trials(number, added.values())
                self._register(number, tuple(added))
                # Another entry may have run them all.
                return unplanned or self._grow(number)
        return []

    def _trial(self, number: int, point: Point) -> Trial | None:
        line = self._checked.lines[number]
        try:
            return self._checked.trial(line, point)
        except LLMInitError as error:
            _logger.warning("%s on %s is not tried with %s: %s", line.entry.model, line.entry.dataset, point, error)
            return None
