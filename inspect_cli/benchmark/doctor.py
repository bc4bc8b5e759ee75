"""``inspect doctor``: what this installation runs on, what slows it down, and what would help."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch

from inspect_cli.benchmark.machine import description, matrix_rate
from inspect_cli.engines import Hardware, make_engine
from inspect_cli.engines.choice import openvino_installed
from inspect_cli.engines.torch_engine import PRECISIONS
from inspect_cli.errors import InspectError
from inspect_cli.material.bundle import Bundle, find_bundle
from inspect_cli.material.materials import find_material, known_materials, named_store
from inspect_cli.methods.base import Detector
from inspect_cli.processors import usable_processors
from inspect_cli.store.layout import MANIFEST
from inspect_cli.tiles.tiling import count_of_area, tiling_of

_TIMED_TILES: Final = 64
_FEWEST_TIMED: Final = 4
_LEAST_MEMORY_GB: Final = 2.0
_LEAST_DISK_GB: Final = 2.0
#: Faster than float32 by so much is worth a word.
_WORTH: Final = 1.3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``advice`` says what would help, if anything would."""

    name: str
    found: str
    advice: str = ""


def examine(models: Path | None, on_finding: Callable[[Finding], None]) -> list[Finding]:
    """Look at everything and return the findings; ``on_finding`` gets each when it is known."""
    findings = []
    known = dict(_bundles(models))
    bundles = {name: found for name, found in known.items() if isinstance(found, Bundle)}
    for finding in chain(_installation(), _materials(known), _speed(bundles, models)):
        findings.append(finding)
        on_finding(finding)
    return findings


def _installation() -> Iterator[Finding]:
    yield Finding("machine", description())
    yield threads(torch.get_num_threads(), usable_processors())
    yield _gpu()
    free_gb = available_memory_gb()
    if free_gb is not None:
        short = "scoring takes about 1 GB, training up to 2 GB: end other programs"
        yield Finding("memory", f"{free_gb:.1f} GB available", short if free_gb < _LEAST_MEMORY_GB else "")
    disk_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    short = "the results of a full-size part take up to 0.2 GB: free space"
    yield Finding("disk", f"{disk_gb:.0f} GB free here", short if disk_gb < _LEAST_DISK_GB else "")
    if openvino_installed():
        yield Finding("engine", "OpenVINO, taken by --engine auto on a CPU")
    else:
        advice = (
            "" if torch.cuda.is_available() else "pip install 'inspect-cli[openvino]' for faster scoring on a CPU"
        )
        yield Finding("engine", "torch", advice)
    if importlib.util.find_spec("imagecodecs") is None:
        yield Finding("codecs", "no imagecodecs; for TIFF with LZW, ZSTD or JPEG: pip install 'inspect-cli[codecs]'")


def threads(used: int, usable: int) -> Finding:
    """Return what is to be said of ``used`` threads where ``usable`` processors may be used."""
    found = f"{used} thread(s) on {usable} processor(s)"
    if used > usable:
        return Finding("threads", found, f"set OMP_NUM_THREADS={usable}: threads wait for each other otherwise")
    if used < usable:
        return Finding(
            "threads", found, f"processors are idle unless other programs use them: OMP_NUM_THREADS={usable}"
        )
    return Finding("threads", found)


def available_memory_gb(meminfo: Path = Path("/proc/meminfo")) -> float | None:
    """Return the memory a program can still get, in GB, None where the system does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 / 1e9 if found else None


def _gpu() -> Finding:
    if torch.cuda.is_available():
        return Finding("gpu", f"{torch.cuda.get_device_name(0)}, taken by --device auto")
    if torch.backends.mps.is_available():
        return Finding("gpu", "of this Mac, taken by --device auto")
    if shutil.which("nvidia-smi") is None and not Path("/proc/driver/nvidia/version").exists():
        return Finding("gpu", "none, networks run on the CPU")
    if torch.version.cuda is None:
        return Finding("gpu", "not used: this torch is a CPU build", "install torch's CUDA build, see pytorch.org")
    return Finding(
        "gpu",
        "torch does not see it",
        f"this torch needs CUDA {torch.version.cuda}: look at nvidia-smi, the driver's version, CUDA_VISIBLE_DEVICES",
    )


def _bundles(models: Path | None) -> Iterator[tuple[str, Bundle | InspectError]]:
    named = named_store(models)
    for name, folder in known_materials(models).items():
        if not any(folder.glob(f"*/{MANIFEST}")) or (named is not None and folder.parent != named.folder):
            continue  # no store stands in for one that was named
        try:
            find_material(name, models)
            yield name, find_bundle(folder)
        except InspectError as error:
            yield name, error


def _materials(known: Mapping[str, Bundle | InspectError]) -> Iterator[Finding]:
    for name, found in known.items():
        if isinstance(found, InspectError):
            yield Finding("material", f"{name}: cannot be used", str(found))
            continue
        calibration = found.manifest.calibration
        provisional = calibration is None or calibration.provisional
        advice = f"set its limits from good parts: inspect threshold --material {name} --good FOLDER"
        yield Finding("material", f"{name}: {found.manifest.method} in {found.folder}", advice if provisional else "")


def _speed(bundles: dict[str, Bundle], models: Path | None) -> Iterator[Finding]:
    """Time the first material's first network in the engines and precisions that may pay here."""
    yield Finding("matrix products", f"{matrix_rate(3) / 1e9:.0f} GFLOP/s in float32")
    for name, bundle in bundles.items():
        try:
            detector = bundle.detector(next(iter(bundle.manifest.maps)))
        except InspectError as error:
            yield Finding("material", f"{name}: cannot be used", str(error))
            continue
        tiles = tiling_of(find_material(name, models).recipe, detector.tile_px)
        yield from _timed(name, detector, tiles.stride_px)
        return


def _timed(material: str, detector: Detector, stride_px: int) -> Iterator[Finding]:
    count = count_of_area(_TIMED_TILES, detector.tile_px, _FEWEST_TIMED)
    tiles_per_mpx = 1e6 / stride_px**2
    shape = (count, detector.channels, detector.tile_px, detector.tile_px)
    tiles = np.random.default_rng(0).random(shape, np.float32)
    exact_s = None
    for way in _ways():
        engine = make_engine(copy.deepcopy(detector), way)  # an engine takes the network to its device
        options = f"--engine {way.engine} --device {way.device} --precision {way.precision}"
        try:
            engine.score(tiles)
            start = time.perf_counter()
            engine.score(tiles)
            spent_s = (time.perf_counter() - start) / count * tiles_per_mpx
        except InspectError as error:
            yield Finding("speed", f"{material}, {options}: refused ({error})")
            continue
        advice = ""
        if way.precision == "f32":
            exact_s = spent_s if exact_s is None else min(exact_s, spent_s)
        elif exact_s is not None and exact_s > _WORTH * spent_s:
            advice = f"{exact_s / spent_s:.1f} times as fast as f32; set the limits at this precision too"
        yield Finding("speed", f"{material}: {spent_s:.2f} s a megapixel and map with {options}", advice)


def _ways() -> list[Hardware]:
    """Return what may pay: not torch's bf16 on a CPU, which most processors imitate slowly."""
    ways = [Hardware("cpu", 0, "torch")]
    if torch.cuda.is_available():
        ways += [Hardware("cuda", 0, "torch", precision) for precision in PRECISIONS["cuda"]]
    if torch.backends.mps.is_available():
        ways += [Hardware("mps", 0, "torch")]
    if openvino_installed():
        ways += [Hardware("cpu", 0, "openvino", precision) for precision in ("f32", "bf16", "f16")]
    return ways
