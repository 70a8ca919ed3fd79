"""Counted costs against counts by hand, and the benchmark on a plan of a few voxels."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import networks as benchmark
from settings import Setting, deep
from umamba.models.cost import activation_bytes, count_flops, count_parameters
from umamba.models.mamba.block import Mamba
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet


def test_flops_of_a_small_unet_by_hand() -> None:
    network = PlainConvUNet(
        spatial_dims=2, in_channels=1, out_channels=2, features_per_stage=(3, 5), kernel_sizes=(3, 3), strides=(1, 2)
    )
    full, half = 8 * 8, 4 * 4
    products = full * 9 * (1 * 3 + 3 * 3)  # stage 0
    products += half * 9 * (3 * 5 + 5 * 5)  # stage 1
    products += half * 4 * 5 * 3  # transposed convolution: each input voxel writes four
    products += full * 9 * (6 * 3 + 3 * 3) + full * 3 * 2  # decoder and head
    assert count_flops(network, (2, 1, 8, 8)) == 2 * 2 * products  # batch of two, multiply and add


def test_flops_of_mamba_layers_by_formula() -> None:
    topology = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "features_per_stage": (16, 32),
        "kernel_sizes": (3, 3),
        "strides": (1, 2),
    }
    bot, none = UMamba(**topology, mamba="bottleneck"), UMamba(**topology, mamba="none")
    d, inner, rank, states, tokens = 32, 64, 2, 16, 4 * 4
    projections = d * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * d
    per_token = 2 * (projections + 4 * inner) + 9 * inner * states + 4 * inner
    assert count_flops(bot, (3, 1, 8, 8)) - count_flops(none, (3, 1, 8, 8)) == 3 * tokens * per_token
    assert "forward" not in vars(bot.encoder_stages[1].mamba.mixers[0])  # the block is itself again


def test_activations_grow_with_batch_and_shrink_with_half_precision() -> None:
    network = PlainConvUNet(
        spatial_dims=2, in_channels=1, out_channels=2, features_per_stage=(8, 16), kernel_sizes=(3, 3), strides=(1, 2)
    )
    one, two = (activation_bytes(network, (n, 1, 32, 32)) for n in (1, 2))
    assert 1.9 < two / one <= 2
    assert activation_bytes(network, (2, 1, 32, 32), torch.bfloat16) < two
    image = 32 * 32 * 4
    assert one > image * (1 + 8 * 4)  # at least the image and four maps of eight channels at full resolution


def test_activations_of_mamba_are_linear_in_the_tokens() -> None:
    block = Mamba(16)
    short, long = (activation_bytes(block, (1, tokens, 16)) for tokens in (512, 4096))
    assert long == pytest.approx(8 * short, rel=0.05)


def test_shared_parameters_count_once() -> None:
    layer = torch.nn.Linear(3, 4)
    assert count_parameters(torch.nn.Sequential(layer, layer)) == 16


def test_benchmark_writes_table_chart_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Setting(channels=1, labels=2, patch=(64, 64), batch=2, topology=deep(3, 512))
    monkeypatch.setattr(benchmark, "PAPER", {"mr_2d": tiny})
    options = f"--device cpu --steps 1 --output {tmp_path} --networks".split()
    monkeypatch.setattr(sys, "argv", ["networks.py", *options, "nnU-Net CNN", "U-Mamba_Enc"])
    benchmark.main()
    monkeypatch.setattr(sys, "argv", ["networks.py", *options, "nnU-Net CNN"])
    benchmark.main()  # replaces its row
    rows = json.loads((tmp_path / "networks.json").read_text())
    assert sorted(row["network"] for row in rows) == ["U-Mamba_Enc", "nnU-Net CNN"]
    assert all(row[key] > 0 for row in rows for key in ("gflop", "activations_gib", "step_ms", "forward_ms"))
    assert (tmp_path / "networks.md").read_text().count("| mr_2d |") == 2
    assert (tmp_path / "networks.png").stat().st_size > 10_000
