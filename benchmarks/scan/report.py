"""Table and chart of benchmarks/selective_scan.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from umamba.drawing.palette import network_colour


def _ratio(row: dict, what: str) -> str:
    ours, theirs = row["triton"].get(what), row.get("mamba_ssm", {}).get(what)
    return "-" if ours is None or theirs is None else f"{theirs / ours:.1f}"


def _cell(row: dict, party: str, what: str, digits: int = 2) -> str:
    value = row.get(party, {}).get(what)
    return "-" if value is None else f"{value:.{digits}f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _scan_tables(gpu: dict) -> list[str]:
    header = ["batch, d_inner, L", "mamba-ssm", "triton", "faster", "byte floor"]
    header += ["mamba-ssm, both", "triton, both", "faster"]
    rows, small = [], []
    for row in gpu["scan"]:
        shape = ", ".join(map(str, row["shape"]))
        floor = row["floor_bytes"] / gpu["copy_bandwidth"] * 1e3
        forward = [_cell(row, "mamba_ssm", "forward"), _cell(row, "triton", "forward"), _ratio(row, "forward")]
        both = [_cell(row, "mamba_ssm", "both"), _cell(row, "triton", "both"), _ratio(row, "both")]
        rows.append([shape, *forward, f"{floor:.2f}", *both])
        for kind, name in (("streamed", "one after another"), ("graph", "in a CUDA graph")):
            if f"forward_{kind}" in row["triton"]:
                cells = [
                    [_cell(row, "mamba_ssm", what, 3), _cell(row, "triton", what, 3), _ratio(row, what)]
                    for what in (f"forward_{kind}", f"both_{kind}")
                ]
                small.append([shape, name, *cells[0], *cells[1]])
    small_header = ["batch, d_inner, L", "calls", "mamba-ssm", "triton", "faster", *header[-3:]]
    return [
        "## Scan, milliseconds, float32: forward, and forward + backward",
        _table(header, rows),
        "Each call above waits for the device, so that the time of a small shape is the host's. Without waiting, and "
        "without the host:",
        _table(small_header, small),
    ]


def _block_table(gpu: dict) -> list[str]:
    rows = [
        [
            f"{row['d_model']}, {row['length']}",
            _cell(row, "mamba_ssm", "both"),
            _cell(row, "triton", "both"),
            _ratio(row, "both"),
            _cell(row, "mamba_ssm", "peak_gib"),
            _cell(row, "triton", "peak_gib"),
        ]
        for row in gpu["block"]
    ]
    header = ["d_model, L", "mamba-ssm", "triton", "faster", "mamba-ssm, peak GiB", "triton, peak GiB"]
    return ["## Whole Mamba block, forward + backward, milliseconds, batch 2, float32", _table(header, rows)]


def _error_table(gpu: dict) -> list[str]:
    names = list(gpu["errors"][0]["relative"])
    rows = [
        [f"{row['kind']}, {row['dtype']}, {row['backend']}", *(f"{row['relative'][n]:.0e}" for n in names)]
        for row in gpu["errors"]
    ]
    shape = ", ".join(map(str, gpu["errors"][0]["shape"]))
    title = f"## Relative error against float64 at ({shape}): output and gradients"
    return [title, _table(["inputs, dtype, backend", *names], rows)]


def _versions(part: dict) -> str:
    return part["machine"] + "; " + ", ".join(f"{name} {value}" for name, value in part["versions"].items()) + "."


def _markdown(results: dict) -> str:
    parts = ["# Selective scan", "Written by `python benchmarks/selective_scan.py`."]
    if "gpu" in results:
        gpu = results["gpu"]
        bandwidth = f"Copy bandwidth (read + write) {gpu['copy_bandwidth'] / 1e12:.2f} TB/s; medians."
        parts += [_versions(gpu) + " " + bandwidth, *_scan_tables(gpu), *_block_table(gpu), *_error_table(gpu)]
        profile = [[f"`{name[:60]}`", f"{ms:.2f}"] for name, ms in gpu["profile"].items()]
        shape = ", ".join(map(str, gpu["scan"][0]["shape"]))
        parts += [f"## Kernels of one forward and backward pass at ({shape}), milliseconds"]
        parts += [_table(["kernel", "ms"], profile)]
    if "cpu" in results:
        cpu = results["cpu"]
        rows = [
            [
                party,
                *(f"{cpu[party][threads][clock]:.2f}" for threads, clock in (("one", "processor"), ("all", "wall"))),
                *(
                    f"{cpu['reference'][threads][clock] / cpu[party][threads][clock]:.1f}"
                    for threads, clock in (("one", "processor"), ("all", "wall"))
                ),
                f"{cpu[party]['one']['peak_gib']:.2f}",
            ]
            for party in ("torch", "reference", "mambapy")
            if party in cpu
        ]
        shape = ", ".join(map(str, cpu["shape"]))
        parts += [f"## CPU, forward + backward at ({shape}), float32, seconds", _versions(cpu)]
        header = ["implementation", "one thread (processor time)", "all cores (wall)"]
        header += ["times the recurrence's speed, one thread", "all cores"]
        parts += [_table([*header, "peak memory added, GiB"], rows)]
    return "\n\n".join(parts) + "\n"


def _chart(gpu: dict, path: Path) -> None:
    """Forward and both passes of each shape, with their milliseconds at the bars, and what the memory allows."""
    rows = gpu["scan"]
    figure, axes = plt.subplots(figsize=(10, 5.4), layout="constrained")
    for offset, party, name, colour in (
        (-0.2, "mamba_ssm", "mamba-ssm", network_colour(7)),
        (0.2, "triton", "this project, Triton", network_colour(0)),
    ):
        places = [i + offset for i, row in enumerate(rows) if party in row]
        both = [row[party]["both"] for row in rows if party in row]
        forward = [row[party]["forward"] for row in rows if party in row]
        bars = axes.bar(places, both, 0.38, color=colour, alpha=0.5, label=f"{name}: forward + backward")
        axes.bar_label(bars, [f"{value:.3g}" for value in both], padding=1, fontsize="small")
        axes.bar(places, forward, 0.38, color=colour, label=f"{name}: forward alone")
    floors = [row["floor_bytes"] / gpu["copy_bandwidth"] * 1e3 for row in rows]
    axes.hlines(
        floors, [i - 0.4 for i in range(len(rows))], [i + 0.4 for i in range(len(rows))], network_colour(6),
        label="least time of a forward pass: all it must read and write, once, at the speed of a copy",
    )  # fmt: skip
    axes.set_yscale("log")
    axes.margins(y=0.08)
    shapes = [row["shape"] for row in rows]
    axes.set_xticks(range(len(rows)), [f"{batch}\n{channels}\n{length:,}" for batch, channels, length in shapes])
    axes.set_xlabel("shape: batch, channels, tokens of a sequence")
    axes.set_ylabel("time, ms (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Selective scan, float32, {gpu['machine'].split(',')[0]}; less is better", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_report(results: dict, folder: Path) -> None:
    """Write selective_scan.md and, if there are GPU results, selective_scan.png into `folder`."""
    (folder / "selective_scan.md").write_text(_markdown(results))
    if "gpu" in results:
        _chart(results["gpu"], folder / "selective_scan.png")
