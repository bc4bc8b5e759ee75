"""Autoencoder with noise injection: the noise by its moments, layers as in the paper, target and score by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from inspect_cli.corruptions.injection import GaussianInjection
from inspect_cli.errors import RecipeError
from inspect_cli.methods.base import Batch
from inspect_cli.methods.ni_cae import NoiseInjectedAutoencoder

pytestmark = pytest.mark.usefixtures("one_thread")


def build(channels: int = 1, tile_px: int = 64, **settings: float) -> NoiseInjectedAutoencoder:
    torch.manual_seed(0)
    settings = {"width": 16, "latent": 64} | settings
    return NoiseInjectedAutoencoder(channels, tile_px, NoiseInjectedAutoencoder.Settings(**settings)).eval()


def random_patches(count: int, channels: int = 1, side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, channels, side, side), dtype=np.float32)


# The noise


def test_noise_has_mean_0_and_the_variance_asked_for():
    patches = random_patches(40, 3, 64)
    noisy, _ = GaussianInjection(0.001, 1.0)(patches, np.random.default_rng(1))
    noise = (noisy - patches).astype(np.float64)
    assert noise.mean() == pytest.approx(0, abs=3 * np.sqrt(0.001 / noise.size))
    assert noise.var() == pytest.approx(0.001, rel=0.02)
    assert (np.abs(noise) > 3 * np.sqrt(0.001)).mean() == pytest.approx(0.0027, rel=0.2)


def test_channels_and_pixels_get_noise_of_their_own():
    patches = np.full((20, 2, 32, 32), 0.5, np.float32)
    noisy, _ = GaussianInjection(0.001, 1.0)(patches, np.random.default_rng(1))
    noise = noisy - patches
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[..., :-1].ravel(), noise[..., 1:].ravel())[0, 1]) < 0.03


def test_a_tenth_of_the_patches_is_noisy_all_over_and_the_others_are_as_they_were():
    patches = random_patches(4000, 1, 4)
    noisy, changed = GaussianInjection()(patches, np.random.default_rng(2))
    picked = changed[:, 0, 0, 0] == 1
    assert picked.mean() == pytest.approx(0.1, abs=0.015)
    assert changed.shape == (4000, 1, 4, 4)
    np.testing.assert_array_equal(changed, np.broadcast_to(picked[:, None, None, None], changed.shape))
    np.testing.assert_array_equal(noisy[~picked], patches[~picked])
    assert (noisy[picked] != patches[picked]).mean() > 0.999


def test_injection_leaves_its_argument_and_keeps_float32():
    patches = random_patches(8, 3)
    before = patches.copy()
    noisy, changed = GaussianInjection(0.01, 1.0)(patches, np.random.default_rng(0))
    np.testing.assert_array_equal(patches, before)
    assert noisy.dtype == changed.dtype == np.float32
    assert noisy.shape == patches.shape


def test_same_generator_state_gives_the_same_noise():
    patches = random_patches(30)
    one, same, other = (GaussianInjection(0.01, 0.5)(patches, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.patches, same.patches)
    np.testing.assert_array_equal(one.changed, same.changed)
    assert (one.patches != other.patches).any()


@pytest.mark.parametrize(("variance", "share"), [(0.001, 0.0), (0.0, 1.0)])
def test_no_share_or_no_variance_changes_nothing(variance, share):
    patches = random_patches(10)
    noisy, changed = GaussianInjection(variance, share)(patches, np.random.default_rng(0))
    np.testing.assert_array_equal(noisy, patches)
    assert (changed == share).all()


# The network


def convolutions(layers: torch.nn.Module, tiles: torch.Tensor) -> list[tuple[int, int, int]]:
    """Return filters, kernel side and resolution of each convolution."""
    found = []
    for layer in layers:
        tiles = layer(tiles)
        if isinstance(layer, torch.nn.Conv2d):
            found.append((tiles.shape[1], layer.kernel_size[0], tiles.shape[2]))
    return found


def test_layers_are_the_papers():
    detector = build(1, 128, width=128, latent=512)
    down = convolutions(detector.encoder, torch.zeros(1, 1, 128, 128))
    assert down == [(128, 3, 128), (64, 3, 64), (16, 3, 32), (8, 3, 16), (4, 3, 8)]
    assert sum(isinstance(layer, torch.nn.MaxPool2d) for layer in detector.encoder) == 5
    up = convolutions(detector.decoder, torch.zeros(1, 4, 4, 4))
    assert up == [(4, 3, 8), (8, 3, 16), (16, 3, 32), (64, 3, 64), (128, 3, 128), (1, 1, 128)]
    dense = [(m.in_features, m.out_features) for m in detector.modules() if isinstance(m, torch.nn.Linear)]
    assert dense == [(4 * 4 * 4, 512), (512, 4 * 4 * 4)]
    assert detector.encode(torch.zeros(2, 1, 128, 128)).shape == (2, 512)


@pytest.mark.parametrize(
    ("width", "filters"),
    [(32, [32, 16, 4, 4, 4]), (64, [64, 32, 8, 4, 4]), (4, [4] * 5), (256, [256, 128, 32, 16, 8])],
)
def test_other_widths_keep_the_proportions_down_to_4_filters(width, filters):
    assert [found for found, *_ in convolutions(build(width=width).encoder, torch.zeros(1, 1, 64, 64))] == filters


@pytest.mark.parametrize(("channels", "tile_px"), [(1, 128), (3, 64), (2, 96)])
def test_copy_has_the_tiles_shape_and_lies_between_0_and_1(channels, tile_px):
    tiles = torch.rand(2, channels, tile_px, tile_px)
    copy = build(channels, tile_px).reconstruct(tiles).detach()
    assert copy.shape == tiles.shape
    assert 0 < float(copy.min()) < float(copy.max()) < 1


@pytest.mark.parametrize("tile_px", [0, 16, 32, 48, 127, 200])
def test_tiles_that_do_not_fit_are_refused_with_the_sizes_that_fit(tile_px):
    with pytest.raises(RecipeError, match=f"{tile_px} does not fit this network: .* are multiples of 32 from 64 on"):
        build(1, tile_px)


@pytest.mark.parametrize(
    "settings", [{"width": 3}, {"latent": 0}, {"noise_variance": -1}, {"noise_share": 1.1}, {"variance": 1}]
)
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        NoiseInjectedAutoencoder.Settings(**settings)


def test_corruption_follows_the_settings():
    assert NoiseInjectedAutoencoder(1, 64, NoiseInjectedAutoencoder.Settings(width=4)).corruption() == (
        GaussianInjection(variance=0.001, share=0.1)
    )
    assert build(noise_variance=0.02, noise_share=0.5).corruption() == GaussianInjection(0.02, 0.5)


def test_loss_compares_the_copy_of_the_noisy_patch_with_the_clean_one_inside_the_roi():
    detector = build(2)
    clean, noisy = torch.rand(3, 2, 64, 64), torch.rand(3, 2, 64, 64)
    roi = torch.zeros(3, 1, 64, 64)
    roi[:, :, 5:12] = 1
    squares = ((detector.reconstruct(noisy) - clean) ** 2).detach().numpy()
    batch = Batch(clean, None, noisy, torch.ones(3, 1, 64, 64))
    assert float(detector.loss(batch).detach()) == pytest.approx(squares.mean(), rel=1e-5)
    inside = float(detector.loss(batch._replace(roi=roi)).detach())
    assert inside == pytest.approx(squares[:, :, 5:12].mean(), rel=1e-5)
    copied = ((detector.reconstruct(clean) - clean) ** 2).detach().numpy()
    assert float(detector.loss(Batch(clean)).detach()) == pytest.approx(copied.mean(), rel=1e-5)


def test_score_is_the_squared_residual_averaged_over_channels():
    detector = build(3)
    tiles = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        by_hand = ((tiles.numpy() - detector.reconstruct(tiles).numpy()) ** 2).sum(axis=1) / 3
        np.testing.assert_allclose(detector.score(tiles).numpy(), by_hand, rtol=1e-5)


def trained(steps: int) -> tuple[NoiseInjectedAutoencoder, list[float]]:
    """Train on horizontal ramps of random height, a tenth of them noisy."""
    detector = build(noise_share=0.1).train()
    optimizers = detector.optimizers(2e-3)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        tops = rng.uniform(0.2, 0.9, (8, 1, 1, 1))
        tiles = np.broadcast_to(tops * np.linspace(0, 1, 64), (8, 1, 64, 64)).astype(np.float32)
        damaged = detector.corruption()(tiles, rng)
        batch = Batch(torch.from_numpy(tiles), None, *map(torch.from_numpy, damaged))
        losses.append(detector.train_step(batch, optimizers, torch.autocast("cpu", enabled=False)))
    return detector.eval(), losses


def test_a_few_steps_lower_the_loss_and_a_blot_sticks_out():
    detector, losses = trained(120)
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    tile = torch.linspace(0, 0.5, 64).expand(1, 1, 64, 64).clone()
    tile[:, :, 10:16, 4:10] = 1
    with torch.no_grad():
        score = detector.score(tile)[0]
    blot = score[10:16, 4:10].mean()
    assert float(blot) > 5 * float(score[20:].mean())


def test_training_is_the_same_again():
    (first, losses), (second, others) = trained(5), trained(5)
    assert losses == others
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
