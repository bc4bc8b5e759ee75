from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from inspect_cli.commands.sample import sample
from inspect_cli.errors import OutputError, UsageError
from inspect_cli.sample import defects, optics, surface, synthetic
from inspect_cli.sample.batch import write_batch
from inspect_cli.sample.part import PartKey, bounding_box
from inspect_cli.sample.plan import MATERIALS, generate_part, physical_part, plan_batch

SHAPE = (256, 384)
ALL_MAPS = ("albedo", "normal", "gradient", "curvature")
RIBLET_KINDS = ("dent", "stain", "scratch", "flattened_ribs", "track_shift", "contamination")


def key_of(name: str, material: str = "riblet", seed: int = 3, shape: tuple[int, int] = SHAPE) -> PartKey:
    return PartKey(seed, material, name, shape)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Surface and optics ---------------------------------------------------------------------------------


def test_normals_are_unit_vectors_made_of_finite_differences() -> None:
    height = surface.compose(surface.steel_layers(key_of("good/g000", "steel"))).height_um.astype(np.float64)
    normals = optics.normals(height.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-6)
    dx = (height[1:-1, 2:] - height[1:-1, :-2]) / (2 * 5.0)
    dy = (height[2:, 1:-1] - height[:-2, 1:-1]) / (2 * 5.0)
    expected = np.dstack([-dx, -dy, np.ones_like(dx)]) / np.sqrt(dx**2 + dy**2 + 1)[..., None]
    np.testing.assert_allclose(normals[1:-1, 1:-1], expected, atol=1e-5)
    np.testing.assert_allclose(
        normals[0, :, 1] / normals[0, :, 2], -(height[1] - height[0]) / 5.0, atol=1e-5, rtol=1e-4
    )


def test_curvature_is_the_laplacian_of_a_paraboloid() -> None:
    y, x = np.mgrid[:20, :30] * 5.0
    height = (0.002 * x**2 - 0.0005 * y**2).astype(np.float32)
    np.testing.assert_allclose(optics.curvature(height), 2 * 0.002 - 2 * 0.0005, atol=2e-5)


@pytest.mark.parametrize("map_name", ALL_MAPS)
def test_maps_do_not_show_the_strips_in_which_they_are_made(map_name: str) -> None:
    scene = surface.compose(surface.riblet_layers(key_of("good/g000", shape=(300, 80))))

    class Silent:
        def standard_normal(self, shape: object, dtype: object) -> np.ndarray:
            return np.zeros(shape, np.float32)  # type: ignore[call-overload]

    image = optics.MAPS[map_name](scene, Silent()).astype(np.float64)  # type: ignore[arg-type]
    dy, dx = np.gradient(scene.height_um, 5.0)
    length = np.sqrt(dx**2 + dy**2 + 1)
    expected = {
        "albedo": scene.reflectance * 65535,
        "normal": np.dstack([-dx, -dy, np.ones_like(dx)]) / length[..., None] * 32767,
        "gradient": np.hypot(dx, dy) / optics.GRADIENT_FULL_SCALE * 65535,
        "curvature": optics.curvature(scene.height_um) / optics.CURVATURE_FULL_SCALE_PER_UM * 32767,
    }[map_name]
    assert np.abs(image - expected).max() <= 16.5


def test_sensor_noise_has_the_stated_size() -> None:
    shape = (400, 400)
    flat = surface.Surface(np.zeros(shape, np.float32), np.full(shape, 0.5, np.float32))
    rng = np.random.default_rng(0)
    albedo = optics.albedo_image(flat, rng) / 65535
    assert albedo.mean() == pytest.approx(0.5, abs=1e-3)
    assert albedo.std() == pytest.approx(np.sqrt(0.5 / 7000 + 0.004**2), rel=0.03)
    normal = optics.normal_image(flat, rng) / 32767
    assert normal[..., 0].std() == pytest.approx(0.01, rel=0.03)
    assert normal[..., 1].std() == pytest.approx(0.01, rel=0.03)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=2), 1, atol=1e-3)
    tilted = surface.Surface(np.zeros(shape, np.float32) + np.arange(400, dtype=np.float32) * 2, flat.reflectance)
    gradient = optics.gradient_image(tilted, rng) / 65535 * optics.GRADIENT_FULL_SCALE
    assert gradient.mean() == pytest.approx(0.4, abs=1e-3)
    assert gradient.std() == pytest.approx(0.01, rel=0.03)
    curvature = optics.curvature_image(flat, rng) / 32767 * optics.CURVATURE_FULL_SCALE_PER_UM
    assert curvature.std() == pytest.approx(0.002, rel=0.03)


@given(st.floats(-3, 3, width=32), st.sampled_from([np.uint16, np.int16]))
@settings(max_examples=60, deadline=None)
def test_quantise_rounds_to_steps_of_16_and_saturates(value: float, dtype: type) -> None:
    limits = np.iinfo(dtype)
    stored = int(optics.quantise(np.array([[value]], np.float32), 1.0, dtype)[0, 0])
    wanted = min(max(value * limits.max, max(limits.min, -limits.max)), limits.max)
    assert stored % 16 == 0
    assert abs(stored - wanted) <= 16.1


@pytest.mark.parametrize("material", ["riblet", "steel"])
def test_good_parts_use_the_range_without_clipping(material: str) -> None:
    images = physical_part(key_of("good/g001", material, shape=(600, 800)), None, ALL_MAPS).images
    for name, image in images.items():
        limits = np.iinfo(image.dtype)
        sloped = image[..., :2] if name == "normal" else image  # z of a level surface is 1
        assert np.abs(sloped.astype(int)).max() < limits.max - 32, name
        assert sloped.max() > 0.25 * limits.max, name
    span = images["normal"][..., 1] / 32767
    assert 0.4 < span.max() < 0.65
    assert -0.65 < span.min() < -0.4


def test_riblet_tracks_have_the_period_and_contrast_of_the_ribs() -> None:
    scene = surface.compose(surface.riblet_layers(key_of("good/g000", shape=(512, 400))))
    power = np.abs(np.fft.rfft(scene.reflectance - scene.reflectance.mean(0), axis=0)).mean(axis=1)
    assert abs(int(power.argmax()) - 512 // 16) <= 1
    high = np.percentile(scene.reflectance, [2, 98])
    assert 0.2 < high[0] < 0.33
    assert 0.6 < high[1] < 0.75
    detail = scene.height_um - cv2.GaussianBlur(scene.height_um, (0, 0), 12)
    assert np.corrcoef(detail.ravel(), scene.reflectance.ravel())[0, 1] > 0.8


def test_steel_has_no_preferred_period_or_direction() -> None:
    height = surface.steel_layers(key_of("good/g000", "steel", shape=(512, 512)))["base_um"]
    power = np.abs(np.fft.fft2(height - height.mean())) ** 2
    assert power.max() / power.sum() < 0.02
    dy, dx = np.gradient(height, 5.0)
    assert dx.std() == pytest.approx(dy.std(), rel=0.05)
    assert dx.std() == pytest.approx(np.sqrt(sum(s**2 for s in surface.GRAIN_SLOPES.values())), rel=0.15)


@pytest.mark.parametrize("feature_px", [2.5, 12.0, 40.0])
def test_random_fields_are_standardised(feature_px: float) -> None:
    rng = np.random.default_rng(1)
    smooth = surface.smooth_field(rng, (700, 800), (feature_px, feature_px))
    band = surface.band_field(rng, (700, 800), feature_px)
    assert smooth.shape == band.shape == (700, 800)
    assert smooth.std() == pytest.approx(1, abs=0.12)
    assert band.std() == pytest.approx(1, abs=0.12)
    assert abs(band.mean()) < 0.02


def test_clouds_are_soft_and_darken_by_a_quarter_at_most() -> None:
    cloud = surface.clouds(np.random.default_rng(2), (1500, 1500), 0.25)
    assert cloud.min() >= 0.75
    assert cloud.max() <= 1
    assert cloud.min() < 0.85
    assert np.abs(np.diff(cloud, axis=0)).max() < 0.005
    assert np.abs(np.diff(cloud, axis=1)).max() < 0.005


# Defects --------------------------------------------------------------------------------------------


def both(kind: str, material: str = "riblet") -> tuple[dict[str, bytes], dict[str, bytes]]:
    key = key_of(f"{kind}/b000", material)
    damaged, clean = physical_part(key, kind, ALL_MAPS), physical_part(key, None, ALL_MAPS)
    return (
        {name: image.tobytes() for name, image in damaged.images.items()},
        {name: image.tobytes() for name, image in clean.images.items()},
    )


@pytest.mark.parametrize("material", ["riblet", "steel"])
@pytest.mark.parametrize(
    ("kind", "untouched"),
    [
        ("dent", {"albedo"}),
        ("stain", {"normal", "gradient", "curvature"}),
        ("scratch", set()),
        ("contamination", set()),
    ],
)
def test_defect_touches_only_its_maps(kind: str, untouched: set[str], material: str) -> None:
    damaged, clean = both(kind, material)
    assert {name for name in damaged if damaged[name] == clean[name]} == untouched


@pytest.mark.parametrize("kind", ["flattened_ribs", "track_shift"])
def test_track_defects_touch_every_map(kind: str) -> None:
    damaged, clean = both(kind)
    assert all(damaged[name] != clean[name] for name in ALL_MAPS)


@pytest.mark.parametrize("kind", RIBLET_KINDS)
def test_mask_is_where_the_change_is_significant(kind: str) -> None:
    key = key_of(f"{kind}/b000", seed=8)
    clean, damaged = surface.riblet_layers(key), surface.riblet_layers(key)
    instances = defects.draw_instances(key, kind)
    assert len(instances) == 1
    defects.apply(damaged, instances)
    expected = np.zeros(SHAPE, np.bool_)
    for name, layer in clean.items():
        multiplied = name in ("shade", "relief")
        change = np.abs(damaged[name] / layer - 1 if multiplied else damaged[name] - layer)
        if change.max() > 0:
            expected |= change >= 0.1 * change.max()
    mask = defects.union_mask(SHAPE, instances)
    assert mask.sum() > 0
    assert np.mean(mask != expected) < 1e-4  # a few pixels may sit on the threshold in float32


@pytest.mark.parametrize("shape", [(64, 64), (256, 384), (700, 300)])
@pytest.mark.parametrize("kind", RIBLET_KINDS)
def test_defects_fit_any_image(kind: str, shape: tuple[int, int]) -> None:
    for seed in range(15):
        instances = defects.draw_instances(key_of(f"{kind}/b000", seed=seed, shape=shape), kind)
        assert len(instances) >= 1
        for instance in instances:
            rows, columns = instance.window
            assert 0 <= rows.start < rows.stop <= shape[0]
            assert 0 <= columns.start < columns.stop <= shape[1]
            assert instance.mask.any()
            edge = np.concatenate([instance.mask[[0, -1]].ravel(), instance.mask[:, [0, -1]].ravel()])
            assert not edge.any()  # nothing is cut off by its patch


def test_full_size_has_three_to_six_instances_and_the_stated_sizes() -> None:
    sizes: dict[str, list[float]] = {kind: [] for kind in RIBLET_KINDS}
    for kind in RIBLET_KINDS:
        for seed in range(4):
            instances = defects.draw_instances(key_of("x/b000", seed=seed, shape=(3672, 5496)), kind)
            assert 3 <= len(instances) <= 6
            sizes[kind] += [float(np.hypot(i.box.width_px, i.box.height_px)) for i in instances]
    assert min(sizes["scratch"]) > 70
    assert 300 < max(sizes["scratch"]) < 820
    assert max(sizes["dent"]) < 1.5 * 130
    assert max(sizes["stain"]) < 1.5 * 130


def test_scratches_cross_the_tracks_and_are_thin() -> None:
    for seed in range(20):
        mask = defects.significant(defects.draw_scratch(np.random.default_rng(seed), 2000))
        y, x = np.nonzero(mask)
        _, vectors = np.linalg.eigh(np.cov(x, y))
        assert abs(np.degrees(np.arctan(vectors[1, 1] / vectors[0, 1]))) > 15
        distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
        assert distance.max() <= 3.5


def test_flattened_ribs_keep_a_seventh_of_their_height_and_shifted_tracks_move_half_a_period() -> None:
    rng = np.random.default_rng(0)
    assert defects.draw_flattened_ribs(rng, 800)["relief"].min() == pytest.approx(0.15, abs=0.01)
    shift = np.abs(defects.draw_track_shift(rng, 800)["shift_px"]).max()
    assert shift == pytest.approx(8, abs=0.9)


def test_dent_stands_out_of_the_noise_of_the_normals() -> None:
    for seed in range(10):
        change = defects.draw_dent(np.random.default_rng(seed), 3672)["base_um"]
        dy, dx = np.gradient(change, 5.0)
        assert np.hypot(dx, dy).max() > 10 * optics.NORMAL_NOISE


@pytest.mark.parametrize("material", list(MATERIALS))
def test_boxes_fit_the_mask(material: str) -> None:
    for kind in MATERIALS[material].kinds:
        key = key_of(f"{kind}/b000", material, shape=(900, 1000))
        part = MATERIALS[material].produce(key, kind, MATERIALS[material].maps[:1])
        assert part.boxes
        outside = part.mask.copy()
        for box in part.boxes:
            window = slice(box.y_px, box.y_px + box.height_px), slice(box.x_px, box.x_px + box.width_px)
            inside = part.mask[window]
            assert inside.shape == (box.height_px, box.width_px)
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            outside[window] = False
        assert not outside.any()


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        bounding_box("dent", np.zeros((3, 3), np.bool_))


# Chess and noise ------------------------------------------------------------------------------------


def test_good_chess_is_two_valued_and_periodic() -> None:
    board = synthetic.chess_part(key_of("good/g000", "chess"), None).images["image"]
    assert set(np.unique(board)) == {0, 255}
    np.testing.assert_array_equal(board[32:], board[:-32])
    np.testing.assert_array_equal(board[:, 32:], board[:, :-32])
    np.testing.assert_array_equal(board[16:], 255 - board[:-16])
    row = np.flatnonzero(np.diff(board[0].astype(int)))
    assert set(np.diff(row)) == {16}


@pytest.mark.parametrize("shape", [(64, 64), (256, 384), (512, 512)])
def test_chess_truth_is_the_changed_pixels(shape: tuple[int, int]) -> None:
    for seed in range(10):
        key = key_of("deformation/b000", "chess", seed, shape)
        part = synthetic.chess_part(key, "deformation")
        np.testing.assert_array_equal(part.mask, part.images["image"] != synthetic.chess_board(key))
        assert 1 <= len(part.boxes) <= 2
        assert part.mask.any()
        assert part.mask.mean() < 0.4


def test_elastic_displacement_is_smooth_and_fades_out() -> None:
    field = synthetic.elastic_displacement(np.random.default_rng(0), (150, 120))
    assert field.shape == (2, 150, 120)
    border = np.concatenate([field[:, [0, -1]].ravel(), field[:, :, [0, -1]].ravel()])
    assert np.abs(border).max() < 0.5 * np.abs(field).max()
    assert np.abs(border).mean() < 0.1 * np.abs(field).mean()
    assert np.abs(np.diff(field, axis=1)).max() < 4
    assert 2 < field[:, 50:100, 40:80].std() < 8


def test_noise_is_gaussian_and_the_line_is_bright_and_straight() -> None:
    key = key_of("line/b000", "noise", shape=(512, 512))
    clean = synthetic.noise_part(key, None).images["image"]
    assert clean.mean() / 255 == pytest.approx(0.5, abs=0.005)
    assert clean.std() / 255 == pytest.approx(0.12, rel=0.02)
    part = synthetic.noise_part(key, "line")
    image = part.images["image"]
    np.testing.assert_array_equal(image[~part.mask], clean[~part.mask])
    assert image[part.mask].mean() > 230
    y, x = np.nonzero(part.mask)
    assert set(x) == set(range(512)) or {0, 511} & set(y)
    residual = y - np.polyval(np.polyfit(x, y, 1), x)
    assert 0.8 < residual.std() < 4


# Batch ----------------------------------------------------------------------------------------------


def test_plan_deals_out_folders_and_kinds() -> None:
    batch = plan_batch("riblet", parts=16, defective=7)
    assert [p.folder for p in batch.parts[:9]] == ["train/good"] * 6 + ["test/good"] * 3
    assert [p.name for p in batch.parts[9:]] == [
        *(f"{kind}/b00{n}" for n, kind in enumerate(RIBLET_KINDS)),
        "dent/b006",
    ]
    assert [p.kind for p in plan_batch("steel").parts[4:]] == ["dent", "stain", "scratch", "contamination"]
    assert [p.folder for p in plan_batch("riblet", parts=1).parts] == ["train/good"]
    assert [p.folder for p in plan_batch("steel", 2, 0).parts] == ["train/good", "test/good"]


@pytest.mark.parametrize("material", ["chess", "noise"])
def test_synthetic_sets_are_those_of_the_paper(material: str) -> None:
    folders = [part.folder for part in plan_batch(material).parts]
    kind = MATERIALS[material].kinds[0]
    assert folders == ["train/good"] * 4 + [f"test/{kind}"] * 4
    larger = [part.folder for part in plan_batch(material, 20, 10).parts]
    assert larger.count("test/good") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"material": "riblt"}, "did you mean 'riblet'"),
        ({"material": "steel", "maps": ["albedo", "gradent"]}, "did you mean 'gradient'"),
        ({"material": "chess", "maps": ["albedo"]}, "Valid: image"),
        ({"material": "riblet", "parts": 0}, "--parts 0"),
        ({"material": "riblet", "parts": 4, "defective": 5}, "--defective 5"),
        ({"material": "riblet", "size_px": (400, 32)}, "--size 400x32"),
        ({"material": "riblet", "seed": -1}, "--seed -1"),
    ],
)
def test_impossible_plans_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_batch(**arguments)  # type: ignore[arg-type]


def test_content_depends_on_the_part_alone() -> None:
    size = (200, 128)
    small = plan_batch("riblet", 4, 2, size, ["normal"], seed=5)
    large = plan_batch("riblet", 14, 7, size, ["albedo", "normal"], seed=5)
    parts = {part.name: part for part in large.parts}
    for part in small.parts:
        one, other = generate_part(small, part), generate_part(large, parts[part.name])
        np.testing.assert_array_equal(one.images["normal"], other.images["normal"])
        np.testing.assert_array_equal(one.mask, other.mask)
    other_seed = plan_batch("riblet", 4, 2, size, ["normal"], seed=6)
    again = [generate_part(batch, batch.parts[0]).images["normal"] for batch in (small, other_seed)]
    assert not np.array_equal(*again)
    two = [generate_part(small, part).images["normal"] for part in small.parts[:2]]
    assert not np.array_equal(*two)


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    batch = plan_batch("steel", 3, 2, (200, 128), ["albedo", "curvature"], seed=1)
    write_batch(batch, tmp_path / "one")
    write_batch(batch, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_files_on_disk(tmp_path: Path) -> None:
    write_batch(plan_batch("riblet", 1, 0, (384, 256)), tmp_path)
    kinds = {"albedo": "u2", "normal": "i2", "gradient": "u2", "curvature": "i2"}
    for name, dtype in kinds.items():
        with tifffile.TiffFile(tmp_path / "train" / "good" / f"g000_{name}.tif") as tiff:
            page, pixels = tiff.pages.first, tiff.asarray()
        assert pixels.dtype == np.dtype(dtype)
        assert pixels.shape == ((256, 384, 3) if name == "normal" else (256, 384))
        assert not (pixels % 16).any()
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.predictor == tifffile.PREDICTOR.HORIZONTAL
        assert page.rowsperstrip == 64
        assert page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        assert page.resolution == (2000, 2000)
        assert page.resolutionunit == tifffile.RESUNIT.CENTIMETER
        assert (pixels.min() < -1000) == (dtype == "i2")


def test_a_batch_is_overwritten_only_by_force(tmp_path: Path) -> None:
    write_batch(plan_batch("noise", 4, 2, (64, 64)), tmp_path)
    foreign = tmp_path / "train" / "good" / "notes.txt"
    foreign.write_text("keep")
    smaller = plan_batch("chess", 2, 1, (64, 64))
    with pytest.raises(UsageError, match="--force"):
        write_batch(smaller, tmp_path)
    write_batch(smaller, tmp_path, force=True)
    assert set(digests(tmp_path)) == {
        "train/good/g000.png",
        "train/good/notes.txt",
        "test/deformation/b000.png",
        "ground_truth/deformation/b000_mask.png",
        "ground_truth/boxes.csv",
        "sample.json",
    }
    assert not (tmp_path / "test" / "line").exists()


def test_a_size_beyond_the_memory_leaves_the_earlier_batch(tmp_path: Path) -> None:
    write_batch(plan_batch("noise", 2, 1, (64, 64)), tmp_path)
    before = digests(tmp_path)
    with pytest.raises(MemoryError):
        write_batch(plan_batch("noise", 2, 1, (9999999, 9999999)), tmp_path, force=True)
    assert digests(tmp_path) == before


def test_force_never_removes_files_outside_the_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    out = tmp_path / "batch"
    out.mkdir()
    (out / "sample.json").write_text(json.dumps({"files": ["../precious.txt", 3]}))
    write_batch(plan_batch("chess", 1, 0, (64, 64)), out, force=True)
    assert precious.read_text() == "keep"


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_batch(plan_batch("chess", 1, 0, (64, 64)), tmp_path / "file" / "out")


# Command line ---------------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(sample)
    return application


def test_command_writes_the_layout(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["riblet", "--out", str(tmp_path), "--size", "384x256", "--maps", "albedo,normal", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--seed", "2"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert set(summary) == {"out", "parts", "files", "bytes", "seconds"}
    maps = ("albedo", "normal")
    expected = {f"train/good/g00{n}_{m}.tif" for n in range(3) for m in maps}
    expected |= {f"test/good/g003_{m}.tif" for m in maps}
    kinds = RIBLET_KINDS[:4]
    expected |= {f"test/{kind}/b00{n}_{m}.tif" for n, kind in enumerate(kinds) for m in maps}
    expected |= {f"ground_truth/{kind}/b00{n}_mask.png" for n, kind in enumerate(kinds)}
    expected |= {"ground_truth/boxes.csv", "sample.json"}
    written = {str(p.relative_to(tmp_path)): p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()}
    assert set(written) == expected
    assert (summary["files"], summary["parts"]) == (len(expected), 8)
    assert summary["bytes"] == sum(written.values())
    assert result.stderr.splitlines()[-1] == "test/flattened_ribs/b003"
    with (tmp_path / "ground_truth" / "boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["part", "kind", "x_px", "y_px", "width_px", "height_px"]
    assert [row["part"] for row in rows] == [f"{kind}/b00{n}" for n, kind in enumerate(kinds)]
    mask = cv2.imread(str(tmp_path / "ground_truth" / "dent" / "b000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (256, 384)
    assert set(np.unique(mask)) == {0, 255}
    provenance = json.loads((tmp_path / "sample.json").read_text())
    assert provenance["complete"] is True
    assert (provenance["width_px"], provenance["height_px"], provenance["seed"]) == (384, 256, 2)
    assert provenance["pixel_pitch_um"] == 5.0
    assert provenance["parts"][3] == {"part": "good/g003", "folder": "test/good", "kind": None}


def test_command_talks_on_stderr_and_says_what_it_wrote(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["chess", "--out", str(tmp_path / "c"), "--parts", "2", "--size", "96X64"])
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == ["train/good/g000", "test/deformation/b000"]
    assert result.stdout.startswith(f"{tmp_path / 'c'}: 2 parts, 5 files")
    image = cv2.imread(str(tmp_path / "c" / "train" / "good" / "g000.png"), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint8
    assert image.shape == (64, 96)


@pytest.mark.parametrize("size", ["1200", "x800", "12ax3", "1200x800x2", "-5x7"])
def test_command_refuses_a_malformed_size(app: typer.Typer, tmp_path: Path, size: str) -> None:
    result = CliRunner().invoke(app, ["riblet", "--out", str(tmp_path), f"--size={size}"])
    assert isinstance(result.exception, UsageError)
    assert not list(tmp_path.iterdir())
