"""How long to train: a number of steps, or seconds; what a budget in time is spent on; and the step size.

A budget in time is for the whole command. First come the look for parts that stand out and, with ``auto``, the
trials; each has shares of the whole. The training takes what is left but for ``_CLOSING_SHARE``. What comes after it
has shares of the training's time: what good parts score at each place, the check by artificial defects, and first
limits.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

from inspect_cli.recipe.budget import Budget

#: Share of the budget in which the step size rises from zero to its peak.
WARM_UP: Final = 0.05

#: The look for parts that stand out, on each map: a detector is trained for this share of the map's part, and of what
#: lies beyond ``LOOK_PLENTY_S`` for another (the detector that is kept hardly gains from more, and the look grows
#: sharper); then parts are looked at.
LOOK_TRAINING_SHARE: Final = 0.15
LOOK_PLENTY_S: Final = 180.0
LOOK_PLENTY_SHARE: Final = 0.3
LOOK_SHARE: Final = 0.15
#: All trials of ``auto`` together.
TRIALS_SHARE: Final = 0.3
#: What is left for the training whatever came before.
_LEAST_LEFT: Final = 0.4
#: What is kept of that for what comes after the training.
_CLOSING_SHARE: Final = 0.2
#: Of the training's time: to score parts for what is usual at each place, and for the fewest parts at most.
USUAL_SHARE: Final = 0.1
USUAL_MOST_SHARE: Final = 0.25
#: Of the training's time, or of a trial's: to show a network artificial defects, at most.
CHECK_SHARE: Final = 0.5
#: Of the training's time: to score windows for the first limits.
LIMITS_SHARE: Final = 0.1


@dataclass
class MapBudget:
    """Steps or seconds for one map, or both: what ends first. ``spent_s`` counts time from before a resume too."""

    steps: int | None
    seconds: float | None
    spent_s: float = 0.0
    _since: float = field(init=False, default_factory=time.monotonic)

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
