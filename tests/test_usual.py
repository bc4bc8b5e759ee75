"""What good parts score at each place: learnt where parts always lie alike, and what scores are divided by."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import tifffile
import yaml

from inspect_cli.cli import run
from inspect_cli.engines.base import Blocking
from inspect_cli.errors import ModelError
from inspect_cli.images import open_map
from inspect_cli.images.values import Preprocess, ValueRange
from inspect_cli.material.bundle import find_bundle, prune_weights
from inspect_cli.scoring.brightness import laid_alike
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.mapstream import MapStream
from inspect_cli.scoring.usual import UsualMap
from inspect_cli.tiles.tiling import Tiling
from inspect_cli.training import suspects
from inspect_cli.training import usual as learning
from inspect_cli.training.usual import LEAST_ALIKE, LEAST_LEARNT, alike_of, usual_cells
from tests.helpers import TRAINED, material_of

RNG = np.random.default_rng(3)


def test_rows_are_linear_between_the_middles_of_cells():
    usual = UsualMap(np.array([[1.0, 3.0], [2.0, 4.0]], np.float32), cell_px=4, height_px=8, width_px=8)
    rows = usual.rows(0, 8)
    assert rows.shape == (8, 8)
    assert rows[:2, :2] == pytest.approx(1.0)  # up to the middle of the first cell
    assert rows[7, 7] == pytest.approx(4.0)
    assert rows[0] == pytest.approx([1, 1, 1.25, 1.75, 2.25, 2.75, 3, 3])
    assert rows[:, 0] == pytest.approx([1, 1, 1.125, 1.375, 1.625, 1.875, 2, 2])
    assert np.array_equal(usual.rows(3, 6), rows[3:6])


def test_a_window_holds_what_the_image_holds_there():
    cells = RNG.uniform(0.5, 3, (5, 7)).astype(np.float32)
    usual = UsualMap(cells, cell_px=10, height_px=50, width_px=64)
    window = usual.window(13, 21, 20, 30)
    assert np.array_equal(window.rows(0, 20), usual.rows(13, 33)[:, 21:51])
    assert np.array_equal(window.window(2, 3, 5, 6).rows(1, 5), usual.rows(16, 20)[:, 24:30])


def scores_of(parts: int, pattern: float) -> np.ndarray:
    """Scores of parts (n, 20, 30) with a common pattern, so many times as strong as what differs."""
    common = pattern * RNG.normal(size=(20, 30))
    return np.exp(0.3 * (common + RNG.normal(size=(parts, 20, 30)))).astype(np.float32)


def test_parts_with_a_common_pattern_lie_alike_and_others_do_not():
    assert alike_of(scores_of(12, pattern=2.0)) > 0.6
    assert abs(alike_of(scores_of(12, pattern=0.0))) < 0.1
    assert alike_of(np.ones((12, 20, 30), np.float32)) == 0.0


def test_one_border_that_all_share_does_not_make_parts_alike():
    scores = scores_of(12, pattern=0.0)
    scores[:, :, :2] *= 50
    assert alike_of(scores) < LEAST_ALIKE


def test_cells_outside_the_roi_say_nothing():
    scores = scores_of(12, pattern=2.0)
    scores[:, :, :10] = np.nan
    assert alike_of(scores) > 0.6
    cells = usual_cells(scores)
    assert np.isfinite(cells).all()
    assert (cells[:, :10] == 1).all()
    assert cells[:, 10:] == pytest.approx(usual_cells(scores[:, :, 10:]), rel=1e-5)
    assert alike_of(np.full((12, 20, 30), np.nan, np.float32)) == 0.0


def test_usual_is_about_the_median_place_and_bounded():
    scores = np.ones((8, 20, 20), np.float32)
    scores[:, 3:6, 3:6] = 2.5
    cells = usual_cells(scores)
    assert cells[15, 15] == pytest.approx(1.0)
    assert 2 < cells[4, 4] < 2.5
    scores[:, 3:6, 3:6] = 50
    assert usual_cells(scores)[4, 4] == 3
    scores[:, 3:6, 3:6] = 0.001
    assert usual_cells(scores)[4, 4] == 0.5


class Plain(Blocking):
    """Scores every pixel by its value."""

    name, device_name, precision, size_step_px, batch = "plain", "cpu", "f32", 1, 4

    def score(self, tiles):
        return np.ascontiguousarray(tiles[:, 0])

    def rows_on_device(self, *_):
        return None


def test_smoothed_rows_are_divided_block_by_block(tmp_path, monkeypatch):
    image = RNG.integers(20, 200, (90, 70), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    usual = UsualMap(RNG.uniform(0.5, 4, (12, 9)).astype(np.float32), 8, 90, 70)
    monkeypatch.setattr("inspect_cli.scoring.mapstream._BLOCK_PX", 70 * 16)

    def scored(measure):
        with open_map(tmp_path / "a.png") as reader:
            pixels = Preprocess(ValueRange(0, 255), (0.5,), "uint8")
            stream = MapStream(reader, pixels, Plain(), Tiling(32, 16, smooth_sigma_px=1.5), None, Clock(), measure)
            return np.concatenate(list(stream.rows())), stream.patches()

    plain, patches = scored(None)
    divided, same = scored(usual)
    assert divided == pytest.approx(plain / usual.rows(0, 90), rel=1e-3)
    assert np.array_equal(patches.residual_mean, same.residual_mean)


def write_parts(folder):
    """Write twelve parts with the same rough square in noise that differs, and a small network's recipe."""
    square = np.random.default_rng(1).normal(0, 60, (40, 40))
    for number in range(12):
        rng = np.random.default_rng(number)
        grey = 120 + rng.normal(0, 3, (96, 128))
        grey[30:70, 20:60] += square * rng.uniform(0.7, 1.3)
        (folder / "good").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "good" / f"p{number:02}.png"), grey.clip(0, 255).astype(np.uint8))
    material_of(folder / "models", "stuff", method="cae", architecture="cifar10", hidden=16, latent=4)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_look_for_odd_parts():
    """It takes half of a short training, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suspects, "LEAST_PARTS", 99)
        yield


@pytest.fixture
def alike(tmp_path):
    """Parts that lie alike, not trained on yet."""
    return write_parts(tmp_path)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    folder = write_parts(tmp_path_factory.mktemp("alike"))
    assert train(folder) in TRAINED
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """Parts that lie alike, with a model of them."""
    return shutil.copytree(trained_once, tmp_path / "copy")


def train(folder, *more: str) -> int:
    common = ["train", "-m", "stuff", "--models", str(folder / "models"), "--data", str(folder / "good")]
    return run([*common, "--budget", "20steps", *more])


def score(folder, data: str = "good", out: str = "run") -> int:
    common = ["score", str(folder / data), "-m", "stuff", "--models", str(folder / "models")]
    return run([*common, "--outputs", "heatmap", "--out", str(folder / out), "--json"])


def manifest_of(folder) -> dict:
    return json.loads((folder / "models/stuff/cae/manifest.json").read_text())


def test_training_learns_it_and_says_so_and_scores_are_measured_by_it(alike, capsys):
    assert train(alike) in TRAINED
    assert "scores are normalised by position" in capsys.readouterr().err
    entry = manifest_of(alike)["maps"]["image"]["usual"]
    assert (entry["width_px"], entry["height_px"], entry["parts"]) == (128, 96, 10)
    assert entry["alike"] > 0.7
    folder = alike / "models/stuff/cae"
    assert "## Parts that lie alike" in (folder / "model_card.md").read_text()
    picture = cv2.imread(str(folder / "usual_image.png"), cv2.IMREAD_GRAYSCALE)
    cell = picture.shape[1] // 16
    assert picture.shape == (12 * cell, 16 * cell)
    assert picture[5 * cell : 8 * cell, 4 * cell : 7 * cell].mean() > 3 * picture[:, 11 * cell :].mean()
    bundle = find_bundle(alike / "models/stuff")
    arrays = bundle.usual("image")
    assert arrays is not None
    cells = arrays["cells"]
    assert cells[11, 10] > 2  # inside the square
    assert cells[:, 20:].max() < 1.5
    prune_weights(bundle.folder, bundle.manifest)
    assert bundle.usual("image") is not None
    assert score(alike) in TRAINED


def test_without_it_the_same_network_scores_higher_there(trained, capsys):
    with_it = manifest_of(trained)
    recipe = trained / "models/stuff/recipe.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["training"]["usual_map"] = False
    recipe.write_text(yaml.safe_dump(content))
    assert train(trained) in TRAINED
    assert "usual" not in manifest_of(trained)["maps"]["image"]
    assert not list((trained / "models/stuff/cae").glob("*usual*")), "neither cells nor picture of the model before"
    without = manifest_of(trained)
    assert without["maps"]["image"]["sha256"] == with_it["maps"]["image"]["sha256"]
    assert (
        without["calibration"]["limits"]["image"]["pixel"] > 1.5 * with_it["calibration"]["limits"]["image"]["pixel"]
    )
    capsys.readouterr()


def test_parts_that_differ_are_measured_alike_everywhere(alike, capsys):
    for number, path in enumerate(sorted((alike / "good").iterdir())):
        rng = np.random.default_rng(number)
        cv2.imwrite(str(path), np.clip(120 + rng.normal(0, 20, (96, 128)), 0, 255).astype(np.uint8))
    assert train(alike) in TRAINED
    assert "they do not lie in the same position" in capsys.readouterr().err
    assert "usual" not in manifest_of(alike)["maps"]["image"]
    assert not list((alike / "models/stuff/cae").glob("*usual*"))


def test_parts_at_any_angle_are_turned_back(alike, capsys):
    """As castings on a belt: a part's light and dark places, and those that score high, turn with it."""
    rows, columns = np.mgrid[:96, :96] - 47.5
    inside = np.hypot(rows, columns) < 44
    rough = np.random.default_rng(1).normal(0, 60, (30, 30))

    def part(number, stain=0.0):
        rng = np.random.default_rng(number)
        grey = np.where(inside, 120.0, 20.0)
        grey[30:66, 12:20] = 180
        grey[20:50, 48:78] += rough * rng.uniform(0.8, 1.2)
        grey[60:76, 40:56] -= stain
        turn = cv2.getRotationMatrix2D((47.5 + rng.uniform(-1, 1), 47.5), 73 * number, 1)
        return (cv2.warpAffine(grey, turn, (96, 96), borderValue=20) + rng.normal(0, 2, grey.shape)).clip(
            0, 255
        ), turn

    for number, path in enumerate(sorted((alike / "good").iterdir())):
        cv2.imwrite(str(path), part(number)[0].astype(np.uint8))
    assert train(alike) in TRAINED
    assert "they lie at any angle" in capsys.readouterr().err
    entry = manifest_of(alike)["maps"]["image"]["usual"]
    assert entry["turned"] is True
    assert "at any angle" in (alike / "models/stuff/cae/model_card.md").read_text()
    (alike / "stained").mkdir()
    stained, turn = part(20, stain=25)
    cv2.imwrite(str(alike / "stained/q.png"), stained.astype(np.uint8))
    assert score(alike, "stained") in TRAINED
    heatmap = tifffile.imread(alike / "run/parts/q/heatmap.tif")
    y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
    assert np.hypot(*(turn @ (48, 68, 1) - (x, y))) < 10


def test_a_part_of_another_size_is_not_passed(trained, capsys):
    other = trained / "other"
    other.mkdir()
    image = cv2.imread(str(trained / "good/p00.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(other / "q.png"), image[:-1])
    capsys.readouterr()
    score(trained, "other", "second")
    record = json.loads((trained / "second/parts/q/part.json").read_text())
    assert record["verdict"] in ("undecided", "fail")
    assert any("is of 128x95 px, the training images of 128x96 px" in reason for reason in record["reasons"])


def test_a_soft_stain_scores_high_where_the_network_hardly_sees_it(trained, capsys):
    weight = manifest_of(trained)["maps"]["image"]["usual"]["brightness_weight"]
    assert weight > 0
    stained = trained / "stained"
    stained.mkdir()
    image = cv2.imread(str(trained / "good/p00.png"), cv2.IMREAD_UNCHANGED).astype(float)
    shade = np.exp(-(((np.arange(128) - 100) / 12) ** 2 + ((np.arange(96)[:, None] - 48) / 12) ** 2))
    cv2.imwrite(str(stained / "q.png"), (image - 12 * shade).clip(0, 255).astype(np.uint8))
    capsys.readouterr()
    (trained / "one").mkdir()
    shutil.copy2(trained / "good/p00.png", trained / "one")
    assert score(trained, "one") in TRAINED
    assert score(trained, "stained", "second") in TRAINED
    good = tifffile.imread(trained / "run/parts/p00/heatmap.tif")
    bad = tifffile.imread(trained / "second/parts/q/heatmap.tif")
    assert bad[44:52, 96:104].min() > 3 * good[44:52, 96:104].max()
    assert bad[:, :60].max() < 1.5 * good[:, :60].max()
    pytest.importorskip("openvino")
    export = ["export", "-m", "stuff", "--models", str(trained / "models"), "--out", str(trained / "export")]
    assert run([*export, "--format", "openvino"]) == 0
    told = json.loads((trained / "export/export.json").read_text())["maps"]["image"]["usual"]
    assert np.shape(told["mean"]) == np.shape(told["precision"]) == (24, 32, 1)
    assert told["brightness_weight"] == weight


def test_a_stained_part_among_those_to_learn_from_is_named_with_its_place(alike, capsys):
    path = alike / "good/p05.png"
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(float)
    shade = np.exp(-(((np.arange(128) - 100) / 12) ** 2 + ((np.arange(96)[:, None] - 48) / 12) ** 2))
    cv2.imwrite(str(path), (image - 30 * shade).clip(0, 255).astype(np.uint8))
    assert train(alike) in TRAINED
    told = [line for line in capsys.readouterr().err.splitlines() if "is not as bright as the other parts" in line]
    (place,) = re.findall(r"map image: p05 is not as bright as the other parts at x (\d+), y (\d+)", told[0])
    assert np.hypot(int(place[0]) - 100, int(place[1]) - 48) < 12
    assert len(told) == 1
    assert "p05 is not as bright" in (alike / "models/stuff/cae/model_card.md").read_text()


def test_a_model_of_before_without_brightness_scores_as_it_did(trained, capsys):
    path = trained / "models/stuff/cae/manifest.json"
    content = json.loads(path.read_text())
    del content["maps"]["image"]["usual"]["brightness_weight"]
    path.write_text(json.dumps(content))
    bundle = find_bundle(trained / "models/stuff")
    arrays = bundle.usual("image")
    assert arrays is not None
    assert list(arrays) == ["cells"]
    assert "brightness_weight" not in bundle.manifest.model_dump()["maps"]["image"]["usual"]
    assert score(trained) in TRAINED


def test_changed_cells_are_refused(trained, capsys):
    (file,) = (trained / "models/stuff/cae").glob("image-usual-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert score(trained) == ModelError.exit_code
    assert "is not the file that was trained" in capsys.readouterr().err


@pytest.mark.parametrize("left", [LEAST_LEARNT, 8])
def test_of_few_parts_or_of_several_sizes_nothing_is_learnt(alike, capsys, left):
    files = sorted((alike / "good").iterdir())
    for path in files[left:]:
        path.unlink()
    if left == 8:
        image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(files[0]), image[:-7])
    assert train(alike) in TRAINED
    assert "in the same position" not in capsys.readouterr().err


def test_in_little_time_three_parts_are_scored_and_of_all_the_brightness_is_taken(alike, monkeypatch, capsys):
    monkeypatch.setattr(learning, "USUAL_SHARE", 1e-6)
    monkeypatch.setattr(learning, "USUAL_MOST_SHARE", 1e6)
    taken = []
    monkeypatch.setattr(
        learning, "laid_alike", lambda cells, *turned: taken.append(len(cells)) or laid_alike(cells, *turned)
    )
    assert train(alike, "--budget", "2s") in TRAINED
    assert "they lie in the same position" in capsys.readouterr().err
    assert manifest_of(alike)["maps"]["image"]["usual"]["parts"] == 3
    assert taken == [10, 10], "as they lie, and at any angle"


def test_images_may_differ_in_size_by_a_little(alike, capsys):
    """Cut out by hand or by another program: the first pixels are of the same place, the last ones are not."""
    for number, path in enumerate(sorted((alike / "good").iterdir())):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), image[: 96 - number % 4, : 128 - number % 3])
    assert train(alike) in TRAINED
    assert "they lie in the same position" in capsys.readouterr().err
    entry = manifest_of(alike)["maps"]["image"]["usual"]
    assert (entry["height_px"], entry["width_px"], entry["slack_px"]) == (96, 128, 3)
    assert score(alike) in TRAINED
    records = [json.loads(path.read_text()) for path in (alike / "run/parts").glob("*/part.json")]
    assert len(records) == 12
    assert not any("training images of" in reason for record in records for reason in record["reasons"])
    heights = {tifffile.imread(path).shape for path in (alike / "run/parts").glob("*/heatmap.tif")}
    assert (96, 128) in heights
    assert (94, 126) in heights
    other = alike / "other"
    other.mkdir()
    image = cv2.imread(str(alike / "good/p00.png"), cv2.IMREAD_UNCHANGED)
    for name, length in {"short": 90, "shorter": 89}.items():
        cv2.imwrite(str(other / f"{name}.png"), image[:length])
    score(alike, "other", "second")
    told = {
        name: json.loads((alike / f"second/parts/{name}/part.json").read_text())["reasons"]
        for name in ("short", "shorter")
    }
    assert not any("training images of" in reason for reason in told["short"])
    assert any("of 128x96 px and up to 3 px less" in reason for reason in told["shorter"])


def test_a_budget_in_steps_scores_as_many_parts_as_are_needed_however_large(alike, monkeypatch, capsys):
    monkeypatch.setattr(learning, "_MOST_PX", 1)
    assert train(alike) in TRAINED
    assert "in the same position" in capsys.readouterr().err


def test_a_budget_in_time_leaves_no_time_for_large_images(alike, monkeypatch, capsys):
    monkeypatch.setattr(learning, "USUAL_SHARE", 1e-6)
    monkeypatch.setattr(learning, "USUAL_MOST_SHARE", 1e-6)
    assert train(alike, "--budget", "2s") in TRAINED
    assert "in the same position" not in capsys.readouterr().err
