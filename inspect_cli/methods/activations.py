"""What keeps the values of an image in range at a network's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor

Activation = Literal["refrelu", "tanh", "none"]

#: Slope of the Reflected ReLU outside -1 to 1.
REFLECTED_SLOPE: Final = 0.01


def reflected_relu(values: Tensor) -> Tensor:
    """Return values from -1 to 1 as they are and those beyond brought closer, with slope 0.01 (DIR eq. 1)."""
    inside = values.clamp(-1, 1)
    return inside + REFLECTED_SLOPE * (values - inside)


def _unchanged(values: Tensor) -> Tensor:
    return values


#: Name -> function; those that DIR compares (section VI-E).
ACTIVATIONS: Final[dict[Activation, Callable[[Tensor], Tensor]]] = {
    "refrelu": reflected_relu,
    "tanh": torch.tanh,
    "none": _unchanged,
}
