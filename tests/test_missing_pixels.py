"""A pixel that is no number, in a float map or from the network: its part is undecided, the others are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from inspect_cli.batch.run import score_batch
from inspect_cli.engines.base import Blocking
from inspect_cli.engines.resident import ResidentRows
from inspect_cli.images import discover_parts
from inspect_cli.images.values import Preprocess
from inspect_cli.material.bundle import Bundle
from inspect_cli.material.manifest import Acquisition, Calibration, Manifest, MapLimit, TrainedMap
from inspect_cli.material.materials import Material
from inspect_cli.recipe import parse_recipe
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.tiles.grid import Grid
from inspect_cli.tiles.tiling import tiling_of

RECIPE = """
material: foil
maps: {height: {files: "{part}_height.tif"}}
tiles: {size_px: 16, stride_px: 8}
scoring: {min_area_px: 1}
"""


class Spreading(Blocking):
    """An engine whose scores are the tile's pixels; one that is no number spoils its tile, as in a network."""

    name, device_name, precision = "spreading", "cpu", "f32"
    batch = 4
    size_step_px = 1

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(tiles[:, 0]) + 0 * tiles.sum(axis=(1, 2, 3))[:, None, None])

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> ResidentRows | None:
        return None


class Overflowing(Spreading):
    """An engine that overflows at one pixel of a bright tile."""

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = super().score(tiles)
        scores[tiles[:, 0] > 0.9] = np.inf
        return scores


def model_with(engine: Spreading, folder: Path) -> ScoringModel:
    trained = TrainedMap.model_construct(
        channels=1,
        low=0.0,
        high=1.0,
        fill=(0.3,),
        dtype="float32",
        acquisition=(Acquisition(mean_low=-9, mean_high=9, spread_low=0, spread_high=9),),
        shown_low=(0.0,),
        shown_high=(1.0,),
    )
    calibration = Calibration(
        limits={"height": MapLimit(pixel=2, patch=1)},
        rule="max",
        provisional=False,
        origin="by hand",
        parts=1,
        smooth_sigma_px=2.0,
        blend="average",
        stride_px=64,
        created_utc="",
    )
    manifest = Manifest.model_construct(
        method="cae", settings={}, tile_px=16, maps={"height": trained}, warnings=[], calibration=calibration
    )
    recipe = parse_recipe(RECIPE, "recipe.yaml")
    return ScoringModel(Material(recipe, folder), Bundle(folder, manifest), tiling_of(recipe), {"height": engine})


def verdicts(tmp_path: Path, value: float, engine: Spreading) -> dict[str, str]:
    """Score a part with one pixel of ``value`` and a good part after it."""
    rng = np.random.default_rng(0)
    (tmp_path / "batch").mkdir()
    for name in "AB":
        pixels = (rng.random((64, 48)) * 0.5 + 0.1).astype(np.float32)
        if name == "A":
            pixels[20, 20] = value
        tifffile.imwrite(tmp_path / f"batch/{name}_height.tif", pixels)
    model = model_with(engine, tmp_path)
    parts = discover_parts(tmp_path / "batch", model.maps)
    summary, _ = score_batch(tmp_path / "run", tmp_path / "batch", parts, model, lambda _: None)
    return {outcome.part: outcome.verdict for outcome in summary.outcomes}


@pytest.mark.parametrize("value", [0.2, 0.95])
def test_ordinary_pixel_passes(tmp_path: Path, value: float) -> None:
    assert verdicts(tmp_path, value, Spreading()) == {"A": "pass", "B": "pass"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixel_that_is_no_number_leaves_its_part_undecided(tmp_path: Path, value: float) -> None:
    assert verdicts(tmp_path, value, Spreading()) == {"A": "undecided", "B": "pass"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_network_that_overflows_leaves_its_part_unpassed(tmp_path: Path) -> None:
    found = verdicts(tmp_path, 0.95, Overflowing())
    assert found["A"] in ("undecided", "fail")
    assert found["B"] == "pass"


def test_no_number_that_an_engine_makes_a_score_of_leaves_its_part_undecided_all_the_same(tmp_path: Path) -> None:
    class Swallowing(Spreading):
        def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
            return super().score(np.nan_to_num(tiles, nan=0.5, posinf=0.5, neginf=0.5))

    assert verdicts(tmp_path, np.nan, Swallowing()) == {"A": "undecided", "B": "pass"}


def test_a_defect_beside_a_pixel_that_is_no_number_still_fails(tmp_path: Path) -> None:
    class Finding(Spreading):
        def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
            scores = super().score(np.nan_to_num(tiles, nan=0.5))
            scores[:, 4:12, 4:12] = 9.0
            return scores

    assert verdicts(tmp_path, np.nan, Finding()) == {"A": "fail", "B": "fail"}
