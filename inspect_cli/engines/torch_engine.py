"""The torch engine: bounded batches, channels-last, and back-off when the device's memory runs out."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspect_cli.allocation import keep_freed_memory
from inspect_cli.engines.base import Blocking
from inspect_cli.engines.resident import ResidentRows
from inspect_cli.engines.transfer import upload
from inspect_cli.errors import UsageError, WorkerError
from inspect_cli.images.values import Preprocess
from inspect_cli.methods.base import Detector
from inspect_cli.tiles.grid import Grid
from inspect_cli.tiles.tiling import count_of_area

DEVICES: Final = ("auto", "cuda", "mps", "cpu")
#: Tiles a batch: a CPU is fastest while the activations of a batch stay in its cache.
DEFAULT_BATCH: Final = {"cpu": 16, "mps": 64, "cuda": 256}

PRECISIONS: Final = {"cpu": ("f32", "bf16"), "mps": ("f32",), "cuda": ("f32", "tf32", "bf16", "f16")}


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
    """Return the mixed-precision context for training: bfloat16 where the processor itself computes in it."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def autocast(device: torch.device, precision: str) -> Any:
    """Return the context in which a network runs at ``precision``."""
    if precision in ("f32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "f16": torch.float16}[precision])


def round_inputs(device: torch.device, tf32: bool) -> None:
    """Let a GPU round the inputs of convolutions and products to 10 bits, or not, in the whole process.

    torch lets convolutions do so unless told otherwise.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


class TorchEngine(Blocking):
    """Runs a detector on a torch device.

    ``batch`` 0 picks the device's default. When the device's memory runs out the batch is halved, down to
    one tile, and stays there; ``backed_off`` tells how often. Below float32 the network runs under autocast.
    ``resident`` keeps an image's tiles on the device (:mod:`inspect_cli.engines.resident`), by default on a GPU.
    """

    name = "torch"

    def __init__(
        self,
        detector: Detector,
        device: torch.device,
        batch: int = 0,
        precision: str = "f32",
        resident: bool | None = None,
    ) -> None:
        if precision not in PRECISIONS[device.type]:
            valid = ", ".join(PRECISIONS[device.type])
            raise UsageError(f"--precision {precision}: valid with torch on {device.type}: {valid}")
        round_inputs(device, precision == "tf32")
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        if device.type == "cpu":
            keep_freed_memory()
        self.precision = precision
        self.resident = device.type == "cuda" if resident is None else resident
        self.device_name = device.type
        self.batch = batch or count_of_area(DEFAULT_BATCH[device.type], detector.tile_px)
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
        if self._device.type == "cpu":
            return np.asarray(self.score_there(torch.from_numpy(tiles)).numpy())
        scores = np.empty((tiles.shape[0], *tiles.shape[2:]), np.float32)
        at = 0
        while at < len(tiles):  # no more than a batch is uploaded at once
            found = self.score_there(upload(tiles[at : at + self.batch], self._device))
            scores[at : at + len(found)] = found.cpu().numpy()
            at += len(found)
        return scores

    @torch.inference_mode()
    def score_there(self, tiles: Tensor) -> Tensor:
        """Return the scores of tiles that are on the device, as float32 on the device.

        Raises
        ------
        WorkerError
            If a single tile does not fit into the device's memory.
        """
        scores = torch.empty((len(tiles), *tiles.shape[2:]), device=tiles.device)
        at = 0
        while at < len(tiles):
            batch = tiles[at : at + self.batch].contiguous(memory_format=torch.channels_last)
            try:
                with autocast(self._device, self.precision):
                    scores[at : at + len(batch)] = self._detector.score(batch)
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise WorkerError(f"{self.device_name}: one tile does not fit into the device's memory") from None
            else:
                at += len(batch)
                continue
            self._back_off()  # when the error has let go of the layers' outputs
        return scores

    def rows_on_device(self, grid: Grid, preprocess: Preprocess, blend: str) -> ResidentRows | None:
        """Return what scores an image without its tiles leaving the device, None on a CPU."""
        if not self.resident:
            return None
        return ResidentRows(self.score_there, self._device, grid, preprocess, blend)

    def _back_off(self) -> None:
        self.batch = max(1, self.batch // 2)
        self.backed_off += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
