"""The nearest neighbour in a memory of features: distances by hand, its spread, and that nothing is trained."""

import json

import cv2
import numpy as np
import pytest
import torch

from inspect_cli.cli import run
from inspect_cli.engines import Hardware, make_engine
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import Batch
from inspect_cli.methods.memory import farthest_points
from tests.helpers import material_of
from tests.test_feature_ae import SIDE, texture


@pytest.fixture(scope="module")
def detector():
    found = build_detector("patchcore", 1, SIDE, {"memory": 200, "patches": 32}).eval()
    found.begin(texture(1))
    found.fit(texture(32, seed=1))
    return found


@torch.inference_mode()
def test_scores_are_distances_to_the_nearest_of_the_memory(detector):
    tiles = texture(2, seed=3)
    vectors = detector._vectors(tiles).movedim(1, 3).numpy().astype(np.float64)
    memory = detector.memory.numpy().astype(np.float64)
    nearest = np.sqrt(((vectors[..., None, :] - memory) ** 2).sum(-1).min(-1))
    scores = detector.score(tiles).numpy()
    step = SIDE // nearest.shape[1]
    shrunk = scores.reshape(2, nearest.shape[1], step, nearest.shape[2], step).mean(axis=(2, 4))
    np.testing.assert_allclose(shrunk[:, 1:-1, 1:-1], nearest[:, 1:-1, 1:-1], rtol=0.3)
    assert np.corrcoef(shrunk.ravel(), nearest.ravel())[0, 1] > 0.95


@torch.inference_mode()
def test_a_blot_is_far_from_all_good_features(detector):
    tiles = texture(4, seed=5)
    good = detector.score(tiles).mean()
    tiles[:, :, 20:36, 24:40] = 0.9
    assert detector.score(tiles)[:, 24:32, 28:36].mean() > 2 * good
    assert float(detector.loss(Batch(texture(4, seed=5)))) == pytest.approx(float(good), rel=1e-5)


def test_each_point_is_the_farthest_from_those_before():
    rows = torch.tensor([[0.0], [1.0], [10.0], [4.0], [10.1]])
    order = torch.Generator().manual_seed(0)
    chosen = farthest_points(rows, 3, order).tolist()
    for count in (1, 2):
        before = rows[chosen[:count]].ravel()
        distances = (rows - before).abs().amin(dim=1)
        assert distances[chosen[count]] == distances.max()
    assert sorted(farthest_points(rows, 99, order).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("greedy", [False, True])
def test_few_patches_fill_the_memory_again(greedy):
    detector = build_detector("patchcore", 1, SIDE, {"memory": 300, "patches": 1, "greedy": greedy})
    detector.begin(texture(1))
    detector.fit(texture(1))
    assert torch.isfinite(detector.score(texture(1))).all()
    assert float(detector.score(texture(1)).max()) == 0  # not what is left of cancelled squares


def test_material_that_is_known_by_heart_is_scored_alike_by_all_engines():
    pytest.importorskip("openvino")
    tiles = texture(4, seed=1)
    detector = build_detector("patchcore", 1, SIDE, {"memory": 300, "patches": 4}).eval()
    detector.begin(tiles)
    detector.fit(tiles)
    engine = make_engine(detector, Hardware(engine="openvino"))
    engine.score(tiles.numpy())
    assert (engine.name, engine.difference) == ("openvino", pytest.approx(0, abs=1e-4))


def test_training_takes_no_steps_and_is_the_same_again(tmp_path, capsys):
    store = tmp_path / "models"
    material_of(store, "waves", tile_px=64, method="patchcore", memory=50, patches=8)
    (tmp_path / "good").mkdir()
    for number in range(3):
        pixels = (texture(1, seed=number)[0, 0].numpy() * 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "good" / f"p{number}.png"), np.tile(pixels, (2, 2)))
    hashes = []
    for _ in range(2):
        common = ["--material", "waves", "--models", str(store), "--data", str(tmp_path / "good"), "--json"]
        assert run(["train", *common, "--budget", "5s"]) == 0
        manifest = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        trained = manifest["maps"]["image"]
        assert (trained["steps"], trained["explained_variance"]) == (0, None)
        assert 0 < trained["validation_loss"] < 1e3
        hashes.append(trained["sha256"])
    assert hashes[0] == hashes[1]
