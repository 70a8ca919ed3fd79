"""Weights of the authors' and of nnU-Net's networks under this project's names.

The other side's names are those of dynamic-network-architectures (nnU-Net, U-Mamba's January 2024 code) and of
U-Mamba's own modules. There the encoder is stored a second time inside the decoder, and most convolution blocks twice
(`conv`, `norm` and `all_modules.0/1`); the copies are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from src.models.unet import UNet

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # DistributedDataParallel, torch.compile
_COPIES = re.compile(r"^decoder\.encoder\.|\.all_modules\.")
# (their name, ours), applied one after the other
_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^encoder\.stem\.(?:convs\.0\.)?", r"stem."),
        (r"^encoder\.stages\.(\d+)\.(?:0\.convs\.|blocks\.)?", r"encoder_stages.\1."),
        (r"^encoder\.mamba_layers\.(\d+)\.", r"encoder_stages.\1.mamba."),
        (r"^mamba_layer\.", r"encoder_stages.BOTTLENECK.mamba."),
        (r"^ln\.", r"encoder_stages.BOTTLENECK.mamba.norm."),
        (r"^mamba\.", r"encoder_stages.BOTTLENECK.mamba.mamba."),
        (r"\.mamba\.mamba\.", r".mamba.mixers.0."),
        (r"^decoder\.stages\.(\d+)\.(?:convs\.|blocks\.)?", r"decoder_stages.\1."),
        (r"^decoder\.(?:transpconvs|upsample_layers)\.", r"upsamples."),
        (r"^decoder\.seg_layers\.", r"heads."),
        (r"\.conv([12])\.(weight|bias)$", r".conv\1.conv.\2"),
        (r"\.norm([12])\.", r".conv\1.norm."),
        (r"\.conv3\.", r".shortcut."),
        (r"\.skip\.\d+\.", r".shortcut.projection."),
    )
]


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], network: UNet) -> dict[str, torch.Tensor]:
    """The authors' or nnU-Net's weights, renamed for `network`; nothing is loaded.

    Args:
        state_dict: as in `network_weights` of their checkpoints (U-Mamba Bot or Enc of either variant, nnU-Net's CNN
            or ResEnc).
        network: the same architecture here: `UMamba`, `PlainConvUNet` or `ResidualEncoderUNet`.

    Returns:
        What `network.load_state_dict` takes, the same tensors.

    Raises:
        ValueError: weights missing, left over, or of another shape; all of them by name, theirs in brackets.
    """
    bottleneck = str(len(network.encoder_stages) - 1)
    converted: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        original = _WRAPPERS.sub("", name)
        if _COPIES.search(original):
            continue
        ours = original
        for pattern, replacement in _RENAMES:
            ours = pattern.sub(replacement, ours)
        ours = ours.replace("BOTTLENECK", bottleneck)
        converted[ours], origin[ours] = tensor, name
    expected = network.state_dict()
    problems = [f"missing: {name} {tuple(expected[name].shape)}" for name in expected if name not in converted]
    problems += [f"left over: {name} [{origin[name]}]" for name in converted if name not in expected]
    problems += [
        f"shape {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}: {name} [{origin[name]}]"
        for name, tensor in converted.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        raise ValueError(
            f"These weights are not those of this {type(network).__name__} ({len(problems)} differences). Check "
            "variant, mamba, the plan and (channel tokens) the patch size:\n  " + "\n  ".join(problems)
        )
    return converted
