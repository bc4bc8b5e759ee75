"""Networks against the paper's tables, and losses by hand."""

import numpy as np
import pytest
import torch

from inspect_cli.errors import RecipeError
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Batch
from inspect_cli.methods.networks import ARCHITECTURES, BlockConv2d, encoder, start_at_mean
from inspect_cli.methods.vae import kl_divergence
from inspect_cli.training.health import explained_variance


def test_industrial_network_has_the_size_counted_from_the_papers_tables():
    detector = build_detector("cae", 1, 128, {})
    assert sum(p.numel() for p in detector.parameters()) == 2_517_877


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("industrial", [(16, 128), (32, 64), (64, 32), (64, 16), (64, 8), (16, 8)]),
        ("synthetic", [(16, 128), (32, 64), (64, 32), (64, 8), (16, 8)]),
        ("mnist", [(16, 128), (32, 64), (64, 32), (64, 16), (16, 16)]),
        ("cifar10", [(8, 128), (16, 64), (32, 32), (16, 16)]),
    ],
)
def test_encoder_layers_have_the_channels_and_sizes_of_table_2(name, shapes):
    tiles = torch.zeros(1, 1, 128, 128)
    found = []
    for layer in encoder(1, ARCHITECTURES[name]):
        tiles = layer(tiles)
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.kernel_size == (3, 3)
            found.append((tiles.shape[1], tiles.shape[2]))
    assert found == shapes


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize(("channels", "tile"), [(1, 32), (3, 64), (2, 128)])
def test_reconstruction_has_the_tiles_shape_and_lies_between_0_and_1(architecture, channels, tile):
    detector = build_detector("cae", channels, tile, {"architecture": architecture})
    copy = detector.reconstruct(torch.rand(2, channels, tile, tile))
    assert copy.shape == (2, channels, tile, tile)
    assert copy.min() > 0
    assert copy.max() < 1


@pytest.mark.parametrize("size", [(8, 12), (6, 4), (5, 7)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_blocks_of_pixels_are_what_a_plain_convolution_makes_of_them(channels, size):
    blocks, plain = BlockConv2d(6, channels), torch.nn.Conv2d(6, channels, 3, padding=1)
    plain.load_state_dict(blocks.state_dict())
    values = torch.rand(2, 6, *size)
    found, expected = blocks(values), plain(values)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(blocks.weight.grad, plain.weight.grad)
    torch.testing.assert_close(blocks.bias.grad, plain.bias.grad)


def test_a_network_scores_what_it_trains_with():
    detector, tiles = build_detector("cae", 1, 32, {}), torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(detector.eval().reconstruct(tiles), detector.train().reconstruct(tiles))


def test_residual_is_the_squared_difference_averaged_over_channels():
    detector = build_detector("cae", 3, 32, {})
    tiles = torch.rand(2, 3, 32, 32)
    copy = detector.reconstruct(tiles).detach().numpy()
    by_hand = ((tiles.numpy() - copy) ** 2).sum(axis=1) / 3
    np.testing.assert_allclose(detector.score(tiles).detach().numpy(), by_hand, rtol=1e-5)


def test_loss_counts_pixels_inside_the_roi_only():
    detector = build_detector("cae", 1, 32, {})
    tiles, mask = torch.rand(4, 1, 32, 32), torch.zeros(4, 1, 32, 32)
    mask[:, :, :, :10] = 1
    residual = (tiles - detector.reconstruct(tiles)).detach() ** 2
    assert float(detector.loss(Batch(tiles, mask)).detach()) == pytest.approx(
        float(residual[:, :, :, :10].mean()), rel=1e-5
    )
    assert float(detector.loss(Batch(tiles)).detach()) == pytest.approx(float(residual.mean()), rel=1e-5)


def test_bottleneck_is_1024_100_1024_by_default():
    detector = build_detector("cae", 1, 128, {})
    sizes = [(m.in_features, m.out_features) for m in detector.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes == [(1024, 1024), (1024, 100), (100, 1024), (1024, 1024)]


@pytest.mark.parametrize("tile", [100, 127, 16, 24])
def test_tile_that_does_not_divide_down_is_refused_with_the_sizes_that_fit(tile):
    with pytest.raises(RecipeError, match="multiples of 16 from 32 on"):
        build_detector("cae", 1, tile, {})


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(RecipeError, match="did you mean 'cae'"):
        build_detector("cea", 1, 32, {})
    with pytest.raises(RecipeError, match="did you mean 'latent'"):
        build_detector("cae", 1, 32, {"latnt": 3})
    with pytest.raises(RecipeError, match="latent"):
        build_detector("cae", 1, 32, {"latent": 0})


def test_signal_keeps_its_size_through_a_fresh_network():
    """With torch's default weights the code's spread falls below a hundredth and training stalls."""
    torch.manual_seed(1)
    detector = build_detector("cae", 1, 128, {})
    code = detector.bottleneck.encode(detector.encoder(torch.randn(8, 1, 128, 128)))
    assert 0.2 < float(code.detach().std()) < 5


def test_network_that_adds_nothing_copies_the_mean_of_each_channel_from_the_start():
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, 1, 1), torch.nn.Sigmoid())
    torch.nn.init.zeros_(layers[0].weight)
    tiles = torch.stack([torch.full((3, 8, 8), 0.3), torch.zeros(3, 8, 8)], dim=1)
    start_at_mean(layers, tiles)
    copy = layers(tiles).detach()
    torch.testing.assert_close(copy[:, 0], tiles[:, 0])
    torch.testing.assert_close(copy[:, 1], torch.full((3, 8, 8), 0.02))  # black itself has no gradient


def test_kl_term_is_that_of_two_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros(5, 7), torch.ones(5, 7))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
    assert float(kl_divergence(mean, log_variance)) == pytest.approx(float(expected), rel=1e-5)
    assert float(kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4))) == 0


def test_vae_samples_in_training_and_takes_the_mean_when_it_scores():
    detector = build_detector("vae", 1, 32, {})
    tiles = torch.rand(2, 1, 32, 32)
    detector.eval()
    assert torch.equal(detector.score(tiles), detector.score(tiles))
    detector.train()
    assert float(detector.loss(Batch(tiles)).detach()) != float(detector.loss(Batch(tiles)).detach())


def test_vae_samples_with_the_standard_deviation_of_the_posterior(monkeypatch):
    """IND eq. 6: the mean plus the standard deviation times noise, here 1 everywhere."""
    detector = build_detector("vae", 1, 32, {"kl_weight": 0.0}).train()
    torch.nn.init.constant_(detector.log_variance.bias, -2.0)
    tiles = torch.rand(3, 1, 32, 32)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    with torch.no_grad():
        mean, log_variance = detector.posterior(tiles)
        sampled = detector.decode(mean + log_variance.exp().sqrt())
        assert float(detector.loss(Batch(tiles))) == pytest.approx(float(((sampled - tiles) ** 2).mean()), rel=1e-5)


def test_vae_loss_is_squared_error_plus_weighted_kl_a_pixel():
    detector = build_detector("vae", 1, 32, {"kl_weight": 0.5}).eval()
    tiles = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        mean, log_variance = detector.posterior(tiles)
        error = ((detector.decode(mean) - tiles) ** 2).mean()
        expected = error + 0.5 * kl_divergence(mean, log_variance) / (32 * 32)
        assert float(detector.loss(Batch(tiles))) == pytest.approx(float(expected), rel=1e-5)


def test_critic_estimates_the_gap_between_prior_and_codes_and_stays_in_its_box():
    torch.manual_seed(0)
    detector = build_detector("aae", 1, 32, {"clip": 0.02})
    assert [tuple(m.weight.shape) for m in detector.critic if isinstance(m, torch.nn.Linear)] == [(10, 100), (1, 10)]
    codes = torch.rand(6, 100) + 3
    torch.manual_seed(1)
    prior = torch.randn(6, 100)
    by_hand = detector.critic(prior).mean() - detector.critic(codes).mean()
    torch.manual_seed(1)
    assert float(detector.critic_gap(codes).detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    optimizers = detector.optimizers(1e-2)
    detector.train_step(Batch(torch.rand(4, 1, 32, 32)), optimizers, torch.autocast("cpu", enabled=False))
    assert all(float(w.detach().abs().max()) <= 0.02 + 1e-7 for w in detector.critic.parameters())


def test_critic_and_encoder_pull_in_opposite_directions():
    """The critic learns to tell codes from the prior, the encoder to make codes that it takes for the prior's."""
    torch.manual_seed(0)
    detector = build_detector("aae", 1, 32, {"critic_steps": 3, "clip": 5.0}).train()
    tiles, autocast = torch.rand(8, 1, 32, 32), torch.autocast("cpu", enabled=False)
    coder, critic, generator = detector.optimizers(1e-2)
    steps = [0, 0, 0]
    for number, optimizer in enumerate((coder, critic, generator)):
        optimizer.register_step_pre_hook(lambda *_, number=number: steps.__setitem__(number, steps[number] + 1))
    codes = detector.encode(tiles).detach()

    def gap():
        torch.manual_seed(7)
        return float(detector.critic_gap(codes).detach())

    def likeness():
        return float(detector.critic(detector.encode(tiles)).mean().detach())

    def idle(optimizer):
        for group in optimizer.param_groups:
            group["lr"] = 0.0

    for optimizer in (coder, generator):
        idle(optimizer)
    before = gap()
    detector.train_step(Batch(tiles), [coder, critic, generator], autocast)
    assert steps == [1, 3, 1]
    assert gap() > before
    _, critic, generator = detector.optimizers(1e-2)
    idle(critic)
    before = likeness()
    detector.train_step(Batch(tiles), [coder, critic, generator], autocast)
    assert likeness() > before


def test_reconstruction_phase_leaves_the_critic_and_the_critic_leaves_the_coder():
    detector = build_detector("aae", 1, 32, {})
    coder, critic, generator = detector.optimizers(1e-3)
    of = lambda optimizer: {id(p) for group in optimizer.param_groups for p in group["params"]}  # noqa: E731
    critics = {id(p) for p in detector.critic.parameters()}
    assert of(critic) == critics
    assert not of(coder) & critics
    assert of(generator) < of(coder)
    assert of(coder) | critics == {id(p) for p in detector.parameters()}


class _Fixed(torch.nn.Module):
    """Stands for a detector whose reconstruction is known."""

    def __init__(self, copy):
        super().__init__()
        self._copy = copy

    def reconstruct(self, tiles):
        return self._copy(tiles)


def test_explained_variance_is_1_for_a_copy_and_0_for_the_mean():
    tiles = torch.rand(4, 2, 16, 16)
    assert explained_variance(_Fixed(lambda t: t), [Batch(tiles)]) == 1
    mean = _Fixed(lambda t: t.mean(dim=(2, 3), keepdim=True).expand_as(t))
    assert explained_variance(mean, [Batch(tiles)]) == pytest.approx(0, abs=1e-6)
    assert explained_variance(_Fixed(lambda t: None), [Batch(tiles)]) is None


def test_explained_variance_looks_inside_the_roi_only():
    tiles = torch.rand(4, 1, 16, 16)
    mask = torch.zeros(4, 1, 16, 16)
    mask[..., :8] = 1

    def wrong_outside(t):
        return torch.where(mask > 0, t, t + 5)

    assert explained_variance(_Fixed(wrong_outside), [Batch(tiles, mask)]) == 1
