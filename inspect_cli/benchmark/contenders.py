"""The ways to score one map that are measured against each other: same network, same file, same tiles.

A contender is a function that gets ready (loads the network, warms it up) and returns the work to be timed. The work
reads the file, runs the network over all tiles and returns the stitched residual (height, width), except for
``score``, which does all that ``inspect score`` does and returns nothing, and ``network``, which is no more than the
network's part in it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspect_cli.ahead import behind
from inspect_cli.batch.run import score_batch
from inspect_cli.engines import Hardware
from inspect_cli.engines.torch_engine import PRECISIONS, autocast, choose_device, round_inputs
from inspect_cli.errors import UsageError
from inspect_cli.images import Part
from inspect_cli.material.bundle import Bundle
from inspect_cli.material.materials import Material
from inspect_cli.scoring.model import ScoringModel, load_model
from inspect_cli.tiles.grid import Grid

Work = Callable[[], NDArray[np.float32] | None]
_BATCH: Final = 16


@dataclass(frozen=True)
class Job:
    """One map's network and the file it is run on."""

    material: Material
    bundle: Bundle
    map_name: str
    file: Path
    stride_px: int
    hardware: Hardware

    def model(self) -> ScoringModel:
        """Return the loaded model; its bundle knows the one map only."""
        return load_model(self.material, self.bundle, self.hardware, self.stride_px)

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return the network on the device as torch runs it, at the precision that `inspect score` has.

        Raises
        ------
        UsageError
            If torch has no such precision there.
        """
        device, precision = self.device(), self.hardware.precision
        if precision not in PRECISIONS[device.type]:
            raise UsageError(f"--precision {precision}: peers run in torch, which has no such one; leave them out")
        round_inputs(device, tf32=precision == "tf32")
        detector = self.bundle.detector(self.map_name).to(device)

        def score(tiles: Tensor) -> Tensor:
            with autocast(device, precision):
                return detector.score(tiles).float()

        return score

    def device(self) -> torch.device:
        """Return what the network runs on."""
        return choose_device(self.hardware.device)

    def pixels(self) -> NDArray[Any]:
        """Return the whole file."""
        return np.asarray(tifffile.imread(self.file))

    def to_network(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return pixels (n, h, w[, channels]) as the network takes them, (n, channels, h, w)."""
        return self.bundle.manifest.maps[self.map_name].preprocess.to_network(pixels)

    def grid(self) -> Grid:
        """Return the tiles over the file."""
        with tifffile.TiffFile(self.file) as tiff:
            height, width = tiff.pages[0].shape[:2]
        return Grid(height, width, self.bundle.manifest.tile_px, self.stride_px)


def _score(job: Job) -> Work:
    """Everything that ``inspect score`` does for a part, with the model loaded."""
    model = job.model()
    part = Part("part", {job.map_name: job.file}, job.file.parent)

    def work() -> None:
        summary, _ = score_batch(job.file.parent / "run", job.file.parent, [part], model, lambda _: None, force=True)
        error = summary.outcomes[0].error
        if error is not None:
            raise RuntimeError(error)

    work()  # compiles the network and checks it
    return work


def _network(job: Job) -> Work:
    """Score as many tiles as the file has, cut beforehand, a row of tiles at a time; keep nothing."""
    model, grid = job.model(), job.grid()
    top = job.pixels()[: grid.tile_px]
    tiles = job.to_network(np.stack([top[:, x : x + grid.tile_px] for x in grid.columns]))
    model.engine.score(tiles)

    def work() -> None:
        for wait in behind(model.engine.start(tiles) for _ in grid.rows):
            wait()

    return work


def _plain_loop(job: Job) -> Work:
    """What a user would write: all in memory, torch in eager mode, batches of tiles, sums and counts in numpy."""
    device = job.device()
    scored, grid = job.scorer(), job.grid()
    side = grid.tile_px
    corners = [(y, x) for y in grid.rows for x in grid.columns]

    @torch.inference_mode()
    def work() -> NDArray[np.float32]:
        image = job.to_network(job.pixels()[None])[0]
        total = np.zeros(image.shape[1:], np.float32)
        count = np.zeros(image.shape[1:], np.float32)
        for start in range(0, len(corners), _BATCH):
            some = corners[start : start + _BATCH]
            tiles = np.stack([image[:, y : y + side, x : x + side] for y, x in some])
            scores = scored(torch.from_numpy(tiles).to(device)).cpu().numpy()
            for (y, x), score in zip(some, scores, strict=True):
                total[y : y + side, x : x + side] += score
                count[y : y + side, x : x + side] += 1
        return np.asarray(total / count)

    return work


def _monai(job: Job) -> Work:
    """MONAI's sliding window with the same overlap and constant weights; its grid ends differently at the edges."""
    from monai.inferers import sliding_window_inference  # noqa: PLC0415  (an optional peer)

    device = job.device()
    scored, side = job.scorer(), job.bundle.manifest.tile_px

    @torch.inference_mode()
    def work() -> NDArray[np.float32]:
        image = torch.from_numpy(job.to_network(job.pixels()[None])).to(device)
        found: Tensor = sliding_window_inference(
            image, side, _BATCH, lambda tiles: scored(tiles)[:, None], overlap=1 - job.stride_px / side
        )
        return np.asarray(found[0, 0].cpu().numpy())

    return work


def _anomalib(job: Job) -> Work:
    """Tiles of anomalib's Tiler, all cut at once, and put together by it; the network takes them in batches."""
    from anomalib.data.utils.tiler import Tiler  # noqa: PLC0415  (an optional peer)

    device = job.device()
    scored = job.scorer()
    tiler = Tiler(tile_size=job.bundle.manifest.tile_px, stride=job.stride_px)

    @torch.inference_mode()
    def work() -> NDArray[np.float32]:
        image = torch.from_numpy(job.to_network(job.pixels()[None])).to(device)
        tiles = tiler.tile(image)
        scores = torch.cat([scored(some)[:, None] for some in torch.split(tiles, _BATCH)])
        return np.asarray(tiler.untile(scores)[0, 0].cpu().numpy())

    return work


#: By name: what gets ready, and the module that must be there.
CONTENDERS: Final[dict[str, tuple[Callable[[Job], Work], str | None]]] = {
    "score": (_score, None),
    "network": (_network, None),
    "plain-loop": (_plain_loop, None),
    "monai": (_monai, "monai.inferers"),
    "anomalib": (_anomalib, "anomalib.data.utils.tiler"),
}


def missing(name: str) -> str | None:
    """Return why a contender cannot run here, None if it can."""
    module = CONTENDERS[name][1]
    if module is None:
        return None
    try:
        importlib.import_module(module)
    except Exception as error:  # a peer may break in ways of its own while it is imported
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def timed(name: str, job: Job, repeats: int) -> list[float]:
    """Return the seconds of ``repeats`` runs of a contender."""
    work = CONTENDERS[name][0](job)
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return spent


def stitched(name: str, job: Job) -> NDArray[np.float32] | None:
    """Return the residual map that a contender makes, None if it hands none out."""
    return CONTENDERS[name][0](job)()
