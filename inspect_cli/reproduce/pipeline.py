"""The program's own way from good images to measured maps, with a paper's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspect_cli.batch.run import score_all
from inspect_cli.console import Teller
from inspect_cli.evaluation.run_parts import find_parts
from inspect_cli.images import discover_parts
from inspect_cli.images.infer import infer_maps
from inspect_cli.material.materials import Material
from inspect_cli.methods.registry import method_class
from inspect_cli.recipe.schema import MethodSpec, ScoringSpec, TilesSpec, TrainingSpec
from inspect_cli.recipe.template import commented_yaml, new_recipe
from inspect_cli.reproduce.experiment import Case, Cost
from inspect_cli.reproduce.mvtec import DEFECTS, GOOD, Preparation, prepared
from inspect_cli.scoring.model import load_model
from inspect_cli.store.atomic import write_text
from inspect_cli.store.layout import RECIPE
from inspect_cli.store.part_record import read_part_record
from inspect_cli.store.patches import read_patches
from inspect_cli.training.order import TrainingOrder
from inspect_cli.training.train import train_material


@dataclass(frozen=True)
class Plan:
    """How a paper prepares the images, trains a method on them and scores them."""

    method: str
    tiles: TilesSpec
    training: TrainingSpec
    scoring: ScoringSpec = field(default_factory=ScoringSpec)
    settings: Mapping[str, Any] = field(default_factory=dict)
    images: Preparation = field(default_factory=Preparation)


@dataclass(frozen=True)
class Scored:
    """Scored test images of a case: the run folder, the prepared images, and what the training took."""

    run: Path
    images: Path
    cost: Cost


def train_and_score(case: Case, plan: Plan, teller: Teller, test: str = "test") -> Scored:
    """Train a plan on a category's good images and score the images below its folder ``test``.

    Everything is kept in ``case.work``: recipe and model, prepared images, and the run.

    Raises
    ------
    Stopped
        If a signal ended the scoring.
    """
    images = prepared(case, plan.images)
    good = images / "train" / GOOD
    material = _material(case, plan, good)
    maps = dict(material.recipe.maps)
    learns_defects = method_class(plan.method).supervised
    order = TrainingOrder(
        material=material,
        parts=discover_parts(good, maps),
        method=plan.method,
        maps=maps,
        budget=case.budget,
        seed=case.seed,
        device="auto",
        defects=discover_parts(images / DEFECTS, maps) if learns_defects else (),
    )
    bundle = train_material(order, teller)
    run = case.work / "run"
    parts = discover_parts(images / test, maps)
    score_all(run, images / test, parts, load_model(material, bundle), teller)
    trained = bundle.manifest.maps.values()
    cost = Cost(sum(entry.seconds for entry in trained), max(entry.steps for entry in trained))
    return Scored(run, images, cost)


def _material(case: Case, plan: Plan, good: Path) -> Material:
    """Return a plan as a material for the maps found in a folder; its recipe is written beside the model."""
    recipe = new_recipe(case.table, infer_maps(good)).model_copy(
        update={
            "tiles": plan.tiles,
            "training": plan.training.model_copy(update={"usual_map": False}),  # the papers have none
            "scoring": plan.scoring,
            "method": MethodSpec(name=plan.method, settings=dict(plan.settings)),
        }
    )
    folder = case.work / "model"
    write_text(folder / RECIPE, commented_yaml(recipe))
    return Material(recipe, folder)


def image_scores(run: Path) -> tuple[list[float], list[float]]:
    """Return the mean raw scores of the good images of a run, which lie in the folder ``good``, and of all others."""
    good: list[float] = []
    defective: list[float] = []
    for folder in find_parts(run).finished:
        part = read_part_record(folder).part
        patches = read_patches(folder, ["residual_mean"])["residual_mean"].to_numpy()
        if len(patches):
            (good if part.startswith(f"{GOOD}/") else defective).append(float(patches.mean()))
    return good, defective
