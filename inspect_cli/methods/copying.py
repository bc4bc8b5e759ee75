"""What autoencoders have in common that are trained to copy good tiles."""

from __future__ import annotations

from torch import Tensor, nn

from inspect_cli.methods.base import Batch, Detector, masked_mean
from inspect_cli.methods.networks import start_at_mean


class CopyingDetector(Detector):
    """Trained to copy good tiles; what it cannot copy is anomalous. The last layers are ``decoder``."""

    decoder: nn.Sequential

    def begin(self, tiles: Tensor) -> None:
        """Start from the mean value of good tiles."""
        start_at_mean(self.decoder, tiles)

    def reconstruct(self, tiles: Tensor) -> Tensor:
        """Return the copy of tiles (n, channels, side, side), of the same shape, values in (0, 1)."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared difference to the undamaged tiles inside the ROI (IND eq. 3)."""
        return copy_error(self.reconstruct(batch.inputs), batch)

    def score(self, tiles: Tensor) -> Tensor:
        """Return the residual map (x - D(E(x)))^2 (IND eq. 1), averaged over channels, (n, side, side)."""
        return squared_residual(self.reconstruct(tiles), tiles)


def squared_residual(copy: Tensor, tiles: Tensor) -> Tensor:
    """Return (tiles - copy)^2, averaged over channels, (n, h, w), from (n, c, h, w) (IND eq. 1)."""
    return (copy.float() - tiles).square().mean(dim=1)


def copy_error(copy: Tensor, batch: Batch) -> Tensor:
    """Return the mean squared difference of a reconstruction and the undamaged tiles inside the ROI (IND eq. 3)."""
    return masked_mean((copy.float() - batch.tiles).square(), batch.roi)
