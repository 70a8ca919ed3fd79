"""How the Triton scan cuts sequences: laws that hold for every size."""

from __future__ import annotations

import pytest

from umamba.models.mamba.kernels.resident import (
    GRADIENTS_REGISTERS,
    GRADIENTS_SHARED,
    NOMINAL,
    Device,
    backward_programs,
)
from umamba.models.mamba.kernels.tiling import ALONE, CHUNKS, FEW, cdiv, cost, kept_size, spread, tile

KIB = 1024
DEVICES = {  # multiprocessors, registers, shared memory and threads of each, from NVIDIA's tables
    "A100": Device(108, 65536, 164 * KIB, 2048),
    "RTX 3060": Device(28, 65536, 100 * KIB, 1536),
    "RTX 4090": Device(128, 65536, 100 * KIB, 1536),
    "H200": NOMINAL,
    "RTX 5090": Device(170, 65536, 100 * KIB, 1536),
}
RESIDENT = backward_programs(-1)
SIZES = [(b, length, d) for b in (1, 2, 30) for length in (1, 15, 100, 513, 840, 6720, 1720320) for d in (1, 40, 640)]


def resident(device):
    return device.programs(1, GRADIENTS_REGISTERS, GRADIENTS_SHARED)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_chunks_cover_the_sequence_once(device):
    for size in SIZES:
        cut, length = tile(*size, resident(device)), size[1]
        assert (cut.chunks - 1) * cut.tokens < length <= cut.chunks * cut.tokens, size
        assert cut.tokens % 4 == 0 and (cut.tokens in CHUNKS or (cut.chunks == 1 and length <= ALONE)), size
        assert cut.few == (1 < cut.chunks <= FEW), size


@pytest.mark.parametrize(("blocks", "items"), [(1, 1), (2, 13654), (20, 48), (20, 54), (16, 260), (3, 1057), (40, 1)])
def test_every_block_and_item_has_its_program_and_none_waits(blocks, items):
    groups, programs = spread(blocks, items, RESIDENT)
    assert groups * programs <= RESIDENT and groups <= blocks and programs <= items
    rounds = cdiv(blocks, groups)
    assert (groups - 1) * rounds < blocks  # with one group fewer, somebody would do a block more


def test_memory_between_the_passes_is_small_where_it_matters():
    """One state of 16 numbers a chunk: at full resolution a sixteenth of an input and less."""
    for batch, length, channels in ((2, 1720320, 64), (2, 430080, 128), (30, 102400, 64)):
        assert kept_size(batch, length, channels, 16, RESIDENT) < batch * length * channels / 10
    assert kept_size(2, 30, 64, 16, RESIDENT) == 0  # one chunk


def test_whole_rounds():
    """Where 54 chunks and 20 blocks are 1080 programs of 1056 that fit, 24 of them would run alone at the end."""
    cut = tile(2, 840, 640, RESIDENT)
    groups, programs = spread(20, 2 * cut.chunks, RESIDENT)
    assert groups == 20 and programs == 2 * cut.chunks


def test_programs_at_a_time_are_what_registers_shared_memory_and_threads_allow():
    assert resident(NOMINAL) == RESIDENT == 132 * 8  # a warp with 255 registers a thread takes an eighth of 65536
    assert resident(DEVICES["RTX 3060"]) == 28 * 8
    assert NOMINAL.programs(1, 128, 56 * KIB) == 132 * 4  # 57 of 228 KiB each
    assert NOMINAL.programs(4, 32, 0) == 132 * 16  # 128 of 2048 threads each
    assert NOMINAL.programs(1, 250, 0) == NOMINAL.programs(1, 256, 0)  # registers come in eights
    assert NOMINAL.programs(32, 255, 0) == 132  # what does not fit is not zero: the launch will say so


@pytest.mark.parametrize(("batch", "length", "channels"), [(2, 1720320, 64), (2, 6720, 512), (2, 210, 640)])
def test_no_other_chunk_costs_less(batch, length, channels):
    for device in DEVICES.values():
        programs = resident(device)
        cut = tile(batch, length, channels, programs)
        assert cost(cut.tokens, batch, length, channels, programs) == min(
            cost(tokens, batch, length, channels, programs) for tokens in CHUNKS
        )


def test_choices_on_an_h200():
    """Those that were timed there (docs/selective_scan.md)."""
    for shape, tokens, block in (
        ((2, 1720320, 64), 252, 64), ((2, 430080, 128), 204, 64), ((2, 53760, 256), 204, 64), ((2, 6720, 512), 104, 32),
        ((2, 840, 640), 36, 32), ((30, 102400, 64), 244, 64), ((30, 100, 1024), 100, 32),
    ):  # fmt: skip
        cut = tile(*shape, RESIDENT)
        assert (cut.tokens, cut.block) == (tokens, block)
