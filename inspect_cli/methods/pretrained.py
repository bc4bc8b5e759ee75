"""Weights that were trained elsewhere, read from a file without running what is in it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inspect_cli.errors import ModelError


def load_weights(path: Path, wanted: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """Return the weights of a file that are named in ``wanted``, whatever else the file holds.

    Parameters
    ----------
    path
        A state dictionary: .safetensors, or any other name for what ``torch.save`` writes. Pickled objects
        are not loaded.
    wanted
        The network's own state dictionary; names and shapes must be the file's.
    network
        What the weights should be of, for messages.

    Raises
    ------
    ModelError
        If the file cannot be read, or a weight is missing or has another shape.
    """
    found = _read(path)
    for name, value in wanted.items():
        if name not in found:
            raise ModelError(f"{path}: no weight {name!r}; give the state dictionary of {network}")
        if found[name].shape != value.shape:
            shape = tuple(found[name].shape)
            raise ModelError(f"{path}: {name} has shape {shape}, not {tuple(value.shape)}; is this {network}?")
    return {name: found[name] for name in wanted}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: weights cannot be read ({error.strerror or error}); check the path") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: not a file of weights, or a damaged one; fetch it anew") from error
    except Exception as error:  # torch's refusal of an object that is no tensor has a type of pickle's
        raise ModelError(
            f"{path}: no plain weights, and pickled objects are never loaded; save the model's state_dict()"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path}: holds no plain dictionary of weights; save the model's state_dict()")
    return found
