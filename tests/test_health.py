"""What training says of its images and of itself, in plain words."""

import numpy as np
import pytest

from inspect_cli.store.manifest import TrainingFile, Trial
from inspect_cli.training.health import copy_warnings, odd_image_warnings, overfit_warnings, separation_warnings
from inspect_cli.training.prepare import ImageMoments


def moments(pixels: np.ndarray) -> ImageMoments:
    found = ImageMoments()
    found.add(pixels, None)
    found.add_steps(pixels, None)
    return found


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {f"p{i}": rng.normal(0.5 + 0.01 * i, 0.1, (60, 50)).astype(np.float32) for i in range(6)}


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
