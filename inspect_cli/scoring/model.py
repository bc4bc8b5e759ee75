"""A trained material, loaded and ready to score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np

from inspect_cli.engines import Engine, Hardware, make_engine
from inspect_cli.errors import ModelError, RecipeError, UsageError, nearest
from inspect_cli.images.values import ValueRange
from inspect_cli.material.bundle import Bundle
from inspect_cli.material.manifest import Calibration, scored_at
from inspect_cli.material.materials import Material
from inspect_cli.methods.registry import check_whole_images
from inspect_cli.recipe.schema import MapSpec, Recipe
from inspect_cli.scoring.brightness import UsualBrightness
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.store.digest import json_sha256
from inspect_cli.tiles.tiling import Tiling, tiling_of

_ANY: Final = Hardware()


@dataclass(frozen=True)
class ScoringModel:
    """Networks, limits and settings of one material."""

    material: Material
    bundle: Bundle
    tiles: Tiling
    engines: Mapping[str, Engine]
    max_mpixels: float | None = None
    usual: Mapping[str, UsualMap] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The material's recipe."""
        return self.material.recipe

    @property
    def maps(self) -> dict[str, MapSpec]:
        """The maps that were trained, with the recipe's description."""
        return {name: self.recipe.maps[name] for name in self.bundle.manifest.maps}

    @property
    def cautions(self) -> list[str]:
        """What there is to know about the model before its verdicts are believed."""
        unseen = self.bundle.manifest.unseen(self.recipe.maps)
        told = (
            [f"map(s) {', '.join(unseen)} of the recipe are not in the model and are not looked at"] if unseen else []
        )
        limits = self.bundle.manifest.calibration
        if limits is not None and limits.scored_at != self.scored_at:
            told.append(
                f"the limits were set at {limits.scored_at}, not {self.scored_at}: scores differ, and no rate of "
                "false alarms is promised"
            )
        return told + self.bundle.manifest.cautions

    @property
    def scored_at(self) -> str:
        """At which stride and precision it scores."""
        return scored_at(self.tiles.stride_px, self.engine.precision)

    @property
    def engine(self) -> Engine:
        """The engine of the first map; all maps have one of the same kind."""
        return next(iter(self.engines.values()))

    def scoring_digest(self) -> str:
        """Return the sha256 of everything but the input and the limits that decides a raw map."""
        content = {
            "model": self.bundle.manifest.digest(),
            "maps": {name: spec.model_dump(mode="json") for name, spec in self.maps.items()},
            "roi": self.recipe.resolved_roi().model_dump(mode="json"),
            "tiles": asdict(self.tiles),
            "outside": "mirrored",
        }
        if self.engine.precision != "f32":  # all engines give the same within their tolerance at full precision
            content["precision"] = self.engine.precision
        return json_sha256(content)

    def limits_digest(self, calibration: Calibration) -> str:
        """Return the sha256 of everything that decides a verdict once the raw maps are there."""
        content: dict[str, object] = {
            "limits": {name: limit.model_dump() for name, limit in calibration.limits.items()},
            "min_area_px": self.recipe.scoring.min_area_px,
            "halo": [self.recipe.scoring.halo_share, self.recipe.scoring.halo_px],
            "pixel_pitch_um": self.recipe.pixel_pitch_um,
        }
        if self.bundle.manifest.doubt is not None:
            content["doubt"] = True
        return json_sha256(content)

    def calibration(self) -> Calibration:
        """Return the limits, after checking that they fit the maps and the smoothing in force.

        Those that were set at another stride or precision promise no rate.

        Raises
        ------
        ModelError
            If there are none, or they were set for other maps or another smoothing.
        """
        calibration = self.bundle.require_calibration()
        check_limits(self.bundle, calibration, self.tiles)
        if calibration.scored_at == self.scored_at:
            return calibration
        return calibration.model_copy(update={"false_alarm_rate": None})


def _check_map(bundle: Bundle, name: str, spec: MapSpec) -> None:
    """Raise ModelError if the recipe describes a map otherwise than it was trained."""
    trained = bundle.manifest.maps[name]
    again = "train again or restore the recipe"
    if spec.channels != trained.channels:
        raise ModelError(
            f"{bundle.folder}: map {name!r} was trained with {trained.channels} channel(s), the recipe says "
            f"{spec.channels}; {again}"
        )
    wanted = ValueRange.of_type(np.dtype(trained.dtype)) if spec.range == "type" else spec.range
    limits = wanted if isinstance(wanted, ValueRange) else None if wanted == "train" else ValueRange(*wanted)
    if limits is not None and limits != trained.preprocess.range:
        raise ModelError(
            f"{bundle.folder}: map {name!r} was trained with values {trained.low:g} to {trained.high:g} at 0 to 1, "
            f"the recipe says {limits.low:g} to {limits.high:g}; {again}"
        )


def trained_maps(material: Material, bundle: Bundle) -> dict[str, MapSpec]:
    """Return the maps that a bundle was trained on, as the recipe describes them.

    Raises
    ------
    ModelError, RecipeError
        If the recipe lacks one, or describes it otherwise than it was trained.
    """
    maps = material.recipe.maps
    for name in bundle.manifest.maps:
        if name not in maps:
            raise RecipeError(f"the model needs map {name!r}: {nearest(name, list(maps))} in the recipe")
        _check_map(bundle, name, maps[name])
    return {name: maps[name] for name in bundle.manifest.maps}


def _usual_maps(bundle: Bundle) -> dict[str, UsualMap]:
    """Return what is usual at each place, for the maps of which that is known."""
    found = {}
    for name, trained in bundle.manifest.maps.items():
        usual, arrays = trained.usual, bundle.usual(name)
        if usual is None or arrays is None:
            continue
        brightness = None
        if usual.brightness_weight is not None:
            brightness = UsualBrightness(arrays["mean"], arrays["precision"], usual.brightness_weight, usual.turned)
        size = usual.cell_px, usual.height_px, usual.width_px
        found[name] = UsualMap(arrays["cells"], *size, brightness, slack_px=usual.slack_px)
    return found


def check_limits(bundle: Bundle, calibration: Calibration, tiles: Tiling) -> None:
    """Raise ModelError if limits are of other maps than the bundle's, or of another smoothing or blend."""
    again = "set them again with `inspect threshold`"
    if set(calibration.limits) != set(bundle.manifest.maps):
        raise ModelError(f"{bundle.folder}: limits are for {sorted(calibration.limits)}; {again}")
    if not calibration.fits(tiles):
        raise ModelError(
            f"{bundle.folder}: limits were set with smoothing {calibration.smooth_sigma_px} px and "
            f"blend {calibration.blend}, the recipe says {tiles.smooth_sigma_px} px and {tiles.joining}; {again}"
        )


def tiling_of_bundle(material: Material, bundle: Bundle) -> Tiling:
    """Return how the recipe has images cut for a trained model.

    Raises
    ------
    ModelError
        If the recipe describes its maps, or the side of its tiles, otherwise than they were trained.
    """
    trained_maps(material, bundle)
    recipe, manifest = material.recipe, bundle.manifest
    if recipe.tiles.size_px not in (None, manifest.tile_px):
        raise ModelError(
            f"{bundle.folder}: trained on tiles of {manifest.tile_px} px, the recipe says "
            f"{recipe.tiles.size_px} px; train again or restore tiles.size_px"
        )
    return tiling_of(recipe, manifest.tile_px)


def load_model(
    material: Material,
    bundle: Bundle,
    hardware: Hardware = _ANY,
    stride_px: int | None = None,
    max_mpixels: float | None = None,
) -> ScoringModel:
    """Load the networks of a bundle into engines; ``max_mpixels`` is what an image may have (None: any usual size).

    Raises
    ------
    ModelError, RecipeError, UsageError
        If bundle and recipe do not fit, or the device is not there.
    """
    manifest, tiles = bundle.manifest, tiling_of_bundle(material, bundle)
    if stride_px is not None:
        if not 1 <= stride_px <= tiles.size_px:
            raise UsageError(f"--stride {stride_px}: must be 1 to the tile's {tiles.size_px} px")
        tiles = replace(tiles, stride_px=stride_px, even=False)
    if tiles.whole:
        check_whole_images(manifest.method)
    limits = {} if manifest.calibration is None else manifest.calibration.limits
    known = {name: limits[name].pixel if name in limits else 0.0 for name in manifest.maps}
    engines = {name: make_engine(bundle.detector(name), hardware, limit) for name, limit in known.items()}
    return ScoringModel(material, bundle, tiles, engines, max_mpixels, _usual_maps(bundle))
