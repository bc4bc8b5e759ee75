"""The game of generator and discriminator: alternating steps, averaged weights (MVT 3.3.3).

Losses and networks are those of the papers. A batch of 16 and some thousand steps are little for a GAN, so there are
measures beside them; without the first three the generator still yields one picture after 1500 steps at 64 px:

- instance noise: normal noise on what the discriminator sees, real and generated, falling to zero along the
  budget. Without it the discriminator is certain after some ten steps.
- one-sided label smoothing, for the same reason.
- a step size that begins at four times the papers' 2e-4 and ends there.
- the written patches come from a moving average of the generator's weights, whose batch statistics are taken anew.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from inspect_cli.ahead import ahead
from inspect_cli.errors import ModelError
from inspect_cli.generate.dcgan import LATENT, Discriminator, Generator, discriminator_loss, generator_loss
from inspect_cli.stopping import Interrupted
from inspect_cli.training.budget import MapBudget

#: Step size of Adam at the end of the budget (Radford et al., section 4), and how many times that it is at the start.
LEARNING_RATE: Final = 2e-4
HASTE: Final = 4.0
#: Decay of Adam's moving averages (Radford et al., section 4).
BETAS: Final = (0.5, 0.999)
#: Weight of the past in the averaged generator, once training is long enough for it.
AVERAGING: Final = 0.999
#: Standard deviation of the instance noise at the start; patches span [-1, 1].
INSTANCE_NOISE: Final = 0.4
#: Label of real patches.
REAL_LABEL: Final = 0.9
#: Patches generated at once.
GENERATED_AT_ONCE: Final = 32
_STATISTICS_BATCHES: Final = 32

#: Returns the real patches of a step, (n, channels, side, side) in [-1, 1].
Real = Callable[[int], NDArray[np.float32]]
#: Told after each step: progress 0 to 1, step, losses of discriminator and generator, rate.
Report = Callable[[float, int, float, float, float], None]


@dataclass
class Game:
    """A generator in training, its discriminator, and what happened.

    Parameters
    ----------
    channels, tile_px, width
        See :class:`~inspect_cli.generate.dcgan.Generator`.
    batch
        Real patches in a step, and as many generated ones.
    device
        Where the networks are trained.
    """

    channels: int
    tile_px: int
    width: int
    batch: int
    device: torch.device
    #: Losses of discriminator and generator, one pair a step.
    losses: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (self.channels, self.tile_px, self.width)
        self.generator = Generator(*shape).to(self.device)
        self.discriminator = Discriminator(*shape).to(self.device)
        self.averaged = AveragedModel(self.generator, avg_fn=_averaged)
        self.optimizers = (_adam(self.discriminator), _adam(self.generator))

    def train(self, real: Real, budget: MapBudget, report: Report, stop: Callable[[], bool]) -> None:
        """Play until the budget is spent; afterwards the averaged generator is ready to use.

        Raises
        ------
        ModelError
            If a loss is not finite.
        Interrupted
            When ``stop``, asked between steps, says so.
        """
        budget.start()
        started = time.monotonic()
        with closing(ahead(map(real, itertools.count()))) as batches:  # the next are cut while the networks work
            for step, patches in enumerate(batches):
                progress = budget.progress(step)
                if progress >= 1.0 and step > 0:
                    break
                if stop():
                    raise Interrupted
                losses = self.step(torch.from_numpy(patches).to(self.device), progress)
                if not all(map(math.isfinite, losses)):
                    raise ModelError(f"training diverged at step {step + 1}: a loss is no number; try another --seed")
                self.losses.append(losses)
                report(progress, step + 1, *losses, (step + 1) / max(time.monotonic() - started, 1e-9))
        noise = (self._noise() for _ in range(_STATISTICS_BATCHES))
        update_bn(noise, self.averaged)  # the averaged weights need batch statistics of their own
        self.averaged.eval()

    def step(self, real: Tensor, progress: float) -> tuple[float, float]:
        """Train the discriminator, then the generator, on one batch; return both losses.

        ``progress``, 0 to 1, decides the step size and the instance noise.
        """
        noise_std = INSTANCE_NOISE * (1.0 - progress)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * HASTE ** (1.0 - progress)

        def judged(patches: Tensor) -> Tensor:
            logits: Tensor = self.discriminator(patches + noise_std * torch.randn_like(patches))
            return logits

        fake = self.generator(self._noise())
        loss = discriminator_loss(judged(real), judged(fake.detach()), REAL_LABEL)
        _descend(self.optimizers[0], loss)
        deceit = generator_loss(judged(fake))
        _descend(self.optimizers[1], deceit)
        self.averaged.update_parameters(self.generator)
        return float(loss.detach()), float(deceit.detach())

    @torch.no_grad()
    def generated(self, noise: Tensor) -> Iterator[NDArray[np.float32]]:
        """Yield the averaged generator's patches of ``noise`` (n, 100), some at once, in [-1, 1]."""
        for some in torch.split(noise, GENERATED_AT_ONCE):
            yield self.averaged(some.to(self.device)).cpu().numpy()

    def _noise(self) -> Tensor:
        return torch.randn(self.batch, LATENT).to(self.device)


def _averaged(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
    """Return the moving average of a weight; short at the start, so that the first weights are soon forgotten."""
    past = min(AVERAGING, float((1 + updates) / (10 + updates)))
    return average.lerp(current, 1 - past)


def _adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=BETAS)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
