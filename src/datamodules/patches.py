"""Training samples: a patch is drawn, only its block is read from the store, and it is augmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch.utils.data import Dataset

from umamba.datamodules.at_work import AtWork, SampleError
from umamba.datamodules.augmentation.device.chain import DeviceChain
from umamba.datamodules.augmentation.previous_stage import PREVIOUS
from umamba.datamodules.open_cases import OpenCases
from umamba.datamodules.sampling import DATA_PADDING, LABEL_PADDING, draw_start, is_forced, read_block
from umamba.planning.configuration import Configuration
from umamba.planning.previous_maps import one_hot
from umamba.planning.store import Store, StoredCase


class PatchDataset(Dataset):
    """Patches by sample number; the same number gives the same patch in every process and run.

    The random numbers of a sample come from (seed, number) alone: NumPy's for the choice of the patch, torch's (which
    torchio's transforms draw from) for the augmentation. Sums and means of a patch (contrast, gamma) depend in their
    last bits on how many threads share them, so a sample is made by one, in a worker as in the main process.

    Args:
        store: The preprocessed cases.
        identifiers: Cases that are drawn from, uniformly with replacement.
        configuration: Gives patch size, batch size, spacing and where a mask was used for normalisation.
        transforms: Augmentation, in order; applied to a `torchio.Subject` with "image" (C, *S) and "label" (1, *S),
            where a 2D patch has a third axis of size 1 and the affine holds the spacing in mm; of a cascade with
            "previous" (1, *S) too.
        num_samples: Samples per epoch, the dataset's length; later numbers are samples of later epochs.
        oversample: Share of a batch's samples that are centred on foreground.
        seed: Of this sequence of samples.
        chain: The transforms as they are shared out between worker and device; needed if a sample is for the device.
        first_on_device: Number of the first sample that is handed over for the device to augment, () int64, read
            anew for every sample; None for none.
        room_for_cases: Bytes of small cases that each process may keep decoded.

    Attributes:
        kept: Every sample that was made, for a dataset whose samples come again; None to keep none.
    """

    def __init__(
        self,
        store: Store,
        identifiers: Sequence[str],
        *,
        configuration: Configuration,
        transforms: Sequence[tio.Transform] = (),
        num_samples: int = 1,
        oversample: float = 0.33,
        seed: int = 0,
        chain: DeviceChain | None = None,
        first_on_device: torch.Tensor | None = None,
        room_for_cases: int = 0,
    ) -> None:
        self.store = store
        self.kept: dict[int, dict[str, Any]] | None = None
        self._opened = OpenCases(store, room_for_cases)
        self.at_work: AtWork | None = None  # where workers note what they begin
        self.chain = chain
        self.first_on_device = first_on_device
        self.identifiers = tuple(identifiers)
        self.configuration = configuration
        self.transforms = tuple(transforms)
        for transform in self.transforms:
            transform.copy = False  # a sample's tensors are its own: torchio need not copy them for every transform
        self.num_samples = num_samples
        self.oversample = oversample
        self.seed = seed
        self.patch_size = tuple(configuration.patch_size)
        # A transform that rotates needs more of the image than it gives back.
        read_size = next((t.input_size for t in self.transforms if hasattr(t, "input_size")), self.patch_size)
        flat = (1,) * (3 - configuration.spatial_dims)  # a 2D patch is read as a slice
        self.block_size = flat + tuple(read_size)
        self.centre_size = flat + self.patch_size
        self.masked_channels = [c for c, masked in enumerate(configuration.use_mask_for_norm) if masked]
        spacing = tuple(configuration.spacing[-configuration.spatial_dims :]) + (1.0,) * len(flat)
        self.affine = np.diag([*spacing, 1.0])

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make sample `index`.

        Returns:
            "image": float32 tensor (C, *patch), of a cascade with a channel for each label of the previous stage;
            "label": int16 tensor (*patch), 0 outside of the image; "case": str.
            Of a sample for the device as `DeviceChain.collate` wants it, with "draws".

        Raises:
            SampleError: The sample could not be made; the message names the case.
        """
        if self.at_work is not None:
            self.at_work.begin(index)
        if self.kept is None:
            return self._make(index)
        if index not in self.kept:
            self.kept[index] = self._make(index)
        return dict(self.kept[index])

    def _make(self, index: int) -> dict[str, Any]:
        rng, identifier = self._begin(index)
        try:
            case = self._opened(identifier)
            start = self._draw_start(case, index, rng)
            with _own_draws(int(rng.integers(2**63))), _one_thread():
                if self.first_on_device is not None and index >= int(self.first_on_device):
                    return self._hand_over(case, start) | {"case": identifier}
                image, label = self._augment(
                    *self._read(case, start, self.block_size), self._read_previous(case, start)
                )
        except Exception as error:
            raise SampleError(f"Sample {index} failed, a patch of case {identifier!r}: {error}") from error
        return {"image": image, "label": label, "case": identifier}

    def case_of(self, index: int) -> str:
        """Name of the case that sample `index` is a patch of."""
        return self._begin(index)[1]

    def _begin(self, index: int) -> tuple[np.random.Generator, str]:
        rng = np.random.default_rng((self.seed, index))
        return rng, self.identifiers[rng.integers(len(self.identifiers))]

    def _draw_start(self, case: StoredCase, index: int, rng: np.random.Generator) -> tuple[int, ...]:
        batch_size = self.configuration.batch_size
        return draw_start(
            rng,
            case.data.shape[1:],
            case.class_locations,
            annotated_locations=case.annotated_locations,
            read_size=self.block_size,
            patch_size=self.centre_size,
            forced=is_forced(index % batch_size, batch_size, self.oversample),
        )

    def _read(self, case: StoredCase, start: Sequence[int], size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        image = read_block(case.data, start, size, DATA_PADDING, np.float32)  # (C, Z, Y, X)
        label = read_block(case.label, start, size, LABEL_PADDING, np.int16)  # (Z, Y, X)
        if self.configuration.spatial_dims == 2:
            image, label = image[:, 0, :, :, None], label[0, :, :, None]  # (C, Y, X, 1), torchio's form of 2D
        return torch.from_numpy(image), torch.from_numpy(label)

    def _read_previous(self, case: StoredCase, start: Sequence[int]) -> torch.Tensor | None:
        """What the previous stage segmented in the block, (Z, Y, X); a cascade is of volumes."""
        if case.previous is None:
            return None
        return torch.from_numpy(read_block(case.previous, start, self.block_size, LABEL_PADDING, np.int16))

    def _hand_over(self, case: StoredCase, start: Sequence[int]) -> dict[str, Any]:
        """Draw what the device will do, and read no more than it needs."""
        chain = self.chain
        assert chain is not None  # see the arguments
        channels = case.data.shape[0]
        if chain.in_worker:
            image, label, _ = self._transformed(*self._read(case, start, self.block_size), None, chain.in_worker)
            draws = chain.draw(len(image))
        else:
            draws = chain.draw(channels)
            size: tuple[int, ...] = self.block_size
            if not chain.is_turned(draws):  # of what was drawn the middle
                size = self.centre_size
                start = [a + (b - c) // 2 for a, b, c in zip(start, self.block_size, size, strict=True)]
            image, label = self._read(case, start, size)
            if self.configuration.spatial_dims == 2:
                image, label = image[..., 0], label[..., 0]
        if chain.turns and not chain.is_turned(draws):
            image, label = chain.cropped(image, label)
        if not chain.is_turned(draws):
            self._check_shapes(image, label)
        return {"image": image, "label": label, "draws": draws}

    def _transformed(
        self,
        image: torch.Tensor,
        label: torch.Tensor,
        previous: torch.Tensor | None,
        transforms: Sequence[tio.Transform],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The transforms applied to what `_read` and `_read_previous` gave; (C, *S) float32, (*S) and (*S) int16."""
        subject = tio.Subject(
            image=tio.ScalarImage(tensor=image, affine=self.affine),
            label=tio.LabelMap(tensor=label[None], affine=self.affine),
        )
        if previous is not None:
            subject.add_image(tio.LabelMap(tensor=previous[None], affine=self.affine), PREVIOUS)
        for transform in transforms:
            subject = transform(subject)
        image, label = subject.image.data.float(), subject.label.data[0].to(torch.int16)
        if self.configuration.spatial_dims == 2:
            image, label = image[..., 0], label[..., 0]  # (C, Y, X), (Y, X)
        if previous is not None:
            previous = subject.get_images_dict(intensity_only=False)[PREVIOUS].data[0].to(torch.int16)
        return image, label, previous

    def _augment(
        self, image: torch.Tensor, label: torch.Tensor, previous: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.transforms:
            image, label, previous = self._transformed(image, label, previous, self.transforms)
        elif self.configuration.spatial_dims == 2:
            image, label = image[..., 0], label[..., 0]
        self._check_shapes(image, label)
        outside = label < 0
        for channel in self.masked_channels:
            image[channel][outside] = 0  # what the normalisation left out, which augmentation has changed
        if previous is not None and self.store.previous is not None:
            image = torch.cat([image, torch.from_numpy(one_hot(previous.numpy(), self.store.previous.labels))])
        return image.contiguous(), label.clamp(min=0)

    def _check_shapes(self, image: torch.Tensor, label: torch.Tensor) -> None:
        for name, shape in (("image", image.shape[1:]), ("label", label.shape)):
            if tuple(shape) != self.patch_size:
                raise ValueError(
                    f"the augmentation must give patches of {self.patch_size}, it gave {name} of {tuple(shape)}; "
                    "remove the transform under `augmentation` that changes the shape"
                )


@contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """torch's CPU generator seeded, and afterwards as it was. Others are left alone, unlike by torch.manual_seed."""
    state = torch.default_generator.get_state()  # torch.random.fork_rng takes five times as long
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
