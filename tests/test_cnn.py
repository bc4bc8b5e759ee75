"""Supervised classifier: layers as in the paper, loss by hand, what it must refuse, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from inspect_cli.errors import RecipeError, UsageError
from inspect_cli.methods.base import Batch
from inspect_cli.methods.cnn import SupervisedCnn
from inspect_cli.training.budget import step_size

pytestmark = pytest.mark.usefixtures("one_thread")


def build(channels: int = 1, tile_px: int = 32, seed: int = 0, **settings: int) -> SupervisedCnn:
    torch.manual_seed(seed)
    return SupervisedCnn(channels, tile_px, SupervisedCnn.Settings(**settings)).eval()


def labelled(count: int, rng: np.random.Generator) -> Batch:
    """Noisy grey tiles, good ones first; the others have a scratch at a random place."""
    tiles = rng.normal(0.5, 0.05, (2 * count, 1, 32, 32)).astype(np.float32)
    for tile in tiles[count:]:
        x, y = rng.integers(2, 30), rng.integers(0, 16)
        tile[0, y : y + 14, x - 1 : x + 1] += 0.4
    return Batch(torch.from_numpy(tiles), defective=torch.tensor([0.0] * count + [1.0] * count))


def test_layers_are_the_papers():
    """200x200x3, five times a convolution of 16 filters and a pooling that halves, one hidden layer, one output."""
    detector = build(3, 200)
    tiles, sizes = torch.zeros(1, 3, 200, 200), []
    for layer in detector.features:
        tiles = layer(tiles)
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.kernel_size == (3, 3)
            sizes.append(tuple(tiles.shape[1:]))
        elif isinstance(layer, torch.nn.MaxPool2d):
            sizes.append(tuple(tiles.shape[1:]))
    sides = [200, 100, 100, 50, 50, 25, 25, 12, 12, 6]
    assert sizes == [(16, side, side) for side in sides]
    kinds = [type(layer).__name__ for layer in detector.features]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 5 + ["Flatten"]
    dense = [(m.in_features, m.out_features) for m in detector.classify if isinstance(m, torch.nn.Linear)]
    assert dense == [(16 * 6 * 6, 128), (128, 1)]


@pytest.mark.parametrize(("tile_px", "side"), [(32, 1), (63, 1), (64, 2), (100, 3), (128, 4)])
def test_every_tile_from_32_px_on_fits(tile_px, side):
    detector = build(2, tile_px, hidden=8)
    assert detector.features(torch.rand(1, 2, tile_px, tile_px)).shape == (1, 16 * side * side)
    assert detector.score(torch.rand(3, 2, tile_px, tile_px)).shape == (3, tile_px, tile_px)


@pytest.mark.parametrize("tile_px", [1, 16, 31])
def test_smaller_tiles_are_refused(tile_px):
    with pytest.raises(RecipeError, match=f"{tile_px} does not fit this network: sizes from 32 on fit"):
        build(1, tile_px)


@pytest.mark.parametrize("settings", [{"hidden": 0}, {"filters": 8}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        SupervisedCnn.Settings(**settings)


def test_loss_is_the_cross_entropy_by_hand():
    detector = build()
    tiles = torch.rand(4, 1, 32, 32)
    p = 1 / (1 + np.exp(-detector.logits(tiles).detach().double().numpy()))
    expected = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(1 - p[2]) + math.log(p[3])) / 4
    batch = Batch(tiles, defective=torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert float(detector.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_loss_stays_finite_where_the_probability_is_0_or_1():
    detector = build()
    torch.nn.init.constant_(detector.classify[-1].bias, 200.0)
    batch = Batch(torch.rand(2, 1, 32, 32), defective=torch.zeros(2))
    assert 150 < float(detector.loss(batch).detach()) < 250
    assert float(detector.score(batch.tiles).detach().max()) == 1


def test_loss_is_taken_in_full_precision_under_autocast():
    detector = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = detector.loss(labelled(2, np.random.default_rng(0)))
    assert loss.dtype == torch.float32


def test_good_patches_alone_are_allowed_if_they_are_labelled():
    loss = build().loss(Batch(torch.rand(3, 1, 32, 32), defective=torch.zeros(3)))
    assert bool(torch.isfinite(loss))


def test_patches_without_labels_are_refused():
    with pytest.raises(UsageError, match="inspect train --defects FOLDER"):
        build().loss(Batch(torch.rand(3, 1, 32, 32)))


def test_it_says_that_it_learns_from_defects_and_copies_nothing():
    detector = build()
    assert detector.supervised
    assert detector.corruption() is None
    assert detector.reconstruct(torch.rand(1, 1, 32, 32)) is None


def test_score_is_the_probability_at_every_pixel_of_the_tile():
    detector = build(3)
    tiles = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = 1 / (1 + np.exp(-detector.logits(tiles).numpy()))
        found = detector.score(tiles).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], (4, 32, 32)), rtol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_optimizer_is_rmsprop_at_half_the_loops_step_size():
    (optimizer,) = build().optimizers(2e-3)
    assert isinstance(optimizer, torch.optim.RMSprop)
    (group,) = optimizer.param_groups
    assert (group["pace"], group["lr"]) == (0.5, 1e-3)
    assert len(group["params"]) == 14


def trained(seed: int, steps: int) -> tuple[SupervisedCnn, list[float]]:
    """Train as the loop does: the step size rises to 2e-3 and falls again."""
    detector = build(seed=seed, hidden=32).train()
    (optimizer,) = detector.optimizers(2e-3)
    rng = np.random.default_rng(seed)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = step_size(2e-3, step / steps) * group["pace"]
        losses.append(detector.train_step(labelled(8, rng), [optimizer], torch.autocast("cpu", enabled=False)))
    return detector.eval(), losses


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_short_training_tells_scratched_tiles_from_good_ones(seed):
    detector, losses = trained(seed, 150)
    assert max(losses) < 3
    assert np.mean(losses[-10:]) < 0.2
    batch = labelled(50, np.random.default_rng(99))
    with torch.no_grad():
        probability = detector.score(batch.tiles)[:, 0, 0]
    assert float((probability[:50] < 0.5).float().mean()) > 0.95
    assert float((probability[50:] > 0.5).float().mean()) > 0.95


def test_training_is_the_same_again():
    (first, losses), (second, others) = trained(0, 5), trained(0, 5)
    assert losses == others
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
