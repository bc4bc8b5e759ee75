"""Marks on features: what is learnt, what a mark is worth, and that nothing is learnt outside the ROI."""

import json

import cv2
import numpy as np
import pytest
import torch

from inspect_cli.cli import run
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Batch
from inspect_cli.methods.feature_ae import FeatureAutoencoder
from inspect_cli.methods.feature_direct import _good_places
from tests.helpers import TRAINED, material_of
from tests.test_feature_ae import SIDE, texture


def damaged(count: int, seed: int) -> Batch:
    """Return stripes, half of the tiles with a bright square, and where that is."""
    tiles = texture(count, seed)
    broken, changed = tiles.clone(), torch.zeros(count, 1, SIDE, SIDE)
    generator = torch.Generator().manual_seed(seed)
    for index in range(0, count, 2):
        y, x = torch.randint(0, SIDE - 16, (2,), generator=generator).tolist()
        broken[index, :, y : y + 16, x : x + 16] = 0.95
        changed[index, :, y : y + 16, x : x + 16] = 1
    return Batch(tiles, corrupted=broken, changed=changed)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    found = build_detector("feature-direct", 1, SIDE, {"code": 4, "marks_width": 16})
    found.begin(texture(16))
    optimizer = found.optimizers(2e-3)[0]
    found.train()
    for step in range(60):
        optimizer.zero_grad()
        found.loss(damaged(8, step)).backward()
        optimizer.step()
    found.eval()
    found.fit(texture(64, seed=99))
    return found


def test_marks_multiply_what_feature_ae_says(detector):
    tiles = damaged(2, 77).inputs
    with torch.inference_mode():
        features = detector.standardised(tiles)
        plain = FeatureAutoencoder.score(detector, tiles)
        evidence = torch.nn.functional.interpolate(detector.marks.evidence(features), (SIDE, SIDE), mode="bilinear")
        tone = torch.nn.functional.interpolate(detector.tone(tiles), (SIDE, SIDE), mode="bilinear")
        torch.testing.assert_close(detector.score(tiles), plain * evidence[:, 0] + 0.125 * tone[:, 0])
        good = detector.score(texture(8, seed=7))
    assert good.mean() == pytest.approx(1.125, abs=0.5)


def test_damage_is_marked_and_good_material_is_not(detector):
    batch = damaged(16, 123)
    with torch.inference_mode():
        evidence = detector.marks.evidence(detector.standardised(batch.inputs))
    changed = torch.nn.functional.adaptive_avg_pool2d(batch.changed, evidence.shape[2:])
    assert evidence.max() <= 11.001
    assert evidence[changed > 0.9].mean() > 4
    assert evidence[1::2].mean() < 1.5
    assert detector.marks.place.min() == 1


def test_marks_and_copies_are_trained_and_the_pretrained_network_is_not(detector):
    trained = {id(p) for group in detector.optimizers(1e-3)[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in [*detector.depths.parameters(), *detector.marks.parameters()]}
    assert all(p.grad is None for p in detector.features.parameters())
    assert all(p.grad is not None for p in detector.marks.parameters())


def test_copies_are_learnt_from_good_surroundings_only():
    changed = torch.zeros(1, 1, 64, 64)
    changed[..., 34, 34] = 1
    good = _good_places(changed, None, (16, 16))
    expected = torch.ones(16, 16)
    expected[6:11, 6:11] = 0
    torch.testing.assert_close(good[0, 0], expected)
    roi = torch.zeros(1, 1, 64, 64)
    roi[..., :32] = 1
    inside = _good_places(changed, roi, (16, 16))
    assert inside[..., 8:].max() == 0
    torch.testing.assert_close(inside[0, 0, :, :8], expected[:, :8])


@torch.no_grad()
def test_where_all_is_damaged_only_marks_are_learnt(detector):
    batch = damaged(4, 5)._replace(changed=torch.ones(4, 1, SIDE, SIDE))
    logits = detector.marks(detector.standardised(batch.inputs))
    marks = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    assert float(detector.loss(batch)) == pytest.approx(4 * float(marks))


@torch.no_grad()
def test_nothing_is_learnt_outside_the_roi(detector):
    batch = damaged(4, 5)
    nothing = batch._replace(roi=torch.zeros(4, 1, SIDE, SIDE))
    assert float(detector.loss(nothing)) == 0
    assert float(detector.loss(batch)) > 0


@torch.no_grad()
def test_without_damage_all_is_good(detector):
    tiles = texture(4, seed=9)
    told = Batch(tiles, corrupted=tiles, changed=torch.zeros(4, 1, SIDE, SIDE))
    assert float(detector.loss(Batch(tiles))) == pytest.approx(float(detector.loss(told)))


@pytest.mark.parametrize("channels", [2, 3])
def test_several_channels_and_depths_of_different_size(channels):
    detector = build_detector("feature-direct", channels, SIDE, {"code": 4, "depths": [4, 8]})
    tiles = texture(4, channels=channels)
    detector.begin(tiles)
    detector.eval()
    detector.fit(tiles)
    assert detector.score(tiles).shape == (4, SIDE, SIDE)
    assert detector.marks.place.shape == (1, 1, 16, 16)


def test_a_training_in_time_ends_at_most_steps(tmp_path, capsys):
    (tmp_path / "good").mkdir()
    for number in range(3):
        grey = np.random.default_rng(number).integers(0, 255, (80, 80)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "good" / f"p{number}.png"), grey)
    material_of(tmp_path / "models", "stuff", tile_px=64, method="feature-direct", most_steps=2)
    arguments = ["train", "-m", "stuff", "--models", str(tmp_path / "models"), "--data", str(tmp_path / "good")]
    assert run([*arguments, "--budget", "4s"]) in TRAINED
    manifest = json.loads((tmp_path / "models/stuff/feature-direct/manifest.json").read_text())
    assert manifest["maps"]["image"]["steps"] == 2
    assert "(stopped: more steps would overfit)" in capsys.readouterr().err
