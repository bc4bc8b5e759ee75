"""What every detector can do; training, engines and scoring know only this."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from inspect_cli.corruptions import Corruption
from inspect_cli.tiles.tiling import TILE_PX


class MethodSettings(BaseModel):
    """Base of a method's settings in the recipe; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


#: Runs a frozen network on images (n, channels, height, width) and returns its outputs.
FrozenRun = Callable[[nn.Module, Tensor], list[Tensor]]


class Batch(NamedTuple):
    """Patches of one training step, all on one device.

    Attributes
    ----------
    tiles
        (n, channels, side, side) float32, the material's value range at 0 to 1.
    roi
        (n, 1, side, side), 1 inside the ROI; None if everything is inside.
    corrupted
        The tiles after the method's corruption; None for a method without one.
    changed
        (n, 1, side, side), 0 to 1: how much of each pixel the corruption replaced; None as above.
    defective
        (n,), 1 for patches that show a labelled defect; None where all are good.
    """

    tiles: Tensor
    roi: Tensor | None = None
    corrupted: Tensor | None = None
    changed: Tensor | None = None
    defective: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What the network is fed with: the corrupted tiles where there are such."""
        return self.tiles if self.corrupted is None else self.corrupted


class Detector(nn.Module, abc.ABC):
    """A network that is trained on good patches and turns a tile into a score map.

    Tiles are (n, channels, tile_px, tile_px) float32 with the material's value range at 0 to 1.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    #: Takes tiles of any size that ``size_step_px`` divides, so that a whole image can be one tile.
    fully_convolutional: ClassVar[bool] = False
    #: What a side must be divisible by when it is not ``tile_px``.
    size_step_px: ClassVar[int] = 1
    #: Takes optimisation steps; without, :meth:`begin` and :meth:`fit` are the whole training.
    trains: ClassVar[bool] = True
    #: Learns from labelled defects too; ``Batch.defective`` is set.
    supervised: ClassVar[bool] = False
    #: Good patches that :meth:`fit` looks at after training; 0 if there is nothing to fit.
    fit_patches: int = 0
    #: Steps at which a budget in time ends, if it has not before: more would do harm. None: more never does.
    most_steps: int | None = None

    def __init__(self, channels: int, tile_px: int, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.channels = channels
        self.tile_px = tile_px

    @classmethod
    def suited_tile_px(cls, shortest_px: int) -> int:  # noqa: ARG003
        """Return the side of tiles that suits images whose shorter side is ``shortest_px``."""
        return TILE_PX

    @abc.abstractmethod
    def score(self, tiles: Tensor) -> Tensor:
        """Return the anomaly score of each pixel: (n, tile_px, tile_px), at least 0, more is worse."""

    @abc.abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the scalar training loss."""

    def reconstruct(self, tiles: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the reconstruction of ``tiles``, or None if the method makes none."""
        return None

    def corruption(self) -> Corruption | None:
        """Return what training patches are damaged with, None for nothing."""
        return None

    def training_side_px(self, progress: float) -> int:  # noqa: ARG002
        """Return the side of the training patches at ``progress`` (0 to 1), at most ``tile_px``."""
        return self.tile_px

    def begin(self, tiles: Tensor) -> None:  # noqa: ARG002
        """Set, before the first step, what can be set from some good ``tiles`` (n, channels, side, side)."""
        return

    def fit(self, tiles: Tensor) -> None:  # noqa: ARG002
        """Learn what follows the training: statistics of ``fit_patches`` good patches, kept in buffers."""
        return

    def placed(self, device: torch.device) -> Self:
        """Move the network to ``device`` with channels last in memory, which convolutions are fastest in."""
        self.to(device)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def hasten(self, run: FrozenRun) -> None:
        """Let ``run`` compute the parts of the network that are never trained; most methods have none."""

    def optimizers(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return the optimizers that :meth:`train_step` steps.

        The loop sets their step size; a parameter group made by :func:`paced` gets a multiple of it.
        """
        return [torch.optim.Adam(self.parameters(), lr=learning_rate)]

    def train_step(self, batch: Batch, optimizers: Sequence[torch.optim.Optimizer], autocast: Any) -> float:
        """Make one optimisation step and return its loss."""
        optimizer = optimizers[0]
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())


def paced(parameters: Iterable[nn.Parameter], pace: float, learning_rate: float) -> list[dict[str, Any]]:
    """Return the parameters as an optimizer's group that has ``pace`` times the loop's step size."""
    return [{"params": list(parameters), "pace": pace, "lr": pace * learning_rate}]


def in_float32(values: Tensor) -> AbstractContextManager[None]:
    """Return the context in which products with ``values`` are float32 under mixed precision too."""
    return torch.autocast(values.device.type, enabled=False)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of ``values`` (n, c, h, w) over the pixels where ``mask`` (n, 1, h, w) is 1."""
    if mask is None:
        return values.mean()
    weight = mask.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1)
