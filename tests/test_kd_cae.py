"""Autoencoder with kernel density: layers as in the paper, the density against other libraries, scores by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity as SklearnDensity

from inspect_cli.errors import RecipeError
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Batch
from inspect_cli.methods.density import KernelDensity
from inspect_cli.methods.kd_cae import KernelDensityAutoencoder

pytestmark = pytest.mark.usefixtures("one_thread")


def build(channels: int = 1, tile_px: int = 32, **settings: float) -> KernelDensityAutoencoder:
    torch.manual_seed(0)
    settings = {"points": 64, "components": 4} | settings
    return KernelDensityAutoencoder(channels, tile_px, KernelDensityAutoencoder.Settings(**settings)).eval()


def stripes(count: int, seed: int = 0, slope: float = 0.0) -> torch.Tensor:
    """Tiles of one period at random phases, (count, 1, 32, 32), a little noisy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    tiles = 0.5 + 0.3 * np.sin(0.8 * (x + slope * y) + phases) + rng.normal(0, 0.01, (count, 32, 32))
    return torch.from_numpy(tiles[:, None].astype(np.float32))


def random_codes(count: int, size: int = 12, seed: int = 0) -> torch.Tensor:
    """Codes whose directions vary differently much, so that the order of the components is certain."""
    rng = np.random.default_rng(seed)
    mixed = (
        rng.normal(size=(count, size)) * np.linspace(3, 0.1, size) @ np.linalg.qr(rng.normal(size=(size, size)))[0]
    )
    return torch.from_numpy((mixed + 5).astype(np.float32))


def fitted(codes: torch.Tensor, components: int = 3, bandwidth: float | None = None, spare: int = 0) -> KernelDensity:
    density = KernelDensity(codes.shape[1], len(codes) + spare, components, bandwidth)
    density.fit(codes)
    return density


# The density


def whitening(codes: torch.Tensor, components: int) -> Callable[[torch.Tensor], NDArray[np.float64]]:
    """Return what whitens codes: directions of every other one of ``codes``, mean and deviations of the rest."""
    directions = PCA(components, svd_solver="full").fit(codes[::2].double().numpy())
    rest = directions.transform(codes[1::2].double().numpy())
    center, deviations = rest.mean(axis=0), rest.std(axis=0, ddof=1)
    return lambda some: (directions.transform(some.double().numpy()) - center) / deviations


@pytest.mark.parametrize(("components", "bandwidth"), [(3, None), (3, 0.4), (12, None), (1, 2.0)])
def test_density_is_that_of_scikit_learn_on_whitened_principal_components(components, bandwidth):
    codes, others = random_codes(80), random_codes(20, seed=1)
    whitened = whitening(codes, components)
    width = bandwidth or 40 ** (-1 / (components + 4))
    reference = SklearnDensity(bandwidth=width).fit(whitened(codes[1::2]))
    expected = reference.score_samples(whitened(others))
    found = fitted(codes, components, bandwidth, spare=7).log_density(others).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


def test_density_by_scotts_rule_is_that_of_scipy():
    codes, others = random_codes(60), random_codes(15, seed=2)
    density = fitted(codes, components=1)  # scipy decorrelates, which one component needs not
    places = density.whitened(codes[1::2]).double().numpy()
    kernels = gaussian_kde(places.T, bw_method="scott")
    expected = kernels.logpdf(density.whitened(others).double().numpy().T)
    np.testing.assert_allclose(density.log_density(others).numpy(), expected, rtol=1e-4, atol=2e-4)


def test_density_of_two_codes_by_hand():
    """Kernels at 0 and 2 on a line: mean 1, deviation sqrt(2), whitened to -+1/sqrt(2)."""
    line = torch.tensor([[9.0, 0.0], [0.0, 0.0], [4.0, 0.0], [2.0, 0.0]])
    density = fitted(line, components=1, bandwidth=0.5)
    assert float(density.whitened(torch.tensor([[3.0, 7.0]])).abs()) == pytest.approx(math.sqrt(2), rel=1e-6)
    kernels = [math.exp(-0.5 * (distance / math.sqrt(2) / 0.5) ** 2) for distance in (3, 1)]
    expected = math.log(sum(kernels) / 2 / (0.5 * math.sqrt(2 * math.pi)))
    assert float(density.log_density(torch.tensor([[3.0, 7.0]]))) == pytest.approx(expected, rel=1e-5)
    alone = math.log(math.exp(-0.5 * (2 / math.sqrt(2) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi)))
    assert density.left_out_log_density().tolist() == pytest.approx([alone, alone], rel=1e-5)


def test_whitened_codes_have_no_mean_unit_variance_and_little_correlation():
    places = fitted(random_codes(200), components=5).places[:100]
    np.testing.assert_allclose(places.mean(dim=0), np.zeros(5), atol=1e-5)
    found = np.cov(places.T)
    np.testing.assert_allclose(np.diag(found), np.ones(5), atol=1e-4)
    assert np.abs(found - np.diag(np.diag(found))).max() < 0.4


def test_new_codes_of_far_more_values_than_there_are_codes_are_as_likely_as_the_fitted_ones():
    """Directions that the kernels' own codes gave would fit no others: new ones would crowd at the centre."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 4000))

    def codes(count: int, times: float = 1.0) -> torch.Tensor:
        mixed = times * rng.normal(size=(count, 3)) @ directions + 0.5 * rng.normal(size=(count, 4000))
        return torch.from_numpy(mixed.astype(np.float32))

    density = fitted(codes(200), components=16)
    usual = density.left_out_log_density().median()
    new, far = density.log_density(codes(400)), density.log_density(codes(400, times=3))
    assert 0.35 < float((new < usual).float().mean()) < 0.65
    assert float((far < usual).float().mean()) > 0.85


def test_left_out_density_is_that_of_the_other_codes():
    codes = random_codes(40)
    density = fitted(codes, spare=5)
    places = density.whitened(codes[1::2]).double().numpy()
    width = 20 ** (-1 / 7)
    expected = [
        SklearnDensity(bandwidth=width).fit(np.delete(places, i, axis=0)).score_samples(places[i : i + 1])[0]
        for i in range(20)
    ]
    np.testing.assert_allclose(density.left_out_log_density(), expected, rtol=1e-4, atol=2e-4)
    assert bool((density.left_out_log_density() < density.log_density(codes[1::2])).all())


def test_density_stays_finite_where_every_kernel_underflows():
    codes = random_codes(50)
    far = fitted(codes).log_density(codes[:1] + 1e4)
    assert float(far) < -1e4
    assert bool(torch.isfinite(far).all())


def test_fewer_codes_than_components_use_the_directions_there_are():
    """Four codes a half span three directions; the buffers keep their shapes and the density is that of the three."""
    codes = random_codes(8)
    few = KernelDensity(12, 50, 8)
    shapes = {name: value.shape for name, value in few.state_dict().items()}
    few.fit(codes)
    assert {name: value.shape for name, value in few.state_dict().items()} == shapes
    assert float(few.dimensions) == 3
    others = random_codes(6, seed=3)
    np.testing.assert_allclose(few.log_density(others), fitted(codes, components=3).log_density(others), rtol=1e-4)


def test_directions_without_variation_are_left_out():
    """Codes vary along one direction only, but for rounding: a step beside it must not count as gigantic."""
    codes = torch.full((30, 6), 3.0)
    codes[:, 0] += torch.linspace(-1, 1, 30)
    density = fitted(codes, components=4)
    assert float(density.dimensions) == 1
    aside = codes[:5] + torch.tensor([0, 0.5, 0, 0, 0, 0])
    torch.testing.assert_close(density.log_density(aside), density.log_density(codes[:5]), rtol=1e-3, atol=1e-3)


def test_equal_codes_make_an_even_density():
    density = fitted(torch.full((10, 6), 3.0))
    assert float(density.dimensions) == 0
    assert density.log_density(torch.rand(4, 6)).tolist() == pytest.approx([0] * 4, abs=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_of_a_few_tiles_the_residual_alone_counts(count):
    detector = build_detector("kd-cae", 1, 32, {"points": 8}).eval()
    tiles = torch.rand(count, 1, 32, 32)
    detector.fit(tiles)
    expected = (detector.reconstruct(tiles) - tiles).square().mean(dim=1)
    torch.testing.assert_close(detector.score(tiles), expected / expected.mean())


@pytest.mark.parametrize("count", [0, 1, 3, 17])
def test_too_few_or_too_many_codes_are_refused(count):
    with pytest.raises(ValueError, match="4 to 16 codes"):
        KernelDensity(6, 8, 2).fit(torch.rand(count, 6))


def test_density_fitted_again_forgets_the_first_codes():
    codes = random_codes(20)
    density = KernelDensity(12, 40, 5)
    density.fit(random_codes(40, seed=5) * 3)
    density.fit(codes)
    once = KernelDensity(12, 40, 5)
    once.fit(codes)
    for name, value in once.state_dict().items():
        torch.testing.assert_close(density.state_dict()[name], value, rtol=0, atol=0)


# The network


def test_twelve_layers_of_32_to_128_filters_lead_to_8x8x128_and_back():
    detector = build(1, 128)
    sizes = []
    tiles = torch.zeros(1, 1, 128, 128)
    for layer in [*detector.encoder, *detector.decoder]:
        tiles = layer(tiles)
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            sizes.append((tiles.shape[1], tiles.shape[2]))
    encoder = [(32, 128), (32, 64), (64, 32), (64, 16), (128, 8), (128, 8)]
    decoder = [(128, 8), (64, 16), (64, 32), (32, 64), (32, 128), (1, 128)]
    assert sizes == encoder + decoder
    assert detector.density.center.shape == (8 * 8 * 128,)


@pytest.mark.parametrize(("channels", "tile_px"), [(1, 32), (3, 48)])
def test_code_is_a_sixteenth_of_the_tile_and_the_copy_lies_between_0_and_1(channels, tile_px):
    detector = build(channels, tile_px)
    tiles = torch.rand(2, channels, tile_px, tile_px)
    assert detector.encoder(tiles).shape == (2, 128, tile_px // 16, tile_px // 16)
    copy = detector.reconstruct(tiles).detach()
    assert copy.shape == tiles.shape
    assert 0 < float(copy.min()) < float(copy.max()) < 1


@pytest.mark.parametrize("tile_px", [16, 24, 100])
def test_tiles_that_do_not_divide_down_are_refused_with_the_sizes_that_fit(tile_px):
    with pytest.raises(RecipeError, match="multiples of 16 from 32 on"):
        build(1, tile_px)


@pytest.mark.parametrize(
    "settings", [{"components": 0}, {"points": 4}, {"bandwidth": 0}, {"density_weight": -1}, {"weight": 1}]
)
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        KernelDensityAutoencoder.Settings(**settings)


def test_loss_is_the_mean_squared_difference_inside_the_roi():
    detector = build(2)
    tiles, roi = torch.rand(3, 2, 32, 32), torch.zeros(3, 1, 32, 32)
    roi[..., 8:20] = 1
    residual = (tiles - detector.reconstruct(tiles)).detach().numpy() ** 2
    assert float(detector.loss(Batch(tiles, roi)).detach()) == pytest.approx(residual[..., 8:20].mean(), rel=1e-5)
    assert float(detector.loss(Batch(tiles)).detach()) == pytest.approx(residual.mean(), rel=1e-5)


# The score


def test_before_the_fit_the_score_is_the_residual_alone():
    detector = build(2)
    tiles = torch.rand(3, 2, 32, 32)
    with torch.no_grad():
        expected = ((tiles - detector.reconstruct(tiles)) ** 2).mean(dim=1)
        torch.testing.assert_close(detector.score(tiles), expected)


def test_score_is_residual_over_its_usual_size_plus_weighted_excess_of_the_negative_log_density():
    good, odd = stripes(64), stripes(3, 1, slope=1.0)
    detector = build(density_weight=2.5)
    detector.fit(good)
    with torch.no_grad():
        codes = detector.encoder(good).flatten(1)
        whitened = whitening(codes, 4)
        known = whitened(codes[1::2])
        width = 32 ** (-1 / 8)
        left_out = [
            -SklearnDensity(bandwidth=width).fit(np.delete(known, i, axis=0)).score_samples(known[i : i + 1])[0]
            for i in range(32)
        ]
        new = whitened(detector.encoder(odd).flatten(1))
        rarity = -SklearnDensity(bandwidth=width).fit(known).score_samples(new)
        excess = (rarity - np.sort(left_out)[15]) / np.std(left_out, ddof=1)
        usual = ((good - detector.reconstruct(good)) ** 2).mean()
        residual = ((odd - detector.reconstruct(odd)) ** 2).mean(dim=1) / usual
        expected = residual.numpy() + 2.5 * np.maximum(excess, 0)[:, None, None]
        found = detector.score(odd).numpy()
    assert (excess > 1).all()
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_good_patches_residual_is_one_on_average_and_half_of_them_are_as_likely_as_usual():
    good = stripes(64)
    detector = build(density_weight=0)
    detector.fit(good)
    with torch.no_grad():
        assert float(detector.score(good).mean()) == pytest.approx(1, rel=1e-4)
        rarity = detector.rarity(detector.encoder(stripes(64, seed=9)))
    assert float(rarity.min()) == 0
    assert 0.25 < float((rarity > 0).float().mean()) < 0.75


def test_an_odd_tile_is_less_likely_than_any_good_one_after_a_short_training():
    detector = build().train()
    optimizers = detector.optimizers(2e-3)
    autocast = torch.autocast("cpu", enabled=False)
    losses = [detector.train_step(Batch(stripes(8, seed)), optimizers, autocast) for seed in range(100, 140)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    detector.eval().fit(stripes(64))
    good, odd = stripes(16, 1), stripes(16, 2, slope=1.0)
    with torch.no_grad():
        rarities = [detector.rarity(detector.encoder(tiles)) for tiles in (good, odd)]
        means = [detector.score(tiles).mean(dim=(1, 2)) for tiles in (good, odd)]
    for usual, unusual in (rarities, means):
        assert float(usual.max()) < float(unusual.min())


def test_scores_are_finite_and_not_negative_even_for_a_network_that_forgets_its_input():
    """All codes are the same: nothing is unlikely, the residual still counts."""
    detector = build()
    torch.nn.init.zeros_(detector.encoder[0].weight)
    detector.fit(stripes(64))
    with torch.no_grad():
        scores = detector.score(torch.rand(4, 1, 32, 32))
        assert detector.rarity(detector.encoder(torch.rand(4, 1, 32, 32))).tolist() == [0] * 4
    assert bool(torch.isfinite(scores).all())
    assert float(scores.min()) >= 0


def test_fit_is_the_same_again_and_a_loaded_state_scores_bit_for_bit_alike():
    """Fewer patches than points and components, so that buffers are partly empty."""
    first, second, loaded = build(components=32), build(components=32), build(components=32)
    for detector in (first, second):
        detector.fit(stripes(20))
    loaded.load_state_dict(first.state_dict())
    tiles = stripes(4, 1, slope=0.5)
    with torch.no_grad():
        for other in (second, loaded):
            torch.testing.assert_close(other.score(tiles), first.score(tiles), rtol=0, atol=0)


def test_weights_in_half_precision_score_nearly_alike():
    detector = build()
    detector.fit(stripes(64))
    tiles = stripes(8, 3, slope=0.3)
    with torch.no_grad():
        before = detector.score(tiles)
        after = detector.half().float().score(tiles)
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)


def test_a_large_batch_scores_as_single_tiles_do():
    detector = build()
    detector.fit(stripes(64))
    tiles = torch.cat([stripes(6, 4), stripes(6, 5, slope=1.0)])
    with torch.no_grad():
        together, alone = detector.score(tiles), torch.cat([detector.score(tile[None]) for tile in tiles])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
