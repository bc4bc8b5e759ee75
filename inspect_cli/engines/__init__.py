"""Run a trained network over batches of tiles on a device."""

from inspect_cli.engines.base import Engine
from inspect_cli.engines.choice import ENGINES, Hardware, choose_engine, make_engine
from inspect_cli.engines.torch_engine import TorchEngine, choose_device

__all__ = ["ENGINES", "Engine", "Hardware", "TorchEngine", "choose_device", "choose_engine", "make_engine"]
