"""What training says of its images and of itself, in plain words."""

import numpy as np
import pytest

from inspect_cli.material.manifest import Manifest, TrainedMap, TrainingFile, Trial
from inspect_cli.training.health import (
    copy_warnings,
    few_patches_warnings,
    odd_image_warnings,
    overfit_warnings,
    separation_warnings,
    shifted_image_warnings,
    turned_normals_warnings,
)
from inspect_cli.training.prepare import ImageMoments, measure_image


def moments(pixels: np.ndarray) -> ImageMoments:
    found = ImageMoments()
    found.add(pixels, None)
    found.add_steps(pixels, None)
    return found


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {f"p{i}": rng.normal(0.5 + 0.01 * i, 0.1, (60, 50)).astype(np.float32) for i in range(6)}


def manifest(**maps: tuple[float | None, float | None]) -> Manifest:
    """A manifest that knows of each map only what its network explains and how it tells artificial defects."""
    trained = {
        name: TrainedMap.model_construct(explained_variance=explained) for name, (explained, _) in maps.items()
    }
    checks = {name: Trial(method="cae", pixel_auroc=area) for name, (_, area) in maps.items()}
    return Manifest.model_construct(maps=trained, checks=checks)


@pytest.mark.parametrize(
    ("explained", "area", "doubted"),
    [
        (None, 0.59, True),
        (None, 0.61, False),
        (0.9, 0.61, False),
        (0.1, 0.74, True),
        (0.1, 0.76, False),
        (0.1, None, False),
    ],
)
def test_a_model_is_doubted_that_hardly_tells_artificial_defects(explained, area, doubted):
    assert (manifest(albedo=(explained, area)).doubt is not None) == doubted


def test_one_map_that_tells_defects_is_enough():
    both = manifest(albedo=(0.9, 0.9), normal=(0.0, 0.5))
    assert both.doubt is None
    assert "albedo 0.52, normal 0.50" in (manifest(albedo=(0.9, 0.52), normal=(0.0, 0.5)).doubt or "")
    assert manifest(albedo=(0.0, 0.5)).model_copy(update={"checks": {}}).doubt is None, "an old model has no checks"


def told(images: dict[str, np.ndarray]) -> list[str]:
    return odd_image_warnings("albedo", {name: moments(pixels) for name, pixels in images.items()})


def test_images_that_are_alike_are_not_named(images):
    assert told(images) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: p + 0.4, "brightness of p2"),
        (lambda p: 0.5 + 0.2 * (p - 0.5), "contrast of p2"),
        (lambda p: np.repeat(p[:, ::10], 10, axis=1), "sharpness of p2"),
    ],
)
def test_an_odd_image_is_named_with_what_is_odd(images, change, word):
    images["p2"] = change(images["p2"])
    assert [word in line for line in told(images)] == [True]


def test_sharpness_is_the_step_between_neighbours_over_the_spread():
    pixels = np.array([[0.0, 1.0, 0.0, 1.0]] * 3, np.float32)
    assert moments(pixels).sharpness == pytest.approx(1 / 0.5)
    inside = np.array([[True, True, False, False]] * 3)
    found = ImageMoments()
    found.add_steps(pixels, inside)
    assert (found.steps, found.step_count) == (3, 3)


def discs(count: int, shifts: dict[int, tuple[int, int]], noise: float = 0.05) -> dict[str, ImageMoments]:
    """Return what is known of images of a part with two holes, some of them shifted by reduced pixels (y, x)."""
    y, x = np.mgrid[:96, :128]
    found = {}
    for number in range(count):
        dy, dx = shifts.get(number, (0, 0))
        part = np.hypot(y - 48 - dy, x - 64 - dx) < 30
        holes = (np.hypot(y - 40 - dy, x - 50 - dx) < 6) | (np.hypot(y - 58 - dy, x - 80 - dx) < 8)
        image = 0.2 + 0.6 * part - 0.4 * holes + np.random.default_rng(number).normal(0, noise, y.shape)
        found[f"p{number}"] = ImageMoments(small=image.astype(np.float32), scale=10)
    return found


def test_part_that_lies_elsewhere_is_named_with_where():
    assert shifted_image_warnings("gray", discs(6, {})) == []
    [line] = shifted_image_warnings("gray", discs(6, {4: (-5, 8)}))
    assert "p4 lies about" in line
    across, down = (int(word) for word in line.replace(" px", "").split() if word[0] in "+-")
    assert across == pytest.approx(80, abs=10)
    assert down == pytest.approx(-50, abs=10)


def test_material_that_lies_differently_in_every_image_is_not_named():
    foil = {i: tuple(np.random.default_rng(i).integers(-25, 25, 2)) for i in range(8)}
    assert shifted_image_warnings("gray", discs(8, foil)) == []
    rng = np.random.default_rng(0)
    grain = {f"p{i}": ImageMoments(small=rng.random((60, 80), np.float32)) for i in range(6)}
    assert shifted_image_warnings("gray", grain) == []
    assert shifted_image_warnings("gray", discs(4, {1: (9, 9)})) == [], "too few to tell"


def test_image_is_reduced_while_it_is_measured(tmp_path):
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    found = measure_image(tmp_path / "a.tif", None)
    assert found.scale == 4
    np.testing.assert_allclose(found.small, pixels.reshape(75, 4, 100, 4, 3).mean(axis=(1, 3, 4)), rtol=1e-4)


def test_little_material_is_told():
    three = {f"p{i}": ImageMoments(counts=[512 * 512] * 3) for i in range(3)}
    [line] = few_patches_warnings("normal", three, 3, 256)
    assert "3 image(s) hold material for 12 patches of 256 px" in line
    assert few_patches_warnings("normal", three, 3, 128) == []


def test_turned_normals_are_told():
    [line] = turned_normals_warnings("normal", 3, "turn")
    assert "leaves their components" in line
    assert turned_normals_warnings("normal", 3, "none") == []
    assert turned_normals_warnings("albedo", 1, "turn") == []


def test_copies_are_named():
    files = [
        TrainingFile(part=part, map=name, sha256=digest * 64, use="train")
        for part, name, digest in [("a", "x", "1"), ("b", "x", "2"), ("c", "x", "1"), ("a", "y", "1")]
    ]
    assert copy_warnings(files[:2]) == []
    assert "1 image(s) are copies of others (c of a)" in copy_warnings(files)[0]


def test_a_rising_loss_on_held_out_parts_is_told():
    def history(losses):
        return [{"step": i, "train_loss": 0.0, "val_loss": loss} for i, loss in enumerate(losses)]

    assert overfit_warnings("x", history([5, 4, 3, 2, 1, 1.1, 1.0])) == []
    assert overfit_warnings("x", history([5, 1])) == []
    assert "after step 3" in overfit_warnings("x", history([5, 4, 3, 1, 2, None, 2, 2]))[0]


@pytest.mark.parametrize(("area", "words"), [(0.9, None), (0.55, "hardly tells them"), (0.2, "lower than")])
def test_useless_scores_are_told(area, words):
    found = separation_warnings("x", Trial(method="cae", pixel_auroc=area))
    assert [words in line for line in found] == ([] if words is None else [True])
    assert separation_warnings("x", None) == []
