"""Train a material: one network for each map, checked, calibrated for a start, and stored as a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from inspect_cli import TOOL
from inspect_cli.console import Teller
from inspect_cli.engines import TorchEngine, choose_device
from inspect_cli.errors import NoInputError, UsageError
from inspect_cli.images import Part
from inspect_cli.material.bundle import Bundle, other_bundles, prune_weights, write_manifest, write_weights
from inspect_cli.material.manifest import Manifest, Suspect, TrainedMap, TrainingFile, Trial
from inspect_cli.methods.base import Detector
from inspect_cli.methods.registry import AUTO, check_whole_images, checked_settings
from inspect_cli.pictures.plots import save_loss_curve
from inspect_cli.pictures.previews import save_reconstructions
from inspect_cli.recipe.schema import Recipe
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.store.atomic import sweep_leftovers_of
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.timestamps import utc_after
from inspect_cli.tiles.tiling import check_size
from inspect_cli.training.auto import CHOICE, beside_others, check_auto_settings, check_choice, choose_method
from inspect_cli.training.batches import MapTraining, validation_batches
from inspect_cli.training.budget import left_of, without_closing
from inspect_cli.training.card import write_card
from inspect_cli.training.checkpoint import TrainingState
from inspect_cli.training.health import (
    ACCEPTED_BY,
    copy_warnings,
    explained_variance,
    few_patches_warnings,
    odd_image_warnings,
    odd_images,
    overfit_warnings,
    separation_warnings,
    shifted_image_warnings,
    training_warnings,
    turned_normals_warnings,
)
from inspect_cli.training.joining import joined, kept_maps
from inspect_cli.training.loop import train_map
from inspect_cli.training.order import (
    CHECKPOINTS,
    Shown,
    TrainingOrder,
    closing,
    open_job,
    open_order,
    settings_of,
    tiling_for,
    with_room,
)
from inspect_cli.training.prepare import (
    learn_acquisition,
    learn_roi_share,
    preview_range,
)
from inspect_cli.training.provisional import Extent, HeldOut, TrainedNetwork, provisional_calibration
from inspect_cli.training.sources import Sources
from inspect_cli.training.suspects import PICTURE, note_of, without_suspects
from inspect_cli.training.trial import measure_trial, trial_of
from inspect_cli.training.usual import usual_of

_PICTURES = 4


def train_material(
    order: TrainingOrder, teller: Teller, stop: Callable[[], bool] = lambda: False, robust: bool = False
) -> Bundle:
    """Train every map, write the bundle and its provisional limits; return it.

    ``stop`` is asked between steps. Maps of the same model that are not trained now stay as they are. Parts that do
    not look like the others are named; ``robust`` leaves them out. A budget in time is for all of it.

    Raises
    ------
    UsageError
        If there is nothing to resume.
    NoInputError
        If no part is usable.
    ModelError
        If training diverges, or a checkpoint to resume from does not fit.
    Interrupted
        If ``stop`` said so; the checkpoint is saved.
    """
    trials: list[Trial] = []
    started = time.monotonic()
    order = beside_others(order, teller)
    _check(order)
    note = note_of(order)
    with ExitStack() as stack:
        stack.enter_context(_locked(order))  # of method auto: the trials, and what they keep beside the recipe
        for path in (note, order.material.folder / CHOICE, order.material.folder / PICTURE):
            sweep_leftovers_of(path)  # what lies beside the recipe is in no locked folder
        opened = with_room(order, open_order(order, teller), teller)
        for part in opened.survey.parts:
            check_size(order.material.recipe.tiles, part.id, *opened.survey.sizes[part.id])
        if order.method != AUTO:
            _kept(order, opened)  # what is refused is refused before any time is spent
        opening_s = time.monotonic() - started
        sources, look = without_suspects(order, opened, teller, robust, stop)
        order = replace(order, budget=left_of(order.budget, opening_s + look.seconds))
        if order.method == AUTO:
            order, trials = choose_method(order, sources, teller, stop)
            _check(order)
            stack.enter_context(_locked(order))
        order = replace(order, budget=without_closing(order.budget))
        bundle = _train_locked(order, sources, trials, look.suspects, teller, stop)
        prune_weights(bundle.folder, bundle.manifest)
        shutil.rmtree(bundle.folder / CHECKPOINTS, ignore_errors=True)
        for done in (order.material.folder / CHOICE, note) if trials else (note,):
            done.unlink(missing_ok=True)
    return bundle


def _locked(order: TrainingOrder) -> AbstractContextManager[None]:
    folder = order.bundle_folder
    return lock_folder(folder, f"{folder}: is being trained or calibrated by another process; wait for it")


def _kept(order: TrainingOrder, sources: Sources) -> tuple[Manifest, list[str]] | None:
    """Return the model that is there and its maps that stay; see :func:`kept_maps`."""
    recipe, folder = order.material.recipe, order.bundle_folder
    tiling, roi = tiling_for(order, sources), recipe.resolved_roi()
    return kept_maps(folder, order.maps, recipe.maps, settings_of(order), tiling, roi)


def _check(order: TrainingOrder) -> None:
    """Raise what can be told before any image is read: wrong settings, nothing to resume, no whole images."""
    spec = order.material.recipe.method
    if order.method == AUTO:  # the rest when the method is chosen
        if spec.name == AUTO:
            check_auto_settings(spec.settings)
        if order.resume:
            check_choice(order)
        return
    checked_settings(order.method, settings_of(order))
    folder = order.bundle_folder
    if order.resume and not (folder / CHECKPOINTS).is_dir():
        raise UsageError(f"--resume: {folder} holds no checkpoint; train without it")
    if order.material.recipe.tiles.whole:
        check_whole_images(order.method)


def _train_locked(
    order: TrainingOrder,
    sources: Sources,
    trials: list[Trial],
    suspects: list[Suspect],
    teller: Teller,
    stop: Callable[[], bool],
) -> Bundle:
    recipe, device = order.material.recipe, choose_device(order.device)
    folder = order.bundle_folder
    tiling = tiling_for(order, sources)
    kept = _kept(order, sources)
    if not order.resume:  # what another training left is not for this one, nor for one that resumes it
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    files = sources.files(list(order.maps))
    teller.say(
        f"training {order.method} on {_described_parts(sources)}; "
        f"maps {', '.join(order.maps)}; budget {order.budget}; tiles of {tiling.size_px} px; "
        f"device {device}"
    )
    trained = {name: _train_one(order, name, sources, files, teller, stop) for name in order.maps}
    entries = {name: found.entry for name, found in trained.items()}
    validation, named = _held_out(sources, suspects)
    extent = Extent.of_budget(order.budget, len(order.maps))
    calibration, unusual = provisional_calibration(
        HeldOut(recipe, tiling, validation, sources.survey.rois, order.seed, extent),
        [TrainedNetwork(n, f.entry, TorchEngine(f.detector, device), f.usual) for n, f in trained.items()],
    )
    manifest = Manifest(
        tool=TOOL,
        created_utc=utc_after(b.manifest.created_utc for b in other_bundles(folder)),
        material=recipe.material,
        method=order.method,
        settings=settings_of(order),
        tile_px=tiling.size_px,
        seed=order.seed,
        recipe_sha256=recipe.digest(),
        maps=entries,
        training_set=files,
        warnings=[w for found in trained.values() for w in found.warnings] + copy_warnings(files) + named + unusual,
        calibration=calibration,
        trials=trials,
        checks={name: found.check for name, found in trained.items() if found.check is not None},
        suspects=suspects,
        roi=recipe.resolved_roi(),
        roi_share=learn_roi_share(sources.survey.rois[part.id] for part in sources.survey.parts),
        least_size_px=sources.survey.least_size_px,
    )
    if kept is not None:
        old, names = kept
        teller.say(f"kept from the model of {old.created_utc}: {', '.join(names)}")
        manifest = joined(old, names, manifest, calibration)
    _warn(manifest, recipe, teller)
    write_manifest(folder, manifest)
    bundle = Bundle(folder, manifest)
    write_card(bundle)
    return bundle


def _warn(manifest: Manifest, recipe: Recipe, teller: Teller) -> None:
    """Tell the warnings of a training, and which maps `inspect score` will not look at by this model."""
    for warning in manifest.warnings:
        teller.warn(warning)
    unseen = ",".join(manifest.unseen(recipe.maps))
    if unseen:
        teller.warn(
            f"this model does not look at {unseen}, and `inspect score` takes the model that was trained last; train "
            f"the rest with --method {manifest.method} --maps {unseen}"
        )


def _held_out(sources: Sources, suspects: Sequence[Suspect]) -> tuple[Sequence[Part], list[str]]:
    """Return the held-out parts that set the first limits, without those that stand out, and warnings."""
    odd = {suspect.part for suspect in suspects if not suspect.left_out}
    named = [part.id for part in sources.split.validation if part.id in odd]
    left = [part for part in sources.split.validation if part.id not in odd]
    if not named:
        return left, []
    if not left:
        told = "limits come from held-out parts that all stand out ({}): set them from good parts"
        return sources.split.validation, [told.format(", ".join(named))]
    return left, [f"held-out part {name} stands out: it set no limit when the model was trained" for name in named]


def _enough(job: MapTraining, step: int, stopped_early: bool) -> str:
    """Return why a training ended before its time."""
    ended = job.budget.seconds is not None and step == job.detector.most_steps and not stopped_early
    return " (stopped: more steps would overfit)" if ended else ""


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
    check: Trial | None
    usual: UsualMap | None


def _train_one(
    order: TrainingOrder,
    name: str,
    sources: Sources,
    files: list[TrainingFile],
    teller: Teller,
    stop: Callable[[], bool],
) -> _Trained:
    job = open_job(order, name, sources, files)
    with closing(job):
        with teller.progress(f"{name:>10}") as update:
            state = train_map(job, Shown(update), order.resume, stop)
        if order.half:  # what is measured and calibrated from here on is what will be stored
            job.detector.half().float()
        return _described(order, name, job, state, sources, teller)


def _described(
    order: TrainingOrder,
    name: str,
    job: MapTraining,
    state: TrainingState,
    sources: Sources,
    teller: Teller,
) -> _Trained:
    """Write a trained map's weights and pictures and describe it for the manifest."""
    batches, survey = validation_batches(job), sources.survey
    explained = explained_variance(job.detector, batches)
    folder = order.bundle_folder
    write_pictures(folder, name, job.detector, batches[0].tiles, state.history)
    weights, digest = write_weights(folder, name, job.detector.state_dict(), order.half)
    shown_low, shown_high = preview_range(job.train, job.preprocess)
    usual = usual_of(order, name, job, sources, teller)
    moments = {part.id: survey.moments[part.id, name] for part in survey.parts}
    odd = {image.part for image in odd_images(moments) if image.what in ACCEPTED_BY}
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
        acquisition=tuple(
            learn_acquisition([m for part, m in moments.items() if part not in odd], job.preprocess.range)
        ),
        steps=state.step,
        seconds=round(state.spent_s, 1),
        validation_loss=state.best_loss,
        explained_variance=None if explained is None else round(explained, 4),
        stopped_early=state.stopped_early,
        usual=None if usual is None else usual.entry,
    )
    teller.say(
        f"{name:>10}  {state.step} steps in {state.spent_s:.0f} s{_enough(job, state.step, state.stopped_early)}, "
        f"validation loss {state.best_loss:.6f}"
        + ("" if explained is None else f", explains {explained:.1%} of the variance")
    )
    check = _checked(order, name, job, state, sources, teller)
    warnings = training_warnings(name, explained, len(survey.parts), state.stopped_early, state.step)
    warnings += turned_normals_warnings(name, entry.channels, job.spec.augment)
    warnings += few_patches_warnings(name, moments, entry.channels, job.detector.tile_px)
    warnings += odd_image_warnings(name, moments)
    warnings += shifted_image_warnings(name, moments)
    warnings += overfit_warnings(name, state.history)
    warnings += separation_warnings(name, check)
    if usual is None:
        return _Trained(entry, job.detector, warnings, check, None)
    return _Trained(entry, job.detector, warnings + usual.warnings, check, usual.usual)


def _checked(
    order: TrainingOrder, name: str, job: MapTraining, state: TrainingState, sources: Sources, teller: Teller
) -> Trial | None:
    """Show a trained network artificial defects; None if it learnt from real ones, or there is no place for any."""
    if job.detector.supervised:  # that learns kinds of defects, and knows no others
        return None
    try:
        return trial_of(order.method, [measure_trial(job, order, name, sources)], state.step, state.spent_s)
    except NoInputError as error:
        teller.warn(f"map {name}: not checked with artificial defects: {error}")
        return None


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
