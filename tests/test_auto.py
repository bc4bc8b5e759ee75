"""The choice of a method: trials on artificial defects, the table, resuming, and what cannot be tried."""

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from inspect_cli.cli import run
from inspect_cli.corruptions.trial import CHANGED, KINDS, trial_defects
from inspect_cli.errors import ModelError, NoInputError, RecipeError, UsageError
from inspect_cli.material.bundle import Bundle
from inspect_cli.material.manifest import Manifest, Trial, says_little
from inspect_cli.material.materials import Material
from inspect_cli.methods.registry import AUTO
from inspect_cli.recipe import Budget, parse_recipe
from inspect_cli.recipe.schema import MapSpec, Recipe
from inspect_cli.training import auto, trial
from inspect_cli.training.auto import CANDIDATES, CHOICE, beside_others, best, trial_lines
from inspect_cli.training.budget import MapBudget
from inspect_cli.training.order import TrainingOrder
from inspect_cli.training.trial import trial_windows
from tests.helpers import TRAINED, Quiet, material_of


@pytest.fixture
def stripes(tmp_path):

    rng = np.random.default_rng(0)
    for number in range(4):
        x = np.arange(160)
        grey = 120 + 60 * np.sin(x[None] * 0.6 + rng.uniform(0, 6)) + rng.normal(0, 4, (140, 160))
        (tmp_path / "good").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "good" / f"p{number}.png"), grey.clip(0, 255).astype(np.uint8))
    material_of(tmp_path / "models", "stuff", tile_px=64, method="auto")
    return tmp_path


def train(folder, *more: str) -> int:
    common = ["train", "-m", "stuff", "--models", str(folder / "models"), "--data", str(folder / "good")]
    return run([*common, "--budget", "30steps", *more])


@pytest.mark.parametrize("kind", list(KINDS))
def test_trial_defects_change_what_they_say(kind):
    patches = np.random.default_rng(1).random((12, 2, 64, 64), np.float32)
    before = patches.copy()
    found = trial_defects(kind, patches, np.random.default_rng(2))
    assert np.array_equal(patches, before)
    same = np.broadcast_to(found.changed == 0, patches.shape)
    assert np.array_equal(found.patches[same], patches[same])
    inside = found.changed[:, 0] > CHANGED
    share = inside.mean(axis=(1, 2))
    assert (share > 0).all()
    assert (share < 0.3).all()
    difference = np.abs(found.patches - patches).mean(axis=1)
    assert difference[inside].mean() > 0.1
    again = trial_defects(kind, patches, np.random.default_rng(2))
    assert np.array_equal(again.patches, found.patches)


def test_best_is_the_first_of_those_whose_areas_are_close_to_the_largest():
    trials = [
        Trial(method="a", pixel_auroc=None, note="no package"),
        Trial(method="b", pixel_auroc=0.7),
        Trial(method="c", pixel_auroc=0.79),
        Trial(method="d", pixel_auroc=0.8),
    ]
    assert best(trials).method == "c"
    assert best([*trials, Trial(method="e", pixel_auroc=0.83)]).method == "e"
    assert "no package" in trial_lines(trials[:1])[1]


def test_the_best_candidate_is_trained_and_the_table_kept(stripes, capsys, monkeypatch):
    marks = {"feature-direct": 0.9, "cae": 0.6, "direct": 0.7}
    monkeypatch.setattr(
        auto, "measure_trial", lambda job, *_: trial.Kinds(dict.fromkeys(KINDS, marks[job.detector.name]))
    )
    assert train(stripes) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.err.splitlines() if line.startswith(tuple(marks))] == list(CANDIDATES)
    folder = stripes / "models" / "stuff" / "feature-direct"
    assert told.out.strip() == str(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {trial["method"]: trial["pixel_auroc"] for trial in manifest["trials"]} == marks
    assert [trial["steps"] for trial in manifest["trials"]] == [3, 3, 3]
    assert manifest["maps"]["image"]["steps"] == 21
    assert "## Why this method" in (folder / "model_card.md").read_text()
    assert not (stripes / "models" / "stuff" / CHOICE).exists()
    assert run(["recipe", "check", "stuff", "--models", str(stripes / "models")]) == 0


def test_no_more_is_tried_where_nothing_can_change_the_choice(stripes, capsys, monkeypatch):
    marks = {"feature-direct": 0.97, "cae": 0.995}  # were direct tried, it could not reach .02 above cae
    monkeypatch.setattr(
        auto, "measure_trial", lambda job, *_: trial.Kinds(dict.fromkeys(KINDS, marks[job.detector.name]))
    )
    assert train(stripes) in TRAINED
    manifest = json.loads((stripes / "models/stuff/cae/manifest.json").read_text())
    assert [entry["pixel_auroc"] for entry in manifest["trials"]] == [0.97, 0.995, None]
    assert manifest["maps"]["image"]["steps"] == 24, "a tenth of the steps for each that was tried"
    assert "it could not be better by 0.02" in capsys.readouterr().err
    assert (
        "| direct | not tried: it could not be better by 0.02 |"
        in (stripes / "models/stuff/cae/model_card.md").read_text()
    )


def test_another_training_leaves_an_interrupted_choice_alone(stripes, monkeypatch):
    choice = stripes / "models" / "stuff" / CHOICE
    choice.write_text("{}")
    assert train(stripes, "--method", "cae") in TRAINED
    assert choice.exists()


def test_fewer_windows_are_shown_to_a_network_that_is_slow(monkeypatch):
    now = iter([0.0, 2.0])  # two seconds a window: twelve with five kinds
    monkeypatch.setattr(trial.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(trial, "scored", lambda *_: [])
    windows = trial.Windows(np.zeros((9, 1, 8, 8), np.float32), np.ones((9, 8, 8), bool), (0.5,))
    found = trial._affordable(windows, None, None, 50.0)
    assert len(found.pixels) == len(found.roi) == int(50 / (2 * (1 + len(KINDS))))
    assert len(trial.Windows(windows.pixels, None, (0.5,)).first(99).pixels) == 9


def test_measured_trial_sees_what_a_detector_sees():
    """A detector of grey values finds creases and pits on flat material, and no displaced structure."""
    import torch

    from inspect_cli.engines import TorchEngine
    from inspect_cli.tiles.tiling import Tiling

    class Grey(torch.nn.Module):
        size_step_px = 1
        tile_px = 64

        def placed(self, device):
            return self

        def score(self, tiles):
            return (tiles[:, 0] - 0.5).abs()

    pixels = np.random.default_rng(3).normal(0.5, 0.02, (4, 1, 300, 300)).astype(np.float32)
    roi = np.ones((4, 300, 300), bool)
    roi[:, :, 200:] = False
    engine = TorchEngine(Grey(), torch.device("cpu"))
    for inside in (None, roi):
        windows = trial.Windows(pixels, inside, (0.5,))
        found = trial.kinds_told(windows, engine, Tiling(64, 32, smooth_sigma_px=0), 0).auroc
        assert found["crease"] > 0.6
        assert found["pitted"] > 0.55
        assert 0.45 < found["dislocated"] < 0.55


@pytest.mark.parametrize("kind", list(KINDS))
def test_windows_get_a_defect_in_every_other_square(kind):
    pixels = np.random.default_rng(3).random((2, 1, 300, 300), np.float32)
    damaged, changed = trial.with_defects(kind, pixels, None, np.random.default_rng(0))
    assert changed[:, :128, :128].any(axis=(1, 2)).all()
    assert changed[:, 128:256, 128:256].any(axis=(1, 2)).all()
    assert not changed[:, :128, 128:].any()
    assert not changed[:, 256:].any()
    assert np.array_equal(damaged[:, :, :128, 128:], pixels[:, :, :128, 128:])
    assert np.abs(damaged[:, 0] - pixels[:, 0])[changed].mean() > 0.1


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_cannot_be_seen_on_an_even_background_is_no_defect(kind):
    """A textured disc on a constant ground: on the ground nothing that is moved, worn or wound up changes."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((384, 384))
    disc = np.hypot(rows - 190, columns - 190) < 110
    pixels = np.full((2, 1, 384, 384), 20 / 255, np.float32)
    pixels[:, :, disc] = rng.normal(0.5, 0.05, pixels[:, :, disc].shape)
    damaged, changed = trial.with_defects(kind, pixels, None, np.random.default_rng(0))
    moved = np.abs(damaged - pixels)[:, 0]
    assert changed.any()
    far = cv2.dilate((moved > 5e-4).any(axis=0).astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
    assert not changed[:, far].any()


def test_defects_lie_in_the_squares_that_hold_material_inside_the_roi():
    pixels = np.random.default_rng(3).random((1, 1, 256, 256), np.float32)
    roi = np.zeros((1, 256, 256), bool)
    roi[:, 10:118, 140:250] = True  # the upper right square, which the first colour of the chessboard leaves out
    _, changed = trial.with_defects("pitted", pixels, roi, np.random.default_rng(0))
    assert changed[:, :128, 128:].any()
    assert not changed[:, :128, :128].any()


def test_where_none_can_be_measured_the_first_that_could_be_trained_is_taken(stripes, capsys, monkeypatch):
    def unseen(*_):
        raise NoInputError("no artificial defect can be seen")

    monkeypatch.setattr(auto, "measure_trial", unseen)
    assert train(stripes) in TRAINED
    assert "the first that could be trained is taken" in capsys.readouterr().err
    assert (stripes / "models/stuff/feature-direct/manifest.json").is_file()


def test_a_candidate_that_no_part_would_pass_by_comes_last():
    trials = [Trial(method="cae", pixel_auroc=0.735, doubtful=True), Trial(method="direct", pixel_auroc=0.699)]
    assert best(trials).method == "direct"
    assert best(trials[:1]).method == "cae"
    assert says_little(0.735, explained=-4.0)
    assert not says_little(0.699, explained=None)


def test_candidates_that_cannot_be_tried_are_named_and_left_out(stripes, capsys, monkeypatch):
    def missing(job, *_, **__):
        if job.detector.name != "cae":
            raise ModelError("EfficientNet-Lite0 is not installed")
        return train_map(job, lambda *_: None)

    train_map = auto.train_map
    monkeypatch.setattr(auto, "train_map", missing)
    assert train(stripes) in TRAINED
    assert "not installed" in capsys.readouterr().err
    trials = json.loads((stripes / "models/stuff/cae/manifest.json").read_text())["trials"]
    assert [trial["pixel_auroc"] is None for trial in trials] == [True, False, True]
    monkeypatch.setattr(auto, "CANDIDATES", {"direct": {}})
    assert train(stripes) == ModelError.exit_code


def test_a_setting_that_no_candidate_has_is_refused_at_once(stripes, capsys):
    recipe = stripes / "models" / "stuff" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("settings: {}", "settings: {marks_wdith: 8}"))
    assert train(stripes) == RecipeError.exit_code
    assert "did you mean 'marks_width'" in capsys.readouterr().err
    assert run(["recipe", "check", str(recipe)]) == RecipeError.exit_code


@pytest.mark.parametrize("settings", ["{marks_width: hello}", "{width: -3}"])
def test_a_value_that_a_candidate_does_not_take_is_refused_at_once(stripes, capsys, settings):
    recipe = stripes / "models" / "stuff" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("settings: {}", f"settings: {settings}"))
    assert train(stripes) == RecipeError.exit_code
    assert run(["recipe", "check", str(recipe)]) == RecipeError.exit_code
    assert "did you mean" not in capsys.readouterr().err


def test_some_maps_are_trained_with_the_method_of_the_others(tmp_path, monkeypatch):
    recipe = Recipe(material="x", maps={"a": MapSpec(files="{part}_a.png"), "b": MapSpec(files="{part}_b.png")})
    material = Material(recipe, tmp_path)
    order = TrainingOrder(material, [], AUTO, {"a": recipe.maps["a"]}, Budget(seconds=9), 0, "cpu")
    assert beside_others(order, Quiet()) is order, "no model yet"
    for method, maps, expected in (("direct", "ab", "direct"), ("direct", "a", AUTO), ("vae", "ab", "vae")):
        known = Manifest.model_construct(method=method, maps=dict.fromkeys(maps))
        monkeypatch.setattr(auto, "find_bundle", lambda _, known=known: Bundle(tmp_path, known))
        found = beside_others(order, Quiet())
        assert found.method == expected
        assert found.defaults == (auto.CANDIDATES["direct"] if expected == "direct" else {})
        assert beside_others(replace(order, maps=dict(recipe.maps)), Quiet()).method == AUTO


def test_resume_takes_up_the_choice(stripes, capsys, monkeypatch):
    assert train(stripes, "--resume") == UsageError.exit_code
    assert "no interrupted training" in capsys.readouterr().err
    monkeypatch.setattr(auto, "measure_trial", lambda *_: trial.Kinds(dict.fromkeys(KINDS, 0.5)))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("inspect_cli.training.train._train_locked", killed)
    assert train(stripes) == 130
    monkeypatch.undo()
    note = stripes / "models" / "stuff" / CHOICE
    choice = json.loads(note.read_text())
    assert best([Trial(**entry) for entry in choice["trials"]]).method == "feature-direct"
    assert choice["seconds"] > sum(entry["seconds"] for entry in choice["trials"]), "measuring takes time too"
    for older in (
        note.read_text().replace("crease", "stain"),
        note.read_text().replace("feature-direct", "gone"),
        json.dumps(choice | {"trials": []}),
    ):
        note.write_text(older)
        assert train(stripes, "--resume") == UsageError.exit_code
        assert "another version" in capsys.readouterr().err
    note.write_text("[")
    assert train(stripes, "--resume") == UsageError.exit_code
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--defects", "good"], "name a method, such as cnn"), (["--preview-corruptions"], "name one with --method")],
)
def test_what_does_not_go_with_auto_is_refused(stripes, more, words, capsys):
    arguments = [str(stripes / word) if word == "good" else word for word in more]
    assert train(stripes, *arguments) == UsageError.exit_code
    assert words in capsys.readouterr().err


def test_the_windows_of_a_trial_follow_its_time_whatever_the_steps_it_may_take(monkeypatch):
    counts = []

    class Source:
        def batch(self, step, count):
            counts.append(count)
            return np.zeros((count, 256, 256), np.uint8), None

        def close(self):
            pass

    monkeypatch.setattr("inspect_cli.training.trial.good_sampler", lambda *_, **__: Source())
    recipe = parse_recipe("material: m\nmaps: {image: {files: '{part}.png'}}\n", "test")
    order = SimpleNamespace(material=SimpleNamespace(recipe=recipe))
    sources = SimpleNamespace(survey=SimpleNamespace(common_px=256))
    for steps in (None, 1000):
        job = SimpleNamespace(
            budget=MapBudget(steps, 20.0),
            detector=SimpleNamespace(tile_px=256),
            seed=0,
            preprocess=SimpleNamespace(to_network=lambda patches, _: patches[:, None] / np.float32(255), fill=(0.0,)),
        )
        trial_windows(job, order, "image", sources)
    assert counts[0] == counts[1]


def test_windows_with_material_come_first_and_trials_that_told_nothing_cost_their_steps(monkeypatch):
    class Source:
        def batch(self, step, count):
            patches = np.zeros((count, 512, 512), np.uint8)
            patches[3] = np.random.default_rng(0).integers(0, 255, (512, 512))
            return patches, None

        def close(self):
            pass

    monkeypatch.setattr("inspect_cli.training.trial.good_sampler", lambda *_, **__: Source())
    recipe = parse_recipe("material: m\nmaps: {image: {files: '{part}.png'}}\n", "test")
    order = SimpleNamespace(material=SimpleNamespace(recipe=recipe))
    job = SimpleNamespace(
        budget=MapBudget(None, 5.0),
        seed=0,
        preprocess=SimpleNamespace(to_network=lambda patches, _: patches[:, None] / np.float32(255), fill=(0.0,)),
    )
    windows = trial_windows(job, order, "image", SimpleNamespace(survey=SimpleNamespace(common_px=512)))
    assert len(windows.pixels) == 4
    assert windows.first(1).pixels.std() > 0.1
    unmeasured = [Trial(method=name, pixel_auroc=None, steps=100) for name in CANDIDATES]
    left = auto._left(Budget.parse("1000steps"), auto.Choice(trials=unmeasured, seconds=9.0))
    assert left.steps == 700
