"""Method name -> module. Importing this costs nothing; torch comes with the method that is built."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from inspect_cli.errors import RecipeError, nearest

if TYPE_CHECKING:
    from inspect_cli.methods.base import Detector

#: Name -> (module, class, one line for people).
_METHODS: dict[str, tuple[str, str, str]] = {
    "aae": (
        "inspect_cli.methods.aae",
        "AdversarialAutoencoder",
        "adversarial autoencoder; codes driven to a normal distribution by a critic (IND section 2.3)",
    ),
    "cae": (
        "inspect_cli.methods.cae",
        "ConvolutionalAutoencoder",
        "convolutional autoencoder; residual of the reconstruction (IND section 2.1)",
    ),
    "vae": (
        "inspect_cli.methods.vae",
        "VariationalAutoencoder",
        "variational autoencoder; codes are normal distributions, KL term (IND section 2.2)",
    ),
}


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_METHODS)


def method_summaries() -> dict[str, str]:
    """Return each method's one line."""
    return {name: _METHODS[name][2] for name in method_names()}


def method_class(name: str) -> type[Detector]:
    """Return the class of a method; this imports torch."""
    module, class_name, _ = _METHODS[name]
    found: type[Detector] = getattr(importlib.import_module(module), class_name)
    return found


def build_detector(name: str, channels: int, tile_px: int, settings: dict[str, Any]) -> Detector:
    """Return an untrained detector for tiles of ``tile_px`` with ``channels`` channels.

    Raises
    ------
    RecipeError
        If the method or one of its settings is unknown, or the tile size does not fit the network.
    """
    if name not in _METHODS:
        raise RecipeError(f"method {name!r} is unknown: {nearest(name, method_names())}")
    detector_class = method_class(name)
    try:
        checked = detector_class.Settings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        hint = nearest(key, list(detector_class.Settings.model_fields))
        raise RecipeError(f"method.settings.{key} of {name}: {first['msg']}; {hint}") from error
    return detector_class(channels, tile_px, checked)
