"""Training state on disk: tensors as safetensors, the rest as JSON; never a pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from inspect_cli.errors import ModelError
from inspect_cli.methods.base import Detector
from inspect_cli.store.atomic import write_bytes, write_json

Optimizers = Sequence[torch.optim.Optimizer]
_STATE = "state.json"


@dataclass
class TrainingState:
    """Where the training of one map stands."""

    fingerprint: str
    step: int = 0
    spent_s: float = 0.0
    best_loss: float = float("inf")
    waited: int = 0
    finished: bool = False
    stopped_early: bool = False
    history: list[dict[str, float | None]] = field(default_factory=list)


def save_checkpoint(
    folder: Path, state: TrainingState, detector: Detector, best: dict[str, Tensor], optimizers: Optimizers
) -> None:
    """Write model, best weights, optimizers and state; the state comes last and names the tensor file."""
    tensors = {f"model.{name}": value for name, value in detector.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{index}.{key}": v for key, v in values.items()}
    name = f"step{state.step}.safetensors"
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_bytes(folder / name, save(plain))  # save_file tells of a full disk by an error of its own
    content = asdict(state) | {"tensors": name}
    content["best_loss"] = state.best_loss if math.isfinite(state.best_loss) else None
    write_json(folder / _STATE, content)
    for old in folder.glob("step*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_checkpoint(
    folder: Path, fingerprint: str, detector: Detector, optimizers: Optimizers
) -> tuple[TrainingState, dict[str, Tensor]] | None:
    """Restore ``detector`` and ``optimizers``; return the state and the best weights, or None if there is none.

    Raises
    ------
    ModelError
        If the checkpoint is damaged, or belongs to other data or settings.
    """
    if not (folder / _STATE).is_file():
        return None
    again = "train again without --resume"
    try:
        content: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        tensors = load_file(folder / content.pop("tensors"))
        state = TrainingState(**content)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder}: damaged checkpoint ({error}); {again}") from error
    if state.fingerprint != fingerprint:
        raise ModelError(f"{folder}: the checkpoint belongs to other data, seed or settings; {again}")
    state.best_loss = float("inf") if state.best_loss is None else state.best_loss
    try:
        detector.load_state_dict(_section(tensors, "model."))
        for number, optimizer in enumerate(optimizers):
            _restore_optimizer(optimizer, _section(tensors, f"optimizer{number}."))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{folder}: the checkpoint is of another version of inspect; {again}") from error
    return state, _section(tensors, "best.")


def _section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    content = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    content["state"] = state
    optimizer.load_state_dict(content)
