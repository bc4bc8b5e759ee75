"""A night on a share: parts arrive, some of them broken, while the run is killed again and again and started anew.

A writer puts the files there in halves, as a camera PC does. At the end every good part has been scored exactly once,
as an undisturbed run scores it, and every bad one is named once.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.jobs import RECIPE
from faults.kills import run_forked, start_forked
from faults.tree import broken_files, content_of, differences

#: Share of parts that are broken, and how.
BROKEN_SHARE = 0.1
KINDS = ("cut off", "no image", "map missing", "wrong size")
SETTLE_S = 0.4
#: Long ago: a file that is cut off and this old is not still being written.
OLD = 1e9
#: What runs again and again, in the folder that holds the share and the models.
COMMAND = (
    *("score", "share", "-m", "foil", "--models", "models", "--engine", "torch"),
    *("--log-file", "score.log", "--settle-s", str(SETTLE_S)),
)


@dataclass
class Report:
    """What happened."""

    parts: int = 0
    broken: int = 0
    kills: int = 0
    faults: list[str] = field(default_factory=list)
    memory_growth: float = 0.0
    files_growth: int = 0


def soak(trained: Path, scratch: Path, parts: int = 200, seed: int = 0) -> Report:
    """Score ``parts`` parts with the store ``trained/models`` under disturbance and report."""
    chooser = random.Random(seed)
    source, share = scratch / "source", scratch / "share"
    names = [f"p{number:03}" for number in range(parts)]
    broken = dict(zip(sorted(chooser.sample(names, round(parts * BROKEN_SHARE))), _cycle(KINDS), strict=False))
    _make_parts(trained / "X" / "train", source, names)
    shutil.copytree(trained / "models", scratch / "models")
    (scratch / "models" / "foil" / "recipe.yaml").write_text(RECIPE + "size_px: [96, 80]\n")
    share.mkdir()
    report = Report(parts, len(broken))

    writer = os.fork()
    if writer == 0:
        _write_all(source, share, names, broken, random.Random(seed + 1))
        os._exit(0)
    writing, last_code = True, -1
    while writing or last_code not in (0, 3) or _pending(share):
        if writing:
            writing = os.waitpid(writer, os.WNOHANG) == (0, 0)
        child = start_forked(COMMAND, folder=scratch)
        deadline = time.monotonic() + chooser.uniform(0.3, 6.0)
        ended = 0
        while writing and ended == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            ended, status = os.waitpid(child, os.WNOHANG)
        if ended == 0:
            if writing:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        last_code = os.waitstatus_to_exitcode(status)
        report.kills += last_code == -signal.SIGKILL
    report.faults += _faults(scratch, names, broken)
    report.memory_growth, report.files_growth = _growth([*COMMAND, "--force"], scratch)
    return report


def _cycle(kinds: tuple[str, ...]) -> Iterator[str]:
    while True:
        yield from kinds


def _make_parts(good: Path, source: Path, names: list[str]) -> None:
    """Make each part from a good one, turned so that no two neighbours are the same."""
    import numpy as np
    import tifffile

    source.mkdir(parents=True)
    albedos = sorted(good.rglob("*_albedo.tif"))
    for number, name in enumerate(names):
        original = albedos[number % len(albedos)]
        for kind in ("albedo", "normal"):
            pixels = tifffile.imread(original.with_name(original.name.replace("albedo", kind)))
            tifffile.imwrite(source / f"{name}_{kind}.tif", np.roll(pixels, number, axis=0))


def _write_all(source: Path, share: Path, names: list[str], broken: dict[str, str], chooser: random.Random) -> None:
    """Write the parts one after the other, each file in two halves with a pause between them."""
    for name in names:
        kind = broken.get(name)
        for path in sorted(source.glob(f"{name}_*.tif")):
            content = path.read_bytes()
            target = share / path.name
            if "normal" in path.name and kind == "map missing":
                continue
            if kind == "cut off":
                content = content[: len(content) // 2]
            elif kind == "no image":
                content = b"camera fault\n" * 100
            elif kind == "wrong size":
                content = _smaller(path)
            with target.open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(chooser.uniform(0, max(0.15, 6 / len(names))))
                file.write(content[len(content) // 2 :])
            if kind is not None:
                os.utime(target, (OLD, OLD))


def _smaller(path: Path) -> bytes:
    import io

    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, tifffile.imread(path)[:40])
    return buffer.getvalue()


def _pending(share: Path) -> bool:
    try:
        return bool(json.loads((share / "inspection" / "foil" / "run.json").read_text())["pending"])
    except (OSError, ValueError):
        return True


def _faults(scratch: Path, names: list[str], broken: dict[str, str]) -> Iterator[str]:
    """Compare what is there with what should be: each part once, as an undisturbed run has it."""
    run = scratch / "share" / "inspection" / "foil"
    record = json.loads((run / "run.json").read_text())
    listed, failed = Counter(record["parts"]), Counter(entry["part"] for entry in record["errors"])
    for name in names:
        wanted, other = (failed, listed) if name in broken else (listed, failed)
        if wanted[name] != 1 or other[name]:
            yield f"{name} ({broken.get(name, 'good')}): listed {listed[name]} and failed {failed[name]} times"
    yield from (f"not whole: {words}" for words in broken_files(run))
    scored = Counter(re.findall(r" part=(p\d+) .*unchanged=false", (scratch / "score.log").read_text()))
    yield from (f"{name}: scored {count} times" for name, count in scored.items() if count > 1)
    disturbed = content_of(run)
    shutil.rmtree(run)
    if run_forked(COMMAND, folder=scratch) not in (0, 3):
        yield "the undisturbed run ended badly"
    yield from differences(disturbed, content_of(run))


def _growth(command: list[str], folder: Path) -> tuple[float, int]:
    """Run once more over everything; return by how much memory (a share) and open files grew from start to end."""
    child = start_forked(command, folder=folder)
    memory, files = [], []
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        try:
            pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
            opened = len(list(Path(f"/proc/{child}/fd").iterdir()))
        except OSError:
            continue
        memory.append(pages)
        files.append(opened)
        time.sleep(0.02)
    third = len(memory) // 3  # the first third holds the start
    early, late = memory[third : 2 * third], memory[2 * third :]
    return max(late) / max(early) - 1, max(files[2 * third :]) - max(files[third : 2 * third])
