"""What became of a batch: an outcome for each part, and ``run.json``, which lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from inspect_cli import TOOL
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.store.atomic import write_json
from inspect_cli.store.layout import RUN_RECORD
from inspect_cli.store.part_record import PartRecord
from inspect_cli.store.paths import as_text
from inspect_cli.store.timestamps import utc_now

VERDICTS: Final = ("pass", "fail", "undecided", "error", "pending")
#: Why a part is pending that a run did not come to.
NOT_REACHED: Final = "the run ended before it; the next run takes it"


@dataclass
class Outcome:
    """How one part ended: its record, or why there is none; ``pending`` if it is left to the next run."""

    part: str
    record: PartRecord | None = None
    error: str | None = None
    unchanged: bool = False
    pending: bool = False

    @property
    def verdict(self) -> str:
        """One of VERDICTS: ``error`` if the part could not be read, ``pending`` if it is not whole yet."""
        if self.pending:
            return "pending"
        return "error" if self.record is None else self.record.verdict


@dataclass
class RunSummary:
    """What a run has done so far, of the ``planned`` parts."""

    run: Path
    planned: list[str]
    outcomes: list[Outcome] = field(default_factory=list)
    warnings: Sequence[str] = ()
    seconds: float = 0.0
    interrupted: bool = True

    def add(self, outcome: Outcome) -> None:
        """Note how a part ended; its regions stay on disk."""
        record = outcome.record
        self.outcomes.append(outcome if record is None else replace(outcome, record=record.brief()))

    def listed(self) -> list[str]:
        """Return the parts that belong to the run: all that were planned but those without a result."""
        failed = {outcome.part for outcome in self.outcomes if outcome.record is None}
        return [part for part in self.planned if part not in failed]

    def counts(self) -> dict[str, int]:
        """Return the number of parts of each verdict."""
        return {name: sum(o.verdict == name for o in self.outcomes) for name in VERDICTS}

    def told(self) -> str:
        """Return the verdicts that there are, in words."""
        return ", ".join(f"{number} {verdict}" for verdict, number in self.counts().items() if number)


def write_run_record(
    summary: RunSummary, model: ScoringModel, folder: Path, started_utc: str, exit_code: int | None
) -> None:
    """Write ``run.json``."""
    manifest, recipe = model.bundle.manifest, model.recipe
    calibration = model.calibration()
    content = {
        "format": 1,
        "tool": TOOL,
        "material": recipe.material,
        "method": manifest.method,
        "model": as_text(str(model.bundle.folder.resolve())),
        "model_sha256": manifest.digest(),
        "recipe_sha256": recipe.digest(),
        "scoring_sha256": model.scoring_digest(),
        "limits_sha256": model.limits_digest(calibration),
        "calibration": json.loads(calibration.model_dump_json(exclude={"limits"}))
        | {"limits": {name: limit.pixel for name, limit in calibration.limits.items()}},
        "warnings": model.cautions,
        "batch_warnings": list(summary.warnings),
        "input": str(folder.resolve()),
        "pixel_pitch_um": recipe.pixel_pitch_um,
        "tile_px": model.tiles.size_px,
        "stride_px": model.tiles.stride_px,
        "tiles_even": model.tiles.even,
        "device": model.engine.device_name,
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "started_utc": started_utc,
        "finished_utc": utc_now(),
        "seconds": summary.seconds,
        "counts": summary.counts(),
        "parts": summary.listed(),
        "errors": [{"part": o.part, "error": o.error} for o in summary.outcomes if o.verdict == "error"],
        "pending": [{"part": o.part, "error": o.error} for o in summary.outcomes if o.pending],
        "interrupted": summary.interrupted,
        "exit_code": exit_code,
    }
    write_json(summary.run / RUN_RECORD, content)
