"""Run a trained network over batches of tiles on a device."""

from inspect_cli.engines.torch_engine import Engine, TorchEngine, choose_device

__all__ = ["Engine", "TorchEngine", "choose_device"]
