"""What a training learns from: extra patches, labelled defects, turns, targets of the sampler."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from helpers import TRAINED, material_of

from inspect_cli.cli import run
from inspect_cli.errors import NoInputError
from inspect_cli.images import discover_parts
from inspect_cli.recipe.schema import MapSpec
from inspect_cli.tiles import PatchSampler, SamplerImage
from inspect_cli.tiles.turn import turned
from inspect_cli.training.sources import marked_beside


def _write(path: Path, value: int, size: tuple[int, int] = (64, 80), dtype=np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 9, size)
    tifffile.imwrite(path, (value + noise).astype(dtype))
    return path


def test_patches_with_a_target_show_enough_of_it_and_keep_the_roi(tmp_path):
    path = tmp_path / "a.tif"
    y, x = np.mgrid[:90, :120]
    tifffile.imwrite(path, (y * 120 + x).astype(np.uint16))
    target, roi = np.zeros((90, 120), bool), np.ones((90, 120), bool)
    target[40:44, 70:74] = True
    roi[:, 90:] = False
    sampler = PatchSampler([SamplerImage(path, roi, target)], 16, 0, min_share=9 / 256)
    patches, masks = sampler.batch(0, 40)
    corners = patches[:, 0, 0].astype(int)
    rows, columns = corners // 120, corners % 120
    for row, column, mask in zip(rows, columns, masks, strict=True):
        assert target[row : row + 16, column : column + 16].sum() >= 9
        np.testing.assert_array_equal(mask, roi[row : row + 16, column : column + 16])
    assert len(set(rows)) > 5


def test_a_target_outside_the_roi_is_none(tmp_path):
    path = _write(tmp_path / "a.tif", 10)
    target, roi = np.zeros((64, 80), bool), np.zeros((64, 80), bool)
    target[5:9, 5:9] = True
    roi[40:, 40:] = True
    with pytest.raises(NoInputError, match="of a patch lies inside"):
        PatchSampler([SamplerImage(path, roi, target)], 16, 0, min_share=0.01)


def test_parts_beside_a_mask_with_defects_are_not_learnt_as_good(tmp_path, capsys):
    data = tmp_path / "kos01"
    for number in range(4):
        _write(data / f"Part{number}.tif", 100 + number)
        label = np.zeros((64, 80), np.uint8)
        label[5:9, 5:9] = 255 * (number == 2)
        tifffile.imwrite(data / f"Part{number}_label.tif", label)
    tifffile.imwrite(data / "Part3_mask.tif", np.ones((64, 80), np.uint8))  # may be an ROI
    material_of(tmp_path / "models", "kos")
    command = ["train", "--material", "kos", "--models", str(tmp_path / "models"), "--data", str(data)]
    assert run([*command, "--budget", "1steps", "--device", "cpu"]) in TRAINED
    told = capsys.readouterr().err
    assert f"left out: Part2: its mask {data / 'Part2_label.tif'} marks defects" in told
    assert "3 part(s)" in told or "2 part(s), validating on 1" in told
    for path in data.iterdir():
        if not path.name.startswith("Part2"):
            path.unlink()
    assert run([*command, "--budget", "1steps"]) == NoInputError.exit_code
    assert "no good part: Part2" in capsys.readouterr().err


def test_a_mask_named_after_a_part_or_after_one_of_its_maps_marks_the_part(tmp_path):
    label = np.zeros((64, 80), np.uint8)
    label[5:9, 5:9] = 255
    for number in range(4):
        for name in ("albedo", "normal"):
            _write(tmp_path / f"k/P{number}_{name}.tif", 100)
    tifffile.imwrite(tmp_path / "k/P1_label.tif", label)
    tifffile.imwrite(tmp_path / "k/P2_normal_gt.tif", label)
    tifffile.imwrite(tmp_path / "k/P3_label.tif", 0 * label)
    parts = discover_parts(tmp_path, {name: MapSpec(files=f"{{part}}_{name}.tif") for name in ("albedo", "normal")})
    assert [part.id for part in parts] == [f"k/P{number}" for number in range(4)]
    assert sorted(marked_beside(parts)) == ["k/P1", "k/P2"]


@pytest.mark.parametrize(
    ("image", "mask", "marked"),
    [
        ("Train/{n}.png", "Train/Label/{n}_label.png", True),  # DAGM
        ("images/{n}.png", "masks/{n}.png", True),
        ("Images/Anomaly/{n}.png", "Masks/Anomaly/{n}.png", True),  # VisA
        ("Images/Normal/{n}.png", "Masks/Anomaly/{n}.png", False),
        ("test/dent/{n}.png", "ground_truth/dent/{n}_mask.png", True),  # MVTec
        ("test/good/{n}.png", "ground_truth/dent/{n}_mask.png", False),
        ("all/{n}.jpg", "all/{n}.png", True),  # magnetic tiles
        ("{n}.png", "masks/{n}_roi.png", False),
        ("test/dent/{n}_albedo.png", "ground_truth/dent/{n}_mask.png", True),  # named like the generator's
        ("{n}_albedo.png", "masks/{n}.png", True),
    ],
)
def test_parts_with_marks_in_a_mask_elsewhere_are_no_good_ones(tmp_path, image, mask, marked):
    label = np.zeros((64, 80), np.uint8)
    label[5:9, 5:9] = 255
    for n in range(6):
        for pattern, pixels in ((image, label // 2 + n), (mask, label * (n == 2))):
            path = tmp_path / pattern.format(n=n)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    files = "{part}" + image.rpartition("{n}")[2]
    parts = discover_parts(tmp_path, {"image": MapSpec(files=files)})
    assert len(parts) == 6
    expected = {next(part.id for part in parts if part.id.endswith("2"))} if marked else set()
    assert marked_beside(parts).keys() == expected


def test_a_mask_that_may_be_of_several_parts_tells_nothing(tmp_path):
    for folder, count in (("normal", 9), ("other", 5), ("masks", 5)):
        (tmp_path / folder).mkdir()
        for n in range(count):
            cv2.imwrite(str(tmp_path / folder / f"{n}.png"), np.full((40, 40), 200, np.uint8))
    assert marked_beside(discover_parts(tmp_path, {"image": MapSpec(files="{part}.png")})) == {}


def test_a_map_of_the_part_itself_is_no_mask(tmp_path):
    for n in range(4):
        cv2.imwrite(str(tmp_path / f"{n}.jpg"), np.full((40, 40), 90 + n, np.uint8))
        cv2.imwrite(str(tmp_path / f"{n}.png"), 255 * np.eye(40, dtype=np.uint8))
    maps = {"photograph": MapSpec(files="{part}.jpg"), "edges": MapSpec(files="{part}.png")}
    assert marked_beside(discover_parts(tmp_path, maps)) == {}


def test_masks_in_a_folder_that_mark_most_parts_may_be_of_the_roi(tmp_path):
    for n in range(4):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{n}.png"), np.full((40, 40), 200, np.uint8))
    assert marked_beside(discover_parts(tmp_path, {"image": MapSpec(files="{part}.png")})) == {}


@pytest.mark.parametrize(("how", "ways"), [("none", 1), ("flip", 4), ("turn", 8)])
def test_turns_move_patch_and_mask_alike_and_give_all_ways(how, ways):
    patch = np.arange(9).reshape(3, 3)
    patches = np.stack([patch] * 200)
    moved, masks = turned(patches, patches > 4, np.random.default_rng(0), how)
    np.testing.assert_array_equal(masks, moved > 4)
    assert len({one.tobytes() for one in moved}) == ways
    colours, none = turned(np.stack([patches] * 2, axis=-1), None, np.random.default_rng(0), how)
    np.testing.assert_array_equal(colours[..., 0], moved)
    assert none is None


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a", "b", "c"):
        _write(tmp_path / "good" / f"{name}.tif", 100)
    for name in ("d", "e"):
        _write(tmp_path / "bad" / f"{name}.tif", 180)
        mask = np.zeros((64, 80), np.uint8)
        mask[20:40, 20:50] = 1
        tifffile.imwrite(_write(tmp_path / "masks" / f"{name}_mask.tif", 0), mask)
    return tmp_path


def train(folder: Path, *more: str, method: str = "cnn") -> int:
    material_of(folder / "models", "stuff", method=method)
    common = ["train", "-m", "stuff", "--models", str(folder / "models"), "--data", str(folder / "good")]
    return run([*common, "--method", method, "--budget", "4steps", *more])


def _manifest(folder: Path, method: str) -> dict:
    return json.loads((folder / "models" / "stuff" / method / "manifest.json").read_text())


def test_labelled_defects_are_learnt_from_with_and_without_masks(folder):
    labels = ["--defects", str(folder / "bad")]
    assert train(folder, *labels, "--truth", str(folder / "masks")) in TRAINED
    uses = sorted(entry["use"] for entry in _manifest(folder, "cnn")["training_set"])
    assert uses == ["defect", "defect", "train", "train", "validation"]
    assert train(folder, *labels) in TRAINED


def test_defects_without_a_mask_are_told_and_not_counted(folder, capsys):
    _write(folder / "bad" / "f.tif", 180)
    assert train(folder, "--defects", str(folder / "bad"), "--truth", str(folder / "masks")) in TRAINED
    told = capsys.readouterr().err
    assert "1 of --defects without a pixel that --truth marks: f" in told
    assert "with 2 defective one(s)" in told
    assert "f" not in {entry["part"] for entry in _manifest(folder, "cnn")["training_set"]}


@pytest.mark.parametrize(
    ("more", "method", "code", "words"),
    [
        ([], "cnn", 1, "name their folder with --defects"),
        (["--defects", "bad"], "cae", 1, "learns from good parts alone"),
        (["--truth", "masks"], "cnn", 1, "name that folder too"),
        (["--defects", "nowhere"], "cnn", 4, "no such folder"),
        (["--defects", "bad", "--truth", "good"], "cnn", 4, "check that the names fit"),
        (["--preview-corruptions"], "cae", 1, "trained on patches as they are"),
        (["--extra", "nowhere"], "cae", 4, "no such folder"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, capsys, more, method, code, words):
    arguments = [text if text.startswith("--") else str(folder / text) for text in more]
    assert train(folder, *arguments, method=method) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert words in errors[0]


def test_extra_patches_are_trained_on_and_not_validated_on(folder):
    for number in range(3):
        _write(folder / "extra" / f"gan_{number}.tif", 100, (32, 32))
    assert train(folder, "--extra", str(folder / "extra"), method="cae") in TRAINED
    entries = _manifest(folder, "cae")["training_set"]
    assert [e["part"] for e in entries if e["use"] == "extra"] == ["gan_0", "gan_1", "gan_2"]
    assert sum(e["use"] == "validation" for e in entries) == 1


def test_extra_patches_of_another_type_are_left_out_by_name(folder, capsys):
    _write(folder / "extra" / "x.tif", 100, (32, 32), np.uint16)
    assert train(folder, "--extra", str(folder / "extra"), method="cae") == 4
    assert "x.tif" in capsys.readouterr().err


def test_tiles_are_no_larger_than_extra_images(folder, capsys):
    _write(folder / "extra" / "x.tif", 100, (24, 24))
    assert train(folder, "--extra", str(folder / "extra"), method="cae") == 1
    assert "images of 24 px are smaller than the tiles of 32 px" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["--preview-corruptions", "--preview-roi"])
def test_preview_as_json_names_its_pictures(folder, capsys, what):
    assert train(folder, what, "--json", method="ssae") == 0
    (picture,) = json.loads(capsys.readouterr().out)["pictures"]
    assert Path(picture).is_file()


def test_preview_of_corruptions_trains_nothing(folder, capsys):
    assert train(folder, "--preview-corruptions", method="ssae") == 0
    picture = Path(capsys.readouterr().out.strip())
    assert picture.name == "corruptions_image.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not (picture.parent / "manifest.json").exists()
