"""How the Triton scan cuts sequences: laws that hold for every size."""

from __future__ import annotations

import pytest

from umamba.models.mamba.kernels.tiling import ALONE, CHUNKS, FEW, RESIDENT, cdiv, kept_size, spread, tile

SIZES = [(b, length, d) for b in (1, 2, 30) for length in (1, 15, 100, 513, 840, 6720, 1720320) for d in (1, 40, 640)]


@pytest.mark.parametrize(("batch", "length", "channels"), SIZES)
def test_chunks_cover_the_sequence_once(batch, length, channels):
    cut = tile(batch, length, channels)
    assert (cut.chunks - 1) * cut.tokens < length <= cut.chunks * cut.tokens
    assert cut.tokens % 4 == 0 and (cut.tokens in CHUNKS or (cut.chunks == 1 and length <= ALONE))
    assert cut.few == (1 < cut.chunks <= FEW)


@pytest.mark.parametrize(("blocks", "items"), [(1, 1), (2, 13654), (20, 48), (20, 54), (16, 260), (3, 1057), (40, 1)])
def test_every_block_and_item_has_its_program_and_none_waits(blocks, items):
    groups, programs = spread(blocks, items, RESIDENT)
    assert groups * programs <= RESIDENT and groups <= blocks and programs <= items
    rounds = cdiv(blocks, groups)
    assert (groups - 1) * rounds < blocks  # with one group fewer, somebody would do a block more


def test_memory_between_the_passes_is_small_where_it_matters():
    """One state of 16 numbers a chunk: at full resolution a sixteenth of an input and less."""
    for batch, length, channels in ((2, 1720320, 64), (2, 430080, 128), (30, 102400, 64)):
        assert kept_size(batch, length, channels, 16) < batch * length * channels / 10
    assert kept_size(2, 30, 64, 16) == 0  # one chunk


def test_whole_rounds():
    """Where 54 chunks and 20 blocks are 1080 programs of 1056 that fit, 24 of them would run alone at the end."""
    cut = tile(2, 840, 640)
    groups, programs = spread(20, 2 * cut.chunks, RESIDENT)
    assert groups == 20 and programs == 2 * cut.chunks
