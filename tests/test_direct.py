"""The direct method: its network against the paper's sizes, scores and losses by hand, what is stored."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from inspect_cli.corruptions.filters import FAMILIES
from inspect_cli.errors import ModelError
from inspect_cli.methods.activations import ACTIVATIONS, reflected_relu
from inspect_cli.methods.base import Batch
from inspect_cli.methods.direct import DirectDetector
from inspect_cli.training.health import explained_variance


def build(channels=1, tile_px=32, **settings):
    torch.manual_seed(0)
    return DirectDetector(channels, tile_px, DirectDetector.Settings(**({"width": 8} | settings)))


def constant(value, **settings):
    """A detector whose network puts out ``value`` everywhere."""
    detector = build(**settings)
    with torch.no_grad():
        detector.up[-1].weight.zero_()
        detector.up[-1].bias.fill_(value)
    return detector


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Random weights with the names and shapes of VGG-11."""
    path = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for place, after, before in ((0, 64, 3), (3, 128, 64), (6, 256, 128), (8, 256, 256)):
        scale = (2 / (9 * before)) ** 0.5
        weights[f"features.{place}.weight"] = scale * torch.randn(after, before, 3, 3, generator=generator)
        weights[f"features.{place}.bias"] = torch.zeros(after)
    torch.save(weights, path)
    return str(path)


def test_reflected_relu_has_the_values_of_equation_1():
    values = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 2.5], requires_grad=True)
    found = reflected_relu(values)
    assert found.tolist() == pytest.approx([-1.02, -1.0, -0.5, 0.0, 1.0, 1.015])
    found.sum().backward()
    assert values.grad[[0, 2, 3, 5]].tolist() == pytest.approx([0.01, 1, 1, 0.01])


def test_activations_go_by_their_names():
    values = torch.tensor([-3.0, 0.5, 3.0])
    found = {name: activation(values).tolist() for name, activation in ACTIVATIONS.items()}
    assert found == {
        "refrelu": pytest.approx([-1.02, 0.5, 1.02]),
        "tanh": pytest.approx(np.tanh([-3, 0.5, 3]).tolist()),
        "none": [-3, 0.5, 3],
    }


@pytest.mark.parametrize(("channels", "count"), [(1, 2_952_705), (3, 2_957_315)])
def test_the_network_has_the_papers_layers(channels, count):
    detector = DirectDetector(channels, 65, DirectDetector.Settings())
    layers = [*detector.down, *detector.up]
    assert [layer.out_channels for layer in layers] == [128, 256, 512, 256, 128, channels]
    for layer in layers:
        assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))
    assert sum(weight.numel() for weight in detector.parameters()) == count


@pytest.mark.parametrize("output", ["anomaly", "reconstruction"])
@pytest.mark.parametrize("size", [(65, 65), (128, 128), (100, 37), (66, 71), (1, 9)])
def test_any_size_comes_back(size, output):
    detector = build(2, output=output)
    with torch.no_grad():
        assert detector.score(torch.rand(2, 2, *size)).shape == (2, *size)
    assert detector.fully_convolutional
    assert detector.size_step_px == 1


def anomaly_by_hand(detector, tiles):
    """The network written out; a transposed convolution needs a pixel more where the side it mirrors is even."""
    values, sides = tiles * 2 - 1, []
    for layer in detector.down:
        sides.append(values.shape[2:])
        values = functional.conv2d(values, layer.weight, layer.bias, stride=2, padding=1)
        values = torch.where(values > 0, values, 0.01 * values)
    for number, layer in enumerate(detector.up):
        more = [1 - side % 2 for side in sides[2 - number]]
        values = functional.conv_transpose2d(values, layer.weight, layer.bias, 2, 1, more)
        if number < 2:
            values = torch.where(values > 0, values, 0.01 * values)
    return values


@pytest.mark.parametrize("size", [(65, 65), (30, 37)])
def test_the_score_is_the_size_of_the_output_summed_over_channels(size):
    detector = build(3)
    with torch.no_grad():
        detector.up[-1].weight.normal_()  # it starts next to 0
        tiles = torch.rand(2, 3, *size)
        anomaly = anomaly_by_hand(detector, tiles)
        torch.testing.assert_close(detector.score(tiles), anomaly.abs().sum(dim=1), rtol=1e-4, atol=1e-5)
    assert float(anomaly.min()) < 0 < float(anomaly.max())


def test_nothing_is_anomalous_to_begin_with():
    detector = DirectDetector(1, 64, DirectDetector.Settings())
    with torch.no_grad():
        assert 0 < float(detector.score(torch.rand(4, 1, 64, 64)).mean()) < 0.02


def batch_of(clean, noised, roi=None):
    tiles = torch.full((2, 1, 32, 32), clean)
    return Batch(tiles, roi, torch.full_like(tiles, noised))


@pytest.mark.parametrize(
    ("activation", "repaired"), [("refrelu", 1.005), ("tanh", np.tanh(1.5)), ("none", 1.5)]
)  # noised 1 and anomaly 0.5 in -1 to 1
def test_the_loss_compares_the_repaired_tile_with_the_clean_one(activation, repaired):
    batch = batch_of(0.75, 1.0)  # clean 0.5
    for loss, expected in (("l1", repaired - 0.5), ("l2", (repaired - 0.5) ** 2)):
        detector = constant(0.5, activation=activation, loss=loss)
        assert float(detector.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_corruption_is_its_own_input():
    tiles = torch.rand(2, 1, 32, 32)
    assert float(constant(0.25).loss(Batch(tiles * 0.5)).detach()) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(("loss", "expected"), [("l1", 0.4), ("l2", 0.16)])
def test_pixels_outside_the_roi_do_not_count_for_pixel_losses(loss, expected):
    batch = batch_of(0.5, 0.7, torch.zeros(2, 1, 32, 32))
    batch.roi[..., :20] = 1
    batch.corrupted[..., 20:] = 0.9
    assert float(constant(0.0, loss=loss).loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_pixels_outside_the_roi_do_not_count_for_perceptual_losses(vgg_file):
    batch = batch_of(0.5, 0.5, torch.ones(2, 1, 32, 32))
    batch.roi[..., 20:] = 0
    detector = constant(0.0, loss="vgg11", weights=vgg_file)
    batch.corrupted[..., 20:] = 0.9
    assert float(detector.loss(batch).detach()) == 0
    batch.corrupted[..., :20] = 0.9
    assert float(detector.loss(batch).detach()) > 1e-3


def test_the_denoising_variant_puts_out_the_copy_itself():
    detector = constant(0.5, output="reconstruction")
    tiles = torch.full((1, 1, 32, 32), 0.3)  # -0.4
    torch.testing.assert_close(detector.reconstruct(tiles), torch.full_like(tiles, 0.75))
    torch.testing.assert_close(detector.score(tiles), torch.full((1, 32, 32), 0.9))
    assert float(detector.loss(batch_of(0.65, 0.1)).detach()) == pytest.approx(0.2, rel=1e-5)
    bounded = constant(2.0, output="reconstruction")
    torch.testing.assert_close(bounded.reconstruct(tiles), torch.full_like(tiles, 1.005))


def test_there_is_no_copy_whose_explained_variance_would_say_anything():
    tiles = torch.rand(2, 1, 32, 32)
    assert build().reconstruct(tiles) is None
    assert explained_variance(build(), [Batch(tiles)]) is None


def test_patches_are_damaged_with_the_chosen_families():
    assert set(build().corruption().families) == set(FAMILIES)
    detector = build(families=["speckle"])
    tiles = np.full((200, 1, 16, 16), 0.5, np.float32)
    found = detector.corruption()(tiles, np.random.default_rng(0))
    assert set(np.unique(found.patches)) == {0.0, 0.5, 1.0}


def test_the_default_step_size_is_half_the_loops():
    (optimizer,) = build().optimizers(2e-3)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"]) == (pytest.approx(1e-3), (0.5, 0.999))
    assert group["lr"] == pytest.approx(group["pace"] * 2e-3)
    assert len(group["params"]) == 12


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"loss": "vgg11"}, "weights", "needs the file"),
        ({"weights": "vgg11.pth"}, "weights", "only loss 'vgg11'"),
        ({"loss": "efficientnet-lite0", "weights": "vgg11.pth"}, "weights", "only loss 'vgg11'"),
        ({"loss": "ssim"}, "loss", "'l1', 'l2', 'vgg11'"),
        ({"families": []}, "families", "at least 1"),
        ({"families": ["speckle", "rust"]}, "families", "'opaque'"),
        ({"activation": "relu"}, "activation", "'refrelu'"),
        ({"width": 0}, "width", "greater than or equal to 1"),
        ({"filters": 8}, "filters", "not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_their_key(settings, key, message):
    with pytest.raises(ValidationError) as caught:
        DirectDetector.Settings.model_validate(settings)
    (error,) = caught.value.errors()
    assert error["loc"][0] == key
    assert message in error["msg"]


def test_the_feature_network_is_neither_trained_nor_stored(vgg_file, tmp_path):
    plain = build()
    detector = build(loss="vgg11", weights=vgg_file)
    detector.loss(batch_of(0.5, 0.9)).backward()
    assert set(detector.state_dict()) == set(plain.state_dict())
    assert len(list(detector.parameters())) == len(list(plain.parameters()))
    assert len(list(detector.modules())) == len(list(plain.modules()))
    assert all(weight.grad is not None for weight in detector.parameters())

    elsewhere = build(loss="vgg11", weights=str(tmp_path / "gone.pth"))
    elsewhere.load_state_dict(detector.state_dict())
    tiles = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(elsewhere.score(tiles), detector.score(tiles), rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"gone\.pth"):
        elsewhere.loss(batch_of(0.5, 0.9))


@pytest.mark.parametrize("loss", ["l1", "l2", "vgg11"])
def test_losses_and_scores_are_float32_under_autocast(loss, vgg_file):
    detector = build(2, loss=loss, weights=vgg_file if loss == "vgg11" else None)
    tiles = torch.rand(2, 2, 32, 32)
    batch = Batch(tiles, None, (tiles + 0.3).clamp(max=1))
    plain = detector.loss(batch).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, scores = detector.loss(batch), detector.score(tiles)
    assert mixed.dtype == scores.dtype == torch.float32
    assert float(mixed.detach()) == pytest.approx(float(plain), rel=0.02)
    mixed.backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in detector.parameters())


def stripes(count, side, rng):
    x = np.arange(side)
    phase = rng.uniform(0, 6, (count, 1, 1, 1))
    values = 0.5 + 0.25 * np.sin(x * 0.9 + phase) + 0 * x[:, None]
    return (values + rng.normal(0, 0.02, values.shape)).astype(np.float32)


def trained(steps, **settings):
    """A detector after some steps on stripes, and its losses."""
    detector = build(width=16, **settings)
    optimizers = detector.optimizers(2e-3)
    rng = np.random.default_rng(0)
    autocast = torch.autocast("cpu", enabled=False)
    losses = []
    for _ in range(steps):
        tiles = stripes(16, 32, rng)
        noised, changed = detector.corruption()(tiles, rng)
        batch = Batch(*(torch.from_numpy(v) if v is not None else None for v in (tiles, None, noised, changed)))
        losses.append(detector.train_step(batch, optimizers, autocast))
    return detector.eval(), losses


@pytest.mark.parametrize(
    "settings",
    [{"loss": "l1"}, {"loss": "l2"}, {"output": "reconstruction"}, {"activation": "tanh"}],
    ids=["l1", "l2", "reconstruction", "tanh"],
)
def test_the_loss_falls(settings):
    _, losses = trained(200, **settings)
    first, last = np.mean(losses[:20]), np.mean(losses[-20:])
    assert last < 0.95 * first


def test_a_blot_stands_out_and_the_rest_stays_quiet():
    detector, _ = trained(200)
    tiles = stripes(8, 32, np.random.default_rng(1))
    tiles[..., 12:18, 12:18] = 1
    with torch.no_grad():
        scores = detector.score(torch.from_numpy(tiles)).numpy()
    blot = scores[:, 12:18, 12:18]
    assert blot.mean() > 5 * np.median(scores)
