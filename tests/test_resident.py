"""The path whose tiles stay on the device, run on the CPU: the same map as the streaming path."""

import copy

import numpy as np
import pytest
import torch

from inspect_cli.engines import TorchEngine
from inspect_cli.engines.parity import CheckedEngine
from inspect_cli.engines.resident import layers
from inspect_cli.errors import ModelError, WorkerError
from inspect_cli.images.values import Preprocess, ValueRange
from inspect_cli.methods import build_detector
from inspect_cli.scoring.mapstream import MapStream
from inspect_cli.tiles.grid import Grid
from inspect_cli.tiles.tiling import Tiling
from tests.test_mapstream import Memory

CPU = torch.device("cpu")
TILE = 32


@pytest.fixture(scope="module")
def detectors():
    torch.manual_seed(0)
    return {channels: build_detector("cae", channels, TILE, {}).eval() for channels in (1, 3)}


def scored(engine, pixels, roi=None, blend="average", stride=20):
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    stream = MapStream(
        reader=Memory(pixels),
        preprocess=Preprocess(ValueRange.of_type(pixels.dtype), (0.4,) * channels, str(pixels.dtype)),
        engine=engine,
        tiles=Tiling(size_px=TILE, stride_px=stride, blend=blend, smooth_sigma_px=1.5),
        roi=roi,
    )
    rows = np.concatenate(list(stream.rows()))
    return rows, stream.patches(), stream.moments


def image(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float64":
        return 1e6 + 0.02 * rng.random(shape)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min // 2, limits.max, shape).astype(dtype)


CASES = {
    "16 bit": ((150, 170), "uint16", False, "average"),
    "8 bit, three channels": ((90, 133, 3), "uint8", False, "hann"),
    "signed, with an ROI": ((150, 170, 3), "int16", True, "average"),
    "float": ((64, 96), "float32", True, "hann"),
    "heights far from zero": ((64, 96), "float64", False, "average"),
    "big endian": ((64, 96), ">u2", False, "average"),
    "smaller than a tile": ((20, 25), "uint16", False, "average"),
    "flat": ((20, 200), "uint16", True, "average"),
}


def case_of(name, detectors):
    """Return the network, the pixels, the ROI and the blend of a case."""
    shape, dtype, with_roi, blend = CASES[name]
    roi = None
    if with_roi:
        roi = np.zeros(shape[:2], bool)
        roi[5 : shape[0] // 2, 7 : shape[1] // 2] = True
    return detectors[shape[2] if len(shape) == 3 else 1], image(shape, dtype), roi, blend


@pytest.mark.parametrize("case", list(CASES))
def test_same_map_as_the_streaming_path(case, detectors):
    detector, pixels, roi, blend = case_of(case, detectors)
    rows, patches, moments = scored(TorchEngine(detector, CPU), pixels, roi, blend)
    there, patches_there, moments_there = scored(TorchEngine(detector, CPU, resident=True), pixels, roi, blend)
    # Kept scores have 11 bits: values of one rounding may lie one step apart.
    np.testing.assert_allclose(there, rows, rtol=2**-10, atol=1e-5)
    assert np.mean(np.abs(there - rows)[np.isfinite(rows)] > 1e-6) < 0.01
    for mine, theirs in zip(patches_there, patches, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2**-10)
    assert moments_there == moments


@pytest.mark.parametrize(
    ("width", "tile", "stride", "count"), [(5496, 128, 64, 3), (256, 128, 64, 2), (300, 32, 9, 4)]
)
def test_tiles_that_do_not_overlap_are_added_at_once(width, tile, stride, count):
    grid = Grid(tile, width, tile, stride)
    found = layers(grid)
    nothing = len(grid.columns) * tile
    assert len(found) == count
    every = np.sort(np.concatenate([layer[layer < nothing] for layer in found]))
    np.testing.assert_array_equal(every, np.arange(nothing))  # each column of each tile, once
    for layer in found:
        x = np.flatnonzero(layer < nothing)
        index, offset = np.divmod(layer[x], tile)
        np.testing.assert_array_equal(np.asarray(grid.columns)[index] + offset, x)


def test_batches_give_the_same_map_and_reruns_the_same_bits(detectors):
    pixels = image((100, 300), "uint16")
    maps = {batch: scored(TorchEngine(detectors[1], CPU, batch, resident=True), pixels)[0] for batch in (1, 7, 64)}
    for batch in (1, 7):
        np.testing.assert_allclose(maps[batch], maps[64], rtol=2**-10, atol=1e-6)
    again = scored(TorchEngine(detectors[1], CPU, 64, resident=True), pixels)[0]
    assert np.array_equal(again, maps[64])


class _Hungry(torch.nn.Module):
    """Runs out of memory above a batch of ``most`` tiles."""

    size_step_px = 1

    def __init__(self, most):
        super().__init__()
        self.most = most

    def placed(self, device):
        return self

    def score(self, batch):
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return batch[:, 0] * 2


def test_out_of_memory_backs_the_batch_off_within_a_row():
    pixels = image((40, 400), "uint16")
    engine = TorchEngine(_Hungry(3), CPU, 16, resident=True)
    rows, *_ = scored(engine, pixels)
    expected, *_ = scored(TorchEngine(_Hungry(99), CPU, 16), pixels)
    np.testing.assert_allclose(rows, expected, rtol=2**-10)
    assert (engine.batch, engine.backed_off) == (2, 3)
    with pytest.raises(WorkerError, match="one tile does not fit"):
        scored(TorchEngine(_Hungry(0), CPU, 16, resident=True), pixels)


def test_first_tiles_are_compared_with_the_network(detectors):
    pixels = image((70, 90), "uint16")
    good = CheckedEngine(TorchEngine(detectors[1], CPU, resident=True), detectors[1])
    scored(good, pixels)
    assert good.difference is not None
    assert good.difference < 1e-6
    other = copy.deepcopy(detectors[1])
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    with pytest.raises(ModelError, match="differs from the trained network"):
        scored(CheckedEngine(TorchEngine(other, CPU, resident=True), detectors[1]), pixels)


def test_rows_of_no_finite_scores_are_passed_over_for_the_comparison(detectors):
    pixels = image((200, 90), "float32")
    pixels[:80] = np.nan
    engine = CheckedEngine(TorchEngine(detectors[1], CPU, resident=True), detectors[1])
    rows, *_ = scored(engine, pixels)
    assert engine.difference is not None
    assert engine.difference < 1e-6
    assert np.isfinite(rows).any()


def test_bfloat16_stays_near(detectors):
    pixels = image((70, 90), "uint16")
    exact, *_ = scored(TorchEngine(detectors[1], CPU), pixels)
    half, *_ = scored(TorchEngine(detectors[1], CPU, precision="bf16", resident=True), pixels)
    assert 0 < np.abs(half - exact).max() < 0.1 * exact.max()
