"""A network as an ONNX file, checked with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umamba.export.traced import Traced
from umamba.inference.bundle import Bundle

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 2**31 - 2**20  # bytes of a file in Google's format for messages


def check_packages() -> None:
    """See that what writes and checks an ONNX file is installed (else ImportError)."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"format=onnx needs {', '.join(missing)}, which is not installed: pip install 'umamba-lightning[export]'."
        )


def write_onnx(given: Bundle, output: Path, *, fixed_size: bool = False) -> None:
    """Write an ONNX file, and a JSON file beside it.

    Raises:
        ImportError: See `check_packages`.
        ValueError: See `Traced`; ONNX cannot say what the network does, or the file's outputs are others.
        OSError: The file cannot be written.
    """
    check_packages()
    traced = Traced(given, fixed_size=fixed_size)
    size = sum(weight.numel() * weight.element_size() for weight in traced.network.state_dict().values())
    if size > _LARGEST:
        raise ValueError(
            f"The weights are {size / 1e9:.1f} GB; an ONNX file holds 2 GB. format=torch_export takes them."
        )

    def write(path: Path, facts: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        try:
            with _quiet():
                made = torch.onnx.export(
                    traced.program, dynamo=True, opset_version=OPSET, input_names=["image"], output_names=["logits"]
                )
        except Exception as error:  # the exporter raises whatever it meets
            raise ValueError(
                f"torch.onnx cannot express this network ({type(error).__name__}: {error!s:.300}). "
                "format=torch_export takes it."
            ) from error
        if made is None:
            raise ValueError("torch.onnx has made nothing of this network, without a reason.")
        made.model.metadata_props["umamba"] = json.dumps(facts)
        made.save(path, external_data=False)
        return _session(path)

    traced.write(output, {"format": "onnx", "opset": OPSET, "torch": torch.__version__}, write)


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress on the console, which is about its own parts."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
