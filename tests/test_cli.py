"""The command line as a user and as cron meet it: errors in one line, exit codes, help, plain output."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
import yaml
from helpers import COARSE

from inspect_cli import docs
from inspect_cli.cli import app, run
from inspect_cli.errors import EXIT_CODES, OutputError, RecipeError

ROOT = Path(__file__).resolve().parent.parent


def inspect(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own."""
    command = [sys.executable, "-m", "inspect_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def error_line(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one error line of a run in this process that ended with ``code``."""
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, captured.err
    assert "Traceback" not in captured.err
    assert code in EXIT_CODES
    return errors[0]


@pytest.fixture
def call(capsys, models):
    """Run a command that must fail; return its code and its one error line."""

    def _call(*arguments: object) -> tuple[int, str]:
        code = run([str(a) for a in arguments])
        return code, error_line(code, capsys)

    return _call


def score_arguments(folder: Path, models: Path) -> list[str]:
    return ["score", str(folder), "--material", "foil", "--models", str(models), *COARSE]


def test_missing_folder(call, models, tmp_path):
    code, line = call(*score_arguments(tmp_path / "nowhere", models))
    assert code == 4
    assert "nowhere: no such folder" in line


def test_empty_folder_says_what_was_looked_for(call, models, tmp_path):
    (tmp_path / "empty").mkdir()
    code, line = call(*score_arguments(tmp_path / "empty", models))
    assert code == 4
    assert "{part}_albedo.tif" in line


def test_unknown_material_names_the_nearest(call, models, batch):
    code, line = call("score", batch / "test", "--material", "fiol", "--models", models)
    assert code == 1
    assert "did you mean 'foil'" in line


def test_broken_recipe_names_the_key(call, models, batch):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("stride_px", "strid_px"))
    code, line = call(*score_arguments(batch / "test", models))
    assert code == 2
    assert "unknown key 'tiles.strid_px': did you mean 'stride_px'?" in line


def test_untrained_material_says_how_to_train(call, models, batch):
    shutil.rmtree(models / "foil" / "cae")
    code, line = call(*score_arguments(batch / "test", models))
    assert code == 5
    assert "inspect train --material foil" in line


def test_tampered_weights(call, models, batch):
    path = next((models / "foil" / "cae").glob("albedo-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, line = call(*score_arguments(batch / "test", models))
    assert code == 5
    assert path.name in line


def test_output_that_cannot_be_written(call, models, batch, tmp_path):
    (tmp_path / "file").write_text("")
    code, line = call(*score_arguments(batch / "test", models), "--out", tmp_path / "file" / "run")
    assert code == 6
    assert "cannot be written" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output_folder(call, models, batch, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    code, _ = call(*score_arguments(batch / "test", models), "--out", locked / "run")
    assert code == 6


def test_two_cuts_into_one_folder_are_not_mixed(call, batch, tmp_path):
    from inspect_cli.store.lock import lock_folder

    with lock_folder(tmp_path / "out", ""):
        code, line = call("tile", batch / "test", "--out", tmp_path / "out", "--size", "64")
    assert code == 75
    assert "out: another run is writing here" in line
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_locked_run_folder(call, models, batch):
    from filelock import FileLock

    out = batch / "test" / "inspection" / "foil"
    out.mkdir(parents=True)
    with FileLock(out / ".lock"):
        code, line = call(*score_arguments(batch / "test", models))
    assert code == 75
    assert "another run" in line


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _rewrite(path: Path, pixels: np.ndarray) -> None:
    path.unlink()
    tifffile.imwrite(path, pixels)


BAD_INPUTS = {
    "missing map": (lambda p: p.unlink(), "map 'albedo' is missing"),
    "wrong size": (lambda p: _rewrite(p, tifffile.imread(p)[:-3]), "registered to one size"),
    "wrong type": (lambda p: _rewrite(p, (tifffile.imread(p) >> 8).astype(np.uint8)), "is uint8; uint16 is expected"),
    "wrong channels": (lambda p: _rewrite(p, np.stack([tifffile.imread(p)] * 3, -1)), "3 channel(s); 1 expected"),
    "truncated": (lambda p: _replace(p, p.read_bytes()[: p.stat().st_size // 2]), "truncated TIFF"),
    "text": (lambda p: _replace(p, b"this is no image"), "no TIFF, PNG, JPEG or BMP"),
    "empty file": (lambda p: _replace(p, b""), "an empty file"),
}


@pytest.mark.parametrize("fault", sorted(BAD_INPUTS))
def test_bad_part_is_named_and_the_rest_is_done(fault, batch, models, capsys):
    damage, message = BAD_INPUTS[fault]
    path = batch / "test" / "dent" / "b000_albedo.tif"
    damage(path)
    assert run(score_arguments(batch / "test", models)) == 3
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if line.startswith("error ")]
    assert len(bad) == 1
    assert "dent/b000" in bad[0]
    assert message in bad[0]
    assert len(lines) == 4, "one line a part"
    record = json.loads((batch / "test/inspection/foil/run.json").read_text())
    assert record["counts"]["error"] == 1
    assert sum(record["counts"].values()) == 4
    assert record["exit_code"] == 3
    assert record["errors"][0]["part"] == "dent/b000"


def test_failed_part_is_tried_again_and_its_old_result_does_not_stand(batch, models, capsys):
    path = batch / "test" / "dent" / "b000_albedo.tif"
    good = path.read_bytes()
    record = batch / "test/inspection/foil/parts/dent/b000/part.json"
    assert run(score_arguments(batch / "test", models)) == 0
    _replace(path, good[:1000])
    assert run(score_arguments(batch / "test", models)) == 3
    assert not record.exists()
    _replace(path, good)
    assert run(score_arguments(batch / "test", models)) == 0
    assert record.exists()


def test_all_parts_bad_is_no_usable_input(batch, models):
    for path in (batch / "test").rglob("*_albedo.tif"):
        _replace(path, b"no image")
    assert run(score_arguments(batch / "test", models)) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["scor"],
        ["score"],
        ["score", ".", "--strid", "3"],
        ["train", "--material", "riblet", "--budget", "soon"],
        ["train", "--material", "riblet", "--method", "cea"],
        ["train", "--material", "riblet", "--maps", "albdo"],
        ["threshold", "--material", "riblet"],
        ["threshold", "--material", "riblet", "--good", ".", "--labelled", "."],
        ["score", ".", "--material", "riblet", "--batch", "many"],
        ["sample", "ribblet", "--out", "x"],
        ["train", "--material", "my foil"],
        ["recipe", "new", "my foil"],
        ["train", "--material", "riblet", "--seed", "-1"],
        ["recipe", "check", "no-such-recipe.yaml"],
    ],
)
def test_wrong_usage_ends_with_1_and_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = run(arguments)
    assert code == 1
    error_line(code, capsys)


@pytest.mark.parametrize("names", ["", ","])
@pytest.mark.parametrize(
    "arguments",
    [
        ["tile", ".", "--out", "x", "--material", "riblet"],
        ["augment", "--material", "riblet", "--out", "x"],
        ["sample", "riblet", "--out", "x"],
        ["train", "--material", "riblet"],
    ],
)
def test_a_list_of_maps_without_a_name_is_wrong_usage(arguments, names, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line = call(*arguments, "--maps", names)
    assert code == 1
    assert f"--maps {names!r}: name at least one" in line


@pytest.mark.parametrize("budget", ["soon", "8", "0s", "10.5steps"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--material", "riblet"],
        ["augment", "--material", "riblet", "--out", "x"],
        ["bench", "detect", "."],
        ["reproduce", "chess-noise"],
    ],
)
def test_a_budget_that_is_none_is_wrong_usage(arguments, budget, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line = call(*arguments, "--budget", budget)
    assert code == 1
    assert f"--budget {budget!r}" in line


def test_patches_without_pixels_are_wrong_usage(call, batch, tmp_path):
    code, line = call("tile", batch / "test", "--out", tmp_path / "x", "--size", "0")
    assert (code, line) == (1, "error: --size 0: must be 8 to 1024 px")


def _commands(command, path=()):
    inner = getattr(command, "commands", None)
    if inner is None:
        yield list(path)
        return
    for name, sub in inner.items():
        yield from _commands(sub, (*path, name))


ALL_COMMANDS = list(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path, capsys):
    assert run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"inspect {' '.join(path)}" in text


@pytest.mark.parametrize(("group", "count"), [((), 11), (("recipe",), 3), (("bench",), 2)], ids=str)
def test_list_of_commands_shows_whole_sentences(group, count, capsys):
    assert run([*group, "--help"]) == 0
    commands = capsys.readouterr().out.split("Commands:")[1].strip().splitlines()
    assert len(commands) >= count
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


@pytest.mark.parametrize("name", sorted(docs.PAGES))
def test_generated_pages_are_up_to_date(name, tmp_path):
    """``make docs`` writes them."""
    assert (ROOT / "docs" / name).read_text() == docs.PAGES[name]()


def test_every_command_stands_in_the_readme_or_the_docs():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "commands.md").read_text()
    for path in ALL_COMMANDS:
        assert f"inspect {' '.join(path)}" in text


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"], ["train"]])
def test_help_and_usage_errors_do_not_import_heavy_modules(arguments, tmp_path):
    code = (
        "import sys; from inspect_cli.cli import run; run(sys.argv[1:]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'cv2', 'matplotlib', 'pyarrow', 'scipy')))"
    )
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stderr.decode()


def test_in_crons_bare_environment(batch, models):
    """No HOME, no locale, no terminal: one plain line a part, no escape codes."""
    bare = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    found = inspect(*score_arguments(batch / "test", models), env=bare)
    assert found.returncode == 0, found.stderr
    assert "\x1b" not in found.stdout + found.stderr
    assert "\r" not in found.stdout + found.stderr
    assert [line.split()[1] for line in found.stdout.splitlines()] == [
        "dent/b000", "good/g003", "scratch/b002", "stain/b001",
    ]  # fmt: skip


def test_batch_goes_on_when_the_reader_of_stdout_leaves(batch, models):
    command = [sys.executable, "-m", "inspect_cli", *score_arguments(batch / "test", models), "--engine", "torch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in err
    assert len(list((batch / "test/inspection/foil/parts").rglob("part.json"))) == 4
    assert (batch / "test/inspection/foil/parts.csv").is_file()


@pytest.mark.parametrize("closed", [(), (0, 1), (0, 2), (0, 1, 2)], ids=str)
def test_batch_goes_on_when_nobody_reads_stderr_or_streams_are_closed(batch, models, closed):
    def close() -> None:
        for stream in closed:
            os.close(stream)

    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "inspect_cli", *score_arguments(batch / "test", models), "--engine", "torch"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=writer, preexec_fn=close, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert json.loads((batch / "test/inspection/foil/run.json").read_text())["counts"]["fail"] == 3


def test_first_signal_finishes_the_part_in_hand(batch, models, monkeypatch):
    import signal

    from inspect_cli.engines import TorchEngine

    honest = TorchEngine.score

    def signalled(self, tiles):
        if not getattr(TorchEngine, "_sent", False):
            TorchEngine._sent = True
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, tiles)

    monkeypatch.setattr(TorchEngine, "score", signalled)
    monkeypatch.setattr(TorchEngine, "_sent", False, raising=False)
    assert run(score_arguments(batch / "test", models)) == 143
    run_folder = batch / "test/inspection/foil"
    assert len(list(run_folder.rglob("part.json"))) == 1
    assert json.loads((run_folder / "run.json").read_text())["interrupted"] is True
    assert run(score_arguments(batch / "test", models)) == 0
    assert len(list(run_folder.rglob("part.json"))) == 4


def test_what_an_interrupted_rerun_does_not_reach_is_listed_as_it_is(batch, models, monkeypatch):
    """By old limits it is pending; results of the model and limits of today stand."""
    from inspect_cli.stopping import Stopper

    def verdicts() -> list[str]:
        return [line.split(",")[1] for line in (run_folder / "parts.csv").read_text().splitlines()[1:]]

    run_folder = batch / "test/inspection/foil"
    evaluate = ["evaluate", str(run_folder), "--truth", str(batch / "ground_truth")]
    score = [*score_arguments(batch / "test", models), "--outputs", "heatmap,maps"]
    assert run(score) == 0
    assert run(evaluate) == 0
    before = verdicts()
    monkeypatch.setattr(Stopper, "wanted", lambda _self: True)
    monkeypatch.setattr(Stopper, "exit_code", 143)
    assert run(score) == 143
    assert verdicts() == before
    assert (run_folder / "evaluation.json").is_file()
    assert run(["threshold", "--material", "foil", "--models", str(models), "--value", "albedo=0.01"]) == 0
    assert run(score) == 143
    assert verdicts() == ["pending"] * 4
    assert not (run_folder / "evaluation.json").exists()
    assert run(evaluate) == 4, "nothing is judged by the limits of today"
    monkeypatch.undo()
    assert run(score) == 0
    assert "pending" not in verdicts()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_behind_stdout_ends_the_run_with_code_6(batch, models):
    arguments = [sys.executable, "-m", "inspect_cli", *score_arguments(batch / "test", models), "--engine", "torch"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        shown = subprocess.run([sys.executable, "-m", "inspect_cli", "recipe", "schema"], stdout=full, check=False)
    assert done.returncode == shown.returncode == 6
    assert "error: standard output: cannot be written (No space left on device)" in done.stderr
    assert (batch / "test/inspection/foil/parts.csv").is_file()


def test_only_what_is_refused_in_the_run_folder_is_a_fault_of_the_output(tmp_path):
    from inspect_cli.batch.run import _told_as_output

    for error, expected in (
        (PermissionError(13, "Permission denied", str(tmp_path / "run/parts/P1/part.json")), OutputError),
        (OSError(28, "No space left on device"), OutputError),
        (PermissionError(13, "Permission denied", str(tmp_path / "batch/P1.tif")), PermissionError),
        (BrokenPipeError(32, "Broken pipe"), BrokenPipeError),
        (OSError(5, "Input/output error"), OutputError),
        (PermissionError(13, "Permission denied", os.fsencode(tmp_path / "run/mask.png")), OutputError),
    ):
        with pytest.raises(expected) as raised, _told_as_output(tmp_path / "run"):
            raise error
        assert type(raised.value) is expected


def test_a_folder_that_may_not_be_looked_into_is_no_internal_fault(monkeypatch, tmp_path, capsys):
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refused)
    assert run(["score", str(tmp_path / "X")]) == 4
    assert f"{tmp_path / 'X'}: Permission denied; check" in capsys.readouterr().err


def test_what_is_done_is_listed_whatever_ends_the_run(batch, models, monkeypatch, capsys):
    from inspect_cli.engines import TorchEngine

    honest = TorchEngine.score

    def breaking(self, tiles):
        if (batch / "test/inspection/foil/parts/good/g003/maps/albedo.tif").exists():
            raise RuntimeError("a fault in the program")
        return honest(self, tiles)

    monkeypatch.setattr(TorchEngine, "score", breaking)
    score = [*score_arguments(batch / "test", models), "--outputs", "maps", "--stride", "16"]
    assert run(score) == 70
    assert "internal fault: RuntimeError: a fault in the program" in capsys.readouterr().err
    run_folder = batch / "test/inspection/foil"
    record = json.loads((run_folder / "run.json").read_text())
    assert (record["interrupted"], record["exit_code"]) == (True, None)
    assert (record["counts"]["pending"], sum(record["counts"].values())) == (2, 4)
    assert len((run_folder / "parts.csv").read_text().splitlines()) == 5
    monkeypatch.setattr(TorchEngine, "score", honest)
    assert run(score) == 0


def test_recipe_new_check_and_schema(tmp_path, capsys):
    store = tmp_path / "models"
    assert run(["recipe", "new", "plate", "--maps", "gradient,own", "--models", str(store)]) == 0
    made = yaml.safe_load((store / "plate" / "recipe.yaml").read_text())
    assert made["maps"]["own"]["range"] == "train", "no camera is known to use all of its type"
    assert run(["recipe", "check", "plate", "--models", str(store)]) == 0
    assert run(["recipe", "new", "plate", "--models", str(store)]) == 1
    capsys.readouterr()
    assert run(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False


def test_recipe_check_takes_the_stride_of_tiles_that_the_method_chooses(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    text = "material: m\nmaps: {a: {files: '{part}.png'}}\ntiles: {stride_px: 256}\nmethod: {name: METHOD}\n"
    path.write_text(text.replace("METHOD", "feature-direct"))
    assert run(["recipe", "check", str(path)]) == 0
    for method, told in (("cae", "at most the tile's 128 px"), ("caee", "'caee' is unknown")):
        path.write_text(text.replace("METHOD", method))
        assert run(["recipe", "check", str(path)]) == RecipeError.exit_code
        assert told in capsys.readouterr().err


def test_recipe_check_refuses_what_training_would(tmp_path, capsys):
    assert run(["recipe", "new", "plate", "--models", str(tmp_path)]) == 0
    path = tmp_path / "plate" / "recipe.yaml"
    path.write_text(path.read_text().replace("name: auto", "name: cae").replace("whole: false", "whole: true"))
    assert run(["recipe", "check", str(path)]) == RecipeError.exit_code
    assert "tiles.whole: method cae" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["riblet", "steel", "chess", "noise"])
def test_shipped_recipes_are_valid_and_have_their_sample(name, capsys):
    from inspect_cli.images import discover_parts
    from inspect_cli.material.materials import find_material, training_folder

    assert run(["recipe", "check", name]) == 0
    material = find_material(name)
    parts = discover_parts(training_folder(material), material.recipe.maps)
    assert len(parts) >= 2
    assert not any(part.missing for part in parts)


def test_no_network_is_used(batch, models, monkeypatch):
    import socket

    def refuse(*_args, **_more):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert run(score_arguments(batch / "test", models)) == 0
