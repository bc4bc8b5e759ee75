"""Which engine runs a network here."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from typing import Final

import torch

from inspect_cli.engines.base import Engine
from inspect_cli.engines.parity import CheckedEngine
from inspect_cli.engines.torch_engine import TorchEngine, choose_device
from inspect_cli.errors import UsageError
from inspect_cli.methods.base import Detector

ENGINES: Final = ("auto", "torch", "openvino")


@dataclass(frozen=True)
class Hardware:
    """What a user asks the networks to run on; ``batch`` 0 leaves the number of tiles to the engine."""

    device: str = "auto"
    batch: int = 0
    engine: str = "auto"
    precision: str = "f32"


def openvino_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def fastest_on_cpu() -> str:
    """Return the engine that ``auto`` takes on a CPU."""
    return "openvino" if openvino_installed() else "torch"


def choose_engine(name: str, device: torch.device) -> str:
    """Return ``torch`` or ``openvino`` for what was asked: OpenVINO on a CPU where it is installed.

    Raises
    ------
    UsageError
        If the engine is unknown, not installed, or cannot run there.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine {name!r} is unknown; valid: {', '.join(ENGINES)}")
    if name == "openvino" and device.type != "cpu":
        raise UsageError(f"--engine openvino runs on the CPU, not on {device.type}; use --device cpu")
    if name == "openvino" and not openvino_installed():
        raise UsageError("--engine openvino: is not installed; pip install 'inspect-cli[openvino]'")
    chosen = name
    if name == "auto":
        chosen = fastest_on_cpu() if device.type == "cpu" else "torch"
    return chosen


def make_engine(detector: Detector, hardware: Hardware, limit: float = 0.0) -> Engine:
    """Return a detector in the engine that fits the hardware; ``limit`` as in :class:`CheckedEngine`.

    Raises
    ------
    UsageError
        As :func:`choose_engine` and :func:`choose_device`.
    """
    device = choose_device(hardware.device)
    if choose_engine(hardware.engine, device) == "torch":
        if device.type == "cpu" and hardware.precision == "f32":
            return TorchEngine(detector, device, hardware.batch)
        reference = copy.deepcopy(detector)  # stays on the CPU
        return CheckedEngine(
            TorchEngine(detector, device, hardware.batch, hardware.precision), reference, limit=limit
        )
    from inspect_cli.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415  (an optional package)

    chosen = OpenVinoEngine(detector, hardware.batch, hardware.precision)
    if hardware.engine != "auto" or hardware.precision != "f32":
        return CheckedEngine(chosen, detector, limit=limit)
    # Who leaves the choice to the program gets the trained network itself where the faster one differs from it.
    return CheckedEngine(chosen, detector, lambda network: TorchEngine(network, device, hardware.batch), limit)
