"""Parts that do not look like the others: found, named with their place, shown, and left out when asked."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspect_cli.cli import run
from inspect_cli.errors import EXIT_SIGINT, LockedError, UsageError
from inspect_cli.images import Part
from inspect_cli.material.manifest import Suspect
from inspect_cli.recipe import Budget
from inspect_cli.store.lock import lock_folder
from inspect_cli.training import suspects
from inspect_cli.training.budget import MapBudget
from inspect_cli.training.order import CHECKPOINTS
from inspect_cli.training.prepare import Split, Survey
from inspect_cli.training.sources import Sources
from inspect_cli.training.suspects import (
    LEAST_PARTS,
    NOTE,
    _Place,
    parts_in_time,
    patches_of_budget,
    ranked,
    spread,
    steps_of_budget,
    tiles_in_time,
    training_seconds,
)
from inspect_cli.training.train import _held_out
from tests.helpers import TRAINED, material_of


def place(name: str, score: float) -> _Place:
    return _Place(Part(name, {}, Path()), "image", score, (0, 0, 4, 4), (0, 0))


def test_what_lies_far_above_the_others_stands_out():
    usual = [place(f"p{i}", score) for i, score in enumerate([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0])]
    assert not any(found.stands_out for found in ranked(usual))
    assert ranked([]) == []
    bad, worse = place("bad", 3.0), place("worse", 6.0)
    found = [u for u in ranked([bad, *usual, worse]) if u.stands_out]
    assert [(u.place.part.id, u.times) for u in found] == [
        ("worse", pytest.approx(6.0)),
        ("bad", pytest.approx(3.0)),
    ]


@pytest.mark.parametrize(("budget", "patches"), [("1s", 600), ("2m", 1200), ("1h", 6000), ("400steps", 1000)])
def test_the_search_takes_a_small_part_of_the_budget(budget, patches):
    assert patches_of_budget(Budget.parse(budget)) == patches


@pytest.mark.parametrize(
    ("budget", "maps", "steps"), [("1s", 1, 1), ("2m", 1, 96), ("2m", 4, 24), ("1h", 1, 400), ("400steps", 3, 40)]
)
def test_the_detector_that_looks_is_trained_for_a_small_part_of_the_budget(budget, maps, steps):
    assert steps_of_budget(Budget.parse(budget), maps) == steps


def test_what_ends_first_ends_a_budget_of_steps_and_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("inspect_cli.training.budget.time.monotonic", lambda: now[0])
    budget = MapBudget(steps=100, seconds=10.0)
    budget.start()
    assert budget.progress(50) == 0.5
    now[0] = 8.0
    assert budget.progress(50) == 0.8
    assert budget.progress(90) == 0.9


def test_of_a_long_budget_a_larger_share_goes_into_the_look():
    assert training_seconds(Budget.parse("2m"), 1) == pytest.approx(18)
    assert training_seconds(Budget.parse("8m"), 1) == pytest.approx(27 + 90)
    assert training_seconds(Budget.parse("8m"), 4) == pytest.approx(18)
    assert training_seconds(Budget.parse("300steps"), 1) is None


def test_as_many_tiles_of_each_part_as_time_allows():
    assert tiles_in_time(most=10, parts=10, one_s=0.5, seconds=20.0) == 4
    assert tiles_in_time(most=10, parts=10, one_s=0.01, seconds=20.0) == 10
    assert tiles_in_time(most=10, parts=100, one_s=5.0, seconds=20.0) == 1
    assert tiles_in_time(most=10, parts=10, one_s=100.0, seconds=None) == 10


def test_of_thousands_of_parts_as_many_as_time_allows():
    assert parts_in_time(parts=5000, one_s=0.1, seconds=72.0) == 720
    assert parts_in_time(parts=300, one_s=0.1, seconds=72.0) == 300
    assert parts_in_time(parts=5000, one_s=60.0, seconds=72.0) == LEAST_PARTS
    assert parts_in_time(parts=5, one_s=60.0, seconds=72.0) == 5
    assert parts_in_time(parts=5000, one_s=60.0, seconds=None) == 5000


def test_tiles_are_spread_over_a_part_and_one_alone_lies_in_the_middle():
    corners = [(0, x) for x in range(9)]
    assert spread(corners, 3) == [(0, 1), (0, 4), (0, 7)]
    assert spread(corners[:3], 2) == [(0, 0), (0, 2)]
    assert spread(corners, 1) == [(0, 4)]
    assert spread(corners, 99) == corners
    assert spread(corners[:1], 5) == corners[:1]
    assert spread([], 5) == []


@pytest.fixture
def dirty(tmp_path):
    """Eight parts with stripes, one of them with a blot at x 40 to 70, y 80 to 100."""
    rng = np.random.default_rng(0)
    x = np.arange(140)
    (tmp_path / "good").mkdir()
    for number in range(LEAST_PARTS):
        grey = 120 + 50 * np.sin(x[None] * 0.6 + rng.uniform(0, 6)) + rng.normal(0, 4, (130, 140))
        if number == 3:
            grey[80:100, 40:70] = 230
        cv2.imwrite(str(tmp_path / "good" / f"p{number}.png"), grey.clip(0, 255).astype(np.uint8))
    small = {"architecture": "cifar10", "hidden": 32, "latent": 8}
    recipe = material_of(tmp_path / "models", "stuff", tile_px=64, method="cae", **small) / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("training:\n", "training:\n  usual_map: false\n"))
    return tmp_path


def train(folder, *more: str) -> int:
    common = ["train", "-m", "stuff", "--models", str(folder / "models"), "--data", str(folder / "good")]
    return run([*common, "--budget", "4steps", *more])


def test_a_defective_part_is_named_and_shown_and_left_out_with_robust(dirty, capsys):
    assert train(dirty) in TRAINED
    told = capsys.readouterr().err
    assert "p3, map image: does not look like the other parts" in told
    assert "still used for training" in told
    folder = dirty / "models" / "stuff"
    assert cv2.imread(str(folder / "suspects.png")).shape[1] > 400
    manifest = json.loads((folder / "cae" / "manifest.json").read_text())
    assert [(s["part"], s["left_out"]) for s in manifest["suspects"]] == [("p3", False)]
    found = manifest["suspects"][0]
    assert 30 <= found["x_px"] <= 80
    assert 70 <= found["y_px"] <= 110
    assert "p3" in {file["part"] for file in manifest["training_set"]}
    assert "## Parts that stand out" in (folder / "cae" / "model_card.md").read_text()
    assert train(dirty, "--robust") in TRAINED
    assert "left out of the training" in capsys.readouterr().err
    manifest = json.loads((folder / "cae" / "manifest.json").read_text())
    assert "p3" not in {file["part"] for file in manifest["training_set"]}
    assert manifest["suspects"][0]["left_out"]


def test_a_part_that_stands_out_sets_no_limit(dirty, capsys, monkeypatch):
    seen = []

    def spy(held, networks):
        seen.extend(part.id for part in held.parts)
        raise KeyboardInterrupt

    monkeypatch.setattr("inspect_cli.training.train.provisional_calibration", spy)
    recipe = dirty / "models" / "stuff" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("training:\n", "training:\n  validation_share: 0.7\n"))
    assert train(dirty) == EXIT_SIGINT
    named = {"p3"}
    assert seen
    assert not named & set(seen)


def test_held_out_parts_without_those_that_stand_out():
    parts = [Part(name, {}, Path()) for name in ("a", "b", "c")]
    sources = Sources(Survey(parts=parts), Split([], parts))

    def odd(name: str, left_out: bool = False) -> Suspect:
        return Suspect(part=name, map="image", x_px=0, y_px=0, times_usual=3, left_out=left_out)

    assert _held_out(sources, []) == (parts, [])
    left, told = _held_out(sources, [odd("b"), odd("b")])
    assert [part.id for part in left] == ["a", "c"]
    assert told == ["held-out part b stands out: it set no limit when the model was trained"]
    every, told = _held_out(sources, [odd(name) for name in "abc"])
    assert every == parts
    assert told == ["limits come from held-out parts that all stand out (a, b, c): set them from good parts"]


def test_too_few_parts_to_leave_any_out_is_told(dirty, capsys):
    (dirty / "good" / "p0.png").unlink()
    assert train(dirty, "--robust") in TRAINED
    assert "--robust: 7 part(s) are too few" in capsys.readouterr().err


def test_parts_whose_roi_fills_no_tile_are_trained_on_unseen(dirty, capsys):
    mask = np.zeros((130, 140), np.uint8)
    mask[48:80, 48:80] = 255  # a quarter of each of four tiles
    cv2.imwrite(str(dirty / "models" / "stuff" / "inside.png"), mask)
    recipe = dirty / "models" / "stuff" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "roi: {rule: file, file: inside.png, margin_px: 0}\n")
    recipe.write_text(recipe.read_text().replace("training:\n", "training:\n  min_roi_share: 0.2\n"))
    assert train(dirty) in TRAINED
    told = capsys.readouterr().err
    assert "no tile lies inside the ROI" in told
    assert "not checked with artificial defects" in told, "they happen to lie outside"


def test_clean_parts_are_not_named(dirty, capsys):
    (dirty / "good" / "p3.png").unlink()
    cv2.imwrite(
        str(dirty / "good" / "p8.png"), cv2.imread(str(dirty / "good" / "p1.png"), cv2.IMREAD_UNCHANGED)[::-1]
    )
    assert train(dirty) in TRAINED
    assert "does not look like" not in capsys.readouterr().err
    assert (dirty / "models" / "stuff" / "suspects.png").exists()


def test_interrupted_while_looking_there_is_nothing_to_resume(dirty, capsys, monkeypatch):
    monkeypatch.setattr("inspect_cli.stopping.Stopper.wanted", lambda _: True)
    assert train(dirty) == EXIT_SIGINT
    assert "nothing to resume" in capsys.readouterr().err
    assert not (dirty / "models" / "stuff" / "suspects.png").exists()
    for number in range(1, LEAST_PARTS):  # too few to look at: the training itself is interrupted
        (dirty / "good" / f"p{number}.png").unlink()
    assert train(dirty) == EXIT_SIGINT
    assert "the state is saved" in capsys.readouterr().err


def test_resumed_training_leaves_out_what_it_left_out_before(dirty, capsys, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("inspect_cli.training.train._described", killed)
        assert train(dirty, "--robust") == 130
    folder = dirty / "models" / "stuff"
    assert (folder / NOTE.format(method="cae")).exists()
    monkeypatch.setattr(suspects, "_found", lambda *_: pytest.fail("looked again"))
    capsys.readouterr()
    assert train(dirty, "--resume") in TRAINED
    told = capsys.readouterr().err
    assert "1 of 8 part(s) stand out" in told
    assert "was settled when the training began" in told
    manifest = json.loads((folder / "cae" / "manifest.json").read_text())
    assert "p3" not in {file["part"] for file in manifest["training_set"]}
    assert not (folder / NOTE.format(method="cae")).exists()


def test_resumed_training_has_no_more_time_for_what_was_looked_at_before(dirty, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("inspect_cli.training.train._described", killed)
        assert train(dirty) == 130
    note = dirty / "models" / "stuff" / NOTE.format(method="cae")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"seconds": 40.0}))
    budgets = []

    def spy(order, *_):
        budgets.append(order.budget)
        raise KeyboardInterrupt

    monkeypatch.setattr("inspect_cli.training.train._train_locked", spy)
    assert train(dirty, "--resume", "--budget", "100s") == 130
    left_s = budgets[0].seconds  # a fifth is kept for what comes after; reading takes some too
    assert 40 < left_s <= 0.8 * 60


def test_a_material_that_is_in_training_is_told_before_its_parts_are_looked_at(dirty, capsys, monkeypatch):
    monkeypatch.setattr(suspects, "_found", lambda *_: pytest.fail("looked"))
    with lock_folder(dirty / "models" / "stuff" / "cae", "held"):
        assert train(dirty) == LockedError.exit_code
    assert "is being trained or calibrated by another process" in capsys.readouterr().err


def test_damaged_note_is_refused(dirty, capsys):
    folder = dirty / "models" / "stuff"
    (folder / "cae" / CHECKPOINTS).mkdir(parents=True)
    (folder / NOTE.format(method="cae")).write_text('[{"part": 3}]')
    assert train(dirty, "--resume") == UsageError.exit_code
    assert "is damaged" in capsys.readouterr().err


def test_parts_are_scored_by_what_was_trained_to_mark(dirty, monkeypatch):
    learnt, used = [], []
    trained, worst_of = suspects._trained, suspects._worst_of

    def spy(job, *arguments):
        used.append(
            {k: v.clone() for k, v in job.detector.state_dict().items() if k.startswith("marks") and "place" not in k}
        )
        return worst_of(job, *arguments)

    def whole(*arguments):
        state = trained(*arguments)
        learnt.append({k: v.clone() for k, v in state.items() if k.startswith("marks") and "place" not in k})
        return state

    monkeypatch.setattr(suspects, "_trained", whole)
    monkeypatch.setattr(suspects, "_worst_of", spy)
    assert train(dirty) in TRAINED
    assert learnt[0]
    assert len(used) == LEAST_PARTS + 1  # one tells how long a tile takes
    for weights in used:
        assert all(weights[key].equal(learnt[0][key]) for key in learnt[0])


@pytest.mark.parametrize("robust", [False, True])
def test_parts_that_there_is_no_time_for_are_told(dirty, monkeypatch, capsys, robust):
    looked = []
    worst_of = suspects._worst_of

    def spy(job, engine, part, *arguments):
        looked.append(part.id)
        return worst_of(job, engine, part, *arguments)

    monkeypatch.setattr(suspects, "_worst_of", spy)
    monkeypatch.setattr(suspects, "parts_in_time", lambda *_: LEAST_PARTS // 2)
    assert train(dirty, *(["--robust"] if robust else [])) in TRAINED
    lines = [line for line in capsys.readouterr().err.splitlines() if "4 of 8 parts were looked at" in line]
    assert len(lines) == 1
    assert ("warning" in lines[0]) == robust
    assert len(looked) == 1 + LEAST_PARTS // 2, "one tells how long a tile takes"
    assert len(set(looked)) == LEAST_PARTS // 2


def test_small_extra_patches_do_not_end_the_look(dirty, capsys):
    """They make the tiles of the training smaller, not those of the look."""
    recipe = dirty / "models" / "stuff" / "recipe.yaml"
    recipe.write_text("material: stuff\nmaps: {image: {files: '{part}.*'}}\nmethod: {name: cae}\n")
    (dirty / "more").mkdir()
    cv2.imwrite(str(dirty / "more" / "gan_0.png"), np.full((48, 48), 120, np.uint8))
    assert train(dirty, "--extra", str(dirty / "more")) in TRAINED
    told = capsys.readouterr().err
    assert "tiles of 48 px" in told
    assert "tiles are at most 48 px" in told
    assert "p3, map image: does not look like the other parts" in told
