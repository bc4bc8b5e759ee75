"""Train a material: one network for each map, checked, calibrated for a start, and stored as a bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from inspect_cli import __version__
from inspect_cli.engines import choose_device
from inspect_cli.errors import UsageError
from inspect_cli.evaluation.truth import Truth
from inspect_cli.images import Part
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Detector
from inspect_cli.methods.registry import check_whole_images, method_class
from inspect_cli.recipe import MapSpec
from inspect_cli.report.pictures import save_reconstructions
from inspect_cli.report.plots import save_loss_curve
from inspect_cli.store.bundle import Bundle, prune_weights, write_manifest, write_weights
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.manifest import Manifest, TrainedMap, TrainingFile
from inspect_cli.store.materials import Material
from inspect_cli.store.timestamps import utc_now
from inspect_cli.training.batches import MapTraining, validation_batches
from inspect_cli.training.budget import Budget
from inspect_cli.training.card import write_card
from inspect_cli.training.checkpoint import TrainingState
from inspect_cli.training.health import explained_variance, training_warnings
from inspect_cli.training.joining import joined, kept_maps
from inspect_cli.training.loop import train_map
from inspect_cli.training.prepare import (
    Survey,
    learn_acquisition,
    learn_preprocess,
    preview_range,
)
from inspect_cli.training.preview import preview_corruption
from inspect_cli.training.provisional import provisional_calibration
from inspect_cli.training.sources import Parts, Sources, defect_sampler, good_sampler, open_sources

CHECKPOINTS = ".checkpoint"
_PICTURES = 4

Progress = Callable[[float, str], None]


class Teller(Protocol):
    """How training talks: lines, warnings, and a progress bar for each map."""

    def say(self, text: str) -> None:
        """Tell a line."""

    def warn(self, text: str) -> None:
        """Tell a warning."""

    def progress(self, label: str) -> AbstractContextManager[Progress]:
        """Show progress while the context is open."""
        ...


class _Shown:
    """Shows each step on a progress bar, with the last validation loss."""

    def __init__(self, update: Progress) -> None:
        self._update = update
        self._validation = "-"

    def __call__(self, progress: float, step: int, loss: float, val_loss: float | None, steps_per_s: float) -> None:
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
    budget: str
    seed: int
    device: str
    half: bool = False
    resume: bool = False
    #: Patches or parts that are added to the good ones for training only.
    extra: Sequence[Part] = ()
    #: Parts with defects, where ``truth`` marks them or anywhere, for supervised methods.
    defects: Sequence[Part] = ()
    truth: Truth | None = None


def train_material(order: TrainingOrder, teller: Teller, stop: Callable[[], bool] = lambda: False) -> Bundle:
    """Train every map, write the bundle and its provisional limits; return it.

    ``stop`` is asked between steps. Maps of the same model that are not trained now stay as they are.

    Raises
    ------
    NoInputError
        If no part is usable.
    ModelError
        If training diverges, or a checkpoint to resume from does not fit.
    Interrupted
        If ``stop`` said so; the checkpoint is saved.
    """
    folder = order.material.folder / order.method
    busy = f"{folder}: is being trained or calibrated by another process; wait for it"
    with lock_folder(folder, busy):
        bundle = _train_locked(order, folder, teller, stop)
        prune_weights(folder, bundle.manifest)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return bundle


def _train_locked(order: TrainingOrder, folder: Path, teller: Teller, stop: Callable[[], bool]) -> Bundle:
    recipe = order.material.recipe
    if order.resume and not (folder / CHECKPOINTS).is_dir():
        raise UsageError(f"--resume: {folder} holds no checkpoint; train without it")
    settings = _settings(order)
    kept = kept_maps(folder, order.maps, recipe.maps, settings, recipe.tiles.size_px)
    if recipe.tiles.whole:
        check_whole_images(order.method)
    sources = _sources(order, teller)
    files = sources.files(list(order.maps))
    teller.say(
        f"training {order.method} on {_described_parts(sources)}; "
        f"maps {', '.join(order.maps)}; budget {order.budget}; device {choose_device(order.device)}"
    )
    trained = {name: _train_one(order, name, sources, files, teller, stop) for name in order.maps}
    entries = {name: found.entry for name, found in trained.items()}
    detectors = {name: found.detector for name, found in trained.items()}
    device = choose_device(order.device)
    calibration = provisional_calibration(
        recipe, sources.split.validation, sources.survey.rois, entries, detectors, device, order.seed
    )
    manifest = Manifest(
        tool=f"inspect {__version__}",
        created_utc=utc_now(),
        material=recipe.material,
        method=order.method,
        settings=settings,
        tile_px=recipe.tiles.size_px,
        seed=order.seed,
        recipe_sha256=recipe.digest(),
        maps=entries,
        training_set=files,
        warnings=[warning for found in trained.values() for warning in found.warnings],
        calibration=calibration,
    )
    if kept is not None:
        old, names = kept
        teller.say(f"kept from the model of {old.created_utc}: {', '.join(names)}")
        manifest = joined(old, names, manifest, calibration)
    for warning in manifest.warnings:
        teller.warn(warning)
    write_manifest(folder, manifest)
    bundle = Bundle(folder, manifest)
    write_card(bundle)
    return bundle


def _settings(order: TrainingOrder) -> dict[str, object]:
    """Return the recipe's method settings; of another method's, those that both methods have."""
    spec = order.material.recipe.method
    if spec.name == order.method:
        return dict(spec.settings)
    known = method_class(order.method).Settings.model_fields
    return {key: value for key, value in spec.settings.items() if key in known}


def preview_corruptions(order: TrainingOrder, teller: Teller) -> list[Path]:
    """Write a picture of each map's corruptions beside the bundle, train nothing, and return the pictures.

    Raises
    ------
    NoInputError
        If no part is usable.
    UsageError
        If the method corrupts nothing.
    """
    sources = _sources(order, teller)
    pictures = []
    for name in order.maps:
        job = _job(order, name, sources, [])
        with _closing(job):
            pictures.append(order.material.folder / order.method / f"corruptions_{name}.png")
            preview_corruption(job, pictures[-1])
    return pictures


def _sources(order: TrainingOrder, teller: Teller) -> Sources:
    """Open what is learnt from, and tell what was left out.

    Raises
    ------
    UsageError
        If labelled defects are missing, or given to a method that cannot use them.
    """
    supervised = method_class(order.method).supervised
    if supervised and not order.defects:
        raise UsageError(f"method {order.method} learns from labelled defects: name their folder with --defects")
    if order.defects and not supervised:
        raise UsageError(f"--defects: method {order.method} learns from good parts alone; leave it out")
    parts = Parts(order.parts, order.extra, order.defects, order.truth)
    sources = open_sources(parts, order.material.recipe, order.maps, order.material.folder, order.seed)
    for fault in sources.faults:
        teller.warn(f"left out: {fault}")
    return sources


def _described_parts(sources: Sources) -> str:
    text = f"{len(sources.split.train)} part(s), validating on {len(sources.split.validation)}"
    if sources.extra.parts:
        text += f", with {len(sources.extra.parts)} extra one(s)"
    if sources.defects.parts:
        text += f", with {len(sources.defects.parts)} defective one(s)"
    return text


@dataclass(frozen=True)
class _Trained:
    """A map's network with its entry in the manifest and what there is to warn of."""

    entry: TrainedMap
    detector: Detector
    warnings: list[str]


def _train_one(
    order: TrainingOrder,
    name: str,
    sources: Sources,
    files: list[TrainingFile],
    teller: Teller,
    stop: Callable[[], bool],
) -> _Trained:
    job = _job(order, name, sources, files)
    with _closing(job):
        with teller.progress(f"{name:>10}") as update:
            state = train_map(job, _Shown(update), order.resume, stop)
        if order.half:  # what is measured and calibrated from here on is what will be stored
            job.detector.half().float()
        return _described(order, name, job, state, sources.survey, teller)


@contextmanager
def _closing(job: MapTraining) -> Iterator[None]:
    try:
        yield
    finally:
        for source in (job.train, job.validation, job.defects, job.validation_defects):
            if source is not None:
                source.close()


def _described(
    order: TrainingOrder,
    name: str,
    job: MapTraining,
    state: TrainingState,
    survey: Survey,
    teller: Teller,
) -> _Trained:
    """Write a trained map's weights and pictures and describe it for the manifest."""
    batches = validation_batches(job)
    explained = explained_variance(job.detector, batches)
    folder = order.material.folder / order.method
    write_pictures(folder, name, job.detector, batches[0].tiles, state.history)
    weights, digest = write_weights(folder, name, job.detector.state_dict(), order.half)
    shown_low, shown_high = preview_range(job.train, job.preprocess)
    entry = TrainedMap(
        channels=order.maps[name].channels,
        weights=weights,
        sha256=digest,
        low=job.preprocess.range.low,
        high=job.preprocess.range.high,
        fill=job.preprocess.fill,
        dtype=job.preprocess.dtype,
        shown_low=shown_low,
        shown_high=shown_high,
        acquisition=learn_acquisition([survey.moments[part.id, name] for part in survey.parts], job.preprocess.range),
        steps=state.step,
        seconds=round(state.spent_s, 1),
        validation_loss=state.best_loss,
        explained_variance=None if explained is None else round(explained, 4),
        stopped_early=state.stopped_early,
    )
    teller.say(
        f"{name:>10}  {state.step} steps in {state.spent_s:.0f} s, validation loss {state.best_loss:.6f}"
        + ("" if explained is None else f", explains {explained:.1%} of the variance")
    )
    warnings = training_warnings(name, explained, len(survey.parts), state.stopped_early, state.step)
    return _Trained(entry, job.detector, warnings)


def _job(order: TrainingOrder, name: str, sources: Sources, files: list[TrainingFile]) -> MapTraining:
    recipe, spec, seed = order.material.recipe, order.maps[name], order.seed
    torch.manual_seed(seed)
    train = good_sampler(sources, name, recipe, seed)
    detector = build_detector(order.method, spec.channels, recipe.tiles.size_px, _settings(order))
    labelled = detector.supervised
    return MapTraining(
        detector=detector,
        preprocess=learn_preprocess(train, spec),
        train=train,
        validation=good_sampler(sources, name, recipe, seed + 1, validation=True),
        defects=defect_sampler(sources, name, recipe, seed) if labelled else None,
        validation_defects=defect_sampler(sources, name, recipe, seed + 1, validation=True) if labelled else None,
        spec=recipe.training,
        budget=Budget.parse(order.budget, len(order.maps)),
        seed=order.seed,
        device=choose_device(order.device),
        checkpoint=order.material.folder / order.method / CHECKPOINTS / name,
        fingerprint=_fingerprint(order, name, files, sources.labels_sha256()),
    )


def _fingerprint(order: TrainingOrder, name: str, files: list[TrainingFile], labels_sha256: str) -> str:
    recipe = order.material.recipe
    content = {
        "method": [order.method, _settings(order)],
        "map": [name, order.maps[name].model_dump(mode="json")],
        "tiles": recipe.tiles.size_px,
        "roi": recipe.roi.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json", exclude={"budget", "data"}),
        "seed": order.seed,
        "files": [(f.sha256, f.use) for f in files if f.map == name],
        "labels": labels_sha256,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def write_pictures(
    folder: Path,
    name: str,
    detector: Detector,
    tiles: torch.Tensor,
    history: list[dict[str, float | None]],
) -> None:
    """Write the loss curve and sample reconstructions of a map beside the bundle."""
    save_loss_curve(folder / f"loss_{name}.png", history, f"{name}: training loss")
    sample = tiles[:_PICTURES]
    detector.eval()
    copy = detector.reconstruct(sample)
    if copy is not None:
        residuals = detector.score(sample)
        save_reconstructions(
            folder / f"reconstructions_{name}.png",
            sample.cpu().numpy(),
            copy.float().cpu().numpy(),
            residuals.float().cpu().numpy(),
        )
