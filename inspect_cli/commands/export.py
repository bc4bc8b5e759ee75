"""``inspect export``: the networks as files for other runtimes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import Json, Method, Models, parse_names
from inspect_cli.errors import UsageError, nearest


def export(
    material: Annotated[str, typer.Option("--material", "-m", help="Material whose networks are exported.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.", show_default=False)],
    formats: Annotated[str, typer.Option("--format", help="onnx, openvino, or both.")] = "onnx,openvino",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of parts whose tiles the files are checked on.", show_default="noise"),
    ] = None,
    models: Models = None,
    method: Method = None,
    as_json: Json = False,
) -> None:
    """Write the networks as ONNX and OpenVINO files.

    A file takes tiles in the unit range, any number of them, and gives their anomaly maps: the residual is part
    of the graph. Its scores are compared with the trained network's; a file that differs is not written.
    export.json says what a program that runs the files must know: shapes, value range, what replaces pixels
    outside the ROI, how tiles are cut, joined and smoothed, limits, hashes.

    \b
    Examples:
      inspect export --material riblet --out exported
      inspect export --material riblet --out exported --format onnx --data batch/
    """  # noqa: D301
    from inspect_cli.export.networks import FORMATS, check_parts, export_model
    from inspect_cli.images import discover_parts
    from inspect_cli.material.bundle import find_bundle
    from inspect_cli.material.materials import find_material
    from inspect_cli.scoring.model import trained_maps

    kinds = parse_names(formats) or []
    for kind in kinds:
        if kind not in FORMATS:
            raise UsageError(f"--format: {nearest(kind, list(FORMATS))}")
    if not kinds:
        raise UsageError(f"--format: name one of {', '.join(FORMATS)}")
    _check_packages(kinds)
    chosen = find_material(material, models)
    bundle = find_bundle(chosen.folder, method)
    parts = []
    if data is not None:
        maps = trained_maps(chosen, bundle)
        parts = discover_parts(data, maps, chosen.recipe.maps)
        check_parts(parts, maps, bundle)
    if bundle.manifest.doubt is not None:
        console.warn(bundle.manifest.doubt)
    report = export_model(chosen, bundle, out, kinds, parts, console.say)
    console.out(json.dumps(report) if as_json else str(out))


def _check_packages(kinds: list[str]) -> None:
    """Raise UsageError if a package that a format needs is not installed."""
    needed = ["openvino", *(["onnx", "onnxscript"] if "onnx" in kinds else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"inspect export needs {', '.join(missing)}; pip install 'inspect-cli[export]'")
