"""How long to train: a number of steps, or seconds; and the step size that follows from it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

from inspect_cli.recipe.budget import Budget

#: Share of the budget in which the step size rises from zero to its peak.
WARM_UP: Final = 0.05
#: Share of a budget in time that is left for what comes next, whatever came before.
_LEAST_LEFT: Final = 0.4
#: Share of the time left for the training itself that is kept for what comes after it: to measure what good parts
#: score, to check the networks, and to set first limits.
_CLOSING_SHARE: Final = 0.2


@dataclass
class MapBudget:
    """Steps or seconds for one map, or both: what ends first. ``spent_s`` counts time from before a resume too."""

    steps: int | None
    seconds: float | None
    spent_s: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, budget: Budget, maps: int, most_steps: int | None = None) -> MapBudget:
        """Return one map's share: time is split over the maps, steps hold for each.

        A budget in time ends at ``most_steps`` too, if there is such a number.
        """
        return cls(most_steps if budget.steps is None else budget.steps, budget.seconds_a_map(maps))

    def start(self, spent_s: float = 0.0) -> None:
        """Start the clock, ``spent_s`` after the beginning."""
        self.spent_s = spent_s
        self._since = time.monotonic()

    def elapsed_s(self) -> float:
        """Return the seconds spent."""
        return self.spent_s + time.monotonic() - self._since

    def progress(self, step: int) -> float:
        """Return the share of the budget that is used up after ``step`` steps, 0 to 1."""
        shares = []
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            shares.append(self.elapsed_s() / self.seconds)
        return min(1.0, max(shares, default=1.0))


def left_of(budget: Budget, spent_s: float) -> Budget:
    """Return what is left of a budget in time after ``spent_s``, two fifths of it at least; steps stay."""
    seconds = budget.seconds or 0.0
    return budget.in_time(max(seconds - spent_s, _LEAST_LEFT * seconds))


def without_closing(budget: Budget) -> Budget:
    """Return the share of a budget in time that networks are trained for, before what follows; steps stay."""
    return budget.in_time((1 - _CLOSING_SHARE) * (budget.seconds or 0.0))


def step_size(peak: float, progress: float) -> float:
    """Return the step size at ``progress`` (0 to 1): a short linear rise, then a cosine to zero."""
    if progress < WARM_UP:
        return peak * max(progress / WARM_UP, 0.02)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
