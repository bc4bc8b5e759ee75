"""Mark a model as the one that comes with the program: ``python -m inspect_cli.training.shipped FOLDER``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from inspect_cli.material.bundle import read_bundle, write_manifest
from inspect_cli.material.materials import SHIPPED
from inspect_cli.training.card import write_card


def mark_as_shipped(folder: Path) -> None:
    """Write the warning that such a model has into its manifest and its card."""
    bundle = read_bundle(folder)
    others = [warning for warning in bundle.manifest.warnings if warning != SHIPPED]
    manifest = bundle.manifest.model_copy(update={"warnings": [SHIPPED, *others]})
    write_manifest(folder, manifest)
    write_card(replace(bundle, manifest=manifest))


if __name__ == "__main__":
    mark_as_shipped(Path(sys.argv[1]))
