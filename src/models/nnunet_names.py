"""Names of weights here and in nnU-Net's and the authors' networks, both ways.

The other side's names are those of dynamic-network-architectures (nnU-Net, U-Mamba's January 2024 code) and of
U-Mamba's own modules. There the encoder is stored a second time inside the decoder, and most convolution blocks twice
(`conv`, `norm` and `all_modules.0/1`); the copies are left out on the way in and made again on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from umamba.models.mamba.block import Mamba
from umamba.models.mamba.layer import MambaLayer
from umamba.models.mamba.orders import raster
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet, UNet

Rules = list[tuple[re.Pattern[str], str]]

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # DistributedDataParallel, torch.compile
_COPIES = re.compile(r"^decoder\.encoder\.|\.all_modules\.")


def _rules(*pairs: tuple[str, str]) -> Rules:
    """Replacements that are applied one after the other."""
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


# (their name, ours), of all networks at once
_IN = _rules(
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
# (our name, theirs), of one kind of network each; what all have in common comes first
_HEADS = (r"^heads\.", r"decoder.seg_layers.")
_TRANSPOSED = (r"^upsamples\.", r"decoder.transpconvs.")
_STEM = (r"^stem\.", r"encoder.stem.convs.0.")
_OUT = {
    "plain": _rules(
        _HEADS, _TRANSPOSED,
        (r"^encoder_stages\.(\d+)\.", r"encoder.stages.\1.0.convs."),
        (r"^decoder_stages\.(\d+)\.", r"decoder.stages.\1.convs."),
    ),
    "resenc": _rules(
        _HEADS, _TRANSPOSED, _STEM,
        (r"^encoder_stages\.(\d+)\.", r"encoder.stages.\1.blocks."),
        (r"^decoder_stages\.(\d+)\.", r"decoder.stages.\1.convs."),
    ),
    "paper": _rules(
        _HEADS, _TRANSPOSED, _STEM, (r"^(encoder|decoder)_stages\.(\d+)\.", r"\1.stages.\2.blocks."),
    ),
    "repo": _rules(
        _HEADS,
        (r"^upsamples\.", r"decoder.upsample_layers."),
        (r"^stem\.", r"encoder.stem."),
        (r"^(encoder|decoder)_stages\.(\d+)\.", r"\1.stages.\2."),
        (r"\.0\.conv([12])\.conv\.", r".0.conv\1."),  # the first block of a stage is U-Mamba's own
        (r"\.0\.conv([12])\.norm\.", r".0.norm\1."),
        (r"\.0\.shortcut\.", r".0.conv3."),
    ),
}  # fmt: skip
_SIZES = (16, 4)  # d_state and d_conv of the authors' Mamba layers
_LAYER = r"^encoder_stages\.(\d+)\.mamba\."
_OUT_MAMBA = {  # (variant, whether it is the bottleneck's alone)
    ("paper", True): _rules((rf"{_LAYER}norm\.", r"ln."), (rf"{_LAYER}mixers\.0\.", r"mamba.")),
    ("repo", True): _rules((rf"{_LAYER}mixers\.0\.", r"mamba_layer.mamba."), (_LAYER, r"mamba_layer.")),
} | dict.fromkeys(
    (("paper", False), ("repo", False)),
    _rules((rf"{_LAYER}mixers\.0\.", r"encoder.mamba_layers.\1.mamba."), (_LAYER, r"encoder.mamba_layers.\1.")),
)


def rename_weights(
    state_dict: Mapping[str, torch.Tensor], num_stages: int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The authors' or nnU-Net's weights under the names that they have here, whatever network they are of.

    Returns:
        The same tensors, without copies of others; and the name there of each.
    """
    converted: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        original = _WRAPPERS.sub("", name)
        if _COPIES.search(original):
            continue
        ours = _renamed(original, _IN).replace("BOTTLENECK", str(num_stages - 1))
        converted[ours], origin[ours] = tensor, name
    return converted, origin


def names_of_others(network: UNet) -> dict[str, list[str]]:
    """Each weight's name here -> the names that nnU-Net or the authors store it under, copies included.

    Raises:
        ValueError: neither has Mamba layers such as this network's.
    """
    _check_layers(network)
    names = list(network.state_dict())
    layers = {match[1] for match in (re.match(_LAYER, name) for name in names) if match}
    kind = _kind(network)
    mamba = _OUT_MAMBA.get((kind, layers == {str(len(network.encoder_stages) - 1)}), [])
    theirs = {ours: _renamed(_skips(ours, network), [*mamba, *_OUT[kind]]) for ours in names}
    taken = set(theirs.values())
    return {ours: _with_copies(name, taken) for ours, name in theirs.items()}


def recognize(state_dict: Iterable[str]) -> list[str]:
    """Which network the weights belong to, by their names there, as Hydra overrides of the group `model`.

    Raises:
        ValueError: none of the known networks.
    """
    names = [_WRAPPERS.sub("", name) for name in state_dict]

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if has("encoder.stages.0.0.convs."):
        return ["model=nnunet"]
    if has("encoder.stages.0.blocks.") and has("decoder.stages.0.convs."):
        return ["model=resenc"]
    repo, paper = has("decoder.upsample_layers."), has("decoder.stages.0.blocks.")
    if not (repo or paper):
        raise ValueError(
            "These weights belong to none of the networks that can be imported (U-Mamba Bot, Enc and its control "
            f"without Mamba, nnU-Net's CNN and residual encoder); the first names are {', '.join(names[:5])}."
        )
    if has("encoder.mamba_layers."):
        model = "umamba_enc"
    else:
        model = "umamba_bot" if has("mamba_layer.") or has("mamba.") else "umamba_none"
    return [f"model={model}", f"model.network.variant={'repo' if repo else 'paper'}"]


def _check_layers(network: UNet) -> None:
    for layer in network.modules():
        if not isinstance(layer, MambaLayer):
            continue
        if layer.directions != raster(network.spatial_dims):
            raise ValueError("The authors' Mamba layers read the raster once (order=raster); this network's do not.")
        mixer = layer.mixers[0]
        sizes = (mixer.d_state, *mixer.conv1d.kernel_size) if isinstance(mixer, Mamba) else None
        if sizes != _SIZES:
            given = type(mixer).__name__ if sizes is None else f"Mamba with d_state, d_conv {sizes}"
            raise ValueError(
                f"The authors' Mamba layers have mixer=s6 with d_state, d_conv {_SIZES}; this network's have {given}."
            )


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def _kind(network: UNet) -> str:
    if isinstance(network, PlainConvUNet):
        return "plain"
    if isinstance(network, ResidualEncoderUNet):
        return "resenc"
    # U-Mamba; the two variants differ in how they go up
    return "repo" if any(name.startswith("upsamples.0.conv.") for name in network.state_dict()) else "paper"


def _skips(ours: str, network: UNet) -> str:
    """The projection of a shortcut has the number there that it has among the shortcut's layers, after the pooling."""
    shortcut, projection, rest = ours.partition(".shortcut.projection.")
    if not projection:
        return ours
    layers = [name for name, _ in network.get_submodule(f"{shortcut}.shortcut").named_children()]
    return f"{shortcut}.skip.{layers.index('projection')}.{rest}"


def _with_copies(name: str, names: set[str]) -> list[str]:
    found = [name]
    part = re.fullmatch(r"(.+)\.(conv|norm)\.(weight|bias)", name)
    if part and {f"{part[1]}.conv.weight", f"{part[1]}.norm.weight"} <= names:
        found.append(f"{part[1]}.all_modules.{('conv', 'norm').index(part[2])}.{part[3]}")
    return found + [f"decoder.{each}" for each in found if each.startswith("encoder.")]
