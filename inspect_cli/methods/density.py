"""Kernel density of latent codes in the few directions in which good material varies: MVT section 3.5.1."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from inspect_cli.methods.base import in_float32

#: Directions whose standard deviation is below this share of the codes' usual length carry rounding errors only.
NEGLIGIBLE: Final = 1e-5
#: Two for directions and two for kernels.
FEWEST_CODES: Final = 4


class KernelDensity(nn.Module):
    """Gaussian kernel density over the whitened principal components of codes.

    One half of the codes gives the principal components; the other half is centred, projected onto them and divided
    by its standard deviation along each, and on each of its codes sits a round Gaussian kernel. Directions that fit
    the codes that they come from would fit no others: there are far fewer codes than values in one, and new codes
    would all lie near the centre. The shapes of all buffers follow from the arguments,
    so that a stored density loads into a fresh one; places of codes and components that there were too few of are
    left empty. Until :meth:`fit` was called, all codes have the same density.

    Parameters
    ----------
    size
        Values in a code.
    points
        Most kernels; twice as many codes can be fitted.
    components
        Most principal components that are used.
    bandwidth
        Standard deviation of the kernels, in standard deviations of the codes along each component. None for Scott's
        rule, ``n ** (-1 / (d + 4))`` with n kernels in d components.
    """

    def __init__(self, size: int, points: int, components: int, bandwidth: float | None = None) -> None:
        super().__init__()
        self._chosen_bandwidth = bandwidth
        self.center: Tensor
        self.axes: Tensor
        self.deviations: Tensor
        self.places: Tensor
        self.log_weights: Tensor
        self.dimensions: Tensor
        self.bandwidth: Tensor
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(size, components))
        self.register_buffer("deviations", torch.ones(components))
        self.register_buffer("places", torch.zeros(points, components))
        self.register_buffer("log_weights", torch.full((points,), -math.log(points)))
        self.register_buffer("dimensions", torch.zeros(()))
        self.register_buffer("bandwidth", torch.ones(()))

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Learn directions from every other one of ``codes`` (n, size), kernels and bandwidth from the rest; float32.

        Fewer components are used where the rank of a half is smaller.

        Raises
        ------
        ValueError
            If there are fewer than ``FEWEST_CODES`` codes or more than twice ``points``.
        """
        most = 2 * len(self.places)
        if not FEWEST_CODES <= len(codes) <= most:
            raise ValueError(f"a density needs {FEWEST_CODES} to {most} codes, not {len(codes)}")
        first, rest = codes[::2], codes[1::2]
        count, least = len(rest), NEGLIGIBLE * codes.norm(dim=1).mean()
        axes, deviations = _principal_axes(first - first.mean(dim=0), self.axes.shape[1])
        self.center.copy_(rest.mean(dim=0))
        found = ((rest - self.center) @ axes).std(dim=0)
        used = int(((deviations > least) & (found > least)).cumprod(dim=0).sum())
        self.axes.zero_()
        self.axes[:, :used] = axes[:, :used]
        self.deviations.fill_(1)
        self.deviations[:used] = found[:used]
        self.places.zero_()
        self.places[:count] = self.whitened(rest)
        self.log_weights.fill_(-math.inf)
        self.log_weights[:count] = -math.log(count)
        self.dimensions.fill_(used)
        self.bandwidth.fill_(self._chosen_bandwidth or count ** (-1 / (used + 4)))

    def whitened(self, codes: Tensor) -> Tensor:
        """Return ``codes`` (n, size) as standard deviations along the components, (n, components); unused ones 0."""
        return ((codes - self.center) @ self.axes) / self.deviations

    def log_density(self, codes: Tensor) -> Tensor:
        """Return the natural logarithm of the density (n,) at ``codes`` (n, size), per unit of whitened volume."""
        with in_float32(codes):
            return self._log_sum(self._log_kernels(self.whitened(codes.float())))

    @torch.no_grad()
    def left_out_log_density(self) -> Tensor:
        """Return the log-density (n,) at the code of each of the n kernels as the other n - 1 make it."""
        count = int(self.log_weights.isfinite().sum())
        kernels = self._log_kernels(self.places[:count])
        kernels.fill_diagonal_(-math.inf)
        return self._log_sum(kernels) + math.log(count / (count - 1))

    def _log_kernels(self, places: Tensor) -> Tensor:
        """Return each kernel's logarithm at ``places`` (n, components) but for the common factor, (n, points)."""
        cross = places @ self.places.T
        squares = places.square().sum(dim=1)[:, None] - 2 * cross + self.places.square().sum(dim=1)
        return -0.5 * squares.clamp(min=0) / self.bandwidth.square() + self.log_weights

    def _log_sum(self, kernels: Tensor) -> Tensor:
        # Not torch.logsumexp: OpenVINO computes that without taking off the largest term, and far codes underflow.
        largest = kernels.amax(dim=1, keepdim=True)
        total = (kernels - largest).exp().sum(dim=1).log() + largest[:, 0]
        return total - self.dimensions * (0.5 * math.log(2 * math.pi) + self.bandwidth.log())


def _principal_axes(centred: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Return the first directions of ``centred`` (n, size) as unit columns, and the standard deviation along each.

    Codes are far longer than there are of them, so the directions come from the small matrix of inner products;
    double precision makes up for squaring, and the CPU has it wherever the network runs.
    """
    rows = centred.cpu().double()
    squares, mixtures = torch.linalg.eigh(rows @ rows.T)
    lengths = squares.flip(0)[:components].clamp(min=0).sqrt()
    axes = rows.T @ mixtures.flip(1)[:, :components] / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    return axes.to(centred), (lengths / math.sqrt(len(rows) - 1)).to(centred)
