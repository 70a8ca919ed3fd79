"""A model folder of nnU-Net: dataset.json, plans.json and fold_K/checkpoint_final.pth, for nnU-Net's own tools.

nnU-Net's CNN and residual encoder become what nnunetv2 predicts with; U-Mamba's networks what the authors' code does,
which is a copy of nnunetv2 with trainers of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from umamba.export.given import check_no_cascade
from umamba.export.place import clear_folder
from umamba.files import atomic_folder
from umamba.inference.bundle import Bundle, Source
from umamba.inference.members import trained_mirror_axes
from umamba.inference.model_folder import read_model_folder
from umamba.inference.precision import ASSUMED, trained_precision
from umamba.models.build import num_blocks
from umamba.models.checkpoint import network_from_checkpoint, network_weights
from umamba.models.nnunet_checkpoint import OURS, fold_number
from umamba.models.nnunet_names import names_of_others, recognize
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet, UNet
from umamba.planning.as_nnunet import Built, dataset_json_of, plans_of

CHECKPOINT = "checkpoint_final.pth"
_AUTHORS = {"model=umamba_bot": "nnUNetTrainerUMambaBot", "model=umamba_enc": "nnUNetTrainerUMambaEnc"}
_ANOTHER = (
    "{}: the network that nnU-Net's or the authors' code would build is another one: its placement of Mamba layers, "
    "its blocks or its shortcuts are not theirs. format=torch_export and format=onnx take it."
)


def write_model_folder(given: Bundle, output: Path) -> None:
    """Write the folder whole or not at all; before it gets its name it is read in again and compared.

    Args:
        given: Networks of one plan and configuration, one a fold.
        output: The folder; an export's that is there is replaced.

    Raises:
        ValueError: Networks of several plans, or two of one fold; nnU-Net and the authors have no such network, or
            their plans cannot say what it is.
        OSError: The folder cannot be written.
    """
    check_no_cascade(given)
    if len(given.groups) > 1:
        raise ValueError(
            f"These are networks of several plans or configurations ({', '.join(given.groups)}), each of which is a "
            "model folder of its own. Export their cross-validations one by one."
        )
    (sources,) = given.groups.values()
    folds = _by_fold(sources)
    network, plan = network_from_checkpoint(sources[0].content)
    configuration = sources[0].content["configuration"]
    parts = output.name.split("__")
    if len(parts) == 3 and parts[2] != configuration:
        raise ValueError(
            f"output={output.name}: the third part of a model folder's name is its configuration, here {configuration}."
        )
    trainer, names, built = _kind(network)
    plans, dataset_json = plans_of(plan, configuration, built), dataset_json_of(plan, given.licence)
    with atomic_folder(output) as beside:
        for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
            (beside / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        if given.licence is not None and "text" in given.licence:
            (beside / "LICENSE").write_text(given.licence["text"], encoding="utf-8")
        for fold, source in folds.items():
            (beside / f"fold_{fold}").mkdir()
            weights = network_weights(source.content)
            checkpoint = {
                "network_weights": {there: weights[here] for here, others in names.items() for there in others},
                "init_args": {
                    "plans": plans, "configuration": configuration, "fold": fold, "dataset_json": dataset_json,
                },
                "trainer_name": trainer,
                **_of_training(source.content, plan.configuration(configuration).spatial_dims, given.made_by),
            }  # fmt: skip
            torch.save(checkpoint, beside / f"fold_{fold}" / CHECKPOINT)
        _check(beside, folds)
        clear_folder(output)


def _by_fold(sources: Sequence[Source]) -> dict[int | str, Source]:
    folds: dict[int | str, Source] = {}
    for source in sources:
        fold = fold_number((source.content["config"].get("data") or {}).get("fold", 0))
        if fold in folds:
            raise ValueError(
                f"{source.name} and {folds[fold].name} are both of fold {fold}; a model folder has one each."
            )
        folds[fold] = source
    return folds


def _of_training(content: Mapping[str, Any], spatial_dims: int, made_by: str) -> dict[str, Any]:
    """What nnU-Net reads, or only wants to be there, of a training, and what it does not know of ours."""
    precision = trained_precision(content["config"]) or ASSUMED
    return {
        "optimizer_state": None, "grad_scaler_state": None, "logging": {}, "_best_ema": None,
        "current_epoch": int(content.get("epoch", 0)),
        "inference_allowed_mirroring_axes": trained_mirror_axes(content["config"], spatial_dims) or None,
        OURS: {"made_by": made_by, "precision": precision, "cases": content.get("cases")},
    }  # fmt: skip


def _kind(network: torch.nn.Module) -> tuple[str, dict[str, list[str]], Built]:
    """The trainer that builds a network, the names of its weights there, and what its plan has to say.

    Raises:
        ValueError: There is none.
    """
    if isinstance(network, (PlainConvUNet, ResidualEncoderUNet)):
        encoder, decoder = (
            [num_blocks(stage) for stage in stages] for stages in (network.encoder_stages, network.decoder_stages)
        )
        residual = isinstance(network, ResidualEncoderUNet)
        return "nnUNetTrainer", names_of_others(network), Built(residual=residual, encoder=encoder, decoder=decoder)
    name = type(getattr(network, "network", network)).__name__
    if not isinstance(network, UMamba):
        raise ValueError(
            f"nnU-Net builds no {name}: format=nnunet is for nnU-Net's CNN and residual encoder, and for U-Mamba Bot "
            "and Enc as the authors' code has them. format=torch_export and format=onnx take other networks."
        )
    names = names_of_others(network)
    (model, *_) = recognize(there for others in names.values() for there in others)
    if model not in _AUTHORS:
        raise ValueError(
            "The control without Mamba layers (model=umamba_none) has no trainer in nnU-Net or in the authors' code. "
            "format=torch_export and format=onnx take it."
        )
    stages = len(network.encoder_stages)  # the authors' code counts two blocks everywhere, and changes that itself
    return _AUTHORS[model], names, Built(residual=False, encoder=[2] * stages, decoder=[2] * (stages - 1), older=True)


def _check(folder: Path, folds: Mapping[int | str, Source]) -> None:
    """Read a folder as predict.py does: the weights must be the same numbers, the network must give the same output.

    Raises:
        ValueError: They are not: the network is none that is known by the names of its weights.
    """
    for fold, source in folds.items():
        try:
            ((_, read),) = read_model_folder(folder, [fold]).items()
        except ValueError as error:
            raise ValueError(_ANOTHER.format(source.name)) from error
        before, after = network_weights(source.content), network_weights(read)
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        if not same or not torch.equal(_output(read), _output(source.content)):
            raise ValueError(_ANOTHER.format(source.name))


def _output(content: Mapping[str, Any]) -> torch.Tensor:
    network, plan = network_from_checkpoint(content)
    if not isinstance(network, UNet):  # nor is any other written, see `_kind`
        raise TypeError(f"{type(network).__name__} is no U-Net.")
    size = network.fixed_patch_size or [2 * divisor for divisor in network.required_divisor]
    image = torch.randn(1, len(plan.channel_names), *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(image)
