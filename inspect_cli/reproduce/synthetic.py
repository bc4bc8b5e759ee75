"""IND Table 1: one method on generated images, four normal ones to learn from, anomalous ones to measure on.

One of the four is held out to stop the training by.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from inspect_cli.batch.calibrate import limits_from_labelled_folder
from inspect_cli.batch.run import apply_limits, run_of
from inspect_cli.batch.summary import Outcome
from inspect_cli.console import Teller
from inspect_cli.evaluation.evaluate import LIMIT, fused_histogram
from inspect_cli.images import discover_parts
from inspect_cli.material.materials import find_material, shipped
from inspect_cli.reproduce import papers
from inspect_cli.reproduce.experiment import Case, Cost, Row, make_row
from inspect_cli.sample.batch import PROVENANCE, write_batch
from inspect_cli.sample.plan import plan_batch
from inspect_cli.scoring.model import load_model
from inspect_cli.stopping import Stopped
from inspect_cli.store.atomic import write_text
from inspect_cli.store.layout import RECIPE
from inspect_cli.training.order import TrainingOrder
from inspect_cli.training.train import train_material


class SyntheticImages:
    """Recall (A, IND eq. 7) and IoU (eq. 8) at the limit of best IoU (IND 3.1).

    Where the IoU is above the paper's, its limit lies higher and the recall there may be below the paper's.
    ``recall_at_paper_iou`` is the recall that is left where the limit falls until the IoU is the paper's.
    Methods share the images, the most steps that are taken, and the step size.
    """

    def inputs(self, data: Path | None) -> dict[str, Path | None]:  # noqa: ARG002
        """Return the two materials, which are generated."""
        return {name: None for name, _ in papers.CHESS_NOISE}

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train a method on a material of ``case.out / "models"`` and measure it; see :class:`Experiment`."""
        batch = _generated(case.out / case.data, case.data, case.seed)
        models = case.out / "models"
        text = (shipped("models") / case.data / RECIPE).read_text(encoding="utf-8")  # whatever a store has
        write_text(models / case.data / RECIPE, text)
        material = find_material(case.data, models)
        maps = dict(material.recipe.maps)
        parts = discover_parts(batch / "train", maps)
        order = TrainingOrder(material, parts, case.method, maps, case.budget, case.seed, device="auto")
        bundle = train_material(order, teller)
        model = load_model(material, bundle)
        limits = limits_from_labelled_folder(model, batch / "test", batch / "ground_truth", "iou", teller)
        run = run_of(batch / "test", case.data, None)
        summary, code = apply_limits(run, replace(model, bundle=bundle.with_calibration(limits.calibration)), _silent)
        if summary.interrupted:
            raise Stopped(code)
        scoring = material.recipe.scoring
        found = fused_histogram(run, batch / "ground_truth", scoring.halo_share, scoring.halo_px)
        trained = next(iter(bundle.manifest.maps.values()))
        paper = papers.CHESS_NOISE[case.data, case.method]
        metrics = {
            "recall": found.recall_at(LIMIT),
            "iou": found.iou_at(LIMIT),
            "recall_at_paper_iou": found.recall_max(paper["iou"]),
        }
        paper = paper | {"recall_at_paper_iou": paper["recall"]}
        return [make_row(case, metrics, paper, Cost(trained.seconds, trained.steps))]


CHESS_NOISE: Final = SyntheticImages()


def _generated(folder: Path, material: str, seed: int) -> Path:
    """Return the folder with the images of a material and a seed; they are generated once and shared."""
    try:
        made = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = {}
    if (made.get("seed"), made.get("complete")) != (seed, True):
        write_batch(plan_batch(material, seed=seed), folder, force=True)
    return folder


def _silent(_outcome: Outcome) -> None:
    """Tell nobody of a part."""
