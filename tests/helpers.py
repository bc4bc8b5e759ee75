"""What several test files share."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from inspect_cli.errors import EXIT_DONE, EXIT_DOUBT

#: How a training ends that is whole; one of a few steps learns little and says so.
TRAINED = (EXIT_DONE, EXIT_DOUBT)
#: Options of `inspect score` that leave out what a test does not look at: few tiles, and no pictures.
COARSE = ("--outputs", "none", "--stride", "32")


def material_of(store: Path, name: str, tile_px: int = 32, method: str = "cae", **settings: Any) -> Path:
    """Write a recipe of one map of any image file, with a small network, into a store; return its folder."""
    recipe = {
        "material": name,
        "maps": {"image": {"files": "{part}.*"}},
        "tiles": {"size_px": tile_px, "stride_px": tile_px // 2},
        "method": {"name": method, "settings": settings},
        "training": {"batch": 4, "validate_every": 5},
    }
    (store / name).mkdir(parents=True, exist_ok=True)
    (store / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return store / name


class Quiet:
    """Progress that nobody watches."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, label: str) -> AbstractContextManager[Callable[[float, str], None]]:
        return nullcontext(lambda share, text: None)


def hold(folder: Path, seconds: float, ready: Any) -> None:
    """Hold a folder's lock for some seconds, once ``ready`` is set; for a process that imports little else."""
    from inspect_cli.store.lock import lock_folder

    with lock_folder(folder, "busy"):
        ready.set()
        time.sleep(seconds)
