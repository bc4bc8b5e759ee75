"""What is to be trained, and one map's job made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from inspect_cli.console import Teller, Update
from inspect_cli.engines import choose_device
from inspect_cli.engines.frozen import frozen_run
from inspect_cli.errors import NoInputError, UsageError
from inspect_cli.evaluation.truth import Truth
from inspect_cli.images import Part
from inspect_cli.material.manifest import TrainingFile
from inspect_cli.material.materials import Material
from inspect_cli.methods import build_detector
from inspect_cli.methods.registry import AUTO, method_class
from inspect_cli.recipe import Budget, MapSpec
from inspect_cli.store.digest import json_sha256
from inspect_cli.tiles.tiling import Tiling, tiling_of
from inspect_cli.training.batches import MapTraining
from inspect_cli.training.budget import MapBudget
from inspect_cli.training.prepare import learn_preprocess, without_room
from inspect_cli.training.sources import Parts, Sources, defect_sampler, good_sampler, masks_sha256, open_sources

CHECKPOINTS = ".checkpoint"


class Shown:
    """Shows each step on a progress bar, with the last validation loss."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._validation = "-"

    def __call__(self, progress: float, step: int, loss: float, val_loss: float | None, steps_per_s: float) -> None:
        """Show a step."""
        if val_loss is not None:
            self._validation = f"{val_loss:.5f}"
        text = f"step {step}  loss {loss:.5f}  validation {self._validation}  {steps_per_s:.1f} steps/s"
        self._update(progress, text)


@dataclass(frozen=True)
class TrainingOrder:
    """What to train, on what, for how long."""

    material: Material
    parts: Sequence[Part]
    method: str
    maps: dict[str, MapSpec]
    budget: Budget
    seed: int
    device: str
    half: bool = False
    resume: bool = False
    #: Settings of the method where the recipe has none.
    defaults: Mapping[str, object] = field(default_factory=dict)
    #: Patches or parts that are added to the good ones for training only.
    extra: Sequence[Part] = ()
    #: Parts with defects, where ``truth`` marks them or anywhere, for supervised methods.
    defects: Sequence[Part] = ()
    truth: Truth | None = None

    @property
    def bundle_folder(self) -> Path:
        """Where the model comes to lie."""
        return self.material.folder / self.method


def settings_of(order: TrainingOrder) -> dict[str, object]:
    """Return the recipe's settings if for this method, else the order's defaults and those that this method has."""
    spec = order.material.recipe.method
    if spec.name == order.method:
        return dict(spec.settings)
    known = method_class(order.method).Settings.model_fields
    return {**order.defaults, **{key: value for key, value in spec.settings.items() if key in known}}


def open_order(order: TrainingOrder, teller: Teller) -> Sources:
    """Open what is learnt from, and tell what was left out.

    Raises
    ------
    UsageError
        If labelled defects are missing, or given to a method that cannot use them.
    """
    supervised = order.method != AUTO and method_class(order.method).supervised
    if supervised and not order.defects:
        raise UsageError(f"method {order.method} learns from labelled defects: name their folder with --defects")
    if order.defects and not supervised:
        raise UsageError(f"--defects: method {order.method} learns from good parts alone; name a method, such as cnn")
    parts = Parts(order.parts, order.extra, order.defects, order.truth)
    sources = open_sources(parts, order.material.recipe, order.maps, order.material.folder, order.seed)
    for fault in sources.faults:
        teller.warn(f"left out: {fault}")
    shortest_px = sources.extra.shortest_px
    is_open = order.material.recipe.tiles.size_px is None
    if is_open and sources.extra.parts and shortest_px < sources.survey.common_px:
        teller.say(f"tiles are at most {shortest_px} px, the shorter side of the smallest of --extra")
    return sources


def with_room(order: TrainingOrder, sources: Sources, teller: Teller) -> Sources:
    """Return the sources without the good parts whose ROI has no place for a patch, and tell which these are.

    Raises
    ------
    NoInputError
        If none is left.
    """
    recipe = order.material.recipe
    faults = without_room(sources.survey, recipe)
    if not faults:
        return sources
    if len(faults) == len(sources.survey.parts):
        raise NoInputError(f"no usable training part: {next(iter(faults.values()))}")
    for fault in faults.values():
        teller.warn(f"left out: {fault}")
    return sources.without(faults, recipe.training.validation_share, order.seed)


def tiling_for(order: TrainingOrder, sources: Sources) -> Tiling:
    """Return how images are cut for the method: as the recipe says, else as suits the method and the images.

    Raises
    ------
    UsageError
        If tiles of the recipe are larger than extra images, which would be mirrored to fill them.
    """
    suited = method_class(order.method).suited_tile_px(sources.survey.common_px)
    suited = sources.survey.largest_tile_px(suited, order.material.recipe.training.min_roi_share)
    shortest_px = sources.extra.shortest_px
    if not sources.extra.parts:
        return tiling_of(order.material.recipe, suited)
    tiling = tiling_of(order.material.recipe, min(suited, shortest_px))
    if tiling.size_px > shortest_px:
        raise UsageError(
            f"--extra: images of {shortest_px} px are smaller than the tiles of {tiling.size_px} px that the recipe "
            f"asks for; generate larger ones, or set tiles.size_px to at most {shortest_px}"
        )
    return tiling


def open_job(order: TrainingOrder, name: str, sources: Sources, files: list[TrainingFile]) -> MapTraining:
    """Return the training of one map; ``files`` are what a checkpoint must have been trained on."""
    recipe, spec, seed = order.material.recipe, order.maps[name], order.seed
    tile_px = tiling_for(order, sources).size_px
    torch.manual_seed(seed)
    train = good_sampler(sources, name, recipe, tile_px, seed)
    detector = build_detector(order.method, spec.channels, tile_px, settings_of(order))
    labelled, device = detector.supervised, choose_device(order.device)
    if (run := frozen_run(device)) is not None:
        detector.hasten(run)
    return MapTraining(
        detector=detector,
        preprocess=learn_preprocess(train, spec),
        train=train,
        validation=good_sampler(sources, name, recipe, tile_px, seed + 1, validation=True),
        defects=defect_sampler(sources, name, recipe, tile_px, seed) if labelled else None,
        validation_defects=defect_sampler(sources, name, recipe, tile_px, seed + 1, validation=True)
        if labelled
        else None,
        spec=recipe.training,
        budget=MapBudget.of(order.budget, len(order.maps), detector.most_steps),
        seed=order.seed,
        device=device,
        checkpoint=order.bundle_folder / CHECKPOINTS / name,
        fingerprint=_fingerprint(order, name, tile_px, files, sources),
    )


@contextmanager
def closing(job: MapTraining) -> Iterator[None]:
    """Close a job's patch sources at the end."""
    try:
        yield
    finally:
        for source in (job.train, job.validation, job.defects, job.validation_defects):
            if source is not None:
                source.close()


def _fingerprint(order: TrainingOrder, name: str, tile_px: int, files: list[TrainingFile], sources: Sources) -> str:
    recipe = order.material.recipe
    content = {
        "method": [order.method, settings_of(order)],
        "map": [name, order.maps[name].model_dump(mode="json")],
        "tiles": tile_px,
        "rois": masks_sha256(sources.survey.rois.values()),
        "training": recipe.training.model_dump(mode="json", exclude={"budget", "data"}),
        "seed": order.seed,
        "files": [(f.sha256, f.use) for f in files if f.map == name],
        "labels": masks_sha256(sources.targets.values()),
    }
    return json_sha256(content)
