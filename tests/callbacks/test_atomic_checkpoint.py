"""A checkpoint write that fails half-way leaves the old file as it was."""

import pytest
import torch

from umamba.callbacks.atomic_checkpoint import AtomicCheckpointIO


def test_the_old_checkpoint_survives_a_failed_write(tmp_path, monkeypatch) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint({"epoch": 1}, path)

    def full_disk(checkpoint, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        plugin.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
