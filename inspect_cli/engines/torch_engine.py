"""The torch engine: bounded batches, channels-last, and back-off when the device's memory runs out."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from inspect_cli.errors import UsageError, WorkerError
from inspect_cli.methods.base import Detector

DEVICES: Final = ("auto", "cuda", "mps", "cpu")
#: Tiles a batch: a CPU is fastest while the activations of a batch stay in its cache.
DEFAULT_BATCH: Final = {"cpu": 16, "mps": 64, "cuda": 256}


def choose_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises
    ------
    UsageError
        If the device is unknown or not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise UsageError(f"--device {name!r} is unknown; valid: {', '.join(DEVICES)}")
    if not available[name]:
        raise UsageError(f"--device {name}: torch finds no such device here; use --device auto")
    return torch.device(name)


def training_autocast(device: torch.device) -> Any:
    """Return the mixed-precision context for training: bfloat16 where the processor computes in it."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


class TorchEngine:
    """Runs a detector in float32 on a torch device.

    ``batch`` 0 picks the device's default. When the device's memory runs out the batch is halved, down to
    one tile, and stays there; ``backed_off`` tells how often.
    """

    name = "torch"
    precision = "f32"

    def __init__(self, detector: Detector, device: torch.device, batch: int = 0) -> None:
        self.device_name = device.type
        self.batch = batch or DEFAULT_BATCH[device.type]
        self.backed_off = 0
        self.size_step_px = detector.size_step_px
        self._device = device
        self._detector = detector.placed(device).eval()

    def score(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores (n, tile_px, tile_px) of tiles (n, channels, tile_px, tile_px).

        Raises
        ------
        WorkerError
            If a single tile does not fit into the device's memory.
        """
        scores = np.empty((tiles.shape[0], *tiles.shape[2:]), np.float32)
        at = 0
        while at < len(tiles):
            batch = tiles[at : at + self.batch]
            try:
                scores[at : at + len(batch)] = self._run(batch)
            except torch.OutOfMemoryError as error:
                self._back_off(error)
                continue
            at += len(batch)
        return scores

    @torch.inference_mode()
    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(batch)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        tensor = tensor.to(self._device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        return np.asarray(self._detector.score(tensor).cpu().numpy())

    def _back_off(self, error: Exception) -> None:
        if self.batch == 1:
            raise WorkerError(f"{self.device_name}: one tile does not fit into the device's memory") from error
        self.batch = max(1, self.batch // 2)
        self.backed_off += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
