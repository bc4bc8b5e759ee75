"""``inspect augment``: generated parts are found again as parts, registered, in the maps' own types; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import RECIPE
from helpers import TRAINED

from inspect_cli.cli import run
from inspect_cli.errors import EXIT_CODES, EXIT_SIGINT, NoInputError, UsageError
from inspect_cli.generate.augment import AugmentOrder, augment
from inspect_cli.generate.output import check_storable, part_files, write_patch
from inspect_cli.generate.patches import RegisteredPatches, Scale, learn_scales
from inspect_cli.generate.quality import (
    compare,
    deviation,
    gradient_energy,
    mean_distance,
    nearest_distance,
    octave_power,
)
from inspect_cli.images import Part, ValueRange, discover_parts, open_map
from inspect_cli.images.values import Preprocess
from inspect_cli.material.materials import Material
from inspect_cli.recipe import Budget, parse_recipe
from inspect_cli.recipe.schema import MapSpec
from inspect_cli.stopping import Interrupted, Stopper

GENERATE = ("--count", 5, "--budget", "3steps", "--width", 2, "--device", "cpu")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the untrained material ``foil``."""
    (tmp_path / "store" / "foil").mkdir(parents=True)
    (tmp_path / "store" / "foil" / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "store"


@pytest.fixture
def call(shared_batch: Path, store: Path, capsys: pytest.CaptureFixture[str]):
    """Run ``inspect augment`` on the shared batch; return exit code, stdout and stderr."""

    def _call(out: Path, *more: object) -> tuple[int, str, str]:
        where = ("--models", store, "--data", shared_batch, "--out", out)
        code = run([str(a) for a in ("augment", "-m", "foil", *where, *GENERATE, *more)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return _call


def pixels(path: Path) -> np.ndarray:
    with open_map(path) as reader:
        return reader.read()


def order(batch: Path, store: Path, out: Path, **changed: Any) -> AugmentOrder:
    recipe = parse_recipe(RECIPE, "recipe.yaml")
    given = {
        "material": Material(recipe, store / "foil"),
        "parts": discover_parts(batch / "train", recipe.maps),
        "maps": recipe.maps,
        "out": out,
        "count": 3,
        "width": 2,
        "budget": Budget(steps=3),
        "seed": 0,
        "device": "cpu",
    }
    return AugmentOrder(**(given | changed))


def test_written_parts_are_parts_of_the_material(call, shared_batch, tmp_path):
    out = tmp_path / "more"
    code, stdout, stderr = call(out)
    assert code == 0
    assert stdout == f"{out}\n"
    assert "3 steps" in stderr
    assert f"--extra {out} --seed 0" in stderr

    maps = parse_recipe(RECIPE, "recipe.yaml").maps
    parts = discover_parts(out, maps)
    real = discover_parts(shared_batch / "train", maps)[0]
    assert [part.id for part in parts] == [f"gan_{n:04d}" for n in range(5)]
    for part in parts:
        part.require_complete(maps)
        for name, channels in (("albedo", 1), ("normal", 3)):
            patch = pixels(part.files[name])
            assert patch.dtype == pixels(real.files[name]).dtype
            assert patch.shape == ((32, 32) if channels == 1 else (32, 32, channels))
            assert patch.std() > 0
    albedo, other = (pixels(part.files["albedo"]) for part in parts[:2])
    assert not np.array_equal(albedo, other)

    record = json.loads((out / "augment.json").read_text())
    assert record["complete"] is True
    assert (record["steps"], record["seed"], record["budget"]) == (3, 0, "3steps")
    assert set(record["comparison"]) == {"albedo", "normal"}
    assert len(record["losses"]) == 3
    assert sorted(record["files"]) == sorted(
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != "augment.json"
    )
    assert set(record["trained_on"]).isdisjoint(record["compared_with"])
    assert pixels(out / "inspection" / "samples.png").shape[2] == 3


def test_training_takes_the_generated_parts(call, shared_batch, store, tmp_path):
    assert call(tmp_path / "more")[0] == 0
    arguments = ("train", "-m", "foil", "--models", store, "--data", shared_batch, "--extra", tmp_path / "more")
    assert run([str(a) for a in (*arguments, "--maps", "albedo", "--budget", "1steps", "--device", "cpu")]) in TRAINED
    manifest = json.loads((store / "foil" / "cae" / "manifest.json").read_text())
    extra = {entry["part"] for entry in manifest["training_set"] if entry["use"] == "extra"}
    assert extra == {f"gan_{n:04d}" for n in range(5)}


def test_parts_whose_masks_mark_defects_are_not_learnt_from(call, shared_batch, tmp_path):
    data = Path(shutil.copytree(shared_batch / "train", tmp_path / "marked"))
    first = sorted(data.rglob("*_albedo.tif"))[0]
    tifffile.imwrite(first.with_name(f"{first.stem}_label.tif"), np.full((150, 200), 255, np.uint8))
    code, _, told = call(tmp_path / "out", "--data", data)
    assert code == 0
    assert "left out: " in told
    assert "marks defects" in told


def test_same_seed_same_parts(call, tmp_path):
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert call(tmp_path / out, "--seed", seed, "--maps", "albedo")[0] == 0
    names = [f"gan_{n:04d}_albedo.tif" for n in range(5)]
    a, b, c = ([(tmp_path / out / name).read_bytes() for name in names] for out in "abc")
    assert a == b
    assert a != c
    assert not list((tmp_path / "a").glob("*normal*"))


def test_json_for_machines_and_warning_for_people(call, tmp_path):
    code, stdout, stderr = call(tmp_path / "more", "--json")
    told = json.loads(stdout)
    assert code == 0
    assert told["out"] == str(tmp_path / "more")
    assert told["collapsed"] is True  # nobody learns in three steps
    assert all(f"warning: {' '.join(text.split())}" in stderr for text in told["warnings"])
    assert any("collapsed" in text for text in told["warnings"])


def test_folder_with_files_is_refused_unless_forced(call, tmp_path):
    out = tmp_path / "more"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    code, stdout, stderr = call(out)
    assert (code, stdout) == (1, "")
    assert "notes.txt" in stderr
    assert "--force" in stderr
    assert call(out, "--force")[0] == 0
    assert call(out, "--force", "--count", 2)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("augment.json", "gan_0000_albedo.tif", "gan_0000_normal.tif"),
        *("gan_0001_albedo.tif", "gan_0001_normal.tif", "inspection", "notes.txt"),
    ]


def test_force_removes_nothing_outside_the_folder(call, tmp_path):
    out = tmp_path / "more"
    out.mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (out / "augment.json").write_text(json.dumps({"files": ["../mine.txt"]}))
    assert call(out, "--force", "--maps", "albedo")[0] == 0
    assert (tmp_path / "mine.txt").exists()


def test_folder_among_the_good_parts_is_refused(call, shared_batch):
    code, _, stderr = call(shared_batch / "train" / "good" / "more", "--force")
    assert code == 1
    assert "taken for real" in stderr
    assert not (shared_batch / "train" / "good" / "more").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--maps", "albdo"), 1, "did you mean 'albedo'"),
        (("--budget", "soon"), 1, "'soon' is no budget"),
        (("--device", "abacus"), 1, "'abacus' is unknown"),
        (("--data", "nowhere"), 4, "nowhere: no such folder"),
    ],
)
def test_wrong_arguments(call, tmp_path, more, code, words):
    found, stdout, stderr = call(tmp_path / "more", *more)
    assert (found, stdout) == (code, "")
    assert code in EXIT_CODES
    assert words in stderr
    assert not (tmp_path / "more").exists()


def test_tiles_that_the_networks_cannot_make_are_refused(call, store, tmp_path):
    recipe = store / "foil" / "recipe.yaml"
    recipe.write_text(RECIPE.replace("size_px: 32", "size_px: 48"))
    code, _, stderr = call(tmp_path / "more")
    assert code == 2
    assert "size_px 48" in stderr
    assert "32, 64, 128" in stderr


def test_output_that_cannot_be_written(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, stderr = call(tmp_path / "file" / "more")
    assert code == 6
    assert "cannot be written" in stderr


def test_stopped_training_leaves_nothing_behind(shared_batch, store, tmp_path):
    from inspect_cli import console

    asked = iter(range(100))
    with pytest.raises(Interrupted):
        augment(order(shared_batch, store, tmp_path / "more"), console, lambda: next(asked) == 1)
    assert not list((tmp_path / "more").iterdir())


def test_signal_ends_with_its_exit_code(call, tmp_path, monkeypatch):
    monkeypatch.setattr(Stopper, "wanted", lambda self: True)
    code, stdout, stderr = call(tmp_path / "more")
    assert (code, stdout) == (EXIT_SIGINT, "")
    assert "nothing was written" in stderr
    assert not list((tmp_path / "more").iterdir())


def test_an_earlier_result_stays_until_the_new_one_is_there(shared_batch, store, tmp_path):
    from inspect_cli import console

    augment(order(shared_batch, store, tmp_path / "more"), console)
    before = {path.name: path.read_bytes() for path in (tmp_path / "more").glob("*.*")}
    with pytest.raises(Interrupted):
        augment(order(shared_batch, store, tmp_path / "more", force=True), console, lambda: True)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "more").glob("*.*")}


def numbered(folder: Path, part: str, height: int, width: int) -> Part:
    """Write a part whose maps hold the same number at the same place, in three channels with a sign."""
    plane = np.arange(height * width, dtype=np.int16).reshape(height, width) % 30000
    files = {name: folder / f"{part}_{name}.tif" for name in ("plain", "deep")}
    tifffile.imwrite(files["plain"], plane.astype(np.uint16), photometric="minisblack")
    deep = np.stack([plane, -plane, plane // 2], axis=-1)
    tifffile.imwrite(files["deep"], deep, photometric="minisblack", planarconfig="contig")
    return Part(part, files, folder)


@pytest.mark.parametrize("cache_mb", [0, 3, 768], ids=["from file", "one map would fit", "cached"])
def test_patches_of_all_maps_are_of_one_place(tmp_path, cache_mb):
    parts = [numbered(tmp_path, "a", 400, 500), numbered(tmp_path, "b", 350, 300)]
    inside = np.zeros((400, 500), bool)
    inside[40:200, 30:300] = True
    patches = RegisteredPatches(parts, {"a": inside, "b": None}, ["plain", "deep"], 32, 7, cache_mb)
    places = set()
    for step in range(4):
        (plain, masks), (deep, _) = (patches.samplers[name].batch(step, 16) for name in ("plain", "deep"))
        np.testing.assert_array_equal(plain, deep[..., 0])
        np.testing.assert_array_equal(deep[..., 0], -deep[..., 1])
        assert masks.all()  # wholly inside the ROI
        places |= {int(patch[0, 0]) for patch in plain}
    assert len(places) > 20
    patches.close()


def test_channels_of_a_batch_are_those_of_all_maps_in_order(tmp_path):
    parts = [numbered(tmp_path, "a", 90, 80)]
    maps = {"plain": MapSpec(files="{part}_plain.tif"), "deep": MapSpec(files="{part}_deep.tif", channels=3)}
    patches = RegisteredPatches(parts, {"a": None}, list(maps), 32, 7)
    batch = patches.batch(5, 6, learn_scales(patches, maps))
    patches.close()
    assert batch.shape == (6, 4, 32, 32)
    assert batch.dtype == np.float32
    assert -1 <= batch.min() < -0.8
    assert 0.8 < batch.max() <= 1
    np.testing.assert_allclose(batch[:, 0], batch[:, 1], atol=0.01)
    np.testing.assert_allclose(batch[:, 1], -batch[:, 2], atol=0.01)


def test_no_patch_wholly_inside_the_roi(tmp_path):
    roi = np.zeros((90, 80), bool)
    roi[:31] = True
    with pytest.raises(NoInputError, match="smaller tiles"):
        RegisteredPatches([numbered(tmp_path, "a", 90, 80)], {"a": roi}, ["plain"], 32, 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_stored_values_survive_the_way_there_and_back(tmp_path, dtype, channels):
    rng = np.random.default_rng(0)
    low, high = {"float32": (-0.5, 1.5), "int32": (-9e8, 2e9)}.get(dtype, (20, 100))
    shape = (4, 16, 16) if channels == 1 else (4, 16, 16, channels)
    stored = rng.uniform(low, high, shape).astype(dtype)
    limits = ValueRange.of_type(np.dtype(dtype))
    unit = limits.to_unit(stored).reshape(4, 16, 16, channels)
    middle = tuple((unit.max(axis=(0, 1, 2)) + unit.min(axis=(0, 1, 2))) / 2)
    half = tuple((unit.max(axis=(0, 1, 2)) - unit.min(axis=(0, 1, 2))) / 2)
    scale = Scale(Preprocess(limits, (0.0,) * channels, dtype), middle, half)
    signal = scale.to_signal(stored)
    assert signal.shape == (4, channels, 16, 16)
    assert signal.max() == pytest.approx(1, abs=1e-4)
    back = scale.to_stored(signal)
    assert back.dtype == stored.dtype
    # The network's own numbers have 24 bits.
    np.testing.assert_allclose(back, stored, rtol=0, atol={"float32": 1e-6, "int32": 1e3}.get(dtype, 0))


def test_values_are_rounded_and_clipped_to_their_type():
    scale = Scale(Preprocess(ValueRange(0.0, 200.0), (0.5,), "uint8"), (0.7,), (1.0,))
    signal = np.array([-1.0, -0.698, -0.692, 0.0, 0.57, 1.0], np.float32).reshape(1, 1, 1, 6)
    # Before rounding and clipping: -60, 0.4, 1.6, 140, 254, 340.
    np.testing.assert_array_equal(scale.to_stored(signal), [[[0, 0, 2, 140, 254, 255]]])


def test_scale_is_learnt_from_the_patches(tmp_path):
    values = np.tile(np.linspace(0, 200, 2001), 200)
    source = SimpleNamespace(
        tile_px=8, batch=lambda step, size: (values.reshape(2, 300, -1).astype(np.float32), None)
    )
    scale = Scale.learn(source, Preprocess(ValueRange(0.0, 400.0), (0.5,), "float32"))
    assert scale.middle == pytest.approx((0.25,))
    # 99.8 % of 0 to 200 of 400 is 0.499 of the unit range, and lies within +-0.9.
    assert scale.half == pytest.approx((0.499 / 2 / 0.9,), rel=1e-3)


def test_names_follow_the_patterns():
    maps = {
        "a": MapSpec(files="{part}_a.png"),
        "b": MapSpec(files="sub/{part}.b.*"),
        "c": MapSpec(files="c{part}.TIF"),
    }
    parts = part_files(2, maps)
    assert parts[1] == {"a": "gan_0001_a.png", "b": "sub/gan_0001.b.tif", "c": "cgan_0001.tif"}
    assert part_files(10001, {"a": maps["a"]})[10000] == {"a": "gan_10000_a.png"}


@pytest.mark.parametrize(
    ("files", "dtype", "channels"),
    [
        ("{part}.tif", "float16", 1),
        ("{part}.tif", "int16", 5),
        ("{part}.png", "uint16", 1),
        ("{part}.png", "uint8", 3),
    ],
)
def test_patches_are_read_as_they_were_written(tmp_path, files, dtype, channels):
    spec = MapSpec(files=files, channels=channels)
    check_storable("a", spec, np.dtype(dtype))
    shape = (32, 32) if channels == 1 else (32, 32, channels)
    patch = np.random.default_rng(0).uniform(0, 200, shape).astype(dtype)
    path = tmp_path / part_files(1, {"a": spec})[0]["a"]
    write_patch(path, patch)
    found = pixels(path)
    assert found.dtype == patch.dtype
    np.testing.assert_array_equal(found, patch)


@pytest.mark.parametrize(
    ("files", "dtype", "channels"),
    [("{part}.jpg", "uint8", 1), ("{part}.png", "int16", 3), ("{part}.png", "uint8", 4)],
)
def test_maps_that_no_file_can_hold_are_refused(files, dtype, channels):
    with pytest.raises(UsageError, match=r"end with '\.\*'"):
        check_storable("a", MapSpec(files=files, channels=channels), np.dtype(dtype))


def texture(seed: int, count: int = 24, side: int = 32) -> np.ndarray:
    """Return patches (count, 1, side, side) of stripes with random phase, and noise."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    stripes = 0.5 * np.sin(2 * np.pi * 4 * np.arange(side)[:, None] / side + phase)
    return (stripes + rng.normal(0, 0.05, (count, 1, side, side))).astype(np.float32)


def test_real_patches_pass_as_generated_ones():
    found = compare(texture(0), texture(1), texture(2, 48))
    assert not found.collapsed
    assert found.warnings("a") == []
    assert found.pairwise == pytest.approx(1, rel=0.1)
    assert found.nearest == pytest.approx(1, rel=0.3)


def test_a_generator_that_yields_one_picture_has_collapsed():
    real, known = texture(0), texture(1, 48)
    for one in (np.repeat(texture(2)[:1], 24, axis=0), np.zeros_like(real)):
        found = compare(one, real, known)
        assert found.collapsed
        assert found.pairwise == pytest.approx(0, abs=1e-3)
        assert "collapsed" in found.warnings("albedo")[0]
        assert "map albedo" in found.warnings("albedo")[0]
        json.dumps(found.record(), allow_nan=False)


def test_a_generator_that_yields_few_pictures_has_collapsed():
    found = compare(np.repeat(texture(2)[:6], 4, axis=0), texture(0), texture(1, 48))
    assert found.pairwise > 0.5  # the mean distance does not tell
    assert found.nearest == pytest.approx(0, abs=1e-3)
    assert found.collapsed


def test_copies_of_training_patches_are_told():
    known = texture(1, 48)
    found = compare(known[::2] + np.float32(1e-3), texture(0), known)
    assert not found.collapsed
    assert found.novelty < 0.1
    assert "copies" in found.warnings("a")[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p + 0.4, "mean is off"),
        (lambda p: 3 * p, "contrast is 3 times"),
        (lambda p: p + np.random.default_rng(5).normal(0, 0.3, p.shape), "structure of"),
    ],
)
def test_other_texture_is_told(change, words):
    found = compare(change(texture(2)).astype(np.float32), texture(0), texture(1, 48))
    assert any(words in text for text in found.warnings("a"))


def test_distances_by_hand():
    flat = np.array([0.0, 0.3, 1.0], np.float32)[:, None, None, None] * np.ones((1, 2, 4, 4), np.float32)
    assert mean_distance(flat) == pytest.approx((0.3 + 1.0 + 0.7) / 3, rel=1e-5)
    assert nearest_distance(flat) == pytest.approx(0.3, rel=1e-5)  # of 0.3, 0.3 and 0.7
    assert nearest_distance(flat, flat[2:] + 0.1) == pytest.approx(0.8, rel=1e-5)  # of 1.1, 0.8 and 0.1


def test_statistics_by_hand():
    wave = np.sin(2 * np.pi * 6 * np.arange(64) / 64).astype(np.float32)
    patches = np.broadcast_to(wave[:, None], (2, 1, 64, 64))
    power = octave_power(patches)
    assert power.shape == (6,)
    assert power.argmax() == 2  # 4 to 7 periods a side
    np.testing.assert_allclose(octave_power(3 * patches), 9 * power, rtol=1e-3, atol=1e-6 * power.max())
    np.testing.assert_allclose(octave_power(patches + 5), power, rtol=1e-3, atol=1e-3 * power.max())
    assert gradient_energy(patches) == pytest.approx(np.square(np.diff(wave)).mean(), rel=1e-5)
    found = deviation(2 * patches + 0.5, patches)
    assert found.mean_shift == pytest.approx(0.5 / np.sqrt(0.5), rel=1e-3)
    assert found.spread == pytest.approx(2, rel=1e-4)
    assert found.gradient == pytest.approx(4, rel=1e-4)
    assert found.octaves[2] == pytest.approx(4, rel=1e-3)
    assert found.worst_octave_db == pytest.approx(10 * np.log10(4), rel=0.01)


def test_single_part_is_told(shared_batch, store, tmp_path):
    from inspect_cli import console

    one = tmp_path / "one" / "train"
    one.mkdir(parents=True)
    for path in (shared_batch / "train" / "good").glob("g000_*"):
        shutil.copy(path, one)
    record = augment(order(tmp_path / "one", store, tmp_path / "more"), console)
    assert record["trained_on"] == record["compared_with"]
    assert any("only one part" in text for text in record["warnings"])
