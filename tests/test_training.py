"""Training: resume, early stopping, budgets, splits, checkpoints."""

import copy
import errno
import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from inspect_cli.errors import ModelError, NoInputError, OutputError
from inspect_cli.images import Part, ValueRange
from inspect_cli.images.values import Preprocess
from inspect_cli.material.bundle import read_bundle, write_manifest
from inspect_cli.material.manifest import RoiShare, Trial
from inspect_cli.material.materials import Material
from inspect_cli.methods import build_detector
from inspect_cli.methods.base import paced
from inspect_cli.recipe import Budget, load_recipe, parse_recipe
from inspect_cli.recipe.schema import MapSpec, RoiSpec, TrainingSpec
from inspect_cli.stopping import Interrupted
from inspect_cli.store.layout import MANIFEST
from inspect_cli.tiles import PatchSampler, SamplerImage
from inspect_cli.tiles.tiling import Tiling, tiling_of
from inspect_cli.training import loop
from inspect_cli.training.batches import MapTraining, fit_tiles, training_batch
from inspect_cli.training.budget import MapBudget, left_of, step_size, without_closing
from inspect_cli.training.health import training_warnings
from inspect_cli.training.joining import joined, kept_maps
from inspect_cli.training.loop import train_map
from inspect_cli.training.order import TrainingOrder, with_room
from inspect_cli.training.prepare import (
    ImageMoments,
    PackedMasks,
    Survey,
    learn_acquisition,
    learn_preprocess,
    learn_roi_share,
    measure_image,
    range_of,
    split_parts,
    survey_parts,
    without_room,
)
from inspect_cli.training.sources import Sources
from tests.helpers import Quiet


@pytest.fixture
def image(tmp_path: Path) -> Path:
    y = np.arange(120)[:, None]
    stripes = 0.5 + 0.3 * np.sin(y * 0.7) + np.random.default_rng(0).normal(0, 0.02, (120, 140))
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, (stripes * 65535).clip(0, 65535).astype(np.uint16))
    return path


def _job(image: Path, folder: Path, steps: int, **spec) -> MapTraining:
    torch.manual_seed(5)
    sampler = PatchSampler([SamplerImage(image)], 32, 1)
    return MapTraining(
        detector=build_detector("cae", 1, 32, {"hidden": 32, "latent": 8}),
        preprocess=Preprocess(ValueRange(0, 65535), (0.5,), "uint16"),
        train=sampler,
        validation=PatchSampler([SamplerImage(image)], 32, 2),
        spec=TrainingSpec(batch=8, validate_every=10, **spec),
        budget=MapBudget(steps, None),
        seed=3,
        device=torch.device("cpu"),
        checkpoint=folder,
        fingerprint="same",
    )


def _quiet(*_args: object) -> None:
    pass


def test_patches_to_learn_from_once_are_all_different_and_turned_like_the_others(image, tmp_path):
    """Images of one patch yield the same one again and again."""
    images = []
    for number in range(6):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, tifffile.imread(image)[number : number + 32, :32])
        images.append(SamplerImage(path))
    job = replace(_job(image, tmp_path / "c", 12), train=PatchSampler(images, 32, 1))
    job.detector.fit_patches = 64
    tiles = fit_tiles(job)
    assert len(tiles) == 6
    assert len({tile.numpy().tobytes() for tile in tiles}) == 6
    turned = fit_tiles(replace(job, spec=job.spec.model_copy(update={"augment": "turn"})))
    assert 6 < len(turned) <= 48
    known = {np.rot90(tile[0], k).tobytes() for tile in tiles.numpy() for k in range(4)}
    known |= {np.rot90(tile[0].T, k).tobytes() for tile in tiles.numpy() for k in range(4)}
    assert {tile[0].numpy().tobytes() for tile in turned} <= known


def test_a_full_disk_in_training_is_told_as_one(image, tmp_path, monkeypatch):
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk full"):
        train_map(_job(image, tmp_path / "c", 12), _quiet)


def test_batches_come_in_their_order_however_many_threads_make_them(image, tmp_path, monkeypatch):
    job = _job(image, tmp_path / "c", 12)
    found = {}
    for makers in (1, 5):
        monkeypatch.setattr(loop, "_makers", lambda _device, _processors, makers=makers: makers)
        found[makers] = [batch.tiles for batch in itertools.islice(loop._prefetched(job, 3), 8)]
    for step, one, several in zip(itertools.count(3), found[1], found[5], strict=False):
        assert torch.equal(one, several)
        assert torch.equal(one, training_batch(job, step).tiles)


def test_a_network_on_the_cpu_shares_its_processors_with_one_thread_that_makes_batches():
    assert loop._makers(torch.device("cpu"), 64) == 1
    assert [loop._makers(torch.device("cuda"), count) for count in (1, 2, 4, 64)] == [1, 1, 3, 6]


def test_the_first_step_on_a_gpu_takes_nothing_from_the_budget_and_trains_nothing(image, tmp_path):
    job = _job(image, tmp_path / "c", 12)
    before = copy.deepcopy(job.detector.state_dict())
    loop._warm_up(job)
    for name, value in job.detector.state_dict().items():
        assert torch.equal(value, before[name])


def test_parameters_take_their_own_pace_of_the_loops_step_size(image, tmp_path):
    job = _job(image, tmp_path / "c", 40)
    assert job.detector.pace == 0.5, "the industrial network stays on its plateau at the loop's own"
    first, second = list(job.detector.encoder.parameters()), list(job.detector.decoder.parameters())
    optimizer = torch.optim.Adam([*paced(first, 0.25, 1e-3), {"params": second}])
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append([group["lr"] for group in optimizer.param_groups]))
    job.detector.optimizers = lambda _: [optimizer]
    train_map(job, _quiet)
    assert seen[20][0] == pytest.approx(0.25 * step_size(job.spec.learning_rate, 20 / 40))
    assert seen[20][1] == pytest.approx(step_size(job.spec.learning_rate, 20 / 40))


def test_loss_falls_and_the_best_weights_are_kept(image, tmp_path):
    job = _job(image, tmp_path / "c", 60)
    state = train_map(job, _quiet)
    losses = [entry["train_loss"] for entry in state.history]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])
    validated = [entry["val_loss"] for entry in state.history if entry["val_loss"] is not None]
    assert state.best_loss <= min(validated)
    assert state.step == 60


def test_dark_material_is_learnt_and_not_copied_as_black(tmp_path):
    """Bright lines on black: without a start at the mean, the sigmoid's gradient is gone before it learns them."""
    lines = np.clip(np.sin(np.arange(120)[:, None] * 0.4 + np.zeros(140)) - 0.85, 0, None) * 4
    path = tmp_path / "dark.tif"
    tifffile.imwrite(path, (lines * 65535).astype(np.uint16))
    job = _job(path, tmp_path / "c", 120)
    state = train_map(job, _quiet)
    assert state.best_loss < 0.6 * np.mean(lines**2)


def test_interrupted_and_resumed_training_ends_with_the_same_weights(image, tmp_path):
    whole = _job(image, tmp_path / "whole", 40)
    train_map(whole, _quiet)

    cut = _job(image, tmp_path / "cut", 40)
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        train_map(cut, _quiet, stop=lambda: next(asked) == 23)
    resumed = _job(image, tmp_path / "cut", 40)
    state = train_map(resumed, _quiet, resume=True)
    assert state.step == 40
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[name]), name


def test_finished_training_is_not_repeated_on_resume(image, tmp_path):
    train_map(_job(image, tmp_path / "c", 12), _quiet)
    steps = []
    train_map(_job(image, tmp_path / "c", 12), lambda _p, step, *_r: steps.append(step), resume=True)
    assert steps == []


def test_checkpoint_of_other_data_or_damaged_is_refused(image, tmp_path):
    train_map(_job(image, tmp_path / "c", 10), _quiet)
    other = _job(image, tmp_path / "c", 10)
    other.fingerprint = "another"
    with pytest.raises(ModelError, match="other data, seed or settings"):
        train_map(other, _quiet, resume=True)
    tensors = next((tmp_path / "c").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged checkpoint"):
        train_map(_job(image, tmp_path / "c", 10), _quiet, resume=True)
    state = json.loads((tmp_path / "c" / "state.json").read_text())
    assert state["finished"] is True


def test_training_stops_early_without_improvement(image, tmp_path):
    job = _job(image, tmp_path / "c", 500, patience=1, learning_rate=1e-9)
    for parameter in job.detector.parameters():
        parameter.requires_grad_(False)
    job.detector.encoder[0].weight.requires_grad_(True)
    state = train_map(job, _quiet)
    assert state.stopped_early
    assert state.step < 500


def test_diverging_training_says_so(image, tmp_path):
    job = _job(image, tmp_path / "c", 50)
    torch.nn.init.constant_(job.detector.encoder[0].weight, float("nan"))
    with pytest.raises(ModelError, match="diverged"):
        train_map(job, _quiet)


def test_time_is_split_over_the_maps_and_steps_hold_for_each():
    assert MapBudget.of(Budget.parse("8m"), 2).seconds == 240
    assert MapBudget.of(Budget.parse("500steps"), 2).steps == 500
    assert MapBudget.of(Budget.parse("500steps"), 1).progress(250) == 0.5


def test_a_budget_in_time_ends_at_the_steps_that_are_of_use_and_one_in_steps_is_taken_at_its_word():
    limited = MapBudget.of(Budget.parse("10m"), 2, most_steps=1000)
    assert (limited.steps, limited.seconds) == (1000, 300)
    assert limited.progress(1000) == 1
    assert MapBudget.of(Budget.parse("10m"), 2).steps is None
    assert MapBudget.of(Budget.parse("4000steps"), 2, most_steps=1000).steps == 4000


def test_what_was_done_before_the_training_is_taken_from_a_budget_in_time():
    assert left_of(Budget(seconds=120), 12.34).seconds == pytest.approx(107.66)
    assert left_of(Budget(seconds=120), 1000).seconds == pytest.approx(48)
    assert left_of(Budget(seconds=0.1), 1).seconds == 0.1
    assert left_of(Budget(steps=500), 1000) == Budget(steps=500)


def test_what_comes_after_the_training_is_kept_from_a_budget_in_time():
    assert without_closing(Budget(seconds=120)).seconds == pytest.approx(96)
    assert without_closing(Budget(seconds=0.1)).seconds == 0.1
    assert without_closing(Budget(steps=500)) == Budget(steps=500)


def test_step_size_rises_then_falls_to_zero():
    sizes = [step_size(1.0, p) for p in np.linspace(0, 1, 101)]
    assert max(sizes) == pytest.approx(1.0, abs=1e-3)
    assert sizes.index(max(sizes)) == 5
    assert sizes[0] > 0
    assert sizes[-1] == pytest.approx(0, abs=1e-6)
    assert sorted(sizes[5:], reverse=True) == sizes[5:]


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_split_is_by_part_with_one_on_each_side(count):
    parts = [Part(str(i), {}, Path()) for i in range(count)]
    split = split_parts(parts, 0.2, 0)
    assert split == split_parts(parts, 0.2, 0)
    assert split.train
    assert split.validation
    if count > 1:
        assert {p.id for p in split.train} | {p.id for p in split.validation} == {p.id for p in parts}
        assert not {p.id for p in split.train} & {p.id for p in split.validation}


def test_preprocess_learns_range_and_fill_inside_the_roi(tmp_path):
    pixels = np.full((64, 64), 60000, np.uint16)
    pixels[:, :40] = np.random.default_rng(0).integers(1000, 2000, (64, 40))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels)
    roi = np.zeros((64, 64), bool)
    roi[:, :40] = True
    sampler = PatchSampler([SamplerImage(path, roi)], 16, 0)
    found = learn_preprocess(sampler, MapSpec(files="{part}.tif", range="train"))
    assert 1000 <= found.range.low < 1010
    assert 1990 < found.range.high <= 2000
    assert found.fill[0] == pytest.approx(0.5, abs=0.05)
    assert learn_preprocess(sampler, MapSpec(files="{part}.tif")).range == ValueRange(0, 65535)
    assert learn_preprocess(sampler, MapSpec(files="{part}.tif", range=(0, 4000))).range == ValueRange(0, 4000)


def test_range_of_a_dark_field_reaches_to_its_bright_pixels():
    pixels = np.zeros((5000, 1), np.uint16)
    pixels[::2000] = 40_000
    assert range_of(pixels) == ValueRange(0, 40_000)


@pytest.mark.parametrize("value", [np.uint16(7), np.uint8(255), np.int16(-3), np.float32(0.25), np.float64(1e12)])
def test_range_of_an_even_map_keeps_its_values_finite(value):
    pixels = np.full((100, 1), value)
    assert np.isfinite(range_of(pixels).to_unit(pixels + value.dtype.type(1))).all()


def test_range_holds_whatever_the_unit_of_a_map_is():
    heights_m = 2e-9 * np.random.default_rng(0).standard_normal((5000, 1))
    in_m, in_nm = (range_of(h).to_unit(h) for h in (heights_m, 1e9 * heights_m))
    np.testing.assert_allclose(in_m, in_nm, atol=1e-4)


@pytest.mark.parametrize("values", [1e6 + 0.02 * np.arange(20), 2_000_000_000 + np.arange(20, dtype=np.int32)])
def test_values_far_from_zero_keep_what_differs_in_them(values):
    limits = ValueRange(float(values[0]), float(values[-1]))
    np.testing.assert_allclose(limits.to_unit(values), np.linspace(0, 1, 20), atol=1e-4)


def test_the_shortest_side_is_that_of_the_parts_that_are_left(tmp_path):
    parts = [Part(str(side), {"image": tmp_path / "x.tif"}, tmp_path) for side in (50, 90)]
    survey = Survey(parts=parts, sizes={"50": (50, 70), "90": (90, 95)})
    assert survey.shortest_px == 50
    left = Sources(survey, split_parts(parts, 0.5, 0), Survey()).without({"50"}, 0.5, 0)
    assert left.survey.shortest_px == 90


def test_moments_of_values_that_float32_does_not_hold_are_those_of_their_differences(tmp_path):
    counts = np.random.default_rng(0).integers(0, 120, (40, 50))
    tifffile.imwrite(tmp_path / "near.tif", counts.astype(np.uint16))
    tifffile.imwrite(tmp_path / "far.tif", (2**31 + counts).astype(np.uint32))
    near, far = (measure_image(tmp_path / f"{name}.tif", None) for name in ("near", "far"))
    assert far.mean - 2**31 == pytest.approx(near.mean)
    assert far.channel_means[0] - 2**31 == pytest.approx(near.mean)
    assert (far.spread, far.sharpness) == pytest.approx((near.spread, near.sharpness))


def test_any_seed_will_do(image, tmp_path):
    job = replace(_job(image, tmp_path, 2), seed=20_260_730_120_000)
    assert train_map(job, _quiet).step == 2


def test_acquisition_range_covers_the_training_images_and_not_a_dark_one(tmp_path):
    rng = np.random.default_rng(0)
    parts = []
    for number in range(4):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, rng.normal(30000, 3000, (50, 50)).astype(np.uint16))
        parts.append(Part(str(number), {"image": path}, tmp_path))
    (limits,) = learn_acquisition([measure_image(p.files["image"], None) for p in parts], ValueRange(0, 65535))
    assert limits.mean_low < 30000 / 65535 < limits.mean_high
    assert limits.mean_low > 20000 / 65535
    assert limits.spread_low < 3000 / 65535 < limits.spread_high


def test_acquisition_range_of_a_channel_that_hardly_varies_has_room_by_the_others():
    rng = np.random.default_rng(0)
    images = [ImageMoments() for _ in range(3)]
    for image in images:
        rows = rng.normal((0.5, 0.5, 0.9), (0.2, 0.1, 0.001), (50, 60, 3))
        image.add(rows.astype(np.float32), None)
    wide, narrow, still = learn_acquisition(images, ValueRange(0, 1))
    assert wide.spread_low == pytest.approx(0.1, abs=0.01)
    assert narrow.spread_low == pytest.approx(0.05, abs=0.01)
    assert still.spread_low == 0
    assert (still.mean_low, still.mean_high) == pytest.approx((0.842, 0.958), abs=0.01)
    assert still.spread_high > 0.05


def test_warnings_in_plain_words():
    assert training_warnings("albedo", 0.9, 3, False, 1000) == []
    assert "explains only 3%" in training_warnings("albedo", 0.03, 3, False, 1000)[0]
    assert "only one image" in training_warnings("albedo", 0.9, 1, False, 1000)[0]


def test_masks_are_kept_at_a_bit_a_pixel():
    rng = np.random.default_rng(0)
    masks = {name: rng.random((7, 1 + number)) < 0.5 for number, name in enumerate("abcdefghij")}
    kept = PackedMasks()
    kept.update(masks | {"whole": None})
    assert len(kept) == 11
    assert kept["whole"] is None
    for name, mask in masks.items():
        assert np.array_equal(kept[name], mask)
    del kept["a"]
    assert "a" not in kept


def test_no_images_is_no_input():
    with pytest.raises(NoInputError):
        PatchSampler([], 32, 0)


def test_damaged_and_non_finite_images_are_left_out_by_name_before_training(tmp_path):
    recipe = parse_recipe("material: m\nmaps: {height: {files: '{part}.tif'}}", "r")
    parts = []
    for name, value in (("a", 0.5), ("b", np.nan), ("c", 0.5)):
        pixels = np.full((40, 40), 0.25, np.float32)
        pixels[3, 3] = value
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, compression="zlib")
        parts.append(Part(name, {"height": tmp_path / f"{name}.tif"}, tmp_path))
    content = bytearray((tmp_path / "c.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "c.tif") as file:
        start = file.pages[0].dataoffsets[0]
    content[start + 5 : start + 15] = bytes(10)
    (tmp_path / "c.tif").write_bytes(content)
    survey = survey_parts(parts, recipe, dict(recipe.maps), tmp_path)
    assert [part.id for part in survey.parts] == ["a"]
    assert "b.tif: 1 values are no finite numbers (beside the part? `roi: {rule: dark}`" in survey.faults[0]
    assert "c.tif: damaged TIFF" in survey.faults[1]
    assert survey.moments["a", "height"].mean == pytest.approx(0.25 + 0.25 / 1600)
    with pytest.raises(NoInputError, match="no usable training part"):
        survey_parts(parts[1:], recipe, dict(recipe.maps), tmp_path)


def test_an_image_that_is_left_out_does_not_fix_the_type_of_the_others(tmp_path):
    recipe = parse_recipe("material: m\nmaps: {height: {files: '{part}.tif'}}", "r")
    parts = []
    for name, dtype in (("a", np.float32), ("b", np.uint16), ("c", np.uint16)):
        pixels = np.full((40, 40), np.nan if name == "a" else 7).astype(dtype)
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
        parts.append(Part(name, {"height": tmp_path / f"{name}.tif"}, tmp_path))
    survey = survey_parts(parts, recipe, dict(recipe.maps), tmp_path)
    assert [part.id for part in survey.parts] == ["b", "c"]


def test_a_part_whose_roi_has_no_room_is_left_out_by_name_and_tiles_shrink_to_fit_the_others(tmp_path):
    text = "material: m\nmaps: {a: {files: '{part}.png'}}\nroi: {rule: file, file: '{part}_roi.png', margin_px: 0}"
    recipe = parse_recipe(text, "r")
    parts = []
    for name, width in (("wide", 250), ("narrow", 50)):
        mask = np.zeros((400, 420), np.uint8)
        mask[:, :width] = 255
        for file, pixels in ((f"{name}.png", np.full_like(mask, 9)), (f"{name}_roi.png", mask)):
            cv2.imwrite(str(tmp_path / file), pixels)
        parts.append(Part(name, {"a": tmp_path / f"{name}.png"}, tmp_path))
    survey = survey_parts(parts, recipe, dict(recipe.maps), tmp_path)
    faults = without_room(survey, recipe)
    assert list(faults) == ["narrow"]
    assert "narrow.png: no tile of 128 px lies inside its ROI by 50% (by 39% at most)" in faults["narrow"]
    sources, quiet = Sources(survey, split_parts(parts, 0.5, 0)), Quiet()
    order = TrainingOrder(Material(recipe, tmp_path), parts, "cae", dict(recipe.maps), Budget(steps=1), 0, "cpu")
    left = with_room(order, sources, quiet).survey
    assert [part.id for part in left.parts] == ["wide"]
    assert left.largest_tile_px(400, 0.5) == 400
    assert left.largest_tile_px(400, 0.9) == 200
    assert left.largest_tile_px(400, 1.1) == 128
    with pytest.raises(NoInputError, match=r"set tiles\.size_px or training\.min_roi_share lower"):
        with_room(order, replace(sources, survey=replace(survey, parts=parts[1:])), quiet)


@pytest.mark.parametrize("rule", ["dark", "saturated"])
def test_what_is_no_number_beside_the_part_is_left_out_by_these_rules(tmp_path, rule):
    text = f"material: m\nmaps: {{height: {{files: '{{part}}.tif'}}}}\nroi: {{rule: {rule}, margin_px: 0}}"
    recipe = parse_recipe(text, "r")
    pixels = np.full((60, 60), 0.25, np.float32)
    pixels[:, :20] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    part = Part("a", {"height": tmp_path / "a.tif"}, tmp_path)
    survey = survey_parts([part], recipe, dict(recipe.maps), tmp_path)
    assert survey.rois["a"] is not None
    assert np.array_equal(survey.rois["a"], np.isfinite(pixels))


def test_share_of_the_roi_has_a_hundredth_of_room_or_what_it_varies():
    whole, half = np.ones((10, 20), bool), np.zeros((10, 20), bool)
    half[:, :10] = True
    assert learn_roi_share([None, whole]) == RoiShare(low=0.99, high=1.0)
    found = learn_roi_share([half] * 5)
    assert (found.low, found.high) == (pytest.approx(0.495), pytest.approx(0.505))
    assert learn_roi_share([half, whole]) == RoiShare(low=0.0, high=1.0)


def test_limits_that_were_set_at_another_stride_do_not_stand_beside_new_ones(models, tmp_path):
    folder = shutil.copytree(models / "foil" / "cae", tmp_path / "cae")
    manifest = read_bundle(folder).manifest
    wanted = {"settings": manifest.settings, "roi": manifest.roi or RoiSpec()}
    recipe = load_recipe(models / "foil" / "recipe.yaml")
    tiling = tiling_of(recipe)
    found = kept_maps(folder, ["albedo"], ["albedo", "normal"], tiling=tiling, **wanted)
    assert found is not None
    assert found[1] == ["normal"]
    with pytest.raises(ModelError, match=r"limits of normal were set at stride 16 px, not 20"):
        kept_maps(folder, ["albedo"], ["albedo", "normal"], tiling=replace(tiling, stride_px=20), **wanted)
    calibration = manifest.calibration.model_copy(update={"precision": "bf16"})
    write_manifest(folder, manifest.model_copy(update={"calibration": calibration}))
    with pytest.raises(ModelError, match=r"limits of normal were set with --precision bf16"):
        kept_maps(folder, ["albedo"], ["albedo", "normal"], tiling=tiling, **wanted)


def test_the_trials_that_chose_a_method_are_kept_where_one_map_is_trained_again(models):
    old = read_bundle(models / "foil" / "cae").manifest
    old = old.model_copy(update={"trials": [Trial(method="cae", pixel_auroc=0.9)]})
    new = old.model_copy(update={"maps": {"albedo": old.maps["albedo"]}, "trials": []})
    assert joined(old, ["normal"], new, old.calibration).trials == old.trials
    again = new.model_copy(update={"trials": [Trial(method="direct", pixel_auroc=0.8)]})
    assert joined(old, ["normal"], again, old.calibration).trials == again.trials


def test_a_damaged_model_is_replaced_where_none_of_its_maps_stays(tmp_path):
    (tmp_path / MANIFEST).write_text('{"format": 1, "tool": "ins')
    wanted = {"settings": {}, "tiling": Tiling(32, 16), "roi": RoiSpec()}
    assert kept_maps(tmp_path, ["albedo", "normal"], ["albedo", "normal"], **wanted) is None
    with pytest.raises(ModelError):
        kept_maps(tmp_path, ["albedo"], ["albedo", "normal"], **wanted)
