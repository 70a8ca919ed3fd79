"""A file that is no checkpoint of this project is refused with what to do; no code of it is run."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from umamba.models.checkpoint import load_checkpoint, load_plain
from umamba.run.compare import ResumeError
from umamba.run.resume import read_checkpoint


def test_a_missing_file_says_where_checkpoints_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="last.ckpt and best.ckpt"):
        load_checkpoint(tmp_path / "no.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.ckpt is not a checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_of_nnunet_points_to_the_importer(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {}, "trainer_name": "nnUNetTrainer"}, path)
    with pytest.raises(ValueError, match="lacks state_dict, plan.*import_weights"):
        load_checkpoint(path)


def flip_in_a_record(path: Path) -> None:
    """Flip a bit in the middle of the largest record, which holds weights."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[record.header_offset + record.file_size // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(("read", "error"), [(load_plain, ValueError), (read_checkpoint, ResumeError)])
def test_a_damaged_weight_is_found_by_its_checksum(tmp_path: Path, read: Callable, error: type[Exception]) -> None:
    path = tmp_path / "last.ckpt"
    content = {"state_dict": {"weight": torch.ones(1000)}, "plan": {}, "configuration": "2d", "config": {}}
    torch.save(content, path)
    assert torch.equal(read(path)["state_dict"]["weight"], torch.ones(1000))
    flip_in_a_record(path)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["weight"], torch.ones(1000))  # silent
    with pytest.raises(error, match=r"last\.ckpt .*record .*data/0 is damaged"):
        read(path)


class Bomb:
    def __reduce__(self):
        return (print, ("code of the checkpoint ran",))


def test_pickled_code_is_not_run(tmp_path: Path, capsys) -> None:
    path = tmp_path / "bomb.ckpt"
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(ValueError, match="cannot be loaded|not a checkpoint"):
        load_checkpoint(path)
    assert "ran" not in capsys.readouterr().out


def test_a_config_that_names_foreign_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.ckpt"
    config = {"model": {"network": {"_target_": "subprocess.run", "_partial_": True}, "deep_supervision": False}}
    torch.save({"state_dict": {}, "plan": {}, "configuration": "2d", "config": config}, path)
    with pytest.raises(ValueError, match="subprocess.run.*not among what a checkpoint may have built"):
        load_checkpoint(path)
