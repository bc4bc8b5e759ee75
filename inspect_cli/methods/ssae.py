"""Self-supervised autoencoders of SSAE: trained to find and undo damage in patches."""

from __future__ import annotations

from typing import Final, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from inspect_cli.corruptions import Corruption
from inspect_cli.corruptions.patches import Kind, PatchCorruption
from inspect_cli.methods.base import Batch, Detector, MethodSettings
from inspect_cli.methods.copying import squared_residual
from inspect_cli.methods.dilated import REDUCTION, DilatedAutoencoder
from inspect_cli.methods.networks import start_at_mean

#: Progressive training starts no smaller than this.
SMALLEST_SIDE_PX: Final = 32
#: Divisor where there is nothing to divide by; the dividend is 0 then.
_TINY: Final = torch.finfo(torch.float32).tiny
#: Smallest root mean square residual that a network's scores are divided by.
_LEAST_RESIDUAL: Final = 1e-6
#: Tiles that both networks copy at once when the usual residual is learnt.
_FIT_BATCH: Final = 8


class SsaeSettings(MethodSettings):
    """Settings of the self-supervised autoencoders."""

    width: int = Field(
        64,
        ge=2,
        description="Filters of the first layer; the others keep their proportion to it. Time and memory grow with "
        "its square. 64 is the paper's and needs a GPU; 16 trains on a CPU.",
    )
    stacks: int = Field(4, ge=1, description="Stacks of dilated convolutions, which see the wider surroundings.")
    corruption: Kind = Field(
        "elastic",
        description="What happens to regions of training patches: `elastic` deformation, `cutout` (zeros), `swap` "
        "(content of another place).",
    )
    brightness: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Largest change of brightness of such a region, in standard deviations of the patch; 0 for none. "
        "Not with `cutout`.",
    )
    balance: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Weight lambda of the intact pixels in the objective; the damaged ones have 1 - lambda.",
    )
    progressive: bool = Field(
        True,
        description="Train on patches of half the tile's side at first, then three quarters, then the whole.",
    )

    @model_validator(mode="after")
    def _check_brightness(self) -> Self:
        if self.corruption == "cutout" and self.brightness and "brightness" in self.model_fields_set:
            raise ValueError("'brightness' means nothing with corruption 'cutout'; leave it out")
        return self


def objective_reconstruct(
    copy: Tensor, clean: Tensor, changed: Tensor, roi: Tensor | None = None, balance: float = 0.5
) -> Tensor:
    """Return objective (1), the mean over the patches of

    ``balance / |1-M|_1 * ||(1-M) (F(x_hat)-x)||_2 + (1-balance) / |M|_1 * ||M (F(x_hat)-x)||_2``.

    Norms run over the pixels and channels of one patch. A term whose mask is empty is 0.

    Parameters
    ----------
    copy, clean
        F(x_hat) and x, (n, channels, h, w).
    changed
        M, (n, 1, h, w), 0 to 1; holds for every channel.
    roi
        (n, 1, h, w), multiplied into both masks; None if everything is inside.
    balance
        lambda, 0 to 1.
    """  # noqa: D400
    difference, intact, damaged = _prepared(copy, clean, changed, roi)
    terms = balance * _weighted_norm(intact, difference) + (1 - balance) * _weighted_norm(damaged, difference)
    return terms.mean()


def objective_contrast(
    copy: Tensor,
    clean: Tensor,
    corrupted: Tensor,
    changed: Tensor,
    roi: Tensor | None = None,
    balance: float = 0.5,
) -> Tensor:
    """Return objective (2), the mean over the patches of

    ``balance / |1-M|_1 * ||(1-M) (F(x_hat)-x)||_2 - (1-balance) / |D|_1 * ||D (F(x_hat)-x)||_2``, D = |x_hat - x|.

    ``corrupted`` is x_hat, shaped as ``clean``; the rest is as in :func:`objective_reconstruct`.
    """  # noqa: D400
    difference, intact, _ = _prepared(copy, clean, changed, roi)
    visible = (corrupted.float() - clean.float()).abs()
    if roi is not None:
        visible = visible * roi
    terms = balance * _weighted_norm(intact, difference) - (1 - balance) * _weighted_norm(visible, difference)
    return terms.mean()


def _prepared(copy: Tensor, clean: Tensor, changed: Tensor, roi: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return F(x_hat) - x and the weights of intact and damaged pixels, all (n, channels, h, w), float32."""
    damaged = changed.float().expand_as(clean)
    intact = 1 - damaged
    if roi is not None:
        intact, damaged = intact * roi, damaged * roi
    return copy.float() - clean.float(), intact, damaged


def _weighted_norm(weight: Tensor, difference: Tensor) -> Tensor:
    """Return ||weight * difference||_2 / |weight|_1 of each patch, (n,); 0, with gradient 0, for weight 0.

    torch's norm has gradient 0 where it is 0, where the square root of a sum would have none.
    """
    norm = torch.linalg.vector_norm(weight * difference, dim=(1, 2, 3))
    return norm / weight.sum(dim=(1, 2, 3)).clamp(min=_TINY)  # type: ignore[no-any-return]


class SelfSupervisedAutoencoder(Detector):
    """Finds deformed regions and puts back what their surroundings ask for; what it replaces is anomalous.

    Trained with objective (1) of the paper. The network is fully convolutional.
    """

    name = "ssae"
    Settings = SsaeSettings
    fully_convolutional = True
    size_step_px = REDUCTION

    def __init__(self, channels: int, tile_px: int, settings: SsaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        self.network = DilatedAutoencoder(channels, tile_px, settings.width, settings.stacks)
        self.balance = settings.balance
        self.progressive = settings.progressive
        self._corruption = PatchCorruption(settings.corruption, settings.brightness)

    def corruption(self) -> Corruption:
        """Return the replacement of regions that the settings name."""
        return self._corruption

    def training_side_px(self, progress: float) -> int:
        """Return the side of the patches: half a tile, from a quarter of the training on 3/4, from its half on all.

        Multiples of 8, and at least 32 px where the tile has them.
        """
        if not self.progressive or progress >= 0.5:
            return self.tile_px
        share = 0.5 if progress < 0.25 else 0.75
        side = int(share * self.tile_px) // REDUCTION * REDUCTION
        return min(self.tile_px, max(SMALLEST_SIDE_PX, side))

    def begin(self, tiles: Tensor) -> None:
        """Start from the mean value of good tiles."""
        start_at_mean(self.network, tiles)

    def reconstruct(self, tiles: Tensor) -> Tensor:
        """Return F(x), shape of ``tiles``, values in (0, 1): the tile with its irregular regions replaced."""
        return self.network(tiles)  # type: ignore[no-any-return]

    def score(self, tiles: Tensor) -> Tensor:
        """Return (F(x) - x)^2, averaged over channels, (n, height, width), 0 to 1 (SSAE section 3.1)."""
        return squared_residual(self.network(tiles), tiles)

    def loss(self, batch: Batch) -> Tensor:
        """Return objective (1), a scalar from 0."""
        return objective_reconstruct(
            self.network(batch.inputs), batch.tiles, _changed(batch), batch.roi, self.balance
        )


class ContrastiveSelfSupervisedAutoencoder(SelfSupervisedAutoencoder):
    """As `ssae`, but with objective (2): rewarded for a large residual where the input was damaged.

    The reward has a bound, since the output lies between 0 and 1: at best a damaged pixel comes out black or white,
    whichever is farther from the original. So the loss falls below 0 and may go on falling while the network learns
    to know the corruption itself rather than the material (SSAE section 4.3). Early stopping looks at the same loss
    on other parts, damaged in the same way, and does not see that: keep the training short, and judge it by its
    score maps.
    """

    name = "ssae-contrast"

    def loss(self, batch: Batch) -> Tensor:
        """Return objective (2), a scalar that may fall below 0."""
        copy = self.network(batch.inputs)
        return objective_contrast(copy, batch.tiles, batch.inputs, _changed(batch), batch.roi, self.balance)


class SelfSupervisedEnsemble(SelfSupervisedAutoencoder):
    """Both objectives in two networks, trained side by side on the same patches (SSAE, end of section 4.3).

    Objective (2) drives residuals to their largest possible value, objective (1) seldom. So that neither drowns the
    other, each network's residual is divided by its mean over good patches before the two are averaged: a score of 1
    is what good material has on average.
    """

    name = "ssae-ensemble"
    fit_patches = 64

    def __init__(self, channels: int, tile_px: int, settings: SsaeSettings) -> None:
        super().__init__(channels, tile_px, settings)
        self.contrast_network = DilatedAutoencoder(channels, tile_px, settings.width, settings.stacks)
        # Root mean square residuals of the two networks: a root keeps small means apart in half precision.
        self.good_residuals: Tensor
        self.register_buffer("good_residuals", torch.ones(2))

    def begin(self, tiles: Tensor) -> None:
        """Start both networks from the mean value of good tiles."""
        super().begin(tiles)
        start_at_mean(self.contrast_network, tiles)

    def loss(self, batch: Batch) -> Tensor:
        """Return the sum of objectives (1) and (2); each concerns one network."""
        copy = self.contrast_network(batch.inputs)
        contrast = objective_contrast(copy, batch.tiles, batch.inputs, _changed(batch), batch.roi, self.balance)
        return super().loss(batch) + contrast

    def score(self, tiles: Tensor) -> Tensor:
        """Return the mean of both residuals, each over its mean on good patches, (n, height, width), from 0."""
        ours, contrast = self._residuals(tiles)
        scale = self.good_residuals.square()
        return (ours / scale[0] + contrast / scale[1]) / 2

    @torch.no_grad()
    def fit(self, tiles: Tensor) -> None:
        """Learn the mean residual of both networks on good ``tiles``."""
        batches = [torch.stack(self._residuals(some)) for some in torch.split(tiles, _FIT_BATCH)]
        means = torch.cat(batches, dim=1).mean(dim=(1, 2, 3))
        self.good_residuals.copy_(means.sqrt().clamp(min=_LEAST_RESIDUAL))

    def _residuals(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        return squared_residual(self.network(tiles), tiles), squared_residual(self.contrast_network(tiles), tiles)


def _changed(batch: Batch) -> Tensor:
    """Return M of a batch, zeros for one without corruption."""
    return torch.zeros_like(batch.tiles[:, :1]) if batch.changed is None else batch.changed
