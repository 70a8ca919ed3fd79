"""Which networks benchmarks/networks.py measures, and what was measured of the original ones."""

from __future__ import annotations

NETWORKS = {
    "nnU-Net CNN": ["+model=nnunet"],
    "ResEnc": ["+model=resenc"],
    "U-Mamba_Bot": ["+model=umamba_bot"],
    "U-Mamba_Enc": ["+model=umamba_enc"],
    "No-Mamba control": ["+model=umamba_none"],
    "U-Mamba_Bot repo": ["+model=umamba_bot", "model.network.variant=repo"],
    "U-Mamba_Enc repo": ["+model=umamba_enc", "model.network.variant=repo"],
    "No-Mamba control repo": ["+model=umamba_none", "model.network.variant=repo"],
    "SegResNet": ["+model=segresnet"],
    "UNETR": ["+model=unetr"],
    "SwinUNETR": ["+model=swinunetr"],
}
FULL_PRECISION = ("SwinUNETR",)  # as it was measured for REFERENCE
# Step of the original implementations on one H100 80 GB, eager: ms, peak GiB, precision
REFERENCE: dict[tuple[str, str], tuple[float, float, str]] = {
    ("ct_3d", "nnU-Net CNN"): (66, 4.9, "fp16"),
    ("ct_3d", "U-Mamba_Bot"): (147, 8.7, "fp16"),
    ("ct_3d", "U-Mamba_Enc"): (305, 17.1, "fp16"),
    ("ct_3d", "U-Mamba_Bot repo"): (150, 9.5, "fp16"),
    ("ct_3d", "U-Mamba_Enc repo"): (309, 17.4, "fp16"),
    ("ct_3d", "No-Mamba control repo"): (149, 9.3, "fp16"),
    ("ct_3d", "SegResNet"): (108, 8.5, "bf16"),
    ("ct_3d", "UNETR"): (106, 4.7, "bf16"),
    ("ct_3d", "SwinUNETR"): (389, 33.9, "32"),
    ("mr_2d", "nnU-Net CNN"): (50, 4.9, "fp16"),
    ("mr_2d", "U-Mamba_Enc"): (233, 17.7, "fp16"),
    ("mr_2d", "U-Mamba_Enc repo"): (184, 14.6, "fp16"),
}
