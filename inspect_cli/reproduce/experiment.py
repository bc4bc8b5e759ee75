"""What a table is made of: cases, one training each, and the rows that are measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from inspect_cli.console import Teller
from inspect_cli.recipe import Budget

#: Ending of the column that holds the paper's value of a metric.
PAPER: Final = "_paper"

Value = str | int | float | None
#: Column -> value: labels, each metric with the paper's value, training time in s, steps, budget, seed.
Row = dict[str, Value]


@dataclass(frozen=True)
class Case:
    """One training of a table: a data set, a method (or a variant of one) and a seed.

    ``path`` is where the data set lies, None if it is generated; ``out`` the folder that everything is written to.
    """

    table: str
    data: str
    path: Path | None
    method: str
    budget: Budget
    seed: int
    out: Path

    @property
    def work(self) -> Path:
        """Folder of this data set and method, for the model and the scored images."""
        return self.out / self.table / self.data / self.method


class Experiment(Protocol):
    """How the rows of a table are made."""

    def inputs(self, data: Path | None) -> dict[str, Path | None]:
        """Return the data sets by name with the file or folder that each lies in, None if it is generated.

        Raises
        ------
        NoInputError
            If nothing of the kind is at ``data``.
        """
        ...

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train, score and measure a case."""
        ...


@dataclass(frozen=True)
class Cost:
    """What a training took."""

    train_s: float
    steps: int


def make_row(
    case: Case,
    metrics: Mapping[str, float | None],
    paper: Mapping[str, float],
    cost: Cost,
    labels: Mapping[str, str] | None = None,
) -> Row:
    """Return a row: labels, each metric with the paper's value beside it (None if it gives none), and the cost."""
    row: Row = {"data": case.data, "method": case.method, **(labels or {})}
    for name, value in {**metrics, "train_s": round(cost.train_s, 1)}.items():
        row |= {name: value, name + PAPER: paper.get(name)}
    return row | {"steps": cost.steps, "budget": str(case.budget), "seed": case.seed}
