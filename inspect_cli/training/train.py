"""Train a material: one network for each map, checked, calibrated for a start, and stored as a bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inspect_cli import __version__
from inspect_cli.engines import choose_device
from inspect_cli.errors import ModelError, UsageError
from inspect_cli.images import Part
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Detector
from inspect_cli.methods.registry import method_class
from inspect_cli.recipe import MapSpec
from inspect_cli.report.pictures import save_reconstructions
from inspect_cli.report.plots import save_loss_curve
from inspect_cli.scoring.scan import file_sha256
from inspect_cli.store.bundle import MANIFEST, Bundle, prune_weights, read_bundle, write_manifest, write_weights
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.manifest import Calibration, Manifest, TrainedMap, TrainingFile
from inspect_cli.store.materials import Material
from inspect_cli.store.timestamps import utc_now
from inspect_cli.training.batches import MapTraining, validation_batches
from inspect_cli.training.budget import Budget
from inspect_cli.training.card import write_card
from inspect_cli.training.checkpoint import TrainingState
from inspect_cli.training.health import explained_variance, training_warnings
from inspect_cli.training.loop import train_map
from inspect_cli.training.prepare import (
    Split,
    Survey,
    learn_acquisition,
    learn_preprocess,
    make_sampler,
    preview_range,
    split_parts,
    survey_parts,
)
from inspect_cli.training.provisional import provisional_calibration

CHECKPOINTS = ".checkpoint"
_PICTURES = 4

Mask = NDArray[np.bool_]
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
    kept = _kept_maps(order, folder)
    survey = survey_parts(order.parts, recipe, order.maps, order.material.folder)
    for fault in survey.faults:
        teller.warn(f"left out: {fault}")
    split = split_parts(survey.parts, recipe.training.validation_share, order.seed)
    files = _training_files(order, split)
    teller.say(
        f"training {order.method} on {len(split.train)} part(s), validating on {len(split.validation)}; "
        f"maps {', '.join(order.maps)}; budget {order.budget}; device {choose_device(order.device)}"
    )
    trained = {name: _train_one(order, name, split, survey, files, teller, stop) for name in order.maps}
    entries = {name: found.entry for name, found in trained.items()}
    detectors = {name: found.detector for name, found in trained.items()}
    device = choose_device(order.device)
    calibration = provisional_calibration(
        recipe, split.validation, survey.rois, entries, detectors, device, order.seed
    )
    manifest = Manifest(
        tool=f"inspect {__version__}",
        created_utc=utc_now(),
        material=recipe.material,
        method=order.method,
        settings=_settings(order),
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
        manifest = _joined(old, names, manifest, calibration)
    for warning in manifest.warnings:
        teller.warn(warning)
    write_manifest(folder, manifest)
    bundle = Bundle(folder, manifest)
    write_card(bundle)
    return bundle


def _kept_maps(order: TrainingOrder, folder: Path) -> tuple[Manifest, list[str]] | None:
    """Return the model whose other maps stay when only some are trained again, and those maps; None if none do.

    Raises
    ------
    ModelError
        If it was trained with other settings, so that its maps cannot stand beside the new ones.
    """
    if not (folder / MANIFEST).is_file():
        return None
    old = read_bundle(folder).manifest
    others = sorted((set(old.maps) & set(order.material.recipe.maps)) - set(order.maps))
    if not others:
        return None
    if (old.settings, old.tile_px) != (_settings(order), order.material.recipe.tiles.size_px):
        raise ModelError(
            f"{folder}: maps {', '.join(others)} were trained with other settings; train all maps together"
        )
    return old, others


def _joined(old: Manifest, kept: list[str], new: Manifest, calibration: Calibration) -> Manifest:
    """Return ``new`` with the ``kept`` maps of ``old``, and their limits."""
    others = {name: entry for name, entry in old.maps.items() if name in kept}
    limits = {} if old.calibration is None else old.calibration.limits
    if not set(others) <= set(limits):
        raise ModelError(f"maps {', '.join(others)} have no limits; train all maps together")
    joined = {name: limits[name] for name in others} | calibration.limits
    return new.model_copy(
        update={
            "maps": others | new.maps,
            "training_set": [f for f in old.training_set if f.map in others] + new.training_set,
            "warnings": [w for w in old.warnings if w.startswith(tuple(f"map {n}:" for n in others))] + new.warnings,
            "calibration": calibration.model_copy(update={"limits": joined}),
        }
    )


def _settings(order: TrainingOrder) -> dict[str, object]:
    """Return the recipe's method settings; of another method's, those that both methods have."""
    spec = order.material.recipe.method
    if spec.name == order.method:
        return dict(spec.settings)
    known = method_class(order.method).Settings.model_fields
    return {key: value for key, value in spec.settings.items() if key in known}


def _training_files(order: TrainingOrder, split: Split) -> list[TrainingFile]:
    uses = [("train", part) for part in split.train]
    uses += [("validation", part) for part in split.validation if part not in split.train]
    return [
        TrainingFile.model_validate(
            {"part": part.id, "map": name, "sha256": file_sha256(part.files[name]), "use": use}
        )
        for use, part in uses
        for name in order.maps
    ]


@dataclass(frozen=True)
class _Trained:
    """A map's network with its entry in the manifest and what there is to warn of."""

    entry: TrainedMap
    detector: Detector
    warnings: list[str]


def _train_one(
    order: TrainingOrder,
    name: str,
    split: Split,
    survey: Survey,
    files: list[TrainingFile],
    teller: Teller,
    stop: Callable[[], bool],
) -> _Trained:
    job = _job(order, name, split, survey.rois, files)
    with closing(job.train), closing(job.validation):
        with teller.progress(f"{name:>10}") as update:
            state = train_map(job, _Shown(update), order.resume, stop)
        if order.half:  # what is measured and calibrated from here on is what will be stored
            job.detector.half().float()
        return _described(order, name, job, state, survey, teller)


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


def _job(
    order: TrainingOrder, name: str, split: Split, rois: dict[str, Mask | None], files: list[TrainingFile]
) -> MapTraining:
    recipe, spec = order.material.recipe, order.maps[name]
    torch.manual_seed(order.seed)
    train = make_sampler(split.train, name, rois, recipe, order.seed)
    return MapTraining(
        detector=build_detector(order.method, spec.channels, recipe.tiles.size_px, _settings(order)),
        preprocess=learn_preprocess(train, spec),
        train=train,
        validation=make_sampler(split.validation, name, rois, recipe, order.seed + 1),
        spec=recipe.training,
        budget=Budget.parse(order.budget, len(order.maps)),
        seed=order.seed,
        device=choose_device(order.device),
        checkpoint=order.material.folder / order.method / CHECKPOINTS / name,
        fingerprint=_fingerprint(order, name, files),
    )


def _fingerprint(order: TrainingOrder, name: str, files: list[TrainingFile]) -> str:
    recipe = order.material.recipe
    content = {
        "method": [order.method, _settings(order)],
        "map": [name, order.maps[name].model_dump(mode="json")],
        "tiles": recipe.tiles.size_px,
        "roi": recipe.roi.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json", exclude={"budget", "data"}),
        "seed": order.seed,
        "files": [(f.sha256, f.use) for f in files if f.map == name],
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
