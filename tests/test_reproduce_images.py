"""The papers' tables on images: small ones by class, and folders in the MVTec layout."""

import csv
import json
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import Quiet

from inspect_cli.cli import run
from inspect_cli.corruptions.filters import FAMILIES
from inspect_cli.errors import InputError, NoInputError
from inspect_cli.evaluation.metrics import rank_auroc
from inspect_cli.methods import build_detector
from inspect_cli.recipe import Budget
from inspect_cli.recipe.schema import TilesSpec, TrainingSpec
from inspect_cli.reproduce import TABLES, papers
from inspect_cli.reproduce.ablations import ACTIVATION, NOISE, RESIZE, families_of
from inspect_cli.reproduce.experiment import Case
from inspect_cli.reproduce.localisation import MVTEC_AUROC, measure_maps, plan_for
from inspect_cli.reproduce.mvtec import Preparation, find_categories, prepared
from inspect_cli.reproduce.normal_scores import histogram_csv, summary
from inspect_cli.reproduce.pipeline import Plan, image_scores, train_and_score
from inspect_cli.reproduce.recognition import plan_for as recognition_plan
from inspect_cli.reproduce.small_data import Source, read_digits, read_pictures
from inspect_cli.reproduce.small_images import CIFAR10, MNIST, SIDE_PX, SmallImages, _padded
from inspect_cli.store.parquet import read_parquet

pytestmark = pytest.mark.usefixtures("one_thread")


def case(out, path, table="mvtec-f1", method="cae", data="foil", budget="2steps"):
    return Case(table, data, path, method, Budget.parse(budget), 0, out)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def digit(kind, rng, side=12):
    """A bar (1), a ring (0) or noise (7), white on black, moved a little."""
    image = np.zeros((side, side), np.uint8)
    x = int(rng.integers(5, 7))
    if kind == 1:
        image[2:10, x : x + 2] = 255
    elif kind == 0:
        cv2.circle(image, (x, 6), 4, 255, 1)
    else:
        image[:] = rng.integers(0, 256, image.shape)
    return image


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    rng = np.random.default_rng(0)
    labels = np.array([1] * 20 + [0] * 10 + [7] * 10)
    path = tmp_path_factory.mktemp("digits") / "d.npz"
    np.savez(
        path,
        train_1=np.stack([digit(1, rng) for _ in range(60)]),
        test=np.stack([digit(kind, rng) for kind in labels]),
        test_label=labels.astype(np.uint8),
    )
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Dogs are dark and smooth, frogs are blue, ships are noise."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for name, count in (("train/dog", 30), ("test/dog", 8), ("test/frog", 6), ("test/ship", 6)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = np.full((32, 32, 3), 60 + number % 5, np.uint8)
            if name == "test/frog":
                image[..., 0] = 255  # OpenCV's first channel is blue
            if name == "test/ship":
                image[:] = rng.integers(0, 256, image.shape)
            cv2.imwrite(str(folder / name / f"{number:03d}.png"), image)
    return folder


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory):
    """Two categories, 64 px: gray stripes, defects are white squares; four defective images of one kind."""
    folder = tmp_path_factory.mktemp("mvtec")
    for category in ("toothbrush", "zipper"):
        for place, count in (("train/good", 4), ("test/good", 3), ("test/cut", 4)):
            (folder / category / place).mkdir(parents=True)
            for number in range(count):
                image = np.tile(np.array([80, 120], np.uint8), (64, 32))[..., None].repeat(3, axis=2)
                image[:, :, 1] += np.uint8(number)
                if place == "test/cut":
                    mask = np.zeros((64, 64), np.uint8)
                    mask[10 + number : 30, 20:44] = 255
                    image[mask > 0] = 255
                    (folder / category / "ground_truth" / "cut").mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(folder / category / "ground_truth" / "cut" / f"{number:03d}_mask.png"), mask)
                cv2.imwrite(str(folder / category / place / f"{number:03d}.png"), image)
    return folder


# ---------------------------------------------------------------- small images


def test_mnist_rows_of_every_digit_beside_the_papers(digits, tmp_path, capsys):
    arguments = ["reproduce", "mnist", "--data", str(digits.parent), "--out", str(tmp_path), "--budget", "40steps"]
    assert run([*arguments, "--methods", "cae", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["data"], row["method"], row["class"]) for row in rows] == [
        ("mnist", "cae", "0"),
        ("mnist", "cae", "7"),
    ]
    assert [row["roc_auc_paper"] for row in rows] == [0.9999, 0.9664]
    assert [row["pr_auc_paper"] for row in rows] == [0.9999, 0.9776]
    assert {(row["steps"], row["seed"], row["train_s_paper"]) for row in rows} == {(40, 0, 1015.53)}
    assert rows[1]["roc_auc"] == rows[1]["pr_auc"] == 1  # noise is never copied
    assert 0.5 < rows[0]["roc_auc"] <= 1
    assert [row["class"] for row in read_csv(tmp_path / "mnist.csv")] == ["0", "7"]
    assert not (tmp_path / "mnist" / "mnist" / "cae").exists()  # no checkpoint is left


def test_score_is_the_mean_squared_error_of_the_padded_image(digits, tmp_path):
    images = read_digits(digits)
    job, cost = MNIST._train(case(tmp_path, digits, "mnist", data="mnist"), images.train, lambda *_: None)
    assert cost.steps == 2
    from inspect_cli.reproduce.small_images import _scores

    tiles = torch.from_numpy((_padded(images.test["0"])[:, None] + 127.5) / 510).float()
    with torch.no_grad():
        expected = ((job.detector.reconstruct(tiles) - tiles) ** 2).flatten(1).mean(dim=1)
    assert _scores(job, images.test["0"]) == pytest.approx(expected.tolist(), rel=1e-4)


def test_validation_images_are_not_trained_on(digits, tmp_path):
    images = read_digits(digits)
    numbered = np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    job, _ = MNIST._train(case(tmp_path, digits, "mnist", data="mnist"), numbered, lambda *_: None)
    trained = {int(batch.max()) for step in range(40) for batch in job.train.batch(step, 32)[0]}
    held = {int(batch.max()) for step in range(40) for batch in job.validation.batch(step, 32)[0]}
    assert trained | held == set(range(60))
    assert not trained & held
    assert len(held) == 6
    assert images.train.shape == (60, 12, 12)


def test_a_batch_follows_from_seed_and_step():
    images = np.arange(50, dtype=np.uint8)[:, None, None]
    drawn = [
        Source(images, seed).batch(step, 20)[0].ravel().tolist() for seed, step in ((1, 2), (1, 2), (1, 3), (2, 2))
    ]
    assert drawn[0] == drawn[1]
    assert len({tuple(batch) for batch in drawn}) == 3


def test_images_lie_in_the_middle_of_a_black_square():
    padded = _padded(np.full((1, 28, 28), 255, np.uint8))
    assert padded.shape == (1, SIDE_PX, SIDE_PX)
    assert padded[0, 2:30, 2:30].min() == 255
    assert padded.sum() == 255 * 28 * 28
    assert _padded(np.zeros((2, 32, 31, 3), np.uint8)).shape == (2, 32, 32, 3)
    with pytest.raises(InputError, match="40x33 px; this table's networks take 32 px at most"):
        _padded(np.zeros((1, 33, 40), np.uint8))


def test_cifar_from_a_zip_is_the_same_as_from_a_folder(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for path in pictures.rglob("*.png"):
            archive.write(path, f"top/{path.relative_to(pictures).as_posix()}")
        archive.writestr("top/test/readme.txt", "no picture")
    zipped, loose = read_pictures(tmp_path / "c.zip"), read_pictures(pictures)
    assert zipped.normal == loose.normal == "dog"
    assert sorted(zipped.test) == ["dog", "frog", "ship"]
    assert (zipped.train == loose.train).all()
    assert all((zipped.test[name] == loose.test[name]).all() for name in loose.test)
    assert zipped.test["frog"][0, 0, 0].tolist() == [60, 60, 255]  # RGB
    assert zipped.train.shape == (30, 32, 32, 3)


def test_cifar_rows_of_every_class(pictures, tmp_path):
    rows = CIFAR10.measure(case(tmp_path, pictures, "cifar10", "vae", "cifar10", "3steps"), Quiet())
    assert [(row["class"], row["roc_auc_paper"]) for row in rows] == [("frog", 0.5677), ("ship", 0.5655)]
    assert rows[1]["roc_auc"] == 1


@pytest.mark.parametrize("method", TABLES["mnist"].methods)
def test_networks_are_the_papers(method):
    for experiment, channels in ((MNIST, 1), (CIFAR10, 3)):
        detector = build_detector(method, channels, SIDE_PX, {"architecture": experiment.architecture})
        assert (detector.hidden, detector.latent) == (100, 20)


def test_what_small_images_cannot_be(digits, pictures, tmp_path):
    with pytest.raises(NoInputError, match=r"must be one \.npz file, or a folder with one in it"):
        MNIST.inputs(pictures)
    with pytest.raises(NoInputError, match=r"must be one \.zip file"):
        CIFAR10.inputs(tmp_path)
    assert CIFAR10.inputs(pictures) == {"cifar10": pictures}
    assert MNIST.inputs(digits) == {"mnist": digits}
    np.savez(tmp_path / "a.npz", train_1=np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(InputError, match="arrays are train_1, test, test_label"):
        read_digits(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", train_1=np.zeros((3, 4, 4)), test=np.zeros((3, 4, 4)), test_label=np.zeros(3))
    with pytest.raises(InputError, match="must be uint8"):
        read_digits(tmp_path / "b.npz")
    blank = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "c.npz", train_1=blank, test=blank, test_label=np.full(3, 4))
    with pytest.raises(InputError, match="needs images of 1 to learn from, and of it and of other classes"):
        read_digits(tmp_path / "c.npz")
    (tmp_path / "d.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"cannot be read as a \.zip file"):
        read_pictures(tmp_path / "d.zip")
    (tmp_path / "train" / "dog").mkdir(parents=True)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"train/dog/1\.png: is damaged"):
        read_pictures(tmp_path)


# ---------------------------------------------------------------- folders in the MVTec layout


def test_categories_are_a_folder_or_folders_in_it(mvtec, tmp_path):
    assert find_categories(mvtec) == {name: mvtec / name for name in ("toothbrush", "zipper")}
    assert find_categories(mvtec / "zipper") == {"zipper": mvtec / "zipper"}
    with pytest.raises(NoInputError, match="no category in it: a folder with train/good, test and ground_truth"):
        find_categories(tmp_path)


def test_copies_are_resized_and_the_source_is_left_alone(mvtec, tmp_path):
    before = sorted(mvtec.rglob("*"))
    copy = prepared(case(tmp_path, mvtec / "zipper"), Preparation(side_px=32, gray=True))
    assert sorted(mvtec.rglob("*")) == before
    image = cv2.imread(str(copy / "train" / "good" / "000.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 32)
    assert abs(image.astype(int) - 100).max() <= 1  # stripes of one pixel, averaged
    mask = cv2.imread(str(copy / "ground_truth" / "cut" / "000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 255}
    assert mask.astype(bool).sum() == 10 * 12
    assert len(list((copy / "test" / "cut").iterdir())) == 4
    assert not (copy / "defects").exists()


def test_nothing_to_prepare_copies_nothing(mvtec, tmp_path):
    assert prepared(case(tmp_path, mvtec / "zipper"), Preparation()) == mvtec / "zipper"
    assert list(tmp_path.iterdir()) == []


def test_half_of_the_defects_are_kept_from_the_test(mvtec, tmp_path):
    place = case(tmp_path, mvtec / "zipper")
    stale = prepared(place, Preparation(side_px=8)) / "test" / "cut" / "000.png"
    copy = prepared(place, Preparation(learn_defects=True))
    assert not stale.exists()
    assert sorted(path.name for path in (copy / "defects" / "cut").iterdir()) == ["000.png", "002.png"]
    assert sorted(path.name for path in (copy / "test" / "cut").iterdir()) == ["001.png", "003.png"]
    assert len(list((copy / "test" / "good").iterdir())) == 3
    assert len(list((copy / "ground_truth" / "cut").iterdir())) == 4
    assert (cv2.imread(str(copy / "test" / "cut" / "001.png")) == 255).all(axis=2).sum() == 19 * 24


def test_an_image_that_cannot_be_resized_is_named(mvtec, tmp_path):
    for name in ("train/good", "test/good", "ground_truth"):
        (tmp_path / "c" / name).mkdir(parents=True)
    (tmp_path / "c" / "train" / "good" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image of 8 or 16 bits"):
        prepared(case(tmp_path / "out", tmp_path / "c"), Preparation(side_px=8))


SMALL = Plan(
    method="cae",
    tiles=TilesSpec(size_px=32, stride_px=32),
    training=TrainingSpec(batch=4),
    settings={"hidden": 16, "latent": 4},
    images=Preparation(side_px=32),
)


def test_areas_of_maps_beside_the_papers(mvtec, tmp_path):
    place = case(tmp_path, mvtec / "zipper", data="zipper")
    [row] = measure_maps(place, SMALL, papers.SSAE["zipper"], Quiet())
    assert (row["pixel_auroc_paper"], row["image_auroc_paper"]) == (0.99, 0.98)
    assert row["pixel_auroc"] > 0.9  # white squares on gray: any copy misses them
    assert row["image_auroc"] == 1
    assert row["steps"] == 2
    assert "size_px: 32" in (place.work / "model" / "recipe.yaml").read_text()
    good, defective = image_scores(place.work / "run")
    assert (len(good), len(defective)) == (3, 4)
    assert rank_auroc(good, defective) == 1
    tables = sorted((place.work / "run" / "parts" / "good").glob("*/patches.parquet"))
    assert good == [read_parquet(table)["residual_mean"].to_numpy().mean() for table in tables]


def test_f1_of_a_category(mvtec, tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    from inspect_cli.reproduce import recognition

    split = replace(SMALL, images=Preparation(side_px=32, learn_defects=True))
    monkeypatch.setattr(recognition, "plan_for", lambda method: split)
    arguments = ["reproduce", "mvtec-f1", "--data", str(mvtec / "zipper"), "--out", str(tmp_path)]
    arguments += ["--methods", "cae", "--budget", "2steps"]
    assert run(arguments) == 0
    [row] = read_csv(tmp_path / "mvtec-f1.csv")
    assert (row["data"], row["f1_max"], row["image_auroc"], row["f1"]) == ("zipper", "1.0", "1.0", "")
    run_folder = tmp_path / "mvtec-f1" / "zipper" / "cae" / "run"
    assert len(list(run_folder.rglob("part.json"))) == 3 + 2  # half of the defects are kept from the test
    before = capsys.readouterr()
    assert run(arguments) == 0
    again = capsys.readouterr()
    assert again.out == before.out
    assert "zipper, cae, seed 0: measured before" in again.err


def test_a_signal_while_scoring_ends_the_case(mvtec, tmp_path, monkeypatch):
    from inspect_cli.batch import run as batch_run
    from inspect_cli.stopping import Stopped

    ended = SimpleNamespace(interrupted=True), 130
    monkeypatch.setattr(batch_run, "score_batch", lambda *arguments: ended)
    with pytest.raises(Stopped) as caught:
        train_and_score(case(tmp_path, mvtec / "zipper"), SMALL, Quiet())
    assert caught.value.exit_code == 130


# ---------------------------------------------------------------- the papers' set-ups


def test_set_ups_of_the_papers():
    direct = plan_for("direct", "carpet")
    assert (direct.images.side_px, direct.tiles.size_px, direct.tiles.stride_px) == (256, 65, 33)
    assert (direct.training.batch, direct.training.learning_rate) == (64, 4e-4)  # the method takes half of it
    assert direct.scoring.smooth_sigma_px == 0
    ssae = plan_for("ssae", "carpet")
    assert (ssae.images.side_px, ssae.tiles.whole, ssae.training.learning_rate) == (512, True, 1e-4)
    assert ssae.training.augment == "turn"
    assert plan_for("ssae-contrast", "bottle").training.augment == "none"
    assert {method: recognition_plan(method).images.side_px for method in TABLES["mvtec-f1"].methods} == {
        "cae": 128, "kd-cae": 128, "ni-cae": 128, "ni-cae-clean": 128, "cnn": 200,
    }  # fmt: skip
    assert [method for method in TABLES["mvtec-f1"].methods if recognition_plan(method).images.gray] == [
        "ni-cae", "ni-cae-clean",
    ]  # fmt: skip
    assert recognition_plan("ni-cae").settings == {}
    assert (recognition_plan("ni-cae-clean").method, recognition_plan("ni-cae-clean").settings) == (
        "ni-cae", {"noise_share": 0.0},
    )  # fmt: skip
    assert all(recognition_plan(method).images.learn_defects for method in TABLES["mvtec-f1"].methods)


def test_variants_of_direct():
    assert set(families_of("all")) == set(FAMILIES)
    assert families_of("all") == ["opaque", "transparent", "speckle", "distribution", "morphological"]
    assert families_of("only-speckle") == ["speckle"]
    assert families_of("no-opaque") == ["transparent", "speckle", "distribution", "morphological"]
    variants = [NOISE.plan(variant) for variant in TABLES["noise-ablation"].methods]
    assert len({tuple(plan.settings["families"]) for plan in variants}) == len(variants) == 11
    assert ACTIVATION.plan("tanh").settings == {"activation": "tanh"}
    assert RESIZE.plan("256px").images.side_px == 256
    assert RESIZE.plan("full").images == Preparation()
    assert NOISE.own in TABLES["noise-ablation"].methods
    assert ACTIVATION.own in TABLES["activation-ablation"].methods
    assert RESIZE.own in TABLES["resize"].methods


def test_the_papers_number_stands_beside_its_own_variant_only(monkeypatch, tmp_path):
    from inspect_cli.reproduce import ablations, localisation

    def beside(experiment, module, method, data):
        monkeypatch.setattr(module, "measure_maps", lambda case, plan, paper, teller: [paper])
        return experiment.measure(case(tmp_path, None, method=method, data=data), Quiet())[0]

    assert beside(NOISE, ablations, "all", "grid") == {"pixel_auroc": 0.95}
    assert beside(NOISE, ablations, "no-opaque", "grid") == {}
    assert beside(RESIZE, ablations, "256px", "fabric") == {}
    assert beside(MVTEC_AUROC, localisation, "ssae", "screw") == {"pixel_auroc": 0.99, "image_auroc": 0.94}
    assert beside(MVTEC_AUROC, localisation, "ssae-contrast", "grid") == {"pixel_auroc": 0.99, "image_auroc": 0.96}
    assert beside(MVTEC_AUROC, localisation, "direct", "wood") == {"pixel_auroc": 0.95}
    assert beside(MVTEC_AUROC, localisation, "ssae-ensemble", "wood") == {}


def test_every_row_can_be_built():
    plans = [plan_for(method, "carpet") for method in TABLES["mvtec-auroc"].methods]
    plans += [recognition_plan(method) for method in TABLES["mvtec-f1"].methods]
    plans += [NOISE.plan(variant) for variant in TABLES["noise-ablation"].methods]
    plans += [ACTIVATION.plan(variant) for variant in TABLES["activation-ablation"].methods]
    with torch.device("meta"):
        for plan in plans:
            detector = build_detector(plan.method, 3, plan.tiles.size_px, dict(plan.settings))
            assert detector.fully_convolutional or not plan.tiles.whole


def test_summary_and_histogram_of_scores():
    scores = np.array([0.001, 0.004, 0.012, 0.029, 0.3], np.float32)
    found = summary(scores)
    assert found["mean"] == pytest.approx(scores.mean())
    assert found["median"] == pytest.approx(0.012)
    assert found["below_0.03"] == pytest.approx(0.8)
    lines = histogram_csv(scores).splitlines()
    assert lines[:4] == ["from,to,share", "0.000,0.005,0.4", "0.005,0.010,0.0", "0.010,0.015,0.2"]
    assert lines[-1] == "0.300,0.305,0.2"
    assert sum(float(line.split(",")[2]) for line in lines[1:]) == pytest.approx(1)


def test_scores_of_good_pixels_come_from_good_test_images(mvtec, tmp_path, monkeypatch):
    from inspect_cli.reproduce import normal_scores

    monkeypatch.setattr(normal_scores, "direct_with", lambda settings: SMALL)
    place = case(tmp_path, mvtec / "zipper", "normal-scores", "anomaly", "leather")
    [row] = normal_scores.NORMAL_SCORES.measure(place, Quiet())
    assert row["median_paper"] is None
    assert 0 < row["median"] <= row["quantile_99"]
    run_folder = place.work / "run"
    assert len(list(run_folder.glob("parts/*/part.json"))) == 3
    assert (place.work / "histogram_seed0.csv").read_text().startswith("from,to,share\n")


def test_small_images_of_another_data_set_have_no_paper_numbers(digits, tmp_path):
    other = SmallImages("own", "mnist", MNIST.values, MNIST.find, read_digits, {})
    rows = other.measure(case(tmp_path, digits, "mnist", data="own"), Quiet())
    assert {row["roc_auc_paper"] for row in rows} == {None}
