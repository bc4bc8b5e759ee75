"""ROI rules on constructed pictures: background is cut off, findings stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.parts import Part, discover_parts
from inspect_cli.images.roi import MIN_STRIP_PX, find_roi, largest_share
from inspect_cli.recipe.schema import MapSpec, Recipe

QUICK = settings(derandomize=True, deadline=None, max_examples=25)
HEIGHT, WIDTH = 70, 90
Mask = NDArray[np.bool_]
#: Background (True) of a picture -> what of it the rule must leave outside, before the margin.
Scene = tuple[Mask, Mask]


def area(*boxes: tuple[int, int, int, int]) -> Mask:
    """Return a mask that is True in boxes (y0, y1, x0, x1)."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for y0, y1, x0, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def recipe(span: Any = "type", **roi: Any) -> Recipe:
    maps = {
        "albedo": MapSpec(files="{part}_albedo.tif", range=span),
        "normal": MapSpec(files="{part}_normal.tif", channels=3),
    }
    return Recipe.model_validate({"material": "foil", "maps": maps, "roi": roi})


def part_of(folder: Path, pixels: NDArray[Any], name: str = "albedo") -> Part:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"P1_{name}.tif"
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=kind, rowsperstrip=16)
    return Part("P1", {name: path}, folder)


def picture(rule: str, background: Mask, dtype: str) -> NDArray[Any]:
    """Return a picture of mid-range material with the background at the end of the type's range."""
    limits = np.iinfo(dtype)
    pixels = np.random.default_rng(0).integers(limits.max // 4, limits.max // 2, background.shape, dtype)
    pixels[background] = limits.max if rule == "saturated" else 0
    return pixels


def shrunk(inside: Mask, margin_px: int) -> Mask:
    """Return the pixels that have no outside pixel within ``margin_px`` in either direction."""
    return np.asarray(ndimage.minimum_filter(inside, 2 * margin_px + 1, mode="constant", cval=True))


# ---------------------------------------------------------------- background and findings

EVERYWHERE = (0, HEIGHT, 0, WIDTH)
SCENES: dict[str, Scene] = {
    "no background": (area(), area()),
    "strip at one side": (area((0, HEIGHT, 0, 20)), area((0, HEIGHT, 0, 20))),
    "frame": (
        area((0, 12, 0, WIDTH), (58, HEIGHT, 0, WIDTH), (0, HEIGHT, 0, 9), (0, HEIGHT, 70, WIDTH)),
        area((0, 12, 0, WIDTH), (58, HEIGHT, 0, WIDTH), (0, HEIGHT, 0, 9), (0, HEIGHT, 70, WIDTH)),
    ),
    "corner": (area((0, 15, 60, WIDTH)), area((0, 15, 60, WIDTH))),
    "spot in the middle": (area((30, 50, 40, 60)), area()),
    "spot close to the border": (area((10, 40, 3, 30)), area()),
    "spot beside a strip": (area((0, HEIGHT, 0, 20), (10, 40, 22, 50)), area((0, HEIGHT, 0, 20))),
    "scratch that runs to the border": (area((20, 23, 0, 60)), area()),
    "scratch across": (area((20, 20 + MIN_STRIP_PX - 1, 0, WIDTH)), area()),
    "scratch from a strip": (area((0, HEIGHT, 0, 20), (30, 33, 20, 80)), area((0, HEIGHT, 0, 20))),
    "hair along the border": (area((0, MIN_STRIP_PX // 2, 0, WIDTH)), area()),
    "strip along the border": (area((0, MIN_STRIP_PX, 0, WIDTH)), area((0, MIN_STRIP_PX, 0, WIDTH))),
}


@pytest.mark.parametrize("rule", ["saturated", "dark"])
@pytest.mark.parametrize("scene", SCENES)
def test_background_at_the_border_is_outside_and_findings_inside(tmp_path: Path, scene: str, rule: str) -> None:
    background, outside = SCENES[scene]
    part = part_of(tmp_path, picture(rule, background, "uint16"))
    found = find_roi(recipe(rule=rule, margin_px=0), part, tmp_path)
    np.testing.assert_array_equal(found, ~outside)
    with_margin = find_roi(recipe(rule=rule), part, tmp_path)
    np.testing.assert_array_equal(with_margin, shrunk(~outside, 4))


def test_a_map_of_single_bits_is_refused_by_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "P1_albedo.tif", area((0, HEIGHT, 0, 20)), photometric="minisblack")
    part = Part("P1", {"albedo": tmp_path / "P1_albedo.tif"}, tmp_path)
    with pytest.raises(InputError, match=r"P1_albedo\.tif: pixel type bool is not supported where a ROI"):
        find_roi(recipe(rule="dark"), part, tmp_path)


@pytest.mark.parametrize("span", ["train", "type", (0, 4095)])
def test_twelve_bits_in_sixteen_end_at_their_own_end(tmp_path: Path, span: Any) -> None:
    """Of 65535 two hundredths are 1310: material that is not bright, and touches the border."""
    pixels = np.random.default_rng(0).integers(900, 1250, (HEIGHT, WIDTH)).astype(np.uint16)
    pixels[:, :20], pixels[:, -20:] = 40, 4095
    part = part_of(tmp_path, pixels)
    for rule, beside in (("dark", np.s_[:, :20]), ("saturated", np.s_[:, -20:])):
        outside = np.zeros((HEIGHT, WIDTH), bool)
        outside[beside] = True
        np.testing.assert_array_equal(find_roi(recipe(span, rule=rule, margin_px=0), part, tmp_path), ~outside)


@pytest.mark.parametrize(("low", "high", "dark"), [(-0.01, 0.01, 0.0), (0.004, 0.01, 1e-4), (100.0, 240.0, 3.0)])
def test_floats_of_any_range_are_dark_at_zero(tmp_path: Path, low: float, high: float, dark: float) -> None:
    pixels = np.random.default_rng(0).uniform(low, high, (HEIGHT, WIDTH)).astype(np.float32)
    pixels[:, :20], pixels[:, -20:] = np.nan, dark
    found = find_roi(recipe(rule="dark", margin_px=0), part_of(tmp_path, pixels), tmp_path)
    assert found is not None
    assert not found[:, :20].any()
    assert not found[:, -20:].any()
    assert found[:, 20:-20].all()


@pytest.mark.parametrize("rule", ["saturated", "dark"])
def test_spot_in_the_middle_stays_inside(tmp_path: Path, rule: str) -> None:
    part = part_of(tmp_path, picture(rule, area((20, 50, 30, 60), (0, HEIGHT, 0, 15)), "uint8"))
    found = find_roi(recipe(rule=rule, margin_px=2), part, tmp_path)
    assert found is not None
    assert found[20:50, 30:60].all()
    assert not found[:, :17].any()


def test_near_the_end_of_the_range_counts_as_its_end(tmp_path: Path) -> None:
    pixels = picture("saturated", area(), "uint8")
    pixels[:, :20] = 250  # JPEG and interpolation blur the exact limit
    pixels[:, -20:] = 249
    found = find_roi(recipe(rule="saturated", margin_px=0), part_of(tmp_path, pixels), tmp_path)
    assert found is not None
    assert not found[:, :20].any()
    assert found[:, 20:].all()


@pytest.mark.parametrize("rule", ["saturated", "dark"])
def test_background_must_be_so_in_all_channels(tmp_path: Path, rule: str) -> None:
    pixels = np.stack([picture(rule, area((0, HEIGHT, 0, 20)), "uint16")] * 3, axis=2)
    pixels[:30, :20, 1] = 20_000
    part = part_of(tmp_path, pixels, "normal")
    found = find_roi(recipe(rule=rule, map="normal", margin_px=0), part, tmp_path)
    assert found is not None
    assert not found[30:, :20].any()
    assert found[:30].all()


def test_signed_normals_are_dark_where_they_are_zero(tmp_path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), -20_000, np.int16)
    pixels[:, :20] = 0
    part = part_of(tmp_path, pixels, "normal")
    found = find_roi(recipe(rule="dark", map="normal", margin_px=0), part, tmp_path)
    assert found is not None
    assert not found[:, :20].any()
    assert found[:, 20:].all()


def test_no_pixel_left_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    part = part_of(tmp_path, picture("saturated", area(EVERYWHERE), "uint8"))
    with pytest.raises(InputError, match=r"P1_albedo\.tif: rule 'saturated' leaves no pixel"):
        find_roi(recipe(rule="saturated"), part, tmp_path)


# ---------------------------------------------------------------- mask files


def test_no_rule_is_the_whole_image(tmp_path: Path) -> None:
    assert find_roi(recipe(), Part("P1", {}, tmp_path), tmp_path) is None


@QUICK
@given(st.integers(0, 1000), st.integers(0, 6))
def test_mask_file_with_its_margin(tmp_path_factory: pytest.TempPathFactory, seed: int, margin_px: int) -> None:
    folder = tmp_path_factory.mktemp("roi")
    rng = np.random.default_rng(seed)
    inside = np.ones((HEIGHT, WIDTH), bool)
    for y, x in rng.integers(0, (HEIGHT, WIDTH), (3, 2)):
        inside[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = False
    cv2.imwrite(str(folder / "P1_roi.png"), inside * np.uint8(255))
    part = part_of(folder, picture("saturated", area(EVERYWHERE), "uint8"))
    found = find_roi(recipe(rule="file", file="{part}_roi.png", margin_px=margin_px), part, folder / "elsewhere")
    np.testing.assert_array_equal(found, shrunk(inside, margin_px))


def test_one_mask_for_all_lies_beside_the_recipe(tmp_path: Path) -> None:
    part = part_of(tmp_path / "batch", picture("dark", area(), "uint8"))
    (tmp_path / "store").mkdir()
    mask = area((10, 60, 10, 80))
    cv2.imwrite(str(tmp_path / "store/roi.png"), mask.astype(np.uint8))
    np.testing.assert_array_equal(
        find_roi(recipe(rule="file", file="roi.png", margin_px=0), part, tmp_path / "store"), mask
    )
    with pytest.raises(InputError, match=r"roi\.png: no such file"):
        find_roi(recipe(rule="file", file="roi.png"), part, tmp_path / "batch")


def test_mask_of_a_part_in_a_folder_lies_beside_it(tmp_path: Path) -> None:
    plain = part_of(tmp_path / "monday", picture("dark", area(), "uint8"))
    mask = area((10, 60, 10, 80))
    cv2.imwrite(str(tmp_path / "monday/P1_roi.png"), mask.astype(np.uint8))
    part = Part("monday/P1", plain.files, tmp_path)
    found = find_roi(recipe(rule="file", file="{part}_roi.png", margin_px=0), part, tmp_path)
    np.testing.assert_array_equal(found, mask)


def test_a_roi_for_maps_of_another_size_is_refused(tmp_path: Path) -> None:
    part = part_of(tmp_path, picture("dark", area(), "uint8"))
    assert find_roi(recipe(rule="dark"), part, tmp_path, (HEIGHT, WIDTH)) is not None
    with pytest.raises(InputError, match=rf"is {WIDTH}x{HEIGHT} px, the maps of P1 are 5x4; the ROI is looked for"):
        find_roi(recipe(rule="dark"), part, tmp_path, (4, 5))


def test_a_map_for_the_roi_that_is_missing_may_still_come(tmp_path: Path) -> None:
    part = part_of(tmp_path, picture("dark", area(), "uint8"))
    with pytest.raises(IncompleteError, match="the map 'normal' that the ROI is looked for in is missing"):
        find_roi(recipe(rule="dark", map="normal"), part, tmp_path)


@pytest.mark.parametrize("tile_px", [9, 64, 200])
def test_largest_share_of_a_tile_inside_the_roi(tile_px: int) -> None:
    roi = area((10, 50, 20, 60), (0, 5, 0, 5))
    down, across = min(tile_px, HEIGHT), min(tile_px, WIDTH)
    sums = np.lib.stride_tricks.sliding_window_view(roi, (down, across)).mean(axis=(2, 3))
    assert largest_share(roi, tile_px) == pytest.approx(sums.max())
    assert largest_share(np.ones((HEIGHT, WIDTH), bool), tile_px) == 1


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    part = part_of(tmp_path, picture("dark", area(), "uint8"))
    cv2.imwrite(str(tmp_path / "P1_roi.png"), np.ones((HEIGHT, WIDTH - 1), np.uint8))
    with pytest.raises(
        InputError, match=rf"P1_roi\.png: mask is {WIDTH - 1}x{HEIGHT}, its image is {WIDTH}x{HEIGHT}"
    ):
        find_roi(recipe(rule="file", file="{part}_roi.png"), part, tmp_path)


@pytest.mark.parametrize(
    ("name", "words"), [("roi.tif", "no numbers"), ("roi.jpg", "JPEG blurs"), ("pages.tif", "one page, not 2")]
)
def test_what_is_no_mask_is_refused(tmp_path: Path, name: str, words: str) -> None:
    part, mask = part_of(tmp_path, picture("dark", area(), "uint8")), np.ones((HEIGHT, WIDTH), np.float32)
    if name == "roi.jpg":
        cv2.imwrite(str(tmp_path / name), mask)
    elif name == "pages.tif":
        tifffile.imwrite(tmp_path / name, np.stack([mask, mask]), photometric="minisblack")
    else:
        mask[:20] = np.nan
        tifffile.imwrite(tmp_path / name, mask)
    with pytest.raises(InputError, match=words):
        find_roi(recipe(rule="file", file=name), part, tmp_path)


def test_foreground_is_found_in_values_that_float32_does_not_hold(tmp_path: Path) -> None:
    ground, part = area((0, HEIGHT, 0, 30), (0, HEIGHT, 70, WIDTH), (0, 20, 0, WIDTH), (50, HEIGHT, 0, WIDTH)), []
    heights = np.where(ground, 100, 160) + np.random.default_rng(0).integers(-2, 3, ground.shape)
    for name, pixels in (("near", heights.astype(np.uint16)), ("far", (2**31 + heights).astype(np.uint32))):
        part.append(find_roi(recipe(rule="foreground"), part_of(tmp_path / name, pixels), tmp_path))
    near, far = part
    assert near is not None
    assert 0.05 < near.mean() < 0.4
    np.testing.assert_array_equal(near, far)


def test_rule_whose_map_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    part = part_of(tmp_path, np.full((HEIGHT, WIDTH, 3), 9, np.uint8), "normal")
    with pytest.raises(InputError, match="albedo"):
        find_roi(recipe(rule="saturated"), part, tmp_path)


@pytest.mark.parametrize(
    ("pattern", "name"), [("{part}_albedo.*", "P1_albedo.tif"), ("{part}_albedo.tif", "P1_albedo.TIF")]
)
def test_map_of_the_rule_is_found_as_other_maps_are(tmp_path: Path, pattern: str, name: str) -> None:
    background = area((0, HEIGHT, 0, 20))
    tifffile.imwrite(tmp_path / name, picture("saturated", background, "uint8"))
    part_of(tmp_path, np.full((HEIGHT, WIDTH, 3), 9, np.uint8), "normal")
    maps = {"albedo": {"files": pattern}, "normal": {"files": "{part}_normal.tif", "channels": 3}}
    read = Recipe.model_validate({"material": "foil", "maps": maps, "roi": {"rule": "saturated", "margin_px": 0}})
    (part,) = discover_parts(tmp_path, {"normal": read.maps["normal"]})
    np.testing.assert_array_equal(find_roi(read, part, tmp_path), ~background)


def test_an_object_on_a_plain_ground_is_the_foreground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring whose middle shows the ground is inside as a whole; the ground's noise and slope stay outside."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius = np.hypot(y - HEIGHT / 2, x - WIDTH / 2)
    ground = 60 + x * 0.1 + rng.normal(0, 3, (HEIGHT, WIDTH))
    ring = (radius < 30) & (radius > 8)
    pixels = np.where(ring, 150 + rng.normal(0, 10, (HEIGHT, WIDTH)), ground).astype(np.uint8)
    part = part_of(tmp_path, pixels)
    found = find_roi(recipe(rule="foreground", margin_px=0), part, tmp_path)
    assert found is not None
    disc = radius < 30
    assert (found & disc).sum() / (found | disc).sum() > 0.85
    monkeypatch.setattr("inspect_cli.images.roi._READ_ROWS", 7)  # the same in however many rows it is looked for
    np.testing.assert_array_equal(find_roi(recipe(rule="foreground", margin_px=0), part, tmp_path), found)


def test_a_picture_without_ground_stays_whole(tmp_path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH), 90, np.uint8)
    found = find_roi(recipe(rule="foreground", margin_px=0), part_of(tmp_path, pixels), tmp_path)
    assert found is not None
    assert found.all()


@pytest.mark.parametrize("rule", ["none", "dark"])
def test_the_roi_can_be_looked_at_before_training(
    tmp_path: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    from inspect_cli.cli import run

    folder = tmp_path / "models" / "stuff"
    folder.mkdir(parents=True)
    settings = {"material": "stuff", "maps": {"albedo": {"files": "{part}_albedo.tif"}}, "roi": {"rule": rule}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    part_of(tmp_path / "good", picture("dark", area((0, HEIGHT, 0, 30)), "uint8"))
    assert run(preview_of(tmp_path)) == 0
    shown = cv2.imread(capsys.readouterr().out.strip())
    red = (shown[..., 2] > 100) & (shown[..., 0] < 60)
    assert (red.mean() > 0.05) == (rule == "dark")
    assert not (folder / "auto").exists()


def test_preview_leaves_the_mask_beside_the_recipe_alone(tmp_path: Path) -> None:
    from inspect_cli.cli import run

    folder = tmp_path / "models" / "stuff"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        'material: stuff\nmaps: {albedo: {files: "{part}_albedo.tif"}}\nroi: {rule: file, file: roi.png}\n'
    )
    cv2.imwrite(str(folder / "roi.png"), area((10, 60, 10, 80)).astype(np.uint8))
    mask = (folder / "roi.png").read_bytes()
    part_of(tmp_path / "good", picture("dark", area(), "uint8"))
    assert run(preview_of(tmp_path)) == 0
    assert (folder / "roi.png").read_bytes() == mask
    assert (folder / "roi_preview.png").is_file()


def preview_of(folder: Path) -> list[str]:
    common = ["--models", str(folder / "models"), "--data", str(folder / "good")]
    return ["train", "--material", "stuff", *common, "--preview-roi"]
