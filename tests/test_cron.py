"""What cron needs: half-written parts wait, one run a folder, logs and metrics that machines read."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import COARSE, hold
from prometheus_client.parser import text_string_to_metric_families

from inspect_cli.batch import parts as parts_room
from inspect_cli.batch.monitor import Monitor
from inspect_cli.batch.summary import Outcome
from inspect_cli.cli import run
from inspect_cli.errors import EXIT_SIGTERM, InputError, LockedError, OutputError, UsageError
from inspect_cli.images import discover_parts
from inspect_cli.images.settle import SLOW_WRITER_S, ZEROS_FACTOR, Settling
from inspect_cli.recipe import parse_recipe
from inspect_cli.store.lock import HOLDER, lock_folder

MAPS = parse_recipe("material: m\nmaps: {a: {files: '{part}_a.tif'}}\n", "test").maps


class Clocks:
    """Wall clock and monotonic clock that stand still until they are moved."""

    def __init__(self) -> None:
        self.wall, self.running = 1e9, 0.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.running += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def part_changed(folder: Path, at: float, content: bytes = b"x"):
    path = folder / "P_a.tif"
    path.write_bytes(content)
    os.utime(path, (at, at))
    (part,) = discover_parts(folder, MAPS)
    return part


def settling(clocks: Clocks, **more) -> Settling:
    return Settling(2.0, now=lambda: clocks.wall, clock=lambda: clocks.running, **more)


def test_part_is_taken_once_its_files_are_old_enough(tmp_path, clocks):
    rule = settling(clocks)
    assert rule.why_not(part_changed(tmp_path, clocks.wall - 2)) is None
    assert rule.why_not(part_changed(tmp_path, clocks.wall - 1.9)) == "a file is still being written"
    assert Settling(0.0, now=lambda: clocks.wall).why_not(part_changed(tmp_path, clocks.wall)) is None


def test_file_from_a_clock_that_is_ahead_is_taken_after_it_was_seen_unchanged(tmp_path, clocks):
    rule, part = settling(clocks), part_changed(tmp_path, clocks.wall + 3600)
    assert rule.why_not(part) is not None
    assert rule.remaining_s(part) == 2
    clocks.pass_by(1.5)
    assert rule.why_not(part) is not None
    clocks.pass_by(0.5)
    assert rule.why_not(part) is None


def test_file_that_grows_starts_the_wait_again(tmp_path, clocks):
    rule, part = settling(clocks), part_changed(tmp_path, clocks.wall)
    rule.why_not(part)
    clocks.pass_by(1.5)
    part_changed(tmp_path, clocks.wall, b"xx")
    assert rule.why_not(part) is not None
    assert rule.remaining_s(part) == 2


def test_file_that_ends_in_zeros_is_left_alone_longer(tmp_path, clocks):
    rule, part = settling(clocks), part_changed(tmp_path, clocks.wall - 10, b"x" + bytes(5000))
    assert rule.why_not(part) is not None
    clocks.pass_by(2.0 * ZEROS_FACTOR - 10)
    assert rule.why_not(part) is None


def test_marker_is_waited_for(tmp_path, clocks):
    rule, part = settling(clocks, marker="{part}.done"), part_changed(tmp_path, 0)
    assert rule.why_not(part) == "waits for its marker P.done"
    (tmp_path / "P.done").touch()
    assert rule.why_not(part) is None


def test_part_that_can_never_be_used_is_not_held_back(tmp_path, clocks):
    waiting = part_changed(tmp_path, at=0.0)
    unusable = dataclasses.replace(waiting, fault="two files for a map")
    with_marker = settling(clocks, marker="{part}.done")
    assert with_marker.why_not(waiting) is not None
    assert with_marker.why_not(unusable) is None


def test_only_what_changed_lately_may_still_grow(tmp_path, clocks):
    rule = settling(clocks)
    assert rule.may_grow(part_changed(tmp_path, clocks.wall - SLOW_WRITER_S + 1))
    assert not rule.may_grow(part_changed(tmp_path, clocks.wall - SLOW_WRITER_S))
    assert not Settling(0.0, now=lambda: clocks.wall).may_grow(part_changed(tmp_path, clocks.wall))


def score(batch: Path, models: Path, *more: object) -> int:
    """Score the batch coarsely, without what can be left out unless ``more`` asks for it."""
    words = ["score", batch / "test", "--material", "foil", "--models", models, *COARSE, *more]
    return run([str(word) for word in words])


def record(batch: Path) -> dict:
    return json.loads((batch / "test" / "inspection" / "foil" / "run.json").read_text())


def maps(batch: Path) -> list[Path]:
    return sorted(path for path in (batch / "test").rglob("*.tif") if "inspection" not in path.parts)


def replaced(path: Path, content: bytes) -> None:
    """Write a file anew, as another file."""
    path.unlink()
    path.write_bytes(content)


def made_old(batch: Path) -> None:
    for path in maps(batch):
        os.utime(path, (1e9, 1e9))


def test_half_written_part_is_pending_and_scored_when_it_is_whole(batch, models, capsys):
    made_old(batch)
    whole = maps(batch)[0].read_bytes()
    replaced(maps(batch)[0], whole[: len(whole) // 2])
    assert score(batch, models, "--settle-s", 0.3) == 0
    found = record(batch)
    assert found["counts"]["pending"] == 1
    assert found["errors"] == []
    assert "truncated TIFF" in found["pending"][0]["error"]
    assert found["pending"][0]["part"] not in found["parts"]
    assert re.search(r"^pending .*the next run takes it$", capsys.readouterr().out, re.MULTILINE)
    assert run(["report", str(batch / "test")]) == 0
    assert "still being written" in (batch / "test" / "inspection" / "foil" / "report.html").read_text()

    replaced(maps(batch)[0], whole)
    assert score(batch, models, "--settle-s", 0.3) == 0
    assert record(batch)["counts"]["pending"] == 0
    assert len(record(batch)["parts"]) == len(found["parts"]) + 1


def test_part_that_was_cut_off_long_ago_has_failed(batch, models):
    path = maps(batch)[0]
    replaced(path, path.read_bytes()[:5000])
    made_old(batch)
    assert score(batch, models, "--settle-s", 0.3) == 3
    assert record(batch)["counts"] | {"pass": 0, "fail": 0} == {
        "pass": 0, "fail": 0, "undecided": 0, "error": 1, "pending": 0,
    }  # fmt: skip


def test_limits_keep_pending_parts(batch, models):
    made_old(batch)
    path = maps(batch)[0]
    replaced(path, path.read_bytes()[:5000])
    score(batch, models, "--outputs", "maps", "--stride", 16, "--settle-s", 0.1)
    values = ["--value", "albedo=0.5", "--value", "normal=0.5"]
    folder = batch / "test" / "inspection" / "foil"
    assert run(["threshold", "-m", "foil", "--models", str(models), *values, "--apply", str(folder)]) == 0
    assert record(batch)["counts"]["pending"] == 1


def test_file_that_changes_while_it_is_read_is_pending(batch, models, monkeypatch):
    from inspect_cli.scoring.scan import PartScan

    victim, close = maps(batch)[0], PartScan.__exit__

    def written_to(self, *error):
        if not victim.read_bytes().endswith(b"more"):  # the first part's, when it has been read
            replaced(victim, victim.read_bytes() + b"more")
        return close(self, *error)

    monkeypatch.setattr(PartScan, "__exit__", written_to)
    assert score(batch, models, "--settle-s", 0.05) == 0
    assert "changed while it was read" in record(batch)["pending"][0]["error"]
    assert score(batch, models, "--settle-s", 0.05) == 0
    assert record(batch)["pending"] == []


def test_marker_of_the_recipe_holds_a_part_back(batch, models):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + 'done_marker: "{part}.done"\n')
    first = maps(batch)[0]
    (first.parent / first.name.replace("_albedo.tif", ".done")).touch()
    assert score(batch, models) == 0
    assert len(record(batch)["parts"]) == 1
    assert all("waits for its marker" in entry["error"] for entry in record(batch)["pending"])


def test_a_mask_of_the_roi_that_is_still_being_written_holds_its_part_back(tmp_path, clocks):
    part = part_changed(tmp_path, clocks.wall - 9999)
    mask = tmp_path / "P_roi.png"
    mask.write_bytes(b"x")
    os.utime(mask, (clocks.wall - 1, clocks.wall - 1))
    assert settling(clocks).why_not(part) is None
    rule = settling(clocks, also=lambda _part: [mask])
    assert rule.why_not(part) == "a file is still being written"
    assert rule.may_grow(part)


def test_limits_are_set_from_good_parts_without_markers(batch, models):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + 'done_marker: "{part}.done"\n')
    common = ["threshold", "--material", "foil", "--models", str(models)]
    assert run([*common, "--good", str(batch / "train"), "--rule", "max"]) == 0


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock for some seconds."""
    context = multiprocessing.get_context("spawn")
    started = []

    def start(seconds: float) -> Path:
        ready = context.Event()
        process = context.Process(target=hold, args=(tmp_path / "run", seconds, ready))
        process.start()
        started.append(process)
        assert ready.wait(60)
        return tmp_path / "run"

    yield start, started
    for process in started:
        process.kill()
        process.join()


def test_message_says_who_holds_the_folder_and_a_dead_holder_does_not_block(holder):
    start, processes = holder
    folder = start(600)
    with pytest.raises(LockedError, match=rf"^taken \(held by process {processes[0].pid} on .* since 20"):
        lock_folder(folder, "taken").__enter__()
    processes[0].kill()
    processes[0].join()
    with lock_folder(folder, "taken"):
        assert f"process {os.getpid()} " in (folder / HOLDER).read_text()
    assert not (folder / HOLDER).exists()


def test_wait_gets_the_folder_when_it_is_free(holder):
    start, _ = holder
    with lock_folder(folder := start(0.5), "taken", wait_s=60):
        assert f"process {os.getpid()} " in (folder / HOLDER).read_text()


def test_log_has_a_line_a_part_that_machines_can_split(batch, models, tmp_path):
    log = tmp_path / "logs" / "score.log"
    (batch / "test" / "good" / "bad part_albedo.tif").write_bytes(b"no image")
    assert score(batch, models, "--log-file", log) == 3
    lines = log.read_text().splitlines()
    head = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) run=(\S+) ")
    assert len({head.match(line)[2] for line in lines}) == 1
    assert " event=start " in lines[0]
    assert lines[-1].startswith(lines[-1][:21] + "ERROR")
    assert "event=end exit_code=3" in lines[-1]
    assert sum(" part=" in line for line in lines) == len(record(batch)["parts"]) + 1 == len(lines) - 2
    (unread,) = [line for line in lines if "verdict=error" in line]
    assert 'part="good/bad part"' in unread
    score(batch, models, "--log-file", log)
    assert len(log.read_text().splitlines()) == 2 * len(lines)


def test_a_name_with_a_line_break_stays_on_its_line(tmp_path):
    log = tmp_path / "log"
    with Monitor(None, log, tmp_path) as monitor:
        monitor.part(Outcome('a\nb="c', error="d\u2028e"))
    assert len(log.read_text(encoding="utf-8").splitlines()) == 3
    assert r'part="a\nb=\"c"' in log.read_text(encoding="utf-8")


def test_log_ends_with_the_exit_code_and_the_reason_of_a_fault(batch, models, tmp_path):
    log = tmp_path / "log"
    replaced(maps(batch)[0], b"no image")
    assert score(batch, models, "--log-file", log) == 3
    last = log.read_text().splitlines()[-1]
    assert "exit_code=3" in last
    assert "reason=" not in last
    assert run(["score", str(tmp_path / "nowhere"), "--log-file", str(log)]) == 4
    assert "no such folder" in log.read_text().splitlines()[-1]


def test_log_is_turned_over(tmp_path, monkeypatch):
    monkeypatch.setattr("inspect_cli.batch.monitor.LOG_BYTES", 1000)
    for _ in range(40):
        with Monitor(None, tmp_path / "log", tmp_path):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"log", *(f"log.{n}" for n in range(1, 6))}


def test_log_that_cannot_be_opened_ends_before_anything_is_scored(tmp_path):
    (tmp_path / "file").touch()
    log, metrics = tmp_path / "file" / "log", tmp_path / "inspect.prom"
    with pytest.raises(OutputError, match="file"), Monitor(metrics, log, tmp_path):
        pytest.fail("the run began")
    assert metrics_of(metrics)["inspect_last_run_exit_code"] == OutputError.exit_code


def test_metrics_that_cannot_be_written_do_not_hide_how_a_run_ended(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="broken"), Monitor(tmp_path / "file" / "x.prom", None, tmp_path):
        raise InputError("broken")
    assert "x.prom" in capsys.readouterr().err
    with pytest.raises(OutputError, match=r"x\.prom"), Monitor(tmp_path / "file" / "x.prom", None, tmp_path):
        pass


def test_how_long_a_run_took_does_not_depend_on_the_clock_of_the_day(tmp_path, monkeypatch):
    with Monitor(tmp_path / "x.prom", None, tmp_path):
        monkeypatch.setattr("inspect_cli.batch.monitor.time.time", lambda: 0.0)
    assert 0 <= metrics_of(tmp_path / "x.prom")["inspect_last_run_duration_seconds"] < 60


def metrics_of(path: Path) -> dict[str, float]:
    families = list(text_string_to_metric_families(path.read_text()))
    samples = [sample for family in families for sample in family.samples]
    return {s.name + s.labels.get("verdict", ""): s.value for s in samples}


def test_metrics_tell_how_the_run_ended_and_when_one_last_succeeded(batch, models, tmp_path):
    path = tmp_path / "inspect.prom"
    assert score(batch, models, "--metrics-file", path) == 0
    good = metrics_of(path)
    assert good["inspect_last_run_exit_code"] == 0
    assert good["inspect_last_success_timestamp_seconds"] == good["inspect_last_run_timestamp_seconds"]
    counts = record(batch)["counts"]
    assert {name: good[f"inspect_last_run_parts{name}"] for name in counts} == counts
    replaced(maps(batch)[0], b"no image")
    assert score(batch, models, "--metrics-file", path) == 3
    bad = metrics_of(path)
    assert bad["inspect_last_run_exit_code"] == 3
    assert bad["inspect_last_run_partserror"] == 1
    assert bad["inspect_last_success_timestamp_seconds"] == good["inspect_last_success_timestamp_seconds"]
    assert bad["inspect_last_run_timestamp_seconds"] > good["inspect_last_run_timestamp_seconds"]


def test_metrics_count_the_parts_that_a_stopped_run_did_not_reach(batch, models, tmp_path, monkeypatch):
    path, log = tmp_path / "inspect.prom", tmp_path / "log"
    work = parts_room._score_or_fail

    def first(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*arguments)

    monkeypatch.setattr(parts_room, "_score_or_fail", first)
    assert score(batch, models, "--metrics-file", path, "--log-file", log) == EXIT_SIGTERM
    counts = record(batch)["counts"]
    assert counts["pending"] > 0
    assert metrics_of(path)["inspect_last_run_partspending"] == counts["pending"]
    assert f"pending={counts['pending']}" in log.read_text().splitlines()[-1]


def test_a_part_that_is_done_needs_its_marker_no_more(batch, models):
    recipe = models / "foil" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + 'done_marker: "{part}.done"\n')
    markers = [
        path.parent / path.name.replace("_albedo.tif", ".done") for path in maps(batch) if "_albedo" in path.name
    ]
    for marker in markers:
        marker.touch()
    assert score(batch, models) == 0
    for marker in markers:
        marker.unlink()
    assert score(batch, models) == 0
    assert (len(record(batch)["parts"]), record(batch)["pending"]) == (len(markers), [])


def test_metrics_are_written_when_nothing_could_start(tmp_path):
    path = tmp_path / "inspect.prom"
    assert run(["score", str(tmp_path / "nowhere"), "--metrics-file", str(path)]) == 4
    assert metrics_of(path)["inspect_last_run_exit_code"] == 4
    assert "inspect_last_success_timestamp_seconds" not in metrics_of(path)


def test_space_is_estimated_before_the_first_part(batch, models, monkeypatch, capsys):
    import shutil
    from types import SimpleNamespace

    pixels, stored = 200 * 150, 3
    needed = len(maps(batch)) // 2 * 1.6 * pixels * stored
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=needed - 1))
    everything = ("--outputs", "all")
    assert score(batch, models, *everything) == 6
    assert "need about 0.0 GB" in capsys.readouterr().err
    assert not (batch / "test" / "inspection").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=needed))
    assert score(batch, models, *everything) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    assert score(batch, models, *everything) == 0, "all is done already"
    assert score(batch, models, *everything, "--force") == 6
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1.6 * pixels * stored))
    assert score(batch, models, *everything, "--force") == 0, "files are replaced one part after the other"


@pytest.mark.parametrize(("ahead_s", "verdict"), [(120, "pending"), (10**7, "error"), (-(10**7), "error")])
def test_a_cut_file_is_waited_for_unless_its_time_is_far_away(batch, models, ahead_s, verdict):
    path = maps(batch)[0]
    replaced(path, path.read_bytes()[:-50])
    now = time.time() + ahead_s
    for file in maps(batch):
        os.utime(file, (now, now))
    score(batch, models, "--settle-s", "0.1")
    told = record(batch)
    assert len(told["pending"]) == (verdict == "pending")
    assert len(told["errors"]) == (verdict == "error")


def test_a_name_that_the_terminal_has_no_letters_for_ends_nothing(batch, models):
    for name in ("albedo", "normal"):
        (batch / f"test/good/g003_{name}.tif").rename(batch / f"test/good/g\u03b1_{name}.tif")
    words = ["score", str(batch / "test"), "-m", "foil", "--models", str(models), "--outputs", "none"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-m", "inspect_cli", *words], env=environment, capture_output=True)
    assert done.returncode == 0
    assert b"good/g\\u03b1" in done.stdout


def test_pixel_limit_is_checked_from_the_header(batch, models, capsys):
    assert score(batch, models, "--max-mpixels", 0.0299) == 4
    assert "200x150 is above 0.0299 megapixels" in capsys.readouterr().out
    assert score(batch, models, "--max-mpixels", 0.03) == 0


def test_pipes_and_devices_are_refused_and_not_waited_for(batch, models):
    for name in ("p1_albedo.tif", "p1_normal.tif"):
        os.mkfifo(batch / "test" / "good" / name)
        (batch / "test" / "good" / name.replace("p1", "p2")).symlink_to("/dev/zero")
    assert score(batch, models, "--settle-s", 0.1) == 3
    assert {entry["part"]: entry["error"].split(": ")[-1] for entry in record(batch)["errors"]} == {
        "good/p1": "not a regular file",
        "good/p2": "not a regular file",
    }


def test_a_link_to_itself_is_an_error_and_the_rest_goes_on(batch, models):
    for name in ("p1_albedo.tif", "p1_normal.tif"):
        (batch / "test" / "good" / name).symlink_to(name)
    assert score(batch, models) == 3
    assert [entry["part"] for entry in record(batch)["errors"]] == ["good/p1"]
    assert len(record(batch)["parts"]) == 4


def test_folders_whose_names_are_no_text_are_refused_and_told_in_the_metrics(batch, models, tmp_path, capsys):
    sys.stderr.reconfigure(errors="backslashreplace")  # as it is where pytest does not catch it
    metrics, odd = tmp_path / "inspect.prom", batch / os.fsdecode(b"bl\xf6ck")
    assert score(batch, models, "--out", odd) == UsageError.exit_code
    assert r"bl\xf6ck: the name is no valid UTF-8; rename it" in capsys.readouterr().err
    (batch / "test").rename(odd)
    words = ["score", odd, "--material", "foil", "--models", models, "--metrics-file", metrics]
    assert run([str(word) for word in words]) == UsageError.exit_code
    assert metrics_of(metrics)["inspect_last_run_exit_code"] == UsageError.exit_code
    assert not (odd / "inspection").exists()


def test_the_last_success_of_a_folder_whose_name_is_no_text_is_carried_on(tmp_path):
    metrics, odd = tmp_path / "inspect.prom", tmp_path / os.fsdecode(b"bl\xf6ck")
    with Monitor(metrics, None, odd):
        pass
    with pytest.raises(OutputError), Monitor(metrics, None, odd):
        raise OutputError("full")
    found = metrics_of(metrics)
    assert found["inspect_last_run_exit_code"] == OutputError.exit_code
    assert "inspect_last_success_timestamp_seconds" in found


def test_names_with_line_breaks_quotes_and_other_bytes_stay_in_their_row(batch, models, capsys):
    good = batch / "test" / "good"
    for kind in ("albedo", "normal"):
        path = next(good.glob(f"*_{kind}.tif"))
        for name in (b"a\nb", b"=1+1", b'<b>"x', b"\xff\xfe"):
            os.link(path, os.fsencode(good) + b"/" + name + f"_{kind}.tif".encode())
    assert score(batch, models) == 3
    found = record(batch)
    assert r"good/a\nb  score=" in capsys.readouterr().out
    assert {"good/a\nb", "good/=1+1", 'good/<b>"x'} < set(found["parts"])
    assert [entry["part"] for entry in found["errors"]] == ["good/\\xff\\xfe"]
    assert "rename it" in found["errors"][0]["error"]
    assert run(["report", str(batch / "test")]) == 0
    page = (batch / "test" / "inspection" / "foil" / "report.html").read_text()
    assert '<b>"x' not in page
    assert "&lt;b&gt;" in page
