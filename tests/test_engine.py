"""The torch engine: batches, devices, back-off."""

import numpy as np
import pytest
import torch

from inspect_cli.engines import TorchEngine, choose_device
from inspect_cli.errors import UsageError, WorkerError
from inspect_cli.methods import build_detector

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiles():
    return np.random.default_rng(0).random((23, 1, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batch_size_does_not_change_scores(tiles, batch):
    torch.manual_seed(0)
    detector = build_detector("cae", 1, 32, {})
    expected = detector.eval().score(torch.from_numpy(tiles)).detach().numpy()
    scores = TorchEngine(detector, CPU, batch).score(tiles)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_reruns_are_bit_identical(tiles):
    engine = TorchEngine(build_detector("cae", 1, 32, {}), CPU, 8)
    assert np.array_equal(engine.score(tiles), engine.score(tiles))


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


def test_out_of_memory_halves_the_batch_and_loses_nothing(tiles):
    engine = TorchEngine(_Hungry(3), CPU, 16)
    assert np.array_equal(engine.score(tiles), tiles[:, 0] * 2)
    assert (engine.batch, engine.backed_off) == (2, 3)


def test_one_tile_too_large_ends_with_a_worker_error(tiles):
    with pytest.raises(WorkerError, match="one tile does not fit"):
        TorchEngine(_Hungry(0), CPU, 4).score(tiles)


def test_other_errors_are_not_taken_for_lack_of_memory(tiles):
    class Broken(_Hungry):
        def score(self, batch):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        TorchEngine(Broken(1), CPU, 4).score(tiles)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(UsageError, match="valid: auto, cuda, mps, cpu"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no such device"):
            choose_device("cuda")
