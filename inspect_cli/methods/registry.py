"""Method name -> module. Importing this costs nothing; torch comes with the method that is built."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from inspect_cli.errors import RecipeError, first_fault, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inspect_cli.methods.base import Detector, MethodSettings


#: In place of a method's name: try some and train the best.
AUTO: Final = "auto"


class Entry(NamedTuple):
    """Where a method is, and what people should know of it."""

    module: str
    class_name: str
    source: str
    idea: str
    use: str


_METHODS: Final[dict[str, Entry]] = {
    "aae": Entry(
        "inspect_cli.methods.aae",
        "AdversarialAutoencoder",
        "IND section 2.3",
        "adversarial autoencoder: latent codes driven to a normal distribution by a critic; residual",
        "as `cae`, where defects are reconstructed too well",
    ),
    "cae": Entry(
        "inspect_cli.methods.cae",
        "ConvolutionalAutoencoder",
        "IND section 2.1",
        "convolutional autoencoder: residual of the reconstruction through a narrow latent code",
        "regular material (tracks, grids) with defects that break the pattern; fastest",
    ),
    "cnn": Entry(
        "inspect_cli.methods.cnn",
        "SupervisedCnn",
        "MVT",
        "supervised classifier of tiles: probability of a defect",
        "some hundred labelled defects of the kinds that matter; finds no new kinds",
    ),
    "direct": Entry(
        "inspect_cli.methods.direct",
        "DirectDetector",
        "DIR",
        "network outputs the anomaly itself, trained to repair noised tiles",
        "irregular texture that no narrow code can reconstruct; defects that stand out locally",
    ),
    "feature-ae": Entry(
        "inspect_cli.methods.feature_ae",
        "FeatureAutoencoder",
        "after IND and DIR section IV-E",
        "autoencoder over features of a pretrained network instead of pixels; residual of the features",
        "real photographs of any material, few good images, short training",
    ),
    "feature-direct": Entry(
        "inspect_cli.methods.feature_direct",
        "FeatureDirect",
        "after DIR and IND",
        "`feature-ae`, times the output of a small network trained to mark artificial defects in the features",
        "real photographs of any material: sharper than `feature-ae`, the first choice",
    ),
    "kd-cae": Entry(
        "inspect_cli.methods.kd_cae",
        "KernelDensityAutoencoder",
        "MVT",
        "residual of an autoencoder, plus how unlikely the tile's latent code is by kernel density",
        "whole tiles that look unusual although they are reconstructed well",
    ),
    "ni-cae": Entry(
        "inspect_cli.methods.ni_cae",
        "NoiseInjectedAutoencoder",
        "MVT",
        "autoencoder trained with noise injected into a share of the images",
        "as `cae`, with noisy cameras",
    ),
    "patchcore": Entry(
        "inspect_cli.methods.patchcore",
        "PatchCore",
        "Roth et al. 2022",
        "distance to the nearest feature of a pretrained network in a memory bank of good ones",
        "to compare with; some seconds of training",
    ),
    "ssae": Entry(
        "inspect_cli.methods.ssae",
        "SelfSupervisedAutoencoder",
        "SSAE objective (1)",
        "autoencoder with dilated context, trained to undo elastic deformations of patches",
        "texture with structure larger than a few pixels; longer training, best on a GPU",
    ),
    "ssae-contrast": Entry(
        "inspect_cli.methods.ssae",
        "ContrastiveSelfSupervisedAutoencoder",
        "SSAE objective (2)",
        "as `ssae`, but rewarded for a large residual where the input was corrupted",
        "sharper maps than `ssae` where defects resemble the corruption",
    ),
    "ssae-ensemble": Entry(
        "inspect_cli.methods.ssae",
        "SelfSupervisedEnsemble",
        "SSAE section 4.3",
        "`ssae` and `ssae-contrast` trained side by side, mean of both residuals",
        "as `ssae`, at twice the cost",
    ),
    "vae": Entry(
        "inspect_cli.methods.vae",
        "VariationalAutoencoder",
        "IND section 2.2",
        "variational autoencoder: latent codes are normal distributions, KL term; residual",
        "as `cae`, where defects are reconstructed too well",
    ),
}


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_METHODS)


def method_entries() -> dict[str, Entry]:
    """Return what is to be known of each method, by name."""
    return {name: _METHODS[name] for name in method_names()}


def method_class(name: str) -> type[Detector]:
    """Return the class of a method; this imports torch.

    Raises
    ------
    RecipeError
        If there is no such method.
    """
    if name not in _METHODS:
        raise RecipeError(f"method {name!r} is unknown: {nearest(name, [AUTO, *method_names()])}")
    entry = _METHODS[name]
    found: type[Detector] = getattr(importlib.import_module(entry.module), entry.class_name)
    return found


def check_whole_images(name: str) -> None:
    """Raise RecipeError unless a method can score an image as one tile (``tiles.whole``)."""
    if not method_class(name).fully_convolutional:
        able = ", ".join(other for other in method_names() if method_class(other).fully_convolutional)
        raise RecipeError(f"tiles.whole: method {name} needs tiles of one size; valid with {able}")


def build_detector(name: str, channels: int, tile_px: int, settings: dict[str, Any]) -> Detector:
    """Return an untrained detector for tiles of ``tile_px`` with ``channels`` channels.

    Raises
    ------
    RecipeError
        If the method or one of its settings is unknown, or the tile size does not fit the network.
    """
    checked = checked_settings(name, settings)
    return method_class(name)(channels, tile_px, checked)


def checked_settings(name: str, settings: Mapping[str, Any]) -> MethodSettings:
    """Return the settings of a method, validated.

    Raises
    ------
    RecipeError
        If the method or one of its settings is unknown, or a value is not valid.
    """
    from pydantic import ValidationError  # noqa: PLC0415  (names alone must cost nothing)

    detector_class = method_class(name)
    try:
        return detector_class.Settings.model_validate(settings)
    except ValidationError as error:
        key, fault = first_fault(error)
        place = ".".join(filter(None, ("method.settings", key)))
        known = list(detector_class.Settings.model_fields)
        hint = "" if key.partition(".")[0] in (*known, "") else f"; {nearest(key, known)}"
        raise RecipeError(f"{place} of {name}: {fault}{hint}") from error
