"""Every documented exit code, where the process matters from a real one."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from filelock import FileLock

from inspect_cli.cli import run
from inspect_cli.engines import TorchEngine
from inspect_cli.errors import EXIT_CODES

#: Runs the program with a fault planted in the network's engine: ``{fault}`` happens at the first tiles.
PLANTED = """
import os, signal, sys
from inspect_cli.engines import TorchEngine
honest, done = TorchEngine.score, []
def score(self, tiles):
    if not done:
        done.append(1)
        {fault}
    return honest(self, tiles)
TorchEngine.score = score
from inspect_cli.cli import main
main(sys.argv[1:])
"""


class World:
    """A batch and a store that a case may break, and the command that meets it."""

    def __init__(self, batch: Path, models: Path) -> None:
        self.batch, self.models = batch, models
        self.folder = batch / "test"
        self.command = ["score", str(self.folder), "--engine", "torch", "--outputs", "none", "--stride", "32"]
        self.more: list[str] = []
        self.fault: str | None = None

    def words(self) -> list[str]:
        return [*self.command, "--material", "foil", "--models", str(self.models), *self.more]

    def end(self) -> subprocess.CompletedProcess[str]:
        start = ["-m", "inspect_cli"] if self.fault is None else ["-c", PLANTED.format(fault=self.fault)]
        command = [sys.executable, *start, *self.words()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def usage(world: World) -> None:
    world.more = ["--no-such-option"]


def broken_recipe(world: World) -> None:
    (world.models / "foil" / "recipe.yaml").write_text("material: foil\nmaps: {}\n")


def bad_part(world: World) -> None:
    (world.folder / "dent" / "b000_albedo.tif").unlink()


def nothing_there(world: World) -> None:
    shutil.rmtree(world.folder)
    world.folder.mkdir()


def tampered_model(world: World) -> None:
    weights = next((world.models / "foil" / "cae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


def output_is_a_file(world: World) -> None:
    (world.batch / "file").touch()
    world.more = ["--out", str(world.batch / "file" / "run")]


def memory(world: World) -> None:
    world.fault = "raise MemoryError"


def defects(world: World) -> None:
    world.more = ["--fail-on-defect"]


def black_pictures(world: World) -> None:
    for path in world.folder.rglob("*_albedo.tif"):
        tifffile.imwrite(path, np.zeros_like(tifffile.imread(path)))
    world.more = ["--fail-on-defect"]


def learns_nothing(world: World) -> None:
    shutil.rmtree(world.models / "foil" / "cae")
    world.command = ["train", "--data", str(world.batch / "train"), "--maps", "albedo", "--budget", "1steps"]


def bug(world: World) -> None:
    world.fault = "raise RuntimeError('planted')"


def interrupted(world: World) -> None:
    world.fault = "os.kill(os.getpid(), signal.SIGINT)"


def terminated(world: World) -> None:
    world.fault = "os.kill(os.getpid(), signal.SIGTERM)"


#: Code -> what provokes it, and a word of the message.
CASES = {
    0: (lambda world: None, "next: inspect report"),
    1: (usage, "--no-such-option"),
    2: (broken_recipe, "maps"),
    3: (bad_part, "1 error"),
    4: (nothing_there, "no part found"),
    5: (tampered_model, "sha256"),
    6: (output_is_a_file, "cannot be written"),
    7: (memory, "out of memory"),
    8: (defects, "fail"),
    9: (learns_nothing, "hardly tells defects"),
    10: (black_pictures, "undecided"),
    70: (bug, "internal fault"),
    130: (interrupted, "run again"),
    143: (terminated, "run again"),
}


#: Codes of the process itself: how it begins and ends, what it does with a fault and with signals.
OF_A_PROCESS = {0, 1, 7, 70, 130, 143}


@pytest.mark.parametrize("code", sorted(OF_A_PROCESS))
def test_code_comes_from_a_real_process_with_a_word_about_it(code, batch, models):
    world = World(batch, models)
    provoke, words = CASES[code]
    provoke(world)
    found = world.end()
    assert found.returncode == code, found.stderr
    assert words in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("code", sorted(CASES.keys() - OF_A_PROCESS))
def test_code_comes_with_a_word_about_it(code, batch, models, capsys):
    world = World(batch, models)
    provoke, words = CASES[code]
    provoke(world)
    assert run(world.words()) == code
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_locked_folder(batch, models):
    run = batch / "test" / "inspection" / "foil"
    run.mkdir(parents=True)
    with FileLock(run / ".lock"):
        found = World(batch, models).end()
    assert found.returncode == 75
    assert "another run is writing here" in found.stderr


def test_every_documented_code_is_provoked_here():
    assert CASES.keys() | {75} == EXIT_CODES.keys()


def test_memory_that_really_does_not_suffice(batch, models, monkeypatch, capsys):
    """An allocation that the machine refuses, through torch."""
    monkeypatch.setattr(TorchEngine, "score", lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    assert run(World(batch, models).words()) == 7
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: "), "one line"
    assert not any("Traceback" in line for line in told)
