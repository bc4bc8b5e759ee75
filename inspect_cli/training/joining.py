"""When only some maps are trained again: what stays of the model that is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from inspect_cli.errors import ModelError
from inspect_cli.material.bundle import read_bundle
from inspect_cli.material.manifest import Calibration, Manifest
from inspect_cli.recipe.schema import RoiSpec
from inspect_cli.store.layout import MANIFEST
from inspect_cli.tiles.tiling import Tiling


def kept_maps(
    folder: Path,
    trained: Collection[str],
    known: Collection[str],
    settings: Mapping[str, Any],
    tiling: Tiling,
    roi: RoiSpec,
) -> tuple[Manifest, list[str]] | None:
    """Return the model in ``folder`` and those of its maps that stay, None if none do.

    Maps stay that the recipe still knows and that are not trained now. ``tiling`` and ``roi`` are
    those of the new maps.

    Raises
    ------
    ModelError
        If its maps cannot stand beside the new ones: trained with other settings or another ROI, without limits, or
        with limits that were set for another smoothing or blend.
    """
    if set(known) <= set(trained) or not (folder / MANIFEST).is_file():
        return None
    old = read_bundle(folder).manifest
    others = sorted((set(old.maps) & set(known)) - set(trained))
    if not others:
        return None
    if (old.settings, old.tile_px) != (dict(settings), tiling.size_px):
        raise ModelError(
            f"{folder}: maps {', '.join(others)} were trained with other settings; train all maps together"
        )
    if old.roi not in (None, roi):
        raise ModelError(f"maps {', '.join(others)} were trained with another ROI; train all maps together")
    if old.calibration is None or not set(others) <= set(old.calibration.limits):
        raise ModelError(f"maps {', '.join(others)} have no limits; train all maps together")
    if not old.calibration.fits(tiling):
        raise ModelError(
            f"the limits of {', '.join(others)} were set with another smoothing or blend than the recipe has now; "
            "train all maps together"
        )
    if old.calibration.precision != "f32":
        raise ModelError(
            f"the limits of {', '.join(others)} were set with --precision {old.calibration.precision}; run `inspect "
            "threshold` without it before, or train all maps together"
        )
    if old.calibration.stride_px != tiling.stride_px:
        raise ModelError(
            f"the limits of {', '.join(others)} were set at stride {old.calibration.stride_px} px, not "
            f"{tiling.stride_px}; run `inspect threshold` without --stride before, or train all maps together"
        )
    return old, others


def joined(old: Manifest, kept: list[str], new: Manifest, calibration: Calibration) -> Manifest:
    """Return ``new`` with the ``kept`` maps of ``old``, their limits, and what is known of them.

    Both come from :func:`kept_maps`, which sees to it that they fit.
    """
    others = {name: entry for name, entry in old.maps.items() if name in kept}
    limits = {} if old.calibration is None else old.calibration.limits
    both = {name: limits[name] for name in others} | calibration.limits
    origin = calibration.origin
    if old.calibration is not None and others:
        origin += f"; {', '.join(others)} as before ({old.calibration.origin})"
    return new.model_copy(
        update={
            "maps": others | new.maps,
            "training_set": [f for f in old.training_set if f.map in others] + new.training_set,
            "warnings": [w for w in old.warnings if w.startswith(tuple(f"map {n}:" for n in others))] + new.warnings,
            "calibration": calibration.model_copy(update={"limits": both, "origin": origin}),
            "checks": {name: check for name, check in old.checks.items() if name in others} | new.checks,
            "trials": new.trials or old.trials,
            "suspects": [s for s in old.suspects if s.map in others] + new.suspects,
        }
    )
