"""The generative networks: sizes of every layer, losses by hand, the game's steps, the averaged generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from inspect_cli.errors import ModelError, RecipeError
from inspect_cli.generate.adversarial import Game
from inspect_cli.generate.dcgan import (
    LATENT,
    Discriminator,
    Generator,
    check_tile,
    discriminator_loss,
    generator_loss,
    level_channels,
)
from inspect_cli.stopping import Interrupted
from inspect_cli.training.budget import MapBudget

CPU = torch.device("cpu")


def sizes(network: nn.Sequential, value: torch.Tensor, kind: type[nn.Module]) -> list[tuple[int, ...]]:
    """Return the shape after each layer of ``kind``, without the batch."""
    found = []
    for layer in network:
        value = layer(value)
        if isinstance(layer, kind):
            found.append(tuple(value.shape[1:]))
    return found


def test_generator_doubles_from_4_px_to_the_patch():
    network = Generator(4, 128, 8)
    found = sizes(network.layers, torch.zeros(2, LATENT, 1, 1), nn.ConvTranspose2d)
    assert found == [(64, 4, 4), (64, 8, 8), (32, 16, 16), (16, 32, 32), (8, 64, 64), (4, 128, 128)]


def test_discriminator_halves_from_the_patch_to_4_px_and_ends_in_one_logit():
    network = Discriminator(4, 128, 8)
    found = sizes(network.layers, torch.zeros(2, 4, 128, 128), nn.Conv2d)
    assert found == [(8, 64, 64), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 4, 4), (1, 1, 1)]


def test_layers_of_the_paper():
    assert level_channels(64, 128) == [1024, 512, 256, 128]  # Radford et al., figure 1
    generator, discriminator = Generator(3, 64, 4).layers, Discriminator(3, 64, 4).layers
    assert isinstance(generator[-1], nn.Tanh)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in generator) == 4  # all but the output
    assert sum(isinstance(layer, nn.ReLU) for layer in generator) == 4
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in discriminator) == 3  # neither input nor output
    assert [layer.negative_slope for layer in discriminator if isinstance(layer, nn.LeakyReLU)] == [0.2] * 4
    assert not isinstance(discriminator[1], nn.BatchNorm2d)


@pytest.mark.parametrize("tile_px", [32, 64, 256])
def test_patches_of_every_side(tile_px):
    patches = Generator(2, tile_px, 2)(torch.randn(3, LATENT))
    assert patches.shape == (3, 2, tile_px, tile_px)
    assert patches.abs().max() < 1
    assert Discriminator(2, tile_px, 2)(patches).shape == (3,)


@pytest.mark.parametrize("tile_px", [16, 48, 100, 2048])
def test_sides_that_do_not_halve_to_4_px_are_refused(tile_px):
    with pytest.raises(RecipeError, match=rf"size_px {tile_px} .* 32, 64, 128, 256, 512, 1024"):
        check_tile(tile_px)


def test_first_weights():
    torch.manual_seed(0)
    weights = [layer for layer in Generator(1, 64, 16).layers if hasattr(layer, "weight")]
    convolutions = torch.cat([w.weight.detach().flatten() for w in weights if isinstance(w, nn.ConvTranspose2d)])
    assert abs(float(convolutions.mean())) < 1e-3
    assert float(convolutions.std()) == pytest.approx(0.02, rel=0.02)
    norms = torch.cat([w.weight.detach().flatten() for w in weights if isinstance(w, nn.BatchNorm2d)])
    assert float(norms.mean()) == pytest.approx(1.0, abs=0.01)


def test_losses_by_hand():
    real, fake = [0.3, -1.2], [2.0, 0.5, -0.7]

    def sure(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    held_real = -sum(math.log(sure(x)) for x in real) / 2
    held_fake = -sum(math.log(1 - sure(x)) for x in fake) / 3
    found = discriminator_loss(torch.tensor(real), torch.tensor(fake))
    assert float(found) == pytest.approx(held_real / 2 + held_fake / 2, rel=1e-6)
    deceived = -sum(math.log(sure(x)) for x in fake) / 3
    assert float(generator_loss(torch.tensor(fake))) == pytest.approx(deceived / 2, rel=1e-6)
    assert float(discriminator_loss(torch.zeros(4), torch.zeros(4))) == pytest.approx(math.log(2))  # equilibrium


def test_smoothed_label_by_hand():
    real = math.log(1 + math.exp(-2.0)) * 0.9 + math.log(1 + math.exp(2.0)) * 0.1
    found = discriminator_loss(torch.tensor([2.0]), torch.tensor([-100.0]), 0.9)
    assert float(found) == pytest.approx(real / 2, rel=1e-6)
    best = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)  # surer is worse
    discriminator_loss(best, torch.zeros(1), 0.9).backward()
    assert float(best.grad) == pytest.approx(0, abs=1e-6)


def test_step_size_and_noise_fall_along_the_budget():
    torch.manual_seed(0)
    game = Game(1, 32, 2, 4, CPU)
    seen: list[torch.Tensor] = []
    game.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    real = torch.full((4, 1, 32, 32), 0.25)
    for progress, noise_std, rate in ((0.0, 0.4, 8e-4), (0.5, 0.2, 4e-4), (1.0, 0.0, 2e-4)):
        seen.clear()
        game.step(real, progress)
        assert float((seen[0] - real).std()) == pytest.approx(noise_std, rel=0.05)
        assert [optimizer.param_groups[0]["lr"] for optimizer in game.optimizers] == pytest.approx([rate, rate])


def test_losses_stay_finite_and_the_generator_learns_where_it_is_sure_to_be_found_out():
    logit = torch.tensor([-200.0], requires_grad=True)
    loss = generator_loss(logit)
    assert float(loss.detach()) == pytest.approx(100)
    loss.backward()
    assert float(logit.grad) == pytest.approx(-0.5)  # the saturating loss has no slope here


def patches_of(value: Callable[[int], float]) -> Callable[[int], NDArray[np.float32]]:
    """Return a source of batches of 4 one-channel patches: noise around a value."""

    def real(step: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(step)
        return rng.normal(value(step), 0.05, (4, 1, 32, 32)).astype(np.float32)

    return real


def played(steps: int, seed: int = 0, value: float = 0.6, stop: Callable[[], bool] = lambda: False) -> Game:
    torch.manual_seed(seed)
    game = Game(1, 32, 2, 4, CPU)
    game.train(patches_of(lambda step: value), MapBudget(steps, None), lambda *told: None, stop)
    return game


def test_the_generator_moves_towards_the_real_patches():
    noise = torch.randn(16, LATENT, generator=torch.Generator().manual_seed(1))
    dark, bright = (next(iter(played(20, value=value).generated(noise))).mean() for value in (-0.9, 0.9))
    assert bright - dark > 0.02


def test_same_seed_same_networks():
    noise = torch.randn(40, LATENT, generator=torch.Generator().manual_seed(2))
    one, other, third = (np.concatenate(list(played(5, seed).generated(noise))) for seed in (0, 0, 1))
    assert one.shape == (40, 1, 32, 32)  # more than are generated at once
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - third).max() > 1e-3


def test_a_step_trains_each_network_on_its_own_loss():
    torch.manual_seed(0)
    game = Game(1, 32, 2, 4, CPU)
    real = torch.from_numpy(patches_of(lambda step: 0.6)(0))
    weights = [p.detach() for p in (*game.generator.parameters(), *game.discriminator.parameters())]
    before = [w.clone() for w in weights]
    losses = game.step(real, progress=1.0)
    assert all(optimizer.param_groups[0]["betas"] == (0.5, 0.999) for optimizer in game.optimizers)
    # Adam's first step is the step size wherever there is a slope.
    moved = [float((new - old).abs().max()) for old, new in zip(before, weights, strict=True)]
    assert max(moved) == pytest.approx(2e-4, rel=0.02)
    assert min(moved) > 1e-4
    assert losses[0] == pytest.approx(math.log(2), rel=0.2)
    assert losses[1] == pytest.approx(math.log(2) / 2, rel=0.4)


def test_averaged_generator_is_the_moving_average_of_the_weights():
    torch.manual_seed(0)
    game = Game(1, 32, 2, 4, CPU)
    real = torch.from_numpy(patches_of(lambda step: 0.6)(0))
    expected = None
    for step in range(4):
        game.step(real, progress=0.5)
        weight = game.generator.layers[0].weight.detach()
        past = (1 + step) / (10 + step)
        expected = weight.clone() if expected is None else past * expected + (1 - past) * weight
    torch.testing.assert_close(game.averaged.module.layers[0].weight.detach(), expected)


def test_stop_and_divergence():
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        played(50, stop=lambda: next(asked) == 3)
    game = Game(1, 32, 2, 4, CPU)
    with pytest.raises(ModelError, match="step 3"):
        game.train(
            patches_of(lambda step: math.nan if step == 2 else 0.0),
            MapBudget(9, None),
            lambda *t: None,
            lambda: False,
        )
    assert len(game.losses) == 2
