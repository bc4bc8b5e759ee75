"""What every detector can do; training, engines and scoring know only this."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class MethodSettings(BaseModel):
    """Base of a method's settings in the recipe; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Detector(nn.Module, abc.ABC):
    """A network that is trained on good patches and turns a tile into a score map.

    Tiles are (n, channels, tile_px, tile_px) float32 with the material's value range at 0 to 1.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, channels: int, tile_px: int, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.channels = channels
        self.tile_px = tile_px

    @abc.abstractmethod
    def score(self, tiles: Tensor) -> Tensor:
        """Return the anomaly score of each pixel: (n, tile_px, tile_px), at least 0, more is worse."""

    @abc.abstractmethod
    def loss(self, tiles: Tensor, mask: Tensor | None) -> Tensor:
        """Return the scalar training loss; ``mask`` (n, 1, tile_px, tile_px) is 1 inside the ROI."""

    def reconstruct(self, tiles: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the reconstruction of ``tiles``, or None if the method makes none."""
        return None

    def placed(self, device: torch.device) -> Self:
        """Move the network to ``device`` with channels last in memory, which convolutions are fastest in."""
        self.to(device)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return the optimizers that :meth:`train_step` steps.

        The loop sets their step size; a parameter group with a ``pace`` gets that multiple of it.
        """
        return [torch.optim.Adam(self.parameters(), lr=learning_rate)]

    def train_step(
        self, tiles: Tensor, mask: Tensor | None, optimizers: Sequence[torch.optim.Optimizer], autocast: Any
    ) -> dict[str, float]:
        """Make one optimisation step and return its losses by name, ``loss`` among them."""
        optimizer = optimizers[0]
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = self.loss(tiles, mask)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return {"loss": float(loss.detach())}


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of ``values`` (n, c, h, w) over the pixels where ``mask`` (n, 1, h, w) is 1."""
    if mask is None:
        return values.mean()
    weight = mask.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)
