"""The OpenVINO engine against torch, and which engine runs where."""

import json

import numpy as np
import pytest
import tifffile
import torch

from inspect_cli.cli import run
from inspect_cli.engines import Hardware, TorchEngine, choose_engine, graph, make_engine
from inspect_cli.engines.base import Blocking
from inspect_cli.engines.parity import CheckedEngine
from inspect_cli.errors import ModelError, UsageError
from inspect_cli.methods import build_detector

openvino = pytest.importorskip("openvino")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector("cae", 2, 32, {"architecture": "cifar10", "hidden": 32, "latent": 8}).eval()


@pytest.fixture(scope="module")
def tiles():
    return np.random.default_rng(0).random((23, 2, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_scores_are_those_of_torch_whatever_the_batch(detector, tiles, batch):
    expected = TorchEngine(detector, CPU).score(tiles)
    engine = make_engine(detector, Hardware(engine="openvino", batch=batch))
    found = engine.score(tiles)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected.max())
    assert np.array_equal(engine.score(tiles), found)
    assert engine.batch == batch
    assert engine.difference < 1e-5


def test_lower_precision_is_near(detector, tiles):
    expected = TorchEngine(detector, CPU).score(tiles)
    engine = make_engine(detector, Hardware(engine="openvino", precision="bf16"))
    np.testing.assert_allclose(engine.score(tiles), expected, atol=0.05 * expected.max())


@pytest.mark.parametrize(("channels", "blocks"), [(1, (2, 16, 8, 8)), (3, (2, 12, 16, 16))])
def test_the_last_convolution_yields_blocks_of_pixels(channels, blocks):
    detector = build_detector("cae", channels, 32, {"architecture": "cifar10", "hidden": 32, "latent": 8}).eval()
    nodes = graph.to_openvino(detector, (2, channels, 32, 32)).get_ops()
    assert blocks in [tuple(n.output(0).get_shape()) for n in nodes if n.get_type_name() == "Convolution"]


@pytest.mark.parametrize("size", [(6, 10), (32, 48)])
@pytest.mark.parametrize("channels", [1, 2])
def test_maps_of_one_channel_are_enlarged_by_products_alone(channels, size):
    class Enlarged(torch.nn.Module):
        def forward(self, values):
            return torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)

    values = torch.rand(2, channels, 5, 8)
    model = graph.converted(Enlarged(), values, any_number=True)
    assert ("Interpolate" in {node.get_type_name() for node in model.get_ops()}) == (channels != 1)
    found = graph.openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(values.numpy())[0]
    np.testing.assert_allclose(found, Enlarged()(values).numpy(), atol=1e-6)


class _Wrong(Blocking):
    name, device_name, precision, batch, size_step_px = "openvino", "cpu", "f32", 4, 1

    def __init__(self, factor):
        self.factor = factor

    def score(self, tiles):
        return tiles.mean(axis=1) * np.float32(self.factor)


class _Mean(torch.nn.Module):
    def score(self, tiles):
        return tiles.mean(dim=1)


def test_an_engine_that_differs_is_refused_and_a_faithful_one_is_checked_once(tiles):
    with pytest.raises(ModelError, match=r"differs from the trained network by .*use --engine torch"):
        CheckedEngine(_Wrong(1.001), _Mean()).score(tiles)
    with pytest.raises(ModelError, match="nan"):
        CheckedEngine(_Wrong(np.nan), _Mean()).score(tiles)
    inner = _Wrong(1.00001)
    engine = CheckedEngine(inner, _Mean())
    assert engine.score(tiles[:0]).shape == (0, 32, 32)
    assert engine.difference is None
    engine.score(tiles)
    assert engine.difference == pytest.approx(1e-5, rel=0.2)
    inner.factor = 2
    engine.score(tiles)


class _NoneIsTooFew(_Mean):
    def score(self, tiles):
        return super().score(tiles.reshape(len(tiles), -1, *tiles.shape[2:]))


def test_a_difference_far_below_the_limit_is_none(tiles):
    """As on a background that is copied nearly perfectly, where rounding is a large share of next to nothing."""
    faint = tiles * np.float32(1e-4)
    with pytest.raises(ModelError, match="differs"):
        CheckedEngine(_Wrong(1.1), _Mean()).score(faint)
    engine = CheckedEngine(_Wrong(1.1), _Mean(), limit=1.0)
    engine.score(faint)
    assert engine.difference < 1e-4
    with pytest.raises(ModelError, match="differs"):
        CheckedEngine(_Wrong(1.1), _Mean(), limit=1.0).score(tiles)


def test_a_row_without_tiles_is_not_compared(tiles):
    engine = CheckedEngine(_Wrong(1.0), _NoneIsTooFew())
    assert engine.score(tiles[:0]).shape == (0, 32, 32)
    engine.score(tiles)
    assert engine.difference == 0


def test_tiles_that_the_network_cannot_score_tell_nothing_of_the_engine(tiles):
    damaged = tiles.copy()
    damaged[:, :, 0, 0] = np.nan
    engine = CheckedEngine(_Wrong(1.001), _Mean())
    engine.score(damaged)
    assert engine.difference is None
    engine.score(damaged[:0])
    damaged[1] = tiles[1]
    with pytest.raises(ModelError, match=r"differs .* 0\.001 "):
        engine.score(damaged)
    with pytest.raises(ModelError, match="nan"):
        CheckedEngine(_Wrong(np.nan), _Mean()).score(damaged)


@pytest.mark.parametrize(
    ("name", "precision", "advice"),
    [
        ("openvino", "f32", "--engine torch"),
        ("openvino", "f16", "--precision f32"),
        ("torch", "bf16", "--precision f32"),
        ("torch", "f32", "--device cpu"),
    ],
)
def test_what_helps_against_a_difference_is_something_else_than_what_was_asked(tiles, name, precision, advice):
    wrong = _Wrong(2.0)
    wrong.name, wrong.precision = name, precision
    with pytest.raises(ModelError, match=f"; use {advice}$"):
        CheckedEngine(wrong, _Mean()).score(tiles)


def test_an_engine_that_differs_gives_way_where_the_choice_was_left_open(tiles):
    right = _Wrong(1.0)
    right.name = "torch"
    engine = CheckedEngine(_Wrong(1.001), _Mean(), instead=lambda _: right)
    first, second = engine.start(tiles), engine.start(tiles[:3])
    np.testing.assert_array_equal(second(), right.score(tiles[:3]))
    np.testing.assert_array_equal(first(), right.score(tiles))
    np.testing.assert_array_equal(engine.score(tiles), right.score(tiles))
    assert (engine.name, engine.difference) == ("torch", pytest.approx(1e-3, rel=0.1))


def test_engines_go_where_they_can():
    assert choose_engine("openvino", CPU) == "openvino"
    assert choose_engine("torch", CPU) == "torch"
    assert choose_engine("auto", torch.device("cuda")) == "torch"
    with pytest.raises(UsageError, match="runs on the CPU"):
        choose_engine("openvino", torch.device("cuda"))
    with pytest.raises(UsageError, match="valid: auto, torch, openvino"):
        choose_engine("onnx", CPU)
    with pytest.raises(UsageError, match="valid with torch on cpu: f32, bf16"):
        make_engine(_Mean(), Hardware("cpu", engine="torch", precision="f16"))
    with pytest.raises(UsageError, match="valid with openvino: f32, bf16, f16"):
        make_engine(_Mean(), Hardware(engine="openvino", precision="int4"))


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    monkeypatch.undo()
    assert choose_engine("auto", CPU) == "openvino"
    monkeypatch.setattr("inspect_cli.engines.choice.openvino_installed", lambda: False)
    assert choose_engine("auto", CPU) == "torch"
    with pytest.raises(UsageError, match="pip install"):
        choose_engine("openvino", CPU)


def test_a_batch_scored_with_either_engine_is_the_same_batch(batch, models, tmp_path, capsys):
    common = ["score", str(batch / "test"), "--material", "foil", "--models", str(models)]
    common += ["--outputs", "maps", "--stride", "32"]
    for engine in ("torch", "openvino"):
        assert run([*common, "--engine", engine, "--out", str(tmp_path / engine)]) == 0
    record = json.loads((tmp_path / "openvino" / "run.json").read_text())
    assert (record["engine"], record["precision"]) == ("openvino", "f32")
    paths = sorted((tmp_path / "torch").rglob("maps/*.tif"))
    assert len(paths) == 8
    for path in paths:
        other = tmp_path / "openvino" / path.relative_to(tmp_path / "torch")
        np.testing.assert_allclose(tifffile.imread(other), tifffile.imread(path), rtol=2e-3, atol=1e-7)
    capsys.readouterr()
    assert run([*common, "--engine", "openvino", "--out", str(tmp_path / "torch")]) == 0
    assert capsys.readouterr().out.count("(done before)") == 4
    assert run([*common, "--engine", "openvino", "--precision", "bf16", "--out", str(tmp_path / "torch")]) == 0
    assert "(done before)" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "batch", "even"),
    [(85, 16, 17), (5, 16, 8), (1, 8, 1), (7, 7, 7), (96, 16, 16), (41, 16, 14), (7, 1, 1)],
)
def test_batches_come_out_even_in_a_row(count, batch, even):
    from inspect_cli.engines.openvino_engine import even_batch

    assert even_batch(count, batch) == even


def test_scores_in_work_do_not_mix(detector, tiles):
    engine = make_engine(detector, Hardware(engine="openvino", batch=2))
    engine.score(tiles)  # checked
    pieces = [tiles[:5], tiles[5:6], tiles[:0], tiles[6:]]
    waits = [engine.start(piece) for piece in pieces]
    for wait, piece in reversed(list(zip(waits, pieces, strict=True))):
        np.testing.assert_array_equal(wait(), engine.score(piece))


def test_a_request_that_fails_is_told_instead_of_waited_for(detector, tiles, monkeypatch):
    from inspect_cli.engines import openvino_engine

    monkeypatch.setattr(openvino_engine, "_LOOK_S", 0.01)
    engine = openvino_engine.OpenVinoEngine(detector, batch=2)
    engine.score(tiles[:2])
    queue = engine._requests[(2, 2, 32, 32)]

    class Failing:
        def __getattr__(self, name):
            return getattr(queue, name)

        def start_async(self, inputs, target, share_inputs):
            """Lose the request, as OpenVINO does with one that raises."""

        def wait_all(self):
            raise RuntimeError("request failed")

    with monkeypatch.context() as patch:
        patch.setitem(engine._requests, (2, 2, 32, 32), Failing())
        with pytest.raises(RuntimeError, match="request failed"):
            engine.score(tiles[:2])


FULL_DISK = """
import errno, sys
from inspect_cli.outputs.tiff_stream import TiffRowWriter
calls = iter(range(1000))
real = TiffRowWriter.push
def push(self, rows):
    if next(calls) == 5:
        raise OSError(errno.ENOSPC, "No space left on device")
    real(self, rows)
TiffRowWriter.push = push
from inspect_cli.cli import main
sys.argv = ["inspect", *sys.argv[1:]]
main()
"""


def test_part_that_ends_in_an_error_with_tiles_in_work_keeps_its_exit_code(tmp_path):
    import subprocess
    import sys

    batch = tmp_path / "X"
    assert (
        run(["sample", "riblet", "--out", str(batch), "--size", "512x768", "--parts", "2", "--defective", "0"]) == 0
    )
    words = ["score", str(batch / "train"), "--material", "riblet", "--engine", "openvino", "--settle-s", "0"]
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 6, ended.stderr


def test_networks_for_the_last_shapes_alone_are_kept(monkeypatch):
    monkeypatch.setattr("inspect_cli.engines.openvino_engine._MOST_SHAPES", 1)
    engine = make_engine(build_detector("direct", 1, 32, {"width": 8}), Hardware("cpu", 0, "openvino"))
    tiles = [np.random.default_rng(0).random((1, 1, side, side), dtype=np.float32) for side in (32, 64)]
    first = [engine.score(tile) for tile in tiles]
    assert len(engine._engine._requests) == 1
    np.testing.assert_array_equal(engine.score(tiles[0]), first[0])


SIGNAL_AFTER_ENGINES = """
import gc, os, signal
import numpy as np
from inspect_cli.engines.openvino_engine import OpenVinoEngine
from inspect_cli.methods import build_detector
engine = OpenVinoEngine(build_detector("direct", 1, 32, {"width": 8}))
for side in (32, 40, 48):
    engine.score(np.zeros((1, 1, side, side), np.float32))
del engine
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_an_engine_has_gone_is_handled():
    import subprocess
    import sys

    found = subprocess.run([sys.executable, "-c", SIGNAL_AFTER_ENGINES], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "handled\n"), found.stderr
