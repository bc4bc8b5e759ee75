"""A detector as a graph for other runtimes: traced for OpenVINO, exported as ONNX."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inspect_cli.errors import ModelError
from inspect_cli.methods.base import Detector

INPUT, OUTPUT = "tiles", "score"
ONNX_OPSET: Final = 18
MOST_TILES: Final = 4096
#: How OpenVINO names torch's bilinear interpolation between pixels' centres.
_BILINEAR: Final = {"mode": "linear_onnx", "coordinate_transformation_mode": "pytorch_half_pixel", "antialias": False}


class _Scoring(nn.Module):
    """A detector as a plain function from tiles to scores: the residual is part of the graph."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, tiles: Tensor) -> Tensor:
        return self.detector.score(tiles)


@functools.cache
def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of the process, which is never let go.

    Each sets a signal stack of its own for the thread that makes it, and leaves it set when it is gone (2026.4.1):
    the next signal would end the process with a segmentation fault.
    """
    import openvino  # noqa: PLC0415  (an optional package)

    return openvino.Core()


def to_openvino(detector: Detector, shape: tuple[int, int, int, int], any_number: bool = False) -> Any:
    """Return the OpenVINO model of a detector's score for tiles of ``shape`` (n, channels, height, width).

    With ``any_number`` the model takes any number of tiles, otherwise n only.
    """
    return converted(_Scoring(detector), torch.rand(shape), any_number)


def converted(function: nn.Module, example: Tensor, any_number: bool) -> Any:
    """Return the OpenVINO model of what ``function`` makes of ``example`` (n, channels, height, width).

    With ``any_number`` the model takes any n. ``openvino.convert_model`` does this too, but then prepares inputs that
    need no preparation, which takes longer than all the rest.
    """
    from openvino.frontend import FrontEndManager  # noqa: PLC0415  (an optional package)
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that are fixed here on purpose
        traced = torch.jit.trace(function.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        graph = TorchScriptPythonDecoder(traced, example_input=example)
        model = frontend.convert(frontend.load(graph))
    model.reshape([-1 if any_number else example.shape[0], *example.shape[1:]])
    _enlarge_by_products(model)
    return model


def _enlarge_by_products(model: Any) -> None:
    """Let products with constant matrices enlarge maps of one channel: OpenVINO's own way takes four times longer.

    Along each axis a new pixel is a weighted mean of two old ones, which is what a row of the matrix says.
    """
    from openvino import opset13  # noqa: PLC0415  (an optional package)

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Interpolate" or not _BILINEAR.items() <= node.get_attributes().items():
            continue
        before, after = node.input(0).get_partial_shape(), node.output(0).get_partial_shape()
        if before[1] != 1 or before[2].is_dynamic or before[3].is_dynamic:
            continue
        rows, columns = (_linear_weights(before[axis].get_length(), after[axis].get_length()) for axis in (2, 3))
        wide = opset13.matmul(node.input_value(0), opset13.constant(columns), False, True)
        node.output(0).replace(opset13.matmul(opset13.constant(rows), wide, False, False).output(0))


def _linear_weights(before: int, after: int) -> NDArray[np.float32]:
    """Return the weight (after, before) of each old pixel in each new one, linear between centres."""
    one_each = torch.eye(before)[None]
    return np.asarray(functional.interpolate(one_each, after, mode="linear", align_corners=False)[0].T.numpy())


def write_onnx(detector: Detector, path: Path) -> None:
    """Write a detector's score as ONNX: ``tiles`` (n, channels, tile_px, tile_px) -> ``score`` (n, tile_px, tile_px).

    Raises
    ------
    ModelError
        If an operation of the network has no counterpart in ONNX.
    """
    example = torch.rand(2, detector.channels, detector.tile_px, detector.tile_px)
    number = torch.export.Dim("n", min=1, max=MOST_TILES)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it reports its steps
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Scoring(detector).eval(),
                (example,),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: number},),
                opset_version=ONNX_OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"method {detector.name!r} cannot be written as ONNX ({reason}); use --format openvino"
        ) from None
    finally:
        logger.setLevel(level)
