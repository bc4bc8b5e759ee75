"""Adversarial autoencoder: IND section 2.3, critic of Table 4, Wasserstein distance with clipped weights.

The critic's output is linear, where the table has an activation; see docs/decisions/0013 for this and the pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from inspect_cli.methods.base import Batch, paced
from inspect_cli.methods.cae import CaeSettings, ConvolutionalAutoencoder
from inspect_cli.methods.networks import LEAKY_SLOPE, initialise


class AaeSettings(CaeSettings):
    """Settings of the adversarial autoencoder."""

    clip: float = Field(0.01, gt=0, description="Half the side of the box that the critic's weights are clipped to.")
    critic_steps: int = Field(1, ge=1, description="Updates of the critic in each step.")
    adversarial_pace: float = Field(
        0.1, gt=0, description="Learning rate of the encoder's regularisation over that of the reconstruction."
    )


class AdversarialAutoencoder(ConvolutionalAutoencoder):
    """An autoencoder whose codes are driven towards N(0, I) by a critic."""

    name = "aae"
    Settings = AaeSettings

    def __init__(self, channels: int, tile_px: int, settings: AaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        self.critic = nn.Sequential(
            nn.Linear(self.latent, 10), nn.LeakyReLU(LEAKY_SLOPE), nn.Linear(10, 1)
        )  # lind1, lind2
        initialise(self.critic)
        self.clip = settings.clip
        self.critic_steps = settings.critic_steps
        self.adversarial_pace = settings.adversarial_pace

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return the optimizers of reconstruction, critic and regularised encoder."""
        coder = [*self.encoder.parameters(), *self.bottleneck.parameters(), *self.decoder.parameters()]
        generator = [*self.encoder.parameters(), *self.bottleneck.squeeze.parameters()]
        return [
            torch.optim.Adam(paced(coder, self.pace, learning_rate)),
            torch.optim.Adam(paced(self.critic.parameters(), self.pace, learning_rate)),
            torch.optim.Adam(paced(generator, self.pace * self.adversarial_pace, learning_rate)),
        ]

    def train_step(self, batch: Batch, optimizers: Sequence[torch.optim.Optimizer], autocast: Any) -> float:
        """Make one step of both phases: reconstruction, then critic and encoder against each other."""
        loss = super().train_step(batch, optimizers[:1], autocast)
        for _ in range(self.critic_steps):
            with torch.no_grad(), autocast:
                codes = self.encode(batch.tiles).float()
            _step(optimizers[1], -self.critic_gap(codes))
            self.clip_critic()
        with autocast:
            codes = self.encode(batch.tiles)
        _step(optimizers[2], -self.critic(codes.float()).mean())
        return loss

    def critic_gap(self, codes: Tensor) -> Tensor:
        """Return the critic's estimate of the Wasserstein distance between N(0, I) and ``codes`` (n, latent)."""
        prior = torch.randn_like(codes)
        gap: Tensor = self.critic(prior).mean() - self.critic(codes).mean()
        return gap

    @torch.no_grad()
    def clip_critic(self) -> None:
        """Clip every weight of the critic to the box [-clip, clip], which bounds its slope."""
        for weight in self.critic.parameters():
            weight.clamp_(-self.clip, self.clip)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
