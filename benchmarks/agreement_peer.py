"""Predict with nnunetv2's own predictor as it is, or with parts of it in float32; for benchmarks/agreement.py.

    python benchmarks/agreement_peer.py FOLDER IMAGES OUTPUT DEVICE --network as_is --sums float32 --mirror 0 1 2

nnunetv2 runs a network in float16 on a GPU (in float32 on a CPU), and sums up weighted logits of windows and of flips
in float16 on both. Nothing of it is imported at the top: benchmarks/inference_peer.py imports this where it is absent.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock


@contextlib.contextmanager
def float32_sums(predictor: Any) -> Iterator[None]:
    """Within the block a predictor of nnunetv2 weighs, sums and exports logits in float32, as it is done here."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as module

    original = module.compute_gaussian

    @functools.lru_cache(maxsize=2)
    def weights(*arguments: Any, **options: Any) -> torch.Tensor:
        return original(*arguments, **options | {"dtype": torch.float32})

    # Its output of autocast is float16, and would be weighed and summed over flips in place.
    hook = predictor.network.register_forward_hook(lambda network, given, logits: logits.float())
    try:
        with mock.patch.object(module, "compute_gaussian", weights), mock.patch.object(torch, "half", torch.float32):
            yield
    finally:
        hook.remove()


@contextlib.contextmanager
def float32_network() -> Iterator[None]:
    """Within the block a GPU computes networks of nnunetv2 in float32, without TensorFloat-32."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    with mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()):
        yield


def main() -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a training's folder of nnU-Net")
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("device")
    parser.add_argument("--network", choices=["as_is", "float32"], default="as_is")
    parser.add_argument("--sums", choices=["as_is", "float32"], default="as_is")
    parser.add_argument("--mirror", nargs="*", type=int, default=[], help="axes of the patch")
    options = parser.parse_args()
    folds = tuple(path.name.removeprefix("fold_") for path in sorted(options.folder.glob("fold_*")))
    options.output.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):  # nnunetv2 prints
        device = torch.device(options.device)
        predictor = nnUNetPredictor(use_mirroring=bool(options.mirror), device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(options.folder), folds)
        predictor.allowed_mirroring_axes = options.mirror
        network = float32_network() if options.network == "float32" else contextlib.nullcontext()
        sums = float32_sums(predictor) if options.sums == "float32" else contextlib.nullcontext()
        with network, sums:
            predictor.predict_from_files_sequential(str(options.images), str(options.output))


if __name__ == "__main__":
    main()
