"""New limits from a folder of parts: it is scored like any batch, then its peaks or maps give the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from inspect_cli.batch.run import run_of, score_batch
from inspect_cli.batch.summary import Outcome, RunSummary
from inspect_cli.calibration.rules import GoodPeaks, limits_from_good
from inspect_cli.calibration.sources import calibrate_good, calibrate_labelled, peaks_of, raw_peaks
from inspect_cli.console import Teller
from inspect_cli.errors import NoInputError
from inspect_cli.evaluation.evaluate import fused_histogram
from inspect_cli.evaluation.truth import Truth, doubts
from inspect_cli.images import Part, discover_parts
from inspect_cli.images.infer import beside_good, named_defective
from inspect_cli.images.parts import unused_images
from inspect_cli.material.manifest import Calibration, MapLimit
from inspect_cli.outputs.stored import part_folder
from inspect_cli.pictures.plots import save_limit_histogram
from inspect_cli.recipe.schema import ThresholdSpec
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.scoring.outliers import outliers
from inspect_cli.stopping import Stopped
from inspect_cli.store.part_record import PartRecord

#: Times the first limits, themselves above all held-out parts, from which on a part may be no good one.
_FAR_ABOVE: Final = 2.0


@dataclass(frozen=True)
class NewLimits:
    """Limits, and the parts of the folder that could not be used and do not count in them."""

    calibration: Calibration
    failed: list[str]


def limits_from_good_folder(
    model: ScoringModel, folder: Path, rule: str, spec: ThresholdSpec, teller: Teller, out: Path | None = None
) -> NewLimits:
    """Return limits from the peaks of the good parts in ``folder``, scored now or before, into ``out`` if given.

    Parts whose pictures do not look like those of the training, or that could not be scored everywhere, are left
    out. No rate is promised if parts were trained on.

    Raises
    ------
    NoInputError
        If no part is left.
    UsageError
        If the rule asks for more parts than there are.
    """
    parts = discover_parts(folder, model.maps, model.recipe.maps)
    _check_enough(len(parts), model, rule, spec)
    summary = _score(model, folder, parts, teller, frozenset({"maps"}), out)
    records = [o.record for o in summary.outcomes if o.record is not None]
    sound = [r for r in records if not (r.acquisition_faults or r.gaps or r.uncovered_px)]
    for record in records:
        if record not in sound:
            reasons = [*record.acquisition_faults, *record.gaps]
            reasons = reasons or [f"{record.uncovered_px} ROI pixels have no finite score"]
            teller.warn(f"left out: {record.part}: {'; '.join(reasons)}")
    if not sound:
        raise NoInputError(f"{folder}: no part is sound enough to set limits from")
    maps = list(model.maps)
    peaks = peaks_of(sound, [part_folder(summary.run, record.part) for record in sound], maps)
    calibration = calibrate_good(peaks, model.tiles, rule, spec, len(sound), str(folder), model.engine.precision)
    calibration = _without_promise_if_not_all_good(calibration, parts, sound, folder, teller)
    calibration = _without_promise_if_one_stands_out(calibration, sound, maps, folder, teller)
    calibration = _without_promise_if_far_above_held_out_parts(calibration, sound, model, folder, teller)
    _draw(model, calibration, sound, None, teller)
    return NewLimits(_without_promise_if_trained_on(model, calibration, sound, teller), _failed(summary))


def _check_enough(parts: int, model: ScoringModel, rule: str, spec: ThresholdSpec) -> None:
    """Raise UsageError if ``rule`` asks for more parts than there are, before any is scored."""
    peaks = np.ones(parts)
    limits_from_good(dict.fromkeys(model.maps, GoodPeaks(peaks, peaks)), rule, spec)


def _without_promise_if_not_all_good(
    calibration: Calibration, parts: Sequence[Part], records: Sequence[PartRecord], folder: Path, teller: Teller
) -> Calibration:
    """Warn of folders that say of themselves that their parts are defective, and of parts that are copies."""
    doubts = []
    if others := sorted(beside_good(parts) | named_defective(parts).keys()):
        teller.warn(
            f"{folder}: {', '.join(others)} do not seem to hold good parts, and set the limits like the others; "
            "give --good the folder of good ones alone"
        )
        doubts.append(f"some of {', '.join(others)}")
    different = {tuple(entry.sha256 for entry in record.maps.values()) for record in records}
    if len(different) < len(records):
        copies = len(records) - len(different)
        teller.warn(
            f"{folder}: {copies} of {len(records)} parts are copies of others, and tell nothing more than these"
        )
        doubts.append(f"{copies} of them copies")
    if not doubts:
        return calibration
    return calibration.without_promise(", ".join(doubts))


def _without_promise_if_one_stands_out(
    calibration: Calibration, records: Sequence[PartRecord], maps: Sequence[str], folder: Path, teller: Teller
) -> Calibration:
    """Say which part has the highest peak of each map; a part far above the others may be no good one."""
    odd = set()
    for name in maps:
        peaks = {r.part: peak for r in records if (peak := r.maps[name].raw_max) is not None}
        known = list(peaks)
        times, far = outliers(list(peaks.values()))
        top = int(times.argmax())
        teller.say(f"map {name}: highest peak: {known[top]}, {times[top]:.1f} times the median of all")
        for i in far.nonzero()[0]:
            odd.add(known[i])
            teller.warn(
                f"map {name}: the peak of {known[i]} is {times[i]:.1f} times the median of the good parts': "
                f"if it is defective, take it out of {folder} and set the limits again"
            )
    if not odd:
        return calibration
    return calibration.without_promise(f"of which {', '.join(sorted(odd))} stand(s) out")


def _without_promise_if_far_above_held_out_parts(
    calibration: Calibration, records: Sequence[PartRecord], model: ScoringModel, folder: Path, teller: Teller
) -> Calibration:
    """Warn of parts that peak far above the first limits, which come from good parts that were held back in training.

    Where many of the parts are defective none of them stands out.
    """
    first = model.bundle.manifest.calibration
    if first is None or not first.provisional or not _fits(first, model):
        return calibration
    above = [
        record.part
        for record in records
        if any((record.maps[name].raw_max or 0.0) > _FAR_ABOVE * limit.pixel for name, limit in first.limits.items())
    ]
    if not above:
        return calibration
    teller.warn(
        f"{len(above)} of {len(records)} parts peak above {_FAR_ABOVE:g} times the limit from good parts that were "
        f"held back: {', '.join(above[:5])}; if defective, take them out of {folder} and set the limits again"
    )
    return calibration.without_promise(f"{len(above)} of them far above the good parts that were held back")


def _without_promise_if_trained_on(
    model: ScoringModel, calibration: Calibration, records: Sequence[PartRecord], teller: Teller
) -> Calibration:
    seen = {file.sha256 for file in model.bundle.manifest.training_set if file.use in ("train", "extra")}
    known = [r.part for r in records if any(entry.sha256 in seen for entry in r.maps.values())]
    if not known:
        return calibration
    teller.warn(
        f"{len(known)} of {len(records)} good parts were trained on; their scores are lower than those of new "
        "parts, so the limits may be too tight: use other good parts"
    )
    return calibration.without_promise(f"{len(known)} of them trained on")


def limits_from_labelled_folder(
    model: ScoringModel, folder: Path, truth: Path, rule: str, teller: Teller, out: Path | None = None
) -> NewLimits:
    """Return limits at which IoU or F1 of the masks of the labelled parts in ``folder`` is best; ``out`` as above."""
    parts = discover_parts(folder, model.maps, model.recipe.maps)
    summary = _score(model, folder, parts, teller, frozenset({"maps", "heatmap"}), out)
    records = [o.record for o in summary.outcomes if o.record is not None]
    scoring = model.recipe.scoring
    pixels = fused_histogram(summary.run, truth, scoring.halo_share, scoring.halo_px)
    current, where = _working_limits(model), str(folder)
    calibration = calibrate_labelled(model.tiles, current, pixels, rule, len(records), where, model.engine.precision)
    known = Truth.open(truth).of_parts({part.id: part.files.values() for part in parts})
    for doubt in doubts(known, [part.id for part in parts]):
        teller.warn(doubt)
    defective = [record for record in records if _is_defective(known, record)]
    _draw(model, calibration, [record for record in records if record not in defective], defective, teller)
    return NewLimits(calibration, _failed(summary))


def _is_defective(truth: Truth, record: PartRecord) -> bool:
    """Whether a part has a mask with a pixel set; data sets have black masks of good parts."""
    width, height = record.size_px
    mask = truth.mask(record.part, height, width)
    return mask is not None and bool(mask.any())


def _failed(summary: RunSummary) -> list[str]:
    return [outcome.part for outcome in summary.outcomes if outcome.record is None]


def _score(
    model: ScoringModel,
    folder: Path,
    parts: Sequence[Part],
    teller: Teller,
    outputs: frozenset[str],
    out: Path | None,
) -> RunSummary:
    """Score a folder into its run folder; parts that are done, with ``outputs``, are not scored again.

    Parts that limits are set from are whole: no marker is waited for.
    """
    recipe = model.recipe.model_copy(update={"done_marker": None})
    working = replace(
        model,
        material=replace(model.material, recipe=recipe),
        bundle=replace(
            model.bundle,
            manifest=model.bundle.manifest.model_copy(update={"calibration": _working_limits(model)}),
        ),
    )
    teller.say(f"scoring {len(parts)} part(s) of {folder}")
    left = unused_images(folder, parts).told(recipe.maps)
    for text in left:
        teller.warn(text)

    def tell(outcome: Outcome) -> None:
        teller.say(f"{outcome.part}: {outcome.error or 'scored'}")

    run = run_of(folder, model.material.name, out)
    summary, exit_code = score_batch(run, folder, parts, working, tell, outputs=outputs, warnings=left)
    if summary.interrupted:
        raise Stopped(exit_code)
    if not any(o.record for o in summary.outcomes):
        raise NoInputError(f"{folder}: no part could be scored: {summary.outcomes[0].error}")
    return summary


def _working_limits(model: ScoringModel) -> Calibration:
    """Return the limits in force, or stand-ins where they are not of the maps, smoothing and tiling of today."""
    manifest = model.bundle.manifest
    if manifest.calibration is not None and _fits(manifest.calibration, model):
        return manifest.calibration
    old = {} if manifest.calibration is None else manifest.calibration.limits
    limits = {name: old.get(name, MapLimit(pixel=1.0, patch=1.0)) for name in manifest.maps}
    origin = "limits in force before the calibration"
    precision = model.engine.precision
    return Calibration.of_scores(model.tiles, limits, "manual", origin, 0, provisional=True, precision=precision)


def _fits(calibration: Calibration, model: ScoringModel) -> bool:
    """Whether limits were set for the maps, smoothing, blend, stride and precision of today."""
    same_maps = calibration.limits.keys() == model.bundle.manifest.maps.keys()
    return same_maps and calibration.fits(model.tiles) and calibration.scored_at == model.scored_at


def _draw(
    model: ScoringModel,
    calibration: Calibration,
    good: Sequence[PartRecord],
    defective: Sequence[PartRecord] | None,
    teller: Teller,
) -> None:
    """Write the histogram of the parts' peaks with the limits drawn, beside the model."""
    maps = list(model.maps)
    picture = model.bundle.folder / "threshold.png"
    limits = {name: limit.pixel for name, limit in calibration.limits.items()}
    bad = None if defective is None else raw_peaks(defective, maps)
    save_limit_histogram(picture, raw_peaks(good, maps), limits, bad)
    teller.say(f"histogram of the parts' peaks: {picture}")
