"""Self-supervised autoencoders: objectives and network by hand, patches that grow, an ensemble that is balanced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from inspect_cli.errors import RecipeError
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Batch
from inspect_cli.methods.dilated import DILATIONS, DilatedAutoencoder, DilatedStack
from inspect_cli.methods.ssae import SsaeSettings, objective_contrast, objective_reconstruct

NARROW = {"width": 4, "stacks": 1}
NAMES = ("ssae", "ssae-contrast", "ssae-ensemble")


def images(seed: int = 0, channels: int = 2) -> list[np.ndarray]:
    """Copy, clean and corrupted patches, and a smooth mask of what was changed."""
    rng = np.random.default_rng(seed)
    copy, clean, corrupted = rng.random((3, 3, channels, 6, 5))
    return [copy, clean, corrupted, rng.random((3, 1, 6, 5))]


def by_hand(weight: np.ndarray, difference: np.ndarray) -> float:
    """||weight * difference||_2 / |weight|_1 of one patch."""
    return float(np.sqrt(((weight * difference) ** 2).sum()) / np.abs(weight).sum())


@pytest.mark.parametrize("balance", [0.5, 0.2])
@pytest.mark.parametrize("inside", [None, slice(1, 4)])
def test_objectives_are_the_papers_formulas(balance, inside):
    copy, clean, corrupted, changed = images()
    roi = np.ones((3, 1, 6, 5))
    if inside is not None:
        roi[:] = 0
        roi[:, :, inside] = 1
    first, second = [], []
    for one in range(3):
        difference = copy[one] - clean[one]
        damaged = np.repeat(changed[one], 2, axis=0) * roi[one]
        intact = (1 - np.repeat(changed[one], 2, axis=0)) * roi[one]
        visible = np.abs(corrupted[one] - clean[one]) * roi[one]
        first.append(balance * by_hand(intact, difference) + (1 - balance) * by_hand(damaged, difference))
        second.append(balance * by_hand(intact, difference) - (1 - balance) * by_hand(visible, difference))
    tensors = [torch.from_numpy(values) for values in (copy, clean, corrupted, changed)]
    mask = None if inside is None else torch.from_numpy(roi)
    found = objective_reconstruct(tensors[0], tensors[1], tensors[3], mask, balance)
    assert float(found) == pytest.approx(np.mean(first), rel=1e-5)
    found = objective_contrast(tensors[0], tensors[1], tensors[2], tensors[3], mask, balance)
    assert float(found) == pytest.approx(np.mean(second), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_mask_adds_nothing_and_its_gradient_is_finite(value):
    clean = torch.rand(2, 1, 8, 8)
    copy = clean.clone().requires_grad_()
    changed = torch.full((2, 1, 8, 8), value)
    loss = objective_reconstruct(copy, clean, changed) + objective_contrast(copy, clean, clean, changed)
    loss.backward()
    assert float(loss.detach()) == 0
    assert bool(copy.grad.isfinite().all())


def test_the_network_has_the_papers_layers():
    network = DilatedAutoencoder(3, 520, 64, 4)
    stacks = [layer for layer in network.features if isinstance(layer, DilatedStack)]
    assert len(stacks) == 4
    for stack in stacks:
        assert [branch.dilation[0] for branch in stack.branches] == list(DILATIONS)
        assert {(branch.kernel_size, branch.out_channels) for branch in stack.branches} == {((5, 5), 64)}
        assert (stack.merge[0].kernel_size, stack.merge[0].out_channels) == ((3, 3), 384)
    plain = [layer for layer in network.features if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in plain] == [
        64, 64, 128, 128, 256, 256, 256, 256, 128, 128, 128, 64, 64, 64, 32,
    ]  # fmt: skip
    assert (network.image.kernel_size, network.image.out_channels) == ((1, 1), 3)


def test_taps_that_only_meet_padding_are_left_out():
    small = DilatedStack(4, 2, 16)
    assert [branch.kernel_size[0] for branch in small.branches] == [5, 5, 5, 3, 1, 1]
    full = DilatedStack(4, 2, 129)
    assert [branch.kernel_size[0] for branch in full.branches] == [5] * 6
    inner = torch.rand(1, 4, 16, 16)
    for cut, whole in zip(small.branches, full.branches, strict=True):
        margin = (5 - cut.kernel_size[0]) // 2
        weight = whole.weight.detach()
        with torch.no_grad():
            cut.weight.copy_(weight[:, :, margin : 5 - margin, margin : 5 - margin])
            torch.testing.assert_close(cut(inner), whole(inner))


@pytest.mark.parametrize(("tile_px", "sides"), [(128, [64, 96, 128]), (64, [32, 48, 64]), (32, [32, 32, 32])])
def test_patches_grow_with_the_training(tile_px, sides):
    detector = build_detector("ssae", 1, tile_px, NARROW)
    assert [detector.training_side_px(progress) for progress in (0.0, 0.25, 0.5)] == sides
    assert detector.training_side_px(0.249) == sides[0]
    whole = build_detector("ssae", 1, tile_px, {**NARROW, "progressive": False})
    assert whole.training_side_px(0.0) == tile_px


@pytest.mark.parametrize("tile_px", [8, 100])
def test_tiles_that_do_not_halve_thrice_are_refused(tile_px):
    with pytest.raises(RecipeError, match="multiples of 8"):
        build_detector("ssae", 1, tile_px, NARROW)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_without_damage_has_a_finite_loss(name):
    detector = build_detector(name, 1, 32, NARROW).train()
    loss = detector.loss(Batch(torch.rand(2, 1, 32, 32)))
    loss.backward()
    assert bool(loss.detach().isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in detector.parameters() if p.grad is not None)


def test_score_is_the_squared_difference_averaged_over_channels():
    torch.manual_seed(0)
    detector = build_detector("ssae", 3, 32, NARROW).eval()
    tiles = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        copy = detector.reconstruct(tiles).numpy()
        found = detector.score(tiles).numpy()
    np.testing.assert_allclose(found, ((copy - tiles.numpy()) ** 2).sum(axis=1) / 3, rtol=1e-5)


def test_ensemble_weighs_both_networks_alike():
    """A score of 1 is what good material has on average, whatever either network alone makes of it."""
    torch.manual_seed(0)
    detector = build_detector("ssae-ensemble", 1, 32, NARROW).eval()
    good = torch.rand(16, 1, 32, 32)
    detector.fit(good)
    with torch.no_grad():
        assert float(detector.score(good).mean()) == pytest.approx(1, rel=1e-4)
        ours = (detector.network(good) - good).square().mean(dim=1)
        contrast = (detector.contrast_network(good) - good).square().mean(dim=1)
        expected = (ours / ours.mean() + contrast / contrast.mean()) / 2
        torch.testing.assert_close(detector.score(good), expected, rtol=1e-4, atol=1e-6)


def test_each_objective_moves_one_network_of_the_ensemble():
    torch.manual_seed(0)
    detector = build_detector("ssae-ensemble", 1, 32, NARROW).train()
    tiles = torch.rand(2, 1, 32, 32)
    changed = torch.zeros_like(tiles)
    changed[..., 8:20, 8:20] = 1
    batch = Batch(tiles, None, tiles * (1 - changed), changed)
    super(type(detector), detector).loss(batch).backward()
    assert all(p.grad is not None for p in detector.network.parameters())
    assert all(p.grad is None for p in detector.contrast_network.parameters())


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"width": 1}, "width", "greater than or equal to 2"),
        ({"stacks": 0}, "stacks", "greater than or equal to 1"),
        ({"balance": 1.0}, "balance", "less than 1"),
        ({"corruption": "rust"}, "corruption", "'elastic'"),
        ({"brightness": -1}, "brightness", "greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_their_key(settings, key, message):
    with pytest.raises(ValidationError) as caught:
        SsaeSettings.model_validate(settings)
    (error,) = caught.value.errors()
    assert error["loc"][0] == key
    assert message in error["msg"]


def test_brightness_goes_with_kept_content_only():
    with pytest.raises(ValidationError, match="means nothing with corruption 'cutout'"):
        SsaeSettings.model_validate({"corruption": "cutout", "brightness": 0.5})
    assert SsaeSettings.model_validate({"corruption": "cutout"}).corruption == "cutout"
