"""Run a trained network over batches of tiles on a device."""

import sys

from inspect_cli.engines.base import Engine
from inspect_cli.engines.choice import ENGINES, Hardware, choose_engine, make_engine
from inspect_cli.engines.torch_engine import TorchEngine, choose_device

__all__ = ["ENGINES", "Engine", "Hardware", "TorchEngine", "choose_device", "choose_engine", "make_engine"]

# OpenVINO tells its makers of every import and conversion over the network where it finds this package; a tool for
# workstations in a factory tells nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
