"""Frozen networks run by OpenVINO, beside those that torch trains on the CPU.

A detector on pretrained features spends most of a step, and nearly all of what it learns at the end, in a network
that never changes. OpenVINO runs that in a third to a half of torch's time.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import weakref
from typing import Any, Final

import torch
from torch import Tensor, nn

from inspect_cli.engines import choice
from inspect_cli.methods.base import FrozenRun

#: Networks that are kept compiled, each for one size of images.
_MOST_KEPT: Final = 4


@functools.cache
def _on_openvino() -> _OnOpenVino:
    return _OnOpenVino()


def frozen_run(device: torch.device) -> FrozenRun | None:
    """Return what runs frozen networks faster than torch on ``device``, None where nothing does."""
    return _on_openvino() if device.type == "cpu" and choice.fastest_on_cpu() == "openvino" else None


class _OnOpenVino:
    """Runs networks from images (n, channels, height, width) to several outputs, in float32."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, int, int, int], Any] = {}
        self._digests: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], str]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Return the outputs of ``network`` for ``images``; it is compiled anew when its weights have changed."""
        with self._lock:
            found = self._of(network, images)(images.detach().contiguous().numpy(), share_inputs=True)
        return [torch.from_numpy(output) for output in found.to_tuple()]

    def _of(self, network: nn.Module, images: Tensor) -> Any:
        key = (self._digest(network), *images.shape[1:])
        if key not in self._compiled:
            while len(self._compiled) >= _MOST_KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[key] = _compile(network, images)
        return self._compiled[key]

    def _digest(self, network: nn.Module) -> str:
        """Return a digest of the weights, computed when one was written to or replaced."""
        tensors = list(network.state_dict(keep_vars=True).values())
        state = tuple(number for tensor in tensors for number in (tensor.data_ptr(), tensor._version))
        known = self._digests.get(network)
        if known is None or known[0] != state:
            content = hashlib.sha256(repr(network).encode())
            for tensor in tensors:
                content.update(tensor.detach().contiguous().numpy().tobytes())
            self._digests[network] = known = state, content.hexdigest()
        return known[1]


class _Outputs(nn.Module):
    """A network as a function to a tuple, which is what a trace can hold."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(images))


def _compile(network: nn.Module, images: Tensor) -> Any:
    """Return a network compiled for any number of images of one size."""
    from inspect_cli.engines.graph import converted, openvino_core  # noqa: PLC0415  (an optional package)

    model = converted(_Outputs(network), images[:1].detach().contiguous(), any_number=True)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    return openvino_core().compile_model(model, "CPU", options)
