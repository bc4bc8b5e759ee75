"""DIR section VI: what the parts of `direct` are worth, one changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from inspect_cli.console import Teller
from inspect_cli.reproduce import papers
from inspect_cli.reproduce.experiment import Case, Row
from inspect_cli.reproduce.localisation import DIRECT_PLAN, measure_maps
from inspect_cli.reproduce.mvtec import Preparation, find_categories
from inspect_cli.reproduce.pipeline import Plan
from inspect_cli.reproduce.registry import FAMILIES


@dataclass(frozen=True)
class Ablation:
    """Areas under ROC of variants of `direct`.

    The paper's numbers stand beside the variant that it uses itself; those of the others are box plots.

    Attributes
    ----------
    own
        The variant that the paper uses.
    plan
        Variant -> plan.
    """

    own: str
    plan: Callable[[str], Plan]

    def inputs(self, data: Path | None) -> dict[str, Path | None]:
        """Return the categories."""
        return find_categories(data)

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train and score a category; see :class:`Experiment`."""
        paper = papers.DIRECT.get(case.data, {}) if case.method == self.own else {}
        return measure_maps(case, self.plan(case.method), paper, teller)


def families_of(variant: str) -> list[str]:
    """Return the families of noise of ``all``, ``only-FAMILY`` or ``no-FAMILY``."""
    what, _, family = variant.partition("-")
    return [name for name in FAMILIES if what == "all" or (name == family) == (what == "only")]


def direct_with(settings: Mapping[str, Any]) -> Plan:
    """Return the paper's plan of `direct` with other settings."""
    return replace(DIRECT_PLAN, settings=settings)


NOISE: Final = Ablation("all", lambda variant: direct_with({"families": families_of(variant)}))
ACTIVATION: Final = Ablation("refrelu", lambda variant: direct_with({"activation": variant}))
RESIZE: Final = Ablation(
    "256px", lambda variant: DIRECT_PLAN if variant == "256px" else replace(DIRECT_PLAN, images=Preparation())
)
