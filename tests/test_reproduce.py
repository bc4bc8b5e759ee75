"""The papers' tables, run again at a budget that shows only that every step of it works."""

import csv

import pytest

from inspect_cli.cli import run
from inspect_cli.errors import UsageError
from inspect_cli.reproduce import reproduce
from inspect_cli.reproduce.tables import CHESS_NOISE


class Quiet:
    def say(self, text):
        pass

    def warn(self, text):
        pass

    def progress(self, label):
        from contextlib import nullcontext

        return nullcontext(lambda share, text: None)


def test_chess_noise_has_its_six_rows_beside_the_papers(tmp_path, capsys):
    assert run(["reproduce", "chess-noise", "--out", str(tmp_path), "--budget", "3steps", "--seed", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    with (tmp_path / "chess-noise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["data"], row["method"]) for row in rows] == list(CHESS_NOISE)
    assert len(printed) == 1 + len(rows)
    for row in rows:
        assert 0 < float(row["iou"]) <= float(row["recall"]) <= 1
        assert row["steps"] == "3"
        assert row["seed"] == "1"
    assert (tmp_path / "chess" / "train" / "good" / "g000.png").is_file()


def test_unknown_table_names_those_there_are(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'chess-noise'"):
        reproduce("chess-nose", tmp_path, None, 0, Quiet())
