"""Compare the patches that our augmentation makes with nnU-Net's, as distributions: same image, many draws.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py "2.1=VENV_WITH_NNUNETV2_2.1/bin/python" "2.8=VENV/bin/python"

Each patch is described by grey values, roughness along each axis and shares of the labels; every number's distribution
over the patches is compared by a two-sample Kolmogorov-Smirnov test. Of k tests of equal distributions the smallest
p-value is about 1/k. Writes docs/benchmarks/augmentation.{json,md,png}.

    python benchmarks/augmentation.py --device cuda

times whole batches on the GPU instead, see augmentation_device.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from scipy import stats

from augmentation_device import time_on_device
from batches import OUT, build, load_rules, make_subject, run_peer
from batches_peer import describe, make_sample
from umamba.datamodules.augmentation.spatial import default_degrees, enlarged_patch_size
from umamba.drawing.palette import network_colour

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SETTINGS = {"3D": ((24, 28, 24), 1), "3D anisotropic": ((8, 40, 40), 1), "2D, three channels": ((64, 64), 3)}
LABELS = 3


def describe_ours(entries: dict, patch_size: tuple[int, ...], channels: int, count: int) -> list[dict[str, float]]:
    """Descriptions of `count` patches of our augmentation."""
    transforms = [build(entry, patch_size) for entry in entries.values()]
    image, label = make_sample(enlarged_patch_size(patch_size, default_degrees(patch_size)), channels, LABELS)
    descriptions = []
    for seed in range(count):
        torch.manual_seed(seed)
        subject = make_subject(image, label)
        for transform in transforms:
            subject = transform(subject)
        image_after, label_after = (array.data.numpy() for array in subject.get_images(intensity_only=False))
        descriptions.append(describe(image_after.reshape(channels, *patch_size), label_after.reshape(patch_size)))
    return descriptions


def draw(p_values: dict[str, dict[str, float]], path: Path) -> None:
    """The p-values in order against those of equal distributions, which lie on the diagonal."""
    figure, axis = plt.subplots(figsize=(5, 5.8), layout="constrained")
    axis.plot([0, 1], [0, 1], "k--", linewidth=1, label="equal distributions")
    for place, (name, entry) in enumerate(p_values.items()):
        values = np.sort(list(entry.values()))
        axis.plot(
            (np.arange(len(values)) + 0.5) / len(values),
            values,
            "o-",
            markersize=4,
            label=name,
            color=network_colour(place),
        )
    axis.set_xlabel("share of the tests with a smaller p-value")
    axis.set_ylabel("p-value")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)  # not over the lines
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run all settings and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="RULE=PYTHON", help="rule 2.1 or 2.8, and nnU-Net's interpreter")
    parser.add_argument("--patches", type=int, default=1000)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="time augmentation on this device instead")
    parser.add_argument("--batches", type=int, default=100, help="of each setting, with --device")
    parser.add_argument("--output", type=Path, default=OUT, help="where --device writes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.device:
        time_on_device(torch.device(arguments.device), arguments.batches, arguments.output)
        return
    if not arguments.peers:
        parser.error("name an interpreter with nnunetv2, RULE=PYTHON, or give --device")
    rules, p_values = load_rules(), {}
    for rule, python in (peer.split("=", 1) for peer in arguments.peers):
        for name, (patch_size, channels) in SETTINGS.items():
            ours = describe_ours(rules[rule.replace(".", "")], patch_size, channels, arguments.patches)
            theirs = run_peer("describe", python, name, patch_size, channels, LABELS, arguments.patches)
            p_values[f"{rule}, {name}"] = {
                key: float(stats.ks_2samp([d[key] for d in ours], [d[key] for d in theirs]).pvalue) for key in ours[0]
            }
    tests = sum(len(entry) for entry in p_values.values())
    smallest = min(min(entry.values()) for entry in p_values.values())
    (OUT / "augmentation.json").write_text(
        json.dumps({"patches": arguments.patches, "tests": tests, "smallest": smallest, "p_values": p_values}, indent=1)
        + "\n"
    )
    lines = [
        "# Augmented patches beside nnU-Net's", "",
        f"p-values of Kolmogorov-Smirnov tests between {arguments.patches} patches of ours and {arguments.patches} of "
        "nnU-Net's (2.1.2 and 2.8.1, the transforms of its trainer) from the same image. "
        f"Smallest of {tests}: {smallest:.3f} (about {1 / tests:.3f} is to be expected of equal distributions).", "",
        "Made by `python benchmarks/augmentation.py 2.1=... 2.8=...`.", "",
        "| rule, patch | " + " | ".join(key for key in next(iter(p_values.values()))) + " |",
        "|---" * (len(next(iter(p_values.values()))) + 1) + "|",
    ]  # fmt: skip
    for name, entry in p_values.items():
        cells = [f"{entry[key]:.2f}" if key in entry else "" for key in next(iter(p_values.values()))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "![p-values in order](augmentation.png)"]
    draw(p_values, OUT / "augmentation.png")
    (OUT / "augmentation.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
