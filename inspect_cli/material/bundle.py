"""Model bundles: safetensors and a manifest, one folder a method beside the recipe.

Weights are written first under a name that carries their hash, the manifest last: until then the old model
is whole, afterwards the new one is. No pickle is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from inspect_cli.errors import ModelError, RecipeError, first_fault, nearest
from inspect_cli.material.manifest import FORMAT, Calibration, Manifest
from inspect_cli.methods import build_detector, method_names
from inspect_cli.methods.base import Detector
from inspect_cli.store.atomic import write_bytes, write_text
from inspect_cli.store.layout import MANIFEST
from inspect_cli.store.lock import lock_folder

_AGAIN: Final = "restore the file or train again"


@dataclass(frozen=True)
class Bundle:
    """A trained model on disk."""

    folder: Path
    manifest: Manifest

    def detector(self, map_name: str) -> Detector:
        """Return the trained network of a map, in float32.

        Raises
        ------
        ModelError
            If the weights are missing, were changed, or do not fit the method.
        """
        trained = self.manifest.maps[map_name]
        path = self.folder / trained.weights
        content = _read(path, trained.sha256)
        try:
            detector = build_detector(
                self.manifest.method, trained.channels, self.manifest.tile_px, self.manifest.settings
            )
            detector.load_state_dict({name: value.float() for name, value in load(content).items()})
        except (SafetensorError, RuntimeError, RecipeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{path}: does not fit method {self.manifest.method!r} ({reason}); {_AGAIN}") from error
        return detector.eval()

    def usual(self, map_name: str) -> dict[str, NDArray[np.float32]] | None:
        """Return what is usual at each place of a map, by name; None where that is not known.

        ``cells`` (rows, columns) is how high good parts score; ``mean`` and ``precision`` (rows, columns, channels),
        where the manifest tells of brightness, are how bright they are and one over the variance of that.

        Raises
        ------
        ModelError
            If the file is missing, was changed, or holds something else.
        """
        trained = self.manifest.maps[map_name]
        usual = trained.usual
        if usual is None:
            return None
        size = tuple(-(-length // usual.cell_px) for length in (usual.height_px, usual.width_px))
        shapes: dict[str, tuple[int, ...]] = {"cells": size}
        if usual.brightness_weight is not None:
            shapes |= dict.fromkeys(("mean", "precision"), (*size, trained.channels))
        path = self.folder / usual.cells
        content = _read(path, usual.sha256)
        try:
            tensors = load(content)
            arrays = {name: np.asarray(tensors[name].numpy(), np.float32) for name in shapes}
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"{path}: does not hold what is usual at a place; {_AGAIN}") from error
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ModelError(
                    f"{path}: {name} of {arrays[name].shape} does not cover the image of the manifest; {_AGAIN}"
                )
        return arrays

    def with_calibration(self, calibration: Calibration) -> Bundle:
        """Store new limits in the bundle and return it.

        Raises
        ------
        ModelError
            If the model was trained again since it was read.
        LockedError
            If it is being trained at this moment.
        """
        with lock_folder(self.folder, f"{self.folder}: is being trained or calibrated by another process"):
            now = read_bundle(self.folder).manifest
            if now.digest() != self.manifest.digest():
                raise ModelError(f"{self.folder}: was trained again meanwhile; set the limits once more")
            manifest = now.model_copy(update={"calibration": calibration})
            write_manifest(self.folder, manifest)
        return replace(self, manifest=manifest)

    def require_calibration(self) -> Calibration:
        """Return the limits, or raise ModelError if none were ever set."""
        if self.manifest.calibration is None:
            raise ModelError(f"{self.folder}: has no limits; set them with `inspect threshold`")
        return self.manifest.calibration


def write_weights(folder: Path, map_name: str, state: dict[str, Tensor], half: bool) -> tuple[str, str]:
    """Write a network's weights; return their file name and sha256. ``half`` stores them in float16."""
    dtype = torch.float16 if half else torch.float32
    plain = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    return _write(folder, map_name, plain)


def write_usual(folder: Path, map_name: str, arrays: Mapping[str, NDArray[np.float32]]) -> tuple[str, str]:
    """Write what is usual at each place of a map, as :meth:`Bundle.usual` returns it; return file name and sha256."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return _write(folder, f"{map_name}-usual", tensors)


def _write(folder: Path, name: str, tensors: dict[str, Tensor]) -> tuple[str, str]:
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    file = f"{name}-{digest[:12]}.safetensors"
    write_bytes(folder / file, content)
    return file, digest


def _read(path: Path, sha256: str) -> bytes:
    """Return a file's bytes; raises ModelError if it cannot be read or its sha256 differs."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(f"{path}: is not the file that was trained (sha256 differs); {_AGAIN}")
    return content


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def prune_weights(folder: Path, manifest: Manifest) -> None:
    """Remove weights that the manifest does not name. The caller must hold the bundle's lock."""
    named = {trained.weights for trained in manifest.maps.values()}
    named |= {trained.usual.cells for trained in manifest.maps.values() if trained.usual is not None}
    for path in folder.glob("*.safetensors"):
        if path.name not in named:
            path.unlink(missing_ok=True)


def read_bundle(folder: Path) -> Bundle:
    """Read and validate the manifest of a bundle.

    Raises
    ------
    ModelError
        If it is missing, damaged, of a newer format, or foreign.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no model here; train one with `inspect train`") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged manifest ({error}); restore it or train again") from error
    if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise ModelError(f"{path}: written by a newer version (format {content['format']}); update inspect")
    try:
        return Bundle(folder, Manifest.model_validate(content))
    except ValidationError as error:
        key, fault = first_fault(error)
        raise ModelError(f"{path}: no valid manifest ({key or 'file'}: {fault}); train again") from error


def other_bundles(folder: Path) -> list[Bundle]:
    """Return the material's other bundles beside ``folder``, but for those that cannot be read."""
    found = []
    for path in sorted(folder.parent.glob(f"*/{MANIFEST}")):
        if path.parent != folder:
            with contextlib.suppress(ModelError):
                found.append(read_bundle(path.parent))
    return found


def find_bundle(material_folder: Path, method: str | None = None) -> Bundle:
    """Return the bundle of ``method``, or the one that was trained last.

    A bundle lies in the folder of its method's name; another folder holds a copy, which nobody asked for.

    Raises
    ------
    ModelError
        If the material is not trained, or not with this method, or a model in it cannot be read.
    """
    known = set(method_names())
    folders = sorted(path.parent for path in material_folder.glob(f"*/{MANIFEST}") if path.parent.name in known)
    if not folders:
        name = material_folder.name
        raise ModelError(f"{material_folder}: not trained yet; run `inspect train --material {name}`")
    if method is not None:
        if material_folder / method not in folders:
            raise ModelError(
                f"{material_folder}: no model of method {method!r}; {nearest(method, [f.name for f in folders])}"
            )
        return read_bundle(material_folder / method)
    try:
        return max((read_bundle(folder) for folder in folders), key=lambda b: b.manifest.created_utc)
    except ModelError as error:
        if len(folders) == 1:
            raise
        names = ", ".join(folder.name for folder in folders)
        raise ModelError(f"{error}; or choose one with --method ({names})") from error
