"""``inspect export``: a bundle's networks as ONNX and OpenVINO files, compared with the networks themselves."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from inspect_cli.engines.graph import INPUT, OUTPUT, openvino_core, to_openvino, write_onnx
from inspect_cli.engines.parity import TOLERANCE, relative_difference
from inspect_cli.errors import ModelError
from inspect_cli.images import Part, find_roi
from inspect_cli.images.contract import checked_headers
from inspect_cli.material.bundle import Bundle
from inspect_cli.material.manifest import TrainedMap, scored_at
from inspect_cli.material.materials import Material
from inspect_cli.methods.base import Detector
from inspect_cli.recipe.schema import MapSpec
from inspect_cli.scoring.model import check_limits, tiling_of_bundle
from inspect_cli.store.atomic import output_error, whole_file, write_json
from inspect_cli.tiles import PatchSampler, SamplerImage
from inspect_cli.tiles.tiling import count_of_area

FORMATS: Final = ("onnx", "openvino")
REPORT: Final = "export.json"
CHECKED_TILES: Final = 32
_FEWEST_CHECKED: Final = 3
_SCRATCH: Final = ".export-"
_SUFFIX: Final = {"onnx": ".onnx", "openvino": ".xml"}

Tiles = NDArray[np.float32]


def check_parts(parts: Sequence[Part], maps: Mapping[str, MapSpec], bundle: Bundle) -> None:
    """Raise InputError if a map of a part is missing, not what the network was trained on, or of another size."""
    dtypes = {name: np.dtype(bundle.manifest.maps[name].dtype) for name in maps}
    for part in parts:
        checked_headers(part, maps, dtypes=dtypes)


def export_model(
    material: Material,
    bundle: Bundle,
    out: Path,
    formats: Sequence[str],
    parts: Sequence[Part],
    on_file: Callable[[str], None],
) -> dict[str, Any]:
    """Write each map's network in ``formats`` into ``out`` and ``export.json``, which is returned.

    The report tells how tiles are cut and joined, what there is to know about the model, and for each map what the
    network takes (shape, stored values at 0 and 1, pixels outside the ROI), the limits, what smoothed scores are
    divided by at each place (cells, linear between their middles), and for each file its sha256 and how far its
    scores are from the network's, on random tiles of ``parts`` inside their ROI or, without parts, on noise of the
    material's brightness. ``on_file`` gets a line a file.

    Raises
    ------
    ModelError
        If the recipe does not fit the model or its limits, a network cannot be written in a format, or the file's
        scores are not the network's.
    OutputError
        If a file cannot be written.
    """
    calibration, report = bundle.manifest.calibration, _head(material, bundle)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(f"{_SCRATCH}*"):  # of an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=_SCRATCH) as scratch:
            for name, trained in bundle.manifest.maps.items():
                detector = bundle.detector(name)
                tiles = _tiles(name, trained, detector.tile_px, parts, material)
                files = {}
                for kind in formats:
                    files[kind] = _export(detector, tiles, kind, Path(scratch), name)
                    on_file(f"{name}{_SUFFIX[kind]}: differs by {files[kind]['difference']:.1g} of the largest score")
                limit = None if calibration is None else calibration.limits[name].model_dump()
                report["maps"][name] = {
                    **_described(trained, detector.tile_px, limit, files, bool(parts)),
                    "usual": _usual(bundle, name),
                }
            for path in sorted(Path(scratch).iterdir()):
                with whole_file(out / path.name) as temporary:
                    path.replace(temporary)
        write_json(out / REPORT, report)
    except OSError as error:
        raise output_error(out, error) from error
    return report


def _head(material: Material, bundle: Bundle) -> dict[str, Any]:
    """Return what the report says of all maps; raise ModelError if recipe, model and limits do not fit."""
    calibration, tiling = bundle.manifest.calibration, tiling_of_bundle(material, bundle)
    warnings, at = list(bundle.manifest.cautions), scored_at(tiling.stride_px, "f32")
    if calibration is not None:
        check_limits(bundle, calibration, tiling)
        if calibration.scored_at != at:
            warnings.append(f"the limits were set at {calibration.scored_at}, not at {at}")
    return {
        "material": bundle.manifest.material,
        "method": bundle.manifest.method,
        "model_sha256": bundle.manifest.digest(),
        "tolerance": TOLERANCE["f32"],
        "tiles": {name: getattr(tiling, name) for name in ("size_px", "stride_px", "even", "blend", "whole")},
        "smooth_sigma_px": tiling.smooth_sigma_px,
        "min_area_px": material.recipe.scoring.min_area_px,
        "provisional": None if calibration is None else calibration.provisional,
        "warnings": warnings,
        "maps": {},
    }


def _described(
    trained: TrainedMap, tile_px: int, limit: dict[str, Any] | None, files: dict[str, Any], real: bool
) -> dict[str, Any]:
    return {
        "input": {"name": INPUT, "shape": ["n", trained.channels, tile_px, tile_px], "type": "float32"},
        "output": {"name": OUTPUT, "shape": ["n", tile_px, tile_px], "type": "float32"},
        "stored_type": trained.dtype,
        "low": trained.low,
        "high": trained.high,
        "outside_roi": "mirrored",
        "limit": limit,
        "checked_on": f"{_checked(tile_px)} tiles of {'parts' if real else 'noise'}",
        "files": files,
    }


def _usual(bundle: Bundle, name: str) -> dict[str, Any] | None:
    """Return by what smoothed scores of whole images are measured, where good parts always lie alike."""
    usual, arrays = bundle.manifest.maps[name].usual, bundle.usual(name)
    if usual is None or arrays is None:
        return None
    told = usual.model_dump(include={"cell_px", "height_px", "width_px", "slack_px", "brightness_weight", "turned"})
    return {**told, **{key: _numbers(values) for key, values in arrays.items()}}


def _numbers(values: NDArray[np.float32]) -> Any:
    """Return an array as lists of numbers with five digits; None where it holds none."""
    short = [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.ravel()]
    return np.array(short, object).reshape(values.shape).tolist()


def _checked(tile_px: int) -> int:
    return count_of_area(CHECKED_TILES, tile_px, _FEWEST_CHECKED)


def _tiles(name: str, trained: TrainedMap, tile_px: int, parts: Sequence[Part], material: Material) -> Tiles:
    """Return tiles (n, channels, tile_px, tile_px) to compare scores on, each with a pixel inside the ROI."""
    if parts:
        rois = (find_roi(material.recipe, part, material.folder) for part in parts)
        images = (SamplerImage(part.files[name], roi) for part, roi in zip(parts, rois, strict=True))
        with closing(PatchSampler(images, tile_px, 0, min_share=1 / tile_px**2, cache_mb=0)) as sampler:
            return trained.preprocess.to_network(*sampler.batch(0, _checked(tile_px)))
    mean, spread = trained.usual_values
    noise = np.random.default_rng(0).standard_normal((_checked(tile_px), tile_px, tile_px, trained.channels))
    return np.moveaxis(mean + spread * noise, 3, 1).astype(np.float32)


def _export(detector: Detector, tiles: Tiles, kind: str, scratch: Path, name: str) -> dict[str, Any]:
    """Write one file (OpenVINO: a pair), read it back, and return its name, hash and difference."""
    import openvino  # noqa: PLC0415  (an optional package)

    path = scratch / f"{name}{_SUFFIX[kind]}"
    if kind == "onnx":
        write_onnx(detector, path)
    else:
        shape = (2, *tiles.shape[1:])
        openvino.save_model(to_openvino(detector, shape, any_number=True), path, compress_to_fp16=False)
    compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.inference_mode():
        expected = detector.score(torch.from_numpy(tiles)).numpy()
    difference = relative_difference(compiled(tiles)[0], expected)
    if not difference <= TOLERANCE["f32"]:
        raise ModelError(
            f"{name}, {kind}: the file's scores differ from the network's by {difference:.2g} of the largest, more "
            f"than {TOLERANCE['f32']:g}; nothing was written"
        )
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(scratch.glob(f"{name}.*"))}
    wanted = (path.suffix, ".bin") if kind == "openvino" else (path.suffix,)
    return {
        "sha256": {file: digest for file, digest in hashes.items() if Path(file).suffix in wanted},
        "difference": difference,
    }
