"""What every method must be able to do, from the registry; a new one is picked up by itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from helpers import TRAINED

from inspect_cli.cli import run
from inspect_cli.errors import RecipeError
from inspect_cli.images import ValueRange
from inspect_cli.images.values import Preprocess
from inspect_cli.material.bundle import read_bundle
from inspect_cli.methods import build_detector, method_names
from inspect_cli.methods.base import Batch, Detector
from inspect_cli.methods.registry import check_whole_images, method_class
from inspect_cli.recipe.schema import TrainingSpec
from inspect_cli.tiles import PatchSampler, SamplerImage
from inspect_cli.training.batches import MapTraining, training_batch
from inspect_cli.training.budget import MapBudget

TILE = 64
#: Settings that make a method small enough for a test.
SMALL = {
    "aae": {"hidden": 64, "latent": 16},
    "cae": {"hidden": 64, "latent": 16},
    "cnn": {"hidden": 16},
    "direct": {"width": 16},
    "feature-ae": {"memory": 50},
    "feature-direct": {"memory": 50},
    "kd-cae": {"components": 4},
    "ni-cae": {"width": 32},
    "patchcore": {"memory": 50, "patches": 8},
    "ssae": {"width": 8, "stacks": 1},
    "ssae-contrast": {"width": 8, "stacks": 1},
    "ssae-ensemble": {"width": 8, "stacks": 1},
    "vae": {"hidden": 64, "latent": 16},
}


#: Steps that lower the loss, where they are not 30: most of these methods are slow and learn fast.
STEPS = {"direct": 60, "kd-cae": 15, "ssae-contrast": 15, "ssae-ensemble": 10}
#: Share of the loss that they must take off, where it is not 20 %: `direct` begins by saying nothing at all, and
#: `ni-cae` has four values for each 32x32 px to begin with.
LEAST_FALL = {"direct": 0.03, "ni-cae": 0.03}
#: Methods that are scored twice from one bundle; the others' stored networks are compared without a command line.
TWICE = ("cae", "direct", "vae")


def build(name: str, channels: int = 1) -> Detector:
    torch.manual_seed(0)
    return build_detector(name, channels, TILE, SMALL.get(name, {}))


@pytest.fixture(params=method_names())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small data set in the layout train/good, test, ground_truth: stripes, with a blot where defective."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for part in ("train/good/a", "train/good/b", "test/good/c", "test/blot/d", "test/blot/e"):
        x = np.arange(96)
        grey = 120 + 60 * np.sin(x[None] * 0.7 + rng.uniform(0, 6)) + rng.normal(0, 3, (72, 96))
        path = root / f"{part}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        if "blot" in part:
            mask = np.zeros((72, 96), np.uint8)
            mask[30:44, 40:56] = 255
            grey[mask > 0] = 240
            (root / "ground_truth" / "blot").mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / "ground_truth" / "blot" / f"{part[-1]}_mask.tif", mask)
        tifffile.imwrite(path, grey.clip(0, 255).astype(np.uint8))
    return root


def job(detector: Detector, folder: Path, seed: int = 1) -> MapTraining:
    good = PatchSampler([SamplerImage(p) for p in sorted((folder / "train" / "good").iterdir())], TILE, seed)
    blots = [
        SamplerImage(p, None, tifffile.imread(folder / "ground_truth" / "blot" / f"{p.stem}_mask.tif") > 0)
        for p in sorted((folder / "test" / "blot").iterdir())
    ]
    defects = PatchSampler(blots, TILE, seed, 0.05) if detector.supervised else None
    return MapTraining(
        detector=detector,
        preprocess=Preprocess(ValueRange(0, 255), (0.5,), "uint8"),
        train=good,
        validation=good,
        spec=TrainingSpec(batch=8),
        budget=MapBudget(100, None),
        seed=seed,
        device=torch.device("cpu"),
        checkpoint=folder / "unused",
        fingerprint="",
        defects=defects,
        validation_defects=defects,
    )


def test_a_few_steps_lower_the_loss(name, folder):
    if not method_class(name).trains:
        pytest.skip("takes no steps")
    training = job(build(name), folder)
    optimizers = training.detector.optimizers(2e-3)
    autocast = torch.autocast("cpu", enabled=False)
    fixed = [training_batch(training, step, TILE) for step in range(1000, 1006)]

    def measured() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(np.mean([float(training.detector.loss(batch)) for batch in fixed]))

    before = measured()
    for step in range(STEPS.get(name, 30)):
        loss = training.detector.train_step(training_batch(training, step, TILE), optimizers, autocast)
        assert np.isfinite(loss)
    assert measured() < before - LEAST_FALL.get(name, 0.2) * abs(before)


def test_scores_are_one_value_a_pixel_and_none_below_0(name):
    detector = build(name, 2).eval()
    with torch.no_grad():
        scores = detector.score(torch.rand(3, 2, TILE, TILE))
    assert scores.shape == (3, TILE, TILE)
    assert scores.dtype == torch.float32
    assert float(scores.min()) >= 0


def test_a_tiles_score_does_not_depend_on_its_batch(name):
    detector = build(name).eval()
    tiles = torch.rand(5, 1, TILE, TILE)
    with torch.no_grad():
        together = detector.score(tiles)
        alone = torch.cat([detector.score(tile[None]) for tile in tiles])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_fully_convolutional_methods_take_any_size_and_others_say_no(name):
    detector = build(name).eval()
    step = detector.size_step_px
    if detector.fully_convolutional:
        with torch.no_grad():
            assert detector.score(torch.rand(1, 1, 5 * step, 9 * step)).shape == (1, 5 * step, 9 * step)
        check_whole_images(name)
    else:
        with pytest.raises(RecipeError, match=f"method {name} needs tiles of one size"):
            check_whole_images(name)


def test_training_patches_are_the_same_again_and_never_larger_than_a_tile(name, folder):
    first, second = (training_batch(job(build(name), folder), 3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert first.tiles.shape[-1] == build(name).training_side_px(0.03) <= TILE
    assert (first.corrupted is None) == (build(name).corruption() is None)


def test_a_supervised_batch_is_half_defective(folder):
    for name in method_names():
        batch: Batch = training_batch(job(build(name), folder), 0)
        if method_class(name).supervised:
            assert batch.defective is not None
            assert batch.defective.tolist() == [0] * 4 + [1] * 4
        else:
            assert batch.defective is None


def test_train_score_and_evaluate_from_the_command_line(name, folder, tmp_path, capsys):
    """Two runs from the same bundle give the same bytes."""
    store = tmp_path / "models"
    (store / "stripes").mkdir(parents=True)
    recipe = {
        "material": "stripes",
        "maps": {"image": {"files": "{part}.tif"}},
        "tiles": {"size_px": TILE, "stride_px": 32},
        "method": {"name": name, "settings": SMALL.get(name, {})},
        "training": {"batch": 4, "validate_every": 5},
    }
    (store / "stripes" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    common = ["--material", "stripes", "--models", str(store)]
    defects = ["--defects", str(folder / "test" / "blot"), "--truth", str(folder / "ground_truth" / "blot")]
    labels = defects if method_class(name).supervised else []
    assert run(["train", *common, "--data", str(folder), "--budget", "8steps", "--json", *labels]) in TRAINED
    manifest = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert manifest["method"] == name
    uses = {entry["use"] for entry in manifest["training_set"]}
    assert ("defect" in uses) == bool(labels)
    maps = []
    for out in (tmp_path / "one", tmp_path / "two")[: 1 + (name in TWICE)]:
        assert run(["score", str(folder / "test"), *common, "--outputs", "maps", "--out", str(out)]) == 0
        maps.append(sorted(out.rglob("maps/image.tif")))
    assert len(maps[0]) == 3
    for one, other in zip(maps[0], maps[-1], strict=True):
        found = tifffile.imread(one)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, tifffile.imread(other))


def test_a_stored_network_scores_bit_for_bit_as_before(name, folder, tmp_path):
    from inspect_cli.material.bundle import write_weights

    training = job(build(name), folder)
    training.detector.begin(training_batch(training, 0).tiles)
    optimizers = training.detector.optimizers(2e-3)
    for step in range(3 * training.detector.trains):
        training.detector.train_step(training_batch(training, step), optimizers, torch.autocast("cpu", enabled=False))
    detector = training.detector.eval()
    if detector.fit_patches:
        patches, masks = training.train.batch(0, detector.fit_patches)
        detector.fit(torch.from_numpy(training.preprocess.to_network(patches, masks)))
    file, _ = write_weights(tmp_path, "image", detector.state_dict(), half=False)
    from safetensors.torch import load_file

    fresh = build_detector(name, 1, TILE, SMALL.get(name, {}))
    fresh.load_state_dict(load_file(tmp_path / file))
    tiles = torch.rand(2, 1, TILE, TILE)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval().score(tiles), detector.score(tiles), rtol=0, atol=0)


def test_images_that_are_too_large_to_be_scored_whole_are_refused_before_training(folder, tmp_path, capsys):
    store = tmp_path / "models"
    (store / "stripes").mkdir(parents=True)
    (store / "stripes" / "recipe.yaml").write_text(
        'material: stripes\nmaps: {image: {files: "{part}.tif"}}\nmethod: {name: direct, settings: {width: 8}}\n'
        "tiles: {size_px: 32, stride_px: 16, whole: true, whole_max_mpx: 0.001}\n"
    )
    assert run(["train", "-m", "stripes", "--models", str(store), "--data", str(folder), "--budget", "2steps"]) == 3
    assert "96x72 px is above tiles.whole_max_mpx 0.001" in capsys.readouterr().err


def test_whole_images_are_for_fully_convolutional_methods(folder, tmp_path, capsys):
    store = tmp_path / "models"
    (store / "stripes").mkdir(parents=True)
    text = (
        'material: stripes\nmaps: {image: {files: "{part}.tif"}}\ntiles: {size_px: 32, stride_px: 16, whole: true}\n'
        "method: {name: cae}\n"
    )
    (store / "stripes" / "recipe.yaml").write_text(text)
    assert run(["train", "-m", "stripes", "--models", str(store), "--data", str(folder), "--budget", "2steps"]) == 2
    assert "tiles.whole" in capsys.readouterr().err
    assert not (store / "stripes" / "cae" / "manifest.json").exists()
    with pytest.raises(Exception, match="no model"):
        read_bundle(store / "stripes" / "cae")


#: Images of one channel and of three in turn, the plain network with both.
GRAPHS = [("cae", 1), ("cae", 3)] + [
    (name, (1, 3)[number % 2]) for number, name in enumerate(method_names()) if name != "cae"
]


@pytest.mark.parametrize(("name", "channels"), GRAPHS)
def test_graph_for_other_runtimes_takes_any_number_of_tiles(name, channels):
    pytest.importorskip("openvino")
    from inspect_cli.engines.graph import openvino_core, to_openvino

    detector = build(name, channels).eval()
    model = to_openvino(detector, (2, channels, TILE, TILE), any_number=True)
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 5):
        tiles = torch.rand(count, channels, TILE, TILE, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            expected = detector.score(tiles).numpy()
        np.testing.assert_allclose(compiled(tiles.numpy())[0], expected, atol=1e-4 * max(expected.max(), 1e-12))


def test_features_are_written_as_onnx_for_any_number_of_tiles(tmp_path):
    pytest.importorskip("openvino")
    from inspect_cli.engines.graph import openvino_core, write_onnx

    write_onnx(build("feature-direct").eval(), tmp_path / "network.onnx")
    model = openvino_core().read_model(tmp_path / "network.onnx")
    assert model.inputs[0].partial_shape[0].is_dynamic
    assert model.outputs[0].partial_shape[0].is_dynamic
