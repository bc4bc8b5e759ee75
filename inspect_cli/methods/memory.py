"""A memory of good features, and how far others are from the nearest of them (Roth et al., CVPR 2022)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from inspect_cli.methods.base import in_float32

#: Dimensions of the random projection in which the memory is chosen.
_PROJECTION: Final = 48


def farthest_points(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the indices of ``count`` rows (n, d), each the farthest from those before it, from a random one on.

    Distances are measured in a random projection (section 3.2 of the paper). With fewer rows than ``count`` all of
    them are returned.
    """
    if rows.shape[1] > _PROJECTION:
        matrix = torch.randn(rows.shape[1], _PROJECTION, generator=generator).to(rows.device)
        rows = rows @ matrix
    rows = rows - rows.mean(dim=0)  # short vectors: their squares lose little where they are subtracted
    squares = rows.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = [torch.randint(len(rows), (1,), generator=generator).to(rows.device)]
    for _ in range(min(count, len(rows)) - 1):
        last = chosen[-1]  # stays on the device: to ask for its value would wait for it each time
        squared = torch.addmv(squares, rows, rows[last][0], alpha=-2) + squares[last]  # read once, nothing in between
        nearest = torch.minimum(nearest, squared)
        nearest[last] = -torch.inf  # as little as it may be by rounding
        chosen.append(nearest.argmax(keepdim=True))
    return torch.cat(chosen)


def kept_features(maps: Tensor, count: int, most: int, generator: torch.Generator, greedy: bool = True) -> Tensor:
    """Return ``count`` of the features of ``maps`` (n, c, h, w), shape (count, c): a greedy coreset, or random ones.

    They are chosen from ``most`` of them at random. Of fewer than ``count`` some are taken more than once.
    """
    rows = maps.movedim(1, 3).flatten(0, 2)
    rows = rows[torch.randperm(len(rows), generator=generator)[:most].to(rows.device)]
    chosen = farthest_points(rows, count, generator) if greedy else torch.arange(len(rows))
    return rows[chosen[torch.arange(count) % len(chosen)].to(rows.device)]


def squared_distance(values: Tensor, memory: Tensor, rounding: float = 0.0) -> Tensor:
    """Return the squared distance of each feature of ``values`` (n, c, h, w) to the nearest row of ``memory`` (m, c).

    It is less by ``rounding`` times the feature's squared length, so that errors of rounding are no distances.

    Returns
    -------
    (n, 1, h, w), at least 0.
    """
    n, _, height, width = values.shape
    centre = memory.mean(dim=0)  # short vectors: their squares lose little where they are subtracted
    rows, memory = values.movedim(1, 3).flatten(1, 2) - centre, memory - centre
    lengths = rows.square().sum(2, keepdim=True)
    with in_float32(values):  # in half precision the difference of squares is off by a tenth
        nearest = (lengths + memory.square().sum(1) - 2 * rows @ memory.T).amin(dim=2)
    return (nearest - rounding * lengths[..., 0]).clamp(min=0).reshape(n, 1, height, width)
