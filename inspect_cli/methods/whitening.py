"""How far values lie from what is usual, measured along the directions in which good ones vary (Mahalanobis 1936)."""

from __future__ import annotations

import torch
from torch import Tensor

from inspect_cli.methods.base import in_float32


def principal_axes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances (c,), at least 0, of values (n, c, h, w) along their principal axes, and these (c, c).

    Axes are columns. Both are float64 and on the CPU: not every device knows it.
    """
    rows = values.movedim(1, 3).flatten(0, 2).cpu().double()
    variances, axes = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], -1))
    return variances.clamp(min=0), axes


def whitened_square(values: Tensor, whitening: Tensor) -> Tensor:
    """Return the mean square of ``values`` (n, c, h, w) along the columns of ``whitening``, (n, 1, h, w)."""
    with in_float32(values):
        turned = torch.einsum("nchw,cd->ndhw", values, whitening)
    return turned.square().mean(dim=1, keepdim=True)
