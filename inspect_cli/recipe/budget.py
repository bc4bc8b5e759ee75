"""What ``--budget`` and ``training.budget`` say: how long to train."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

_TEXT: Final = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h|steps?)$")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: Least seconds of a budget in time, also of what is left of one: something is trained.
_LEAST_S: Final = 0.1


@dataclass(frozen=True)
class Budget:
    """Seconds for a whole training, or steps for each of its maps; the other is None. ``str`` writes it as typed."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that a text such as ``8m`` or ``5000steps`` names.

        Raises
        ------
        ValueError
            If it is none.
        """
        match = _TEXT.match(text.strip())
        if match is None or float(match[1]) <= 0:
            raise ValueError(f"{text!r} is no budget; write 90s, 8m, 1h or 5000steps")
        if not match[2].startswith("step"):
            return cls(seconds=float(match[1]) * _SECONDS[match[2]])
        if not match[1].isdigit():
            raise ValueError(f"{text!r}: a number of steps is whole")
        return cls(steps=int(match[1]))

    def __str__(self) -> str:
        """Return the text that names it, in the largest unit that divides it: ``8m``, ``90s``, ``5000steps``."""
        if self.seconds is None:
            return f"{self.steps}steps"
        for unit in ("h", "m"):
            count = self.seconds / _SECONDS[unit]
            if count.is_integer() and (count > 1 or unit == "h"):
                return f"{count:.0f}{unit}"
        return f"{round(self.seconds, 1):g}s"

    def share(self, share: float) -> Budget:
        """Return a share of it, 0 to 1: of the seconds, or of the steps, one at least."""
        if self.steps is not None:
            return Budget(steps=max(1, round(share * self.steps)))
        return self.in_time(share * (self.seconds or 0.0))

    def in_time(self, seconds: float) -> Budget:
        """Return it with other seconds, a tenth at least; one in steps stays."""
        return self if self.seconds is None else replace(self, seconds=max(seconds, _LEAST_S))

    def seconds_a_map(self, maps: int) -> float | None:
        """Return the seconds for each of so many maps, None of a budget in steps."""
        return None if self.seconds is None else self.seconds / maps
