"""What runs on a GPU, where there is one: the same maps and scores as on the CPU, and training that learns."""

import copy

import numpy as np
import pytest
import tifffile
import torch

from inspect_cli.cli import run
from inspect_cli.engines import Hardware, TorchEngine, make_engine
from inspect_cli.engines.parity import TOLERANCE
from inspect_cli.engines.torch_engine import PRECISIONS, training_autocast
from inspect_cli.methods import build_detector, method_names
from inspect_cli.methods.registry import method_class
from inspect_cli.training.batches import training_batch
from tests.helpers import TRAINED, material_of
from tests.test_every_method import LEAST_FALL, SMALL, TILE, job
from tests.test_resident import CASES, case_of, detectors, image, scored  # noqa: F401  (a fixture)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("case", list(CASES))
def test_same_map_as_on_the_cpu(case, detectors):  # noqa: F811
    detector, pixels, roi, blend = case_of(case, detectors)
    rows, patches, moments = scored(TorchEngine(copy.deepcopy(detector), CPU), pixels, roi, blend)
    there, patches_there, moments_there = scored(TorchEngine(copy.deepcopy(detector), CUDA), pixels, roi, blend)
    # Kept scores have 11 bits: values of one rounding may lie one step apart.
    np.testing.assert_allclose(there, rows, rtol=2**-10, atol=1e-5)
    for mine, theirs in zip(patches_there, patches, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2**-10)
    assert moments_there == moments


def test_batches_give_the_same_map_and_reruns_the_same_bits(detectors):  # noqa: F811
    pixels = image((100, 300), "uint16")
    maps = {b: scored(TorchEngine(copy.deepcopy(detectors[1]), CUDA, b), pixels)[0] for b in (1, 7, 64)}
    for batch in (1, 7):
        np.testing.assert_allclose(maps[batch], maps[64], rtol=2**-10, atol=1e-5)
    again = scored(TorchEngine(copy.deepcopy(detectors[1]), CUDA, 64), pixels)[0]
    assert np.array_equal(again, maps[64])


@pytest.mark.parametrize("precision", PRECISIONS["cuda"])
@pytest.mark.parametrize("name", [name for name in method_names() if name != "patchcore"])
def test_every_method_and_precision_is_within_its_tolerance(name, precision):
    torch.manual_seed(0)
    detector = build_detector(name, 2, TILE, SMALL.get(name, {}))
    engine = make_engine(detector, Hardware("cuda", precision=precision))
    scores = engine.score(np.random.default_rng(0).random((5, 2, TILE, TILE), np.float32))
    assert scores.shape == (5, TILE, TILE)
    assert engine.difference is not None
    assert engine.difference <= TOLERANCE[precision]


def test_memory_that_runs_out_halves_the_batch_and_changes_no_score(detectors):  # noqa: F811
    tiles = np.random.default_rng(0).random((3000, 1, 32, 32), np.float32)
    expected = TorchEngine(copy.deepcopy(detectors[1]), CUDA, 64).score(tiles)
    total = torch.cuda.get_device_properties(0).total_memory
    engine = TorchEngine(copy.deepcopy(detectors[1]), CUDA, 3000)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200e6) / total)
    try:
        scores = engine.score(tiles)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.backed_off > 0
    assert engine.batch < 3000
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stripes with a blot where defective, as the test of every method has them."""
    from tests.test_every_method import folder

    return folder.__wrapped__(tmp_path_factory)


@pytest.mark.parametrize("name", [name for name in method_names() if method_class(name).trains])
def test_a_few_steps_lower_the_loss(name, folder):
    torch.manual_seed(0)
    training = job(build_detector(name, 1, TILE, SMALL.get(name, {})), folder)
    training.device = CUDA
    detector = training.detector = training.detector.placed(CUDA)
    optimizers = detector.optimizers(2e-3)
    fixed = [training_batch(training, step, TILE) for step in range(1000, 1006)]

    def measured() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(np.mean([float(detector.loss(batch)) for batch in fixed]))

    before = measured()
    for step in range(60):
        batch = training_batch(training, step, TILE)
        loss = detector.train_step(batch, optimizers, training_autocast(CUDA))
        assert np.isfinite(loss)
    assert measured() < before - LEAST_FALL.get(name, 0.2) * abs(before)


@pytest.mark.parametrize("method", ["cae", "feature-direct", "patchcore", "ssae"])
def test_a_material_trained_on_the_gpu_scores_the_same_on_both(method, folder, tmp_path):
    store = tmp_path / "models"
    material_of(store, "stripes", TILE, method, **SMALL.get(method, {}))
    train = ["train", "--material", "stripes", "--models", str(store), "--data", str(folder / "train" / "good")]
    assert run([*train, "--budget", "30steps", "--device", "cuda"]) in TRAINED
    maps = {}
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        common = ["--material", "stripes", "--models", str(store), "--device", device, "--out", str(out)]
        assert run(["score", str(folder / "test"), *common]) in TRAINED
        maps[device] = [tifffile.imread(path) for path in sorted(out.rglob("maps/image.tif"))]
    assert len(maps["cpu"]) == 3
    for one, other in zip(maps["cuda"], maps["cpu"], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3 * np.nanmax(other))


def test_batches_are_handed_over_as_the_network_takes_them(folder):
    training = job(build_detector("cae", 1, TILE, SMALL["cae"]), folder)
    training.device = CUDA
    batch = training_batch(training, 0, TILE)
    assert batch.tiles.device.type == "cuda"
    assert batch.tiles.is_contiguous(memory_format=torch.channels_last)
