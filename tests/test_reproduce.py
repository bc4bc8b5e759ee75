"""The frame around the papers' tables: what may be asked, what is kept, how rows read; and the generated table."""

import csv
import json
from functools import partial

import numpy as np
import pytest
from helpers import Quiet
from sklearn.metrics import average_precision_score, precision_recall_curve

from inspect_cli.cli import run
from inspect_cli.errors import InputError, UsageError
from inspect_cli.recipe import Budget
from inspect_cli.reproduce import TABLES, Table, papers
from inspect_cli.reproduce.experiment import Case, Cost, make_row
from inspect_cli.reproduce.layout import as_line, as_table
from inspect_cli.reproduce.ledger import data_sha256
from inspect_cli.reproduce.ranking import average_precision, best_f1, f1_at
from inspect_cli.reproduce.run import Request, reproduce

pytestmark = pytest.mark.usefixtures("one_thread")


class Toy:
    """Counts what is measured; the seed is the value."""

    def __init__(self):
        self.measured = []

    def inputs(self, data):
        return {"a": data, "b": None}

    def measure(self, case, teller):
        if case.method == "bad":
            raise RuntimeError("ended here")
        self.measured.append((case.data, case.method, str(case.budget), case.seed))
        return [make_row(case, {"area": case.seed / 10}, {"area": 0.5}, Cost(1.26, 7), {"class": c}) for c in "xy"]


TOY = Toy()


@pytest.fixture
def toy(monkeypatch):
    TOY.measured.clear()
    monkeypatch.setitem(TABLES, "toy", Table("NO 1", "toys", __name__, "TOY", ("m", "n", "bad"), "5steps", "a file"))
    return TOY.measured


def request(tmp_path, **changes):
    data = tmp_path / "data"
    if not data.exists():
        data.write_text("1")
    return Request(**{"table": "toy", "out": tmp_path / "out", "data": data, "methods": ("m", "n"), **changes})


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_rows_of_every_seed_data_set_and_method_in_order(toy, tmp_path):
    rows = reproduce(request(tmp_path, seed=3, seeds=2, budget=Budget(seconds=9)), Quiet())
    assert toy == [(data, method, "9s", seed) for seed in (3, 4) for data in "ab" for method in "mn"]
    assert len(rows) == 16
    assert rows[-1] == {
        "data": "b", "method": "n", "class": "y", "area": 0.4, "area_paper": 0.5,
        "train_s": 1.3, "train_s_paper": None, "steps": 7, "budget": "9s", "seed": 4,
    }  # fmt: skip
    written = read_csv(tmp_path / "out" / "toy.csv")
    assert list(written[0]) == list(rows[0])
    assert [(row["seed"], row["data"], row["method"], row["class"]) for row in written[:3]] == [
        ("3", "a", "m", "x"), ("3", "a", "m", "y"), ("3", "a", "n", "x"),
    ]  # fmt: skip
    assert {row["area_paper"] for row in written} == {"0.5"}
    assert {row["train_s_paper"] for row in written} == {""}


def test_measured_rows_are_kept_unless_forced(toy, tmp_path):
    first = reproduce(request(tmp_path), Quiet())
    assert reproduce(request(tmp_path), Quiet()) == first
    assert len(toy) == 4
    reproduce(request(tmp_path, force=True), Quiet())
    assert len(toy) == 8
    assert len(read_csv(tmp_path / "out" / "toy.csv")) == 8


def test_another_budget_or_seed_adds_rows(toy, tmp_path):
    reproduce(request(tmp_path), Quiet())
    reproduce(request(tmp_path, budget=Budget(steps=6)), Quiet())
    rows = reproduce(request(tmp_path, seed=1), Quiet())
    assert len(toy) == 12
    assert {row["seed"] for row in rows} == {1}
    assert len(read_csv(tmp_path / "out" / "toy.csv")) == 24


def test_changed_data_is_measured_again_and_replaces_its_rows(toy, tmp_path):
    reproduce(request(tmp_path), Quiet())
    (tmp_path / "data").write_text("2")
    reproduce(request(tmp_path), Quiet())
    assert [data for data, *_ in toy] == ["a", "a", "b", "b", "a", "a"]
    assert len(read_csv(tmp_path / "out" / "toy.csv")) == 8


def test_rows_of_another_version_are_measured_again(toy, tmp_path, monkeypatch):
    reproduce(request(tmp_path), Quiet())
    monkeypatch.setattr("inspect_cli.reproduce.ledger.__version__", "other")
    reproduce(request(tmp_path), Quiet())
    assert len(toy) == 8


def test_a_run_that_was_ended_goes_on_where_it_stopped(toy, tmp_path):
    with pytest.raises(RuntimeError, match="ended here"):
        reproduce(request(tmp_path, methods=("m", "bad", "n")), Quiet())
    assert len(read_csv(tmp_path / "out" / "toy.csv")) == 2
    reproduce(request(tmp_path), Quiet())
    assert [(data, method) for data, method, *_ in toy] == [("a", "m"), ("a", "n"), ("b", "m"), ("b", "n")]


def test_a_table_that_a_killed_run_did_not_write_is_made_of_what_was_measured(toy, tmp_path):
    reproduce(request(tmp_path), Quiet())
    before = read_csv(tmp_path / "out" / "toy.csv")
    (tmp_path / "out" / "toy.csv").unlink()
    reproduce(request(tmp_path), Quiet())
    assert len(toy) == 4
    assert read_csv(tmp_path / "out" / "toy.csv") == before


@pytest.mark.parametrize("content", ["[", "{}", '[{"rows": 1}]'])
def test_a_damaged_record_of_rows_is_named(toy, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "toy.json").write_text(content)
    with pytest.raises(InputError, match=r"toy\.json: is damaged; remove it"):
        reproduce(request(tmp_path), Quiet())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "chess-nose"}, "did you mean 'chess-noise'"),
        ({"data": None}, "toy needs --data: a file"),
        ({"table": "chess-noise", "methods": None}, "--data: table chess-noise generates its data"),
        ({"methods": ("k",)}, "--methods 'k' is no row of toy: .*m, n"),
        ({"methods": ()}, "--methods: name at least one of m, n"),
    ],
)
def test_what_cannot_be_asked(toy, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        reproduce(request(tmp_path, **changes), Quiet())
    assert toy == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_run_writes_to_is_refused(toy, tmp_path):
    from inspect_cli.errors import LockedError
    from inspect_cli.store.lock import lock_folder

    with lock_folder(tmp_path / "out", ""), pytest.raises(LockedError, match="another run is writing here"):
        reproduce(request(tmp_path), Quiet())


def test_hash_of_data_counts_names_and_contents_but_no_results(tmp_path):
    folder = tmp_path / "d"
    (folder / "k").mkdir(parents=True)
    (folder / "k" / "a.png").write_bytes(b"1")
    out = folder / "reproduce"
    before = data_sha256(folder, out)
    for other in ("inspection", ".cache", "reproduce"):
        (folder / other).mkdir()
        (folder / other / "x").write_bytes(b"2")
    assert data_sha256(folder, out) == before
    (folder / "k" / "a.png").rename(folder / "k" / "b.png")
    renamed = data_sha256(folder, out)
    (folder / "k" / "b.png").write_bytes(b"3")
    assert len({before, renamed, data_sha256(folder, out), data_sha256(None, out)}) == 4


def test_text_has_aligned_columns_and_leaves_empty_ones_out():
    case = Case("t", "carpet", None, "cae", Budget(steps=5), 0, None)
    rows = [
        make_row(case, {"area": 0.25, "f1": None}, {"area": 1.0}, Cost(3.26, 5)),
        make_row(case, {"area": None, "f1": None}, {}, Cost(10.0, 1000)),
    ]
    assert as_table(rows).splitlines() == [
        "data    method    area   paper  train_s  steps  budget  seed",
        "carpet  cae     0.2500  1.0000      3.3      5  5steps     0",
        "carpet  cae          -       -     10.0   1000  5steps     0",
    ]
    assert as_line(rows[0]) == "carpet  cae  area 0.2500 (paper 1.0000)  f1 -  train_s 3.3"


def test_json_has_one_line_a_row(toy, tmp_path, capsys):
    (tmp_path / "d").write_text("")
    arguments = ["reproduce", "toy", "--data", str(tmp_path / "d"), "--out", str(tmp_path), "--methods", "m"]
    assert run([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["data"], row["class"], row["area"], row["area_paper"]) for row in rows] == [
        ("a", "x", 0.0, 0.5), ("a", "y", 0.0, 0.5), ("b", "x", 0.0, 0.5), ("b", "y", 0.0, 0.5),
    ]  # fmt: skip
    assert run(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_signal_during_scoring_ends_with_its_exit_code(toy, tmp_path, monkeypatch):
    from inspect_cli.stopping import Stopped

    def stop(self, case, teller):
        raise Stopped(143)

    monkeypatch.setattr(Toy, "measure", stop)
    (tmp_path / "d").write_text("")
    assert run(["reproduce", "toy", "--data", str(tmp_path / "d"), "--out", str(tmp_path)]) == 143


def test_without_a_table_all_are_listed(capsys):
    assert run(["reproduce"]) == 0
    printed = capsys.readouterr().out
    for name, table in TABLES.items():
        assert f"{name}: {table.about} ({table.source})" in printed
    assert run(["reproduce", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["table"] for entry in listed] == list(TABLES)
    assert {entry["table"] for entry in listed if not entry["data"]} == {"chess-noise"}


def test_help_names_every_table(capsys):
    assert run(["reproduce", "--help"]) == 0
    printed = "".join(capsys.readouterr().out.split())
    for name in TABLES:
        assert name in printed


def test_papers_numbers():
    """Copied by hand from the papers, apart from the program's own tables."""
    assert papers.CHESS_NOISE["noise", "vae"] == {"recall": 0.8797, "iou": 0.7698, "train_s": 220}
    assert papers.MNIST["cae", "7"] == {"roc_auc": 0.9664, "pr_auc": 0.9776, "train_s": 1015.53}
    assert papers.MNIST["vae", "0"] == {"roc_auc": 0.9999, "pr_auc": 0.9989, "train_s": 1055.02}
    assert papers.MNIST["aae", "9"]["pr_auc"] == 0.9921
    assert papers.CIFAR10["cae", "truck"] == {"roc_auc": 0.7379, "pr_auc": 0.7132, "train_s": 89704.82}
    assert papers.CIFAR10["vae", "ship"]["roc_auc"] == 0.5655
    assert papers.CIFAR10["aae", "airplane"]["pr_auc"] == 0.6254
    assert len(papers.MNIST) == len(papers.CIFAR10) == 27
    assert papers.SSAE["carpet"] == {"pixel_auroc": 1.0, "image_auroc": 0.98}
    assert papers.SSAE["metal_nut"] == {"pixel_auroc": 0.97, "image_auroc": 0.81}
    for name, mean in (("pixel_auroc", 0.98), ("image_auroc", 0.95)):
        assert np.mean([row[name] for row in papers.SSAE.values()]) == pytest.approx(mean, abs=0.006)
    assert papers.SSAE_CONTRAST["leather"] == {"pixel_auroc": 0.97, "image_auroc": 0.95}
    assert [row["pixel_auroc"] for row in papers.DIRECT.values()] == [0.93, 0.95, 0.98, 0.98, 0.95]
    assert papers.TEXTURES == ("carpet", "grid", "leather", "tile", "wood")
    assert papers.MVT["toothbrush", "cnn"] == {"f1": 0.25, "image_auroc": 0.65}


@pytest.mark.parametrize("seed", range(5))
def test_areas_and_f1_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    good, defective = rng.integers(0, 8, 30) / 8, rng.integers(3, 12, 20) / 8  # with many ties
    truth, scores = np.repeat([0, 1], [30, 20]), np.concatenate([good, defective])
    assert average_precision(list(good), list(defective)) == pytest.approx(average_precision_score(truth, scores))
    precision, recall, _ = precision_recall_curve(truth, scores)
    expected = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-9))
    assert best_f1(list(good), list(defective)) == pytest.approx(expected)


def test_areas_and_f1_at_their_ends():
    assert average_precision([0.1], [0.2, 0.3]) == best_f1([0.1], [0.2, 0.3]) == 1
    assert average_precision([0.5, 0.5], [0.5]) == pytest.approx(1 / 3)
    assert best_f1([0.9], [0.1, 0.2]) == pytest.approx(0.8)  # flag all: precision 2/3, recall 1
    assert average_precision([], [0.5]) == best_f1([], [0.5]) == 1
    assert average_precision([0.5], []) is None
    assert best_f1([0.5], []) is None


def test_f1_at_a_limit_by_hand():
    """Two of three defects found, one false alarm: 2 * 2 / (2 * 2 + 1 + 1)."""
    assert f1_at(0.5, [0.1, 0.5], [0.5, 0.9, 0.4]) == pytest.approx(4 / 6)
    assert f1_at(0.5, [0.9], [0.1]) == 0
    assert f1_at(0.5, [0.9], []) is None


def test_chess_stands_beside_the_papers(tmp_path, monkeypatch):
    from inspect_cli.reproduce import synthetic

    monkeypatch.setattr(synthetic, "plan_batch", partial(synthetic.plan_batch, size_px=(160, 160)))
    monkeypatch.setattr("inspect_cli.training.batches.VALIDATION_PATCHES", 16)
    assert synthetic.CHESS_NOISE.inputs(None) == {"chess": None, "noise": None}
    case = Case("chess-noise", "chess", None, "cae", Budget(steps=2), 1, tmp_path)
    other = tmp_path / "models" / "chess" / "recipe.yaml"  # of an earlier run or edited: the paper's is taken
    other.parent.mkdir(parents=True)
    other.write_text("material: chess\nmaps: {image: {files: '{part}.bmp'}}\n")
    [row] = synthetic.CHESS_NOISE.measure(case, Quiet())
    assert 0 < row["iou"] <= row["recall"] <= 1
    assert row["recall_at_paper_iou"] is None or row["recall_at_paper_iou"] >= row["recall"]
    assert (row["steps"], row["seed"], row["budget"]) == (2, 1, "2steps")
    assert (row["recall_paper"], row["iou_paper"], row["train_s_paper"]) == (0.9487, 0.7975, 212)
    assert (tmp_path / "chess" / "train" / "good" / "g000.png").is_file()


def test_chess_images_follow_the_seed(tmp_path):
    from inspect_cli.reproduce.synthetic import _generated

    def picture(seed):
        return (_generated(tmp_path / "chess", "chess", seed) / "test" / "deformation" / "b000.png").read_bytes()

    first = picture(1)
    other = picture(2)
    assert other != first
    changed = (tmp_path / "chess" / "sample.json").stat().st_mtime_ns
    assert picture(2) == other
    assert (tmp_path / "chess" / "sample.json").stat().st_mtime_ns == changed
