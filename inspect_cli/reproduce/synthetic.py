"""One method on one synthetic data set: four normal images to learn from, four anomalous ones to measure on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from inspect_cli.evaluation.evaluate import evaluate_run
from inspect_cli.images import discover_parts
from inspect_cli.outputs.calibrate import limits_from_labelled_folder
from inspect_cli.outputs.finish import apply_limits
from inspect_cli.outputs.run import Outcome
from inspect_cli.sample.batch import write_batch
from inspect_cli.sample.plan import plan_batch
from inspect_cli.scoring.model import load_model
from inspect_cli.store.layout import RUN_FOLDER
from inspect_cli.store.materials import adopt, find_material
from inspect_cli.training.train import Teller, TrainingOrder, train_material


@dataclass(frozen=True)
class Measured:
    """Recall (A, IND eq. 7) and IoU (eq. 8) at the limit of best IoU, with the cost of the training."""

    recall: float
    iou: float
    train_s: float
    steps: int


def measure_synthetic(out: Path, data: str, method: str, budget: str, seed: int, teller: Teller) -> Measured:
    """Train ``method`` on ``data`` (chess or noise) and measure it at the limit that maximises IoU (IND 3.1).

    The images are generated once into ``out`` and shared by all methods.
    """
    batch = out / data
    if not (batch / "sample.json").is_file():
        write_batch(plan_batch(data, seed=seed), batch)
    material = adopt(find_material(data, out / "models"), out / "models")
    maps = dict(material.recipe.maps)
    order = TrainingOrder(
        material=material,
        parts=discover_parts(batch / "train", maps),
        method=method,
        maps=maps,
        budget=budget,
        seed=seed,
        device="auto",
    )
    bundle = train_material(order, teller)
    model = load_model(material, bundle)
    calibration = limits_from_labelled_folder(model, batch / "test", batch / "ground_truth", "iou", teller)
    model = replace(model, bundle=bundle.with_calibration(calibration))
    run = batch / "test" / RUN_FOLDER / data
    apply_limits(run, model, _silent)
    found = evaluate_run(run, batch / "ground_truth")
    trained = next(iter(bundle.manifest.maps.values()))
    return Measured(found["recall"], found["iou"], trained.seconds, trained.steps)


def _silent(_outcome: Outcome) -> None:
    """Tell nobody of a part."""
