"""A folder becomes parts by the recipe's patterns; a folder without a recipe gets its maps from names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from inspect_cli.errors import InputError, NoInputError, UsageError
from inspect_cli.images.infer import (
    beside_good,
    check_told_apart,
    infer_maps,
    named_defective,
    training_root,
    unmatched,
)
from inspect_cli.images.parts import Part, discover_parts, unused_images
from inspect_cli.recipe.schema import MapSpec

QUICK = settings(derandomize=True, deadline=None, max_examples=50)
ALBEDO = {"albedo": MapSpec(files="{part}_albedo.tif")}
BOTH = ALBEDO | {"normal": MapSpec(files="{part}_normal.tif", channels=3)}
ANY = {"image": MapSpec(files="{part}.*")}


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ids(folder: Path, maps: dict[str, MapSpec]) -> list[str]:
    return [part.id for part in discover_parts(folder, maps)]


def gray(path: Path, *shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(shape or (8, 9), np.uint8)
    if path.suffix in (".png", ".jpg", ".jpeg"):
        cv2.imwrite(str(path), pixels)
    else:
        kind = "rgb" if len(shape) == 3 and shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, pixels, photometric=kind, planarconfig="contig" if len(shape) == 3 else None)


# ---------------------------------------------------------------- parts


def test_parts_of_all_folders_are_found_and_sorted(tmp_path: Path) -> None:
    fill(tmp_path, "b/P2_albedo.tif", "b/P1_albedo.tif", "P9_albedo.tif", "a/deep/er/P1_albedo.tif", "notes.txt")
    assert ids(tmp_path, ALBEDO) == ["P9", "a/deep/er/P1", "b/P1", "b/P2"]
    parts = {part.id: part for part in discover_parts(tmp_path, ALBEDO)}
    assert parts["b/P2"].files == {"albedo": tmp_path / "b/P2_albedo.tif"}
    assert parts["b/P2"].folder == tmp_path


def test_runs_hidden_files_and_masks_are_no_parts(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "P1.png",
        "inspection/riblet/parts/P1/image.png",
        "inspection/riblet/.lock",
        "sub/inspection/riblet/parts/P1/mask.png",
        "sub/inspection/riblet/.lock",
        "sub/inspection/samples.png",
        ".thumbs/P1.png",
        "._P1.png",
        "P1_mask.png",
        "P1_MASK.PNG",
        "P1_roi.tif",
        "sub/P2_mask.jpg",
        "masked_P3.png",
        "P4_masks.png",
        "P5.bmp",
        "P6.webp",
        "P5_label.bmp",
        "P5_GT.png",
        "bottle_label.png",
    )
    assert ids(tmp_path, ANY) == ["P1", "P4_masks", "P5", "bottle_label", "masked_P3"]
    assert unused_images(tmp_path).unread == ["P6.webp"]


def test_batch_folder_may_itself_be_called_like_a_run(tmp_path: Path) -> None:
    assert ids(fill(tmp_path / "inspection", "P1.png"), ANY) == ["P1"]


def test_a_folder_of_parts_called_like_that_of_runs_is_read_without_the_runs(tmp_path: Path) -> None:
    fill(tmp_path, "inspection/P1.png", "inspection/left/P2.png", "inspection/foil/parts/P1/image.png")
    fill(tmp_path, "inspection/foil/.lock", "inspection/monday/parts/P3.png")
    assert ids(tmp_path, ANY) == ["inspection/P1", "inspection/left/P2", "inspection/monday/parts/P3"]


def test_results_written_inside_the_batch_by_another_name_are_no_parts(tmp_path: Path) -> None:
    run = ("run.json", ".lock", "parts.csv", "parts/P1/part.json", "parts/P1/heatmap.png", "parts/P1/maps/image.png")
    fill(tmp_path, "P1.png", *(f"results/{name}" for name in run))
    (tmp_path / "results/run.json").write_text('{\n  "tool": "inspect 0.1.0"\n}')
    fill(tmp_path, "cut/index.parquet", "cut/P1/image/y0_x0.tif")
    assert ids(tmp_path, ANY) == ["P1"]


def test_pictures_of_a_model_store_are_no_parts(tmp_path: Path) -> None:
    model = ("recipe.yaml", "suspects.png", "auto/.lock", "auto/manifest.json", "auto/loss_image.png")
    fill(tmp_path, "P1.png", *(f"models/foil/{name}" for name in model))
    fill(tmp_path, "models/new/recipe.yaml", "models/new/roi_preview.png", "rig/recipe.yaml", "rig/P2.png")
    assert ids(tmp_path, ANY) == ["P1", "rig/P2"]


def test_another_programs_run_json_hides_no_part(tmp_path: Path) -> None:
    fill(tmp_path, "rig/P1.png")
    (tmp_path / "rig/run.json").write_text('{"camera": 3}')
    assert ids(tmp_path, ANY) == ["rig/P1"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "P1.png")
    batch = fill(tmp_path / "batch", "P2.png")
    (batch / "linked").symlink_to(tmp_path / "elsewhere")
    (batch / "circle").symlink_to(batch)
    assert ids(batch, ANY) == ["P2", "linked/P1"]


@pytest.mark.parametrize("ending", ["tif", "tiff", "TIF", "TIFF", "Tif"])
@pytest.mark.parametrize("pattern", ["tif", "TIFF"])
def test_tiff_endings_are_one(tmp_path: Path, pattern: str, ending: str) -> None:
    fill(tmp_path, f"P1_albedo.{ending}", "P2_albedo.png", "P3_albedo.tif.bak", "P4_albedo.tiff2")
    assert ids(tmp_path, {"albedo": MapSpec(files=f"{{part}}_albedo.{pattern}")}) == ["P1"]


def test_any_ending_takes_every_format(tmp_path: Path) -> None:
    fill(tmp_path, "a.tif", "b.TIFF", "c.png", "d.JPG", "e.jpeg", "f.gif", "g.txt", "h")
    assert ids(tmp_path, ANY) == ["a", "b", "c", "d", "e"]
    assert ids(tmp_path, {"image": MapSpec(files="{part}.jpg")}) == ["d", "e"]


def test_pattern_may_hold_a_folder_or_name_the_part_by_one(tmp_path: Path) -> None:
    fill(tmp_path, "images/P1.tif", "monday/images/P1.tif", "myimages/P2.tif", "P3.tif", "images/deeper/P4.tif")
    assert ids(tmp_path, {"image": MapSpec(files="images/{part}.*")}) == ["P1", "monday/P1"]
    fill(tmp_path / "x", "P1/albedo.tif", "week/P2/albedo.tif", "albedo.tif")
    assert ids(tmp_path / "x", {"albedo": MapSpec(files="{part}/albedo.tif")}) == ["P1", "week/P2"]


NAMES = st.text("aZ09 .+()[]{}^$*?\\|_-äß日;,'\"\t", min_size=1, max_size=12).filter(
    lambda name: not name.startswith(".") and not name.lower().endswith(("_mask", "_roi"))
)


@QUICK
@given(st.sets(NAMES, min_size=1, max_size=4))
def test_any_file_name_is_a_part(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = fill(tmp_path_factory.mktemp("names"), *(f"sub/{name}_albedo.tif" for name in names))
    parts = discover_parts(folder, ALBEDO)
    assert {part.id for part in parts} == {f"sub/{name}" for name in names}
    assert all(part.files["albedo"].is_file() for part in parts)
    shutil.rmtree(folder)


def test_pattern_is_text_not_a_regular_expression(tmp_path: Path) -> None:
    fill(tmp_path, "a+b[1].P1(x)_n.tif", "aab1xP2(x)_n.tif")
    assert ids(tmp_path, {"n": MapSpec(files="a+b[1].{part}(x)_n.tif")}) == ["P1"]


def test_missing_map_is_named_with_its_file(tmp_path: Path) -> None:
    fill(tmp_path, "P1_albedo.tif", "P1_normal.tif", "sub/P2_normal.tif")
    whole, half = discover_parts(tmp_path, BOTH)
    whole.require_complete(BOTH)
    assert half.missing == ("albedo",)
    with pytest.raises(InputError, match=r"sub/P2: map 'albedo' is missing: no sub/P2_albedo\.tif in"):
        half.require_complete(BOTH)


def test_missing_map_of_a_pattern_with_a_folder_is_named_where_it_would_lie(tmp_path: Path) -> None:
    maps = {name: MapSpec(files=f"images/{{part}}_{name}.tif") for name in ("albedo", "normal")}
    (part,) = discover_parts(fill(tmp_path, "monday/images/P1_albedo.tif"), maps)
    with pytest.raises(InputError, match=r"monday/images/P1_normal\.tif"):
        part.require_complete(maps)


def test_two_files_for_one_map_are_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "P1.tif", "P1.png", "P2.tif")
    double, single = discover_parts(tmp_path, ANY)
    single.require_complete(ANY)
    with pytest.raises(
        InputError, match=r"P1: two files for map 'image': P1\.png and P1\.tif; keep one, or .*'\{part\}\.tif'"
    ):
        double.require_complete(ANY)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    fill(tmp_path, "P1.png", "a_albedo.tif/x.txt")
    with pytest.raises(NoInputError, match=r"\{part\}_albedo\.tif, \{part\}_normal\.tif"):
        discover_parts(tmp_path, BOTH)
    with pytest.raises(NoInputError, match="no such folder"):
        discover_parts(tmp_path / "absent", BOTH)
    with pytest.raises(UsageError, match="is a file; give the folder that it is in"):
        discover_parts(tmp_path / "P1.png", BOTH)


@pytest.mark.parametrize("order", [("image", "albedo"), ("albedo", "image")])
def test_more_specific_pattern_wins_whatever_the_order(
    tmp_path: Path, order: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    patterns = {"image": "{part}.tif", "albedo": "{part}_albedo.tif"}
    maps = {name: MapSpec(files=patterns[name]) for name in order}
    (part,) = discover_parts(fill(tmp_path, "P1.tif", "P1_albedo.tif"), maps)
    assert (part.id, part.missing) == ("P1", ())


def test_name_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"P\xff_albedo.tif")).touch()
    (part,) = discover_parts(tmp_path, ALBEDO)
    part.id.encode()
    with pytest.raises(InputError, match="no valid UTF-8; rename it"):
        part.require_complete(ALBEDO)


def test_folder_that_cannot_be_listed_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "P1_albedo.tif", "closed/P2_albedo.tif")
    scandir = os.scandir

    def refusing(path: Any) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    part, closed = discover_parts(tmp_path, ALBEDO)
    part.require_complete(ALBEDO)
    with pytest.raises(InputError, match="closed: cannot be listed"):
        closed.require_complete(ALBEDO)


def test_pattern_without_an_ending_finds_its_file_or_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "P1_albedo", "P2._albedo")
    try:
        maps = {"albedo": MapSpec(files="{part}_albedo")}
    except ValueError:
        return  # refusing it in the recipe is right too
    assert ids(tmp_path, maps) == ["P1"]


def test_complete_part_needs_nothing() -> None:
    Part("P1", {}, Path()).require_complete(BOTH)


# ---------------------------------------------------------------- maps without a recipe


def test_known_names_become_maps_with_their_channels(tmp_path: Path) -> None:
    gray(tmp_path / "a/P1_albedo.tif")
    gray(tmp_path / "a/P1_normal.tiff", 8, 9, 3)
    gray(tmp_path / "P2_curvature.TIF")
    maps = infer_maps(tmp_path)
    assert {name: (spec.files, spec.channels) for name, spec in maps.items()} == {
        "albedo": ("{part}_albedo.tif", 1),
        "normal": ("{part}_normal.tiff", 3),
        "curvature": ("{part}_curvature.TIF", 1),
    }
    assert len(discover_parts(tmp_path, maps)) == 2


def test_known_names_may_have_capitals(tmp_path: Path) -> None:
    gray(tmp_path / "P1_Albedo.tif")
    gray(tmp_path / "P1_NORMAL.tif", 8, 9, 3)
    maps = infer_maps(tmp_path)
    assert {name: (spec.files, spec.channels) for name, spec in maps.items()} == {
        "albedo": ("{part}_Albedo.tif", 1),
        "normal": ("{part}_NORMAL.tif", 3),
    }
    assert [part.missing for part in discover_parts(tmp_path, maps)] == [()]


def test_a_folder_of_formats_that_are_not_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.webp").touch()
    with pytest.raises(NoInputError, match=r"no image found .*, but 1 of a format that is not read, such as a\.webp"):
        infer_maps(tmp_path)


def test_other_names_become_one_map_of_any_format(tmp_path: Path) -> None:
    gray(tmp_path / "x/000.png")
    gray(tmp_path / "x/001.tif")
    (tmp_path / "x/broken.tif").touch()
    assert infer_maps(tmp_path) == {"image": MapSpec(files="{part}.*", channels=1)}


def test_every_ending_is_taken_and_runs_are_left_out(tmp_path: Path) -> None:
    for name in ("P1_albedo.png", "P2_albedo.png", "P3_albedo.tif"):
        gray(tmp_path / name)
    for name in "abc":
        gray(tmp_path / f"inspection/riblet/parts/{name}/{name}_normal.tif")
    (tmp_path / "inspection/riblet/.lock").touch()
    maps = infer_maps(tmp_path)
    assert list(maps.items()) == [("albedo", MapSpec(files="{part}_albedo.*"))]
    assert ids(tmp_path, maps) == ["P1", "P2", "P3"]


def test_a_photograph_called_normal_makes_no_map(tmp_path: Path) -> None:
    for name in ("P1", "P2", "P3", "P4_normal"):
        gray(tmp_path / f"{name}.png")
    maps = infer_maps(tmp_path)
    assert {name: spec.files for name, spec in maps.items()} == {"image": "{part}.*"}
    assert unmatched(tmp_path, maps) == []


@pytest.mark.parametrize(
    ("values", "files"), [((0,), "{part}.jpg"), ((0, 255), "{part}.jpg"), ((3, 4, 5), "{part}.*")]
)
def test_photographs_lie_beside_masks_of_their_names(tmp_path: Path, values: tuple[int, ...], files: str) -> None:
    for number in range(3):
        gray(tmp_path / f"c{number}.jpg")
        cv2.imwrite(str(tmp_path / f"c{number}.png"), np.resize(np.array(values, np.uint8), (4, 5)))
    gray(tmp_path / "c3.jpeg")
    if files == "{part}.*":
        gray(tmp_path / "c4.png")  # a part that can be used
    maps = infer_maps(tmp_path)
    assert maps == {"image": MapSpec(files=files, channels=1)}
    if files == "{part}.jpg":
        assert ids(tmp_path, maps) == ["c0", "c1", "c2", "c3"]


def test_files_of_no_map_are_named(tmp_path: Path) -> None:
    for name in ("P1_albedo", "P2_albedo", "overview"):
        gray(tmp_path / f"{name}.png")
    assert unmatched(tmp_path, infer_maps(tmp_path)) == ["overview.png"]


def test_channels_are_those_of_most_files(tmp_path: Path) -> None:
    gray(tmp_path / "a.png")
    for name in ("b.png", "c.png"):
        gray(tmp_path / name, 4, 5, 3)
    assert infer_maps(tmp_path)["image"].channels == 3


def test_files_of_the_recipes_other_maps_are_no_parts_of_some_of_its_maps(tmp_path: Path) -> None:
    known = {"image": MapSpec(files="{part}.png"), "albedo": MapSpec(files="{part}_albedo.png")}
    fill(tmp_path, "P1.png", "P1_albedo.png")
    image = {"image": known["image"]}
    assert [part.id for part in discover_parts(tmp_path, image)] == ["P1", "P1_albedo"]
    assert [part.id for part in discover_parts(tmp_path, image, known)] == ["P1"]
    with pytest.raises(NoInputError, match=r"looked for \{part\}_normal"):
        discover_parts(tmp_path, {"normal": MapSpec(files="{part}_normal.png")}, known)


def test_folder_without_a_readable_image_says_why(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such folder"):
        infer_maps(tmp_path / "absent")
    with pytest.raises(NoInputError, match="no image found"):
        infer_maps(fill(tmp_path, "notes.txt"))
    with pytest.raises(NoInputError, match=r"P1\.tif: an empty file"):
        infer_maps(fill(tmp_path, "P1.tif"))


def test_hidden_images_do_not_decide_the_maps(tmp_path: Path) -> None:
    gray(tmp_path / "P1.png")
    gray(tmp_path / ".thumbs/P1_albedo.png")
    assert list(infer_maps(tmp_path)) == ["image"]


def test_image_with_more_channels_than_a_recipe_allows_is_an_input_error(tmp_path: Path) -> None:
    gray(tmp_path / "P1.tif", 4, 5, 65)
    with pytest.raises(InputError):
        infer_maps(tmp_path)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ([], "."),
        (["train"], "train"),
        (["train/good", "test/good"], "train/good"),
        (["good", "bad"], "good"),
        (["lot1", "lot2"], "."),
        (["Train/Good", "Test/Crack"], "Train/Good"),
        (["TRAIN", "TEST"], "TRAIN"),
        (["Train", "train"], "train"),
    ],
)
def test_training_images_of_a_data_set(tmp_path: Path, folders: list[str], expected: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert training_root(tmp_path) == tmp_path / expected


def test_images_that_are_named_like_masks_of_no_part_are_told(tmp_path):
    masks = ("P1_mask.png", "truth/P2_a_mask.png", "P2_A_mask.png", "left_roi.png", "a_mask.txt")
    for name in ("P1.png", "test/P2_a.png", *masks):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    parts = discover_parts(tmp_path, {"a": MapSpec(files="{part}.png")})
    assert [part.id for part in parts] == ["P1", "test/P2_a"]
    assert unused_images(tmp_path, parts).masks == ["P2_A_mask.png", "left_roi.png"]


@pytest.mark.parametrize("name", ["{map}_P{n}.tif", "P{n}-{map}.tif", "{map}/P{n}.tif", "P{n}_{map}s.tif"])
def test_maps_that_are_named_otherwise_are_no_photographs(tmp_path, name):
    for kind, number in product(("albedo", "normal"), range(3)):
        path = tmp_path / name.format(map=kind, n=number)
        path.parent.mkdir(exist_ok=True)
        gray(path, 4, 5)
    with pytest.raises(UsageError, match=r"seem to be maps \(albedo, normal\).*recipe new NAME --maps albedo,normal"):
        check_told_apart(tmp_path, infer_maps(tmp_path))


@pytest.mark.parametrize("names", [("height", "gloss"), ("height", "gloss", "albedo"), ("Albedo", "Z")])
def test_maps_of_names_that_nobody_knows_are_no_photographs(tmp_path, names):
    for kind, number in product(names, range(3)):
        gray(tmp_path / f"P{number}_{kind}.tif", 4, 5)
    known = ",".join(sorted(names))
    with pytest.raises(UsageError, match=rf"each part seems to have several maps .*recipe new NAME --maps {known}`"):
        check_told_apart(tmp_path, infer_maps(tmp_path))


@pytest.mark.parametrize("name", ["{n}_{k}.png", "P{n}_view{k}.png", "P{n}{k}.png"])
def test_photographs_by_number_are_photographs(tmp_path, name):
    for kind, number in product(range(2), range(4)):
        gray(tmp_path / name.format(n=number, k=kind), 4, 5)
    check_told_apart(tmp_path, infer_maps(tmp_path))


def test_photographs_with_a_word_of_a_map_in_their_names_are_photographs(tmp_path):
    for name in ("normal_1.tif", "normal_2.tif", "dent_1.tif", "albedo.tif", "scratch_1.tif"):
        gray(tmp_path / name, 4, 5)
    gray(tmp_path / "other.tif", 4, 5)
    maps = infer_maps(tmp_path)
    assert list(maps) == ["image"]
    check_told_apart(tmp_path, maps)


def test_images_of_no_part_are_told_and_other_maps_of_a_part_are_not(tmp_path):
    for name in ("P1_a.png", "P1_b.png", "k/P2_A.png", "k/P1_b.png", "P3-a.png", "P12_A.png", "P1_a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    parts = discover_parts(tmp_path, {"a": MapSpec(files="{part}_a.png")})
    assert [part.id for part in parts] == ["P1"]
    assert unused_images(tmp_path, parts).strays == ["P12_A.png", "P3-a.png", "k/P1_b.png", "k/P2_A.png"]


def test_masks_in_a_folder_of_their_own_beside_the_parts_are_no_parts(tmp_path):
    for name in ("Test/P1.png", "Test/Label/P1_label.png", "Test/Label/P2_label.png", "Test/masks/P1_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    parts = discover_parts(tmp_path, {"a": MapSpec(files="{part}.*")})
    assert [part.id for part in parts] == ["Test/Label/P2_label", "Test/P1"]


def test_masks_of_the_names_of_images_elsewhere_are_no_parts(tmp_path):
    """As in VisA, where masks lie in folders of their own; photographs of labels stay what they are."""
    masks = ("Masks/Anomaly/0.png", "Masks/1.png", "ground_truth/dent/0.png")
    for name in ("Images/Anomaly/0.JPG", "Images/Normal/1.JPG", *masks, "labels/front.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    maps = {"image": MapSpec(files="{part}.*")}
    parts = discover_parts(tmp_path, maps)
    assert [part.id for part in parts] == ["Images/Anomaly/0", "Images/Normal/1", "labels/front"]
    unused = unused_images(tmp_path, parts)
    assert unused.truth == sorted(masks)
    assert "3 image(s) in folders of masks, named like images elsewhere, are taken for masks" in unused.told(maps)[0]


def test_folders_that_are_named_like_those_of_defective_parts_are_told(tmp_path):
    names = (
        "ok_front/1.png",
        "def_front/1.png",
        "def_front/2.png",
        "lot2/NOK/1.png",
        "defect-free/1.png",
        "badge/1.png",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    parts = discover_parts(tmp_path, {"image": MapSpec(files="{part}.*")})
    assert named_defective(parts) == {"def_front": 2, "lot2/NOK": 1}


def test_what_lies_beside_a_folder_of_good_parts_is_told(tmp_path):
    for name in ("lot/Good/1.png", "lot/dent/1.png", "lot/2.png", "other/3.png", "good.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert beside_good(discover_parts(tmp_path, {"image": MapSpec(files="{part}.*")})) == {"lot/dent"}


@pytest.mark.skipif(os.name != "posix", reason="names are text elsewhere")
def test_names_that_are_no_text_are_escaped_where_they_are_told(tmp_path: Path) -> None:
    fill(tmp_path, "P1_albedo.tif")
    (tmp_path / os.fsdecode(b"\xdcbersicht.png")).touch()
    told = unused_images(tmp_path, discover_parts(tmp_path, ALBEDO)).told(ALBEDO)
    assert told
    assert all(text.isascii() and r"\xdcbersicht.png" in text for text in told)


@pytest.mark.parametrize("place", ["", "parts", "parts/P1/maps"])
def test_the_results_of_a_run_are_no_batch(tmp_path: Path, place: str) -> None:
    run = fill(tmp_path / "run", "parts/P1/image.png", "parts/P1/maps/image.png")
    (run / "run.json").write_text('{"tool": "inspect 0.1"}')
    with pytest.raises(UsageError, match="holds the results of a run"):
        discover_parts(run / place, ANY)
