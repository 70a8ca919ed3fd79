r"""Weights of the authors' and of nnU-Net's networks under this project's names.

    python -m umamba.models.import_weights checkpoint=fold_0/checkpoint_final.pth plans=nnUNetPlans.json \
        dataset_json=dataset.json output=umamba_bot.ckpt
    python -m umamba.models.import_weights ... data=flare                 # to be scored on that data set
    python -m umamba.models.import_weights ... configuration=3d_fullres   # of an older checkpoint

writes a checkpoint for eval.py and predict.py: the network is recognised by the names of its weights, its plan and the
configuration it was trained on travel along (configuration=3d_fullres where the checkpoint does not name it).
With data=flare, say, eval.py scores it on that data set with its metrics; without, on the folder of dataset_json.

The names on both sides are in `umamba.models.nnunet_names`.
"""

from __future__ import annotations

import sys

from umamba.help import arguments_text, wanted

MEANINGS = {
    "checkpoint": "of nnU-Net or U-Mamba: fold_0/checkpoint_final.pth",
    "plans": "its nnUNetPlans.json",
    "dataset_json": "the dataset.json it was trained with",
    "output": "file to write, for predict.py and eval.py",
    "configuration": "optional: 2d or 3d_fullres, where the checkpoint does not name it",
    "data": "optional: name of a data set's config, such as flare, to score it on; else the folder of dataset_json",
}
ARGUMENTS = {name: not meaning.startswith("optional") for name, meaning in MEANINGS.items()}  # whether it must be given

if __name__ == "__main__" and wanted():  # before the imports that take seconds
    sys.stdout.write(arguments_text(__doc__, MEANINGS))
    raise SystemExit(0)

import hashlib
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from umamba.files import atomic_file, refuse_input
from umamba.locations import CONFIGS
from umamba.models.build import build_network
from umamba.models.nnunet_checkpoint import (
    cases_of,
    check_same_training,
    fold_number,
    mirrored_axes,
    precision_of,
    read_checkpoint,
)
from umamba.models.nnunet_names import recognize, rename_weights
from umamba.models.unet import UNet
from umamba.plain import to_plain
from umamba.planning.nnunet_plans import load_plan
from umamba.raw.description import DatasetDescription
from umamba.resolvers import register_resolvers
from umamba.targets import MIRROR

log = logging.getLogger(__name__)

# nnunetv2 predicts in float16 with whatever it has trained. Not so for U-Mamba: its authors have a trainer without half
# precision (nnUNetTrainerUMambaEncNoAMP), because Enc gave NaN with it.
_PRECISION = dict.fromkeys(("model=nnunet", "model=resenc"), "16-mixed")


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], network: UNet) -> dict[str, torch.Tensor]:
    """The authors' or nnU-Net's weights, renamed for `network`; nothing is loaded.

    Args:
        state_dict: as in `network_weights` of their checkpoints (U-Mamba Bot or Enc of either variant, nnU-Net's CNN
            or ResEnc).
        network: the same architecture here: `UMamba`, `PlainConvUNet` or `ResidualEncoderUNet`.

    Returns:
        What `network.load_state_dict` takes, the same tensors.

    Raises:
        ValueError: weights missing, left over, or of another shape; all of them by name, theirs in brackets.
    """
    converted, origin = rename_weights(state_dict, len(network.encoder_stages))
    expected = network.state_dict()
    problems = [f"missing: {name} {tuple(expected[name].shape)}" for name in expected if name not in converted]
    problems += [f"left over: {name} [{origin[name]}]" for name in converted if name not in expected]
    problems += [
        f"shape {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}: {name} [{origin[name]}]"
        for name, tensor in converted.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        raise ValueError(
            f"These weights are not those of this {type(network).__name__} ({len(problems)} differences). Check "
            "variant, mamba, the plan and (channel tokens) the patch size:\n  " + "\n  ".join(problems)
        )
    return converted


def import_checkpoint(
    checkpoint: str | Path,
    plans: str | Path,
    dataset_json: str | Path,
    output: str | Path,
    configuration: str | None = None,
    data: str = "custom",
) -> Path:
    """Write `output`, a checkpoint in this project's form.

    Args:
        checkpoint: checkpoint_final.pth or checkpoint_best.pth.
        plans: nnUNetPlans.json of the same training.
        dataset_json: dataset.json of the same training.
        output: file to write (.ckpt).
        configuration: the plan's configuration the network was trained on; None: the one the checkpoint names.
        data: config of the data set eval.py will score it on, with its metrics and folders; "custom" is the raw data
            set in the folder of `dataset_json`. eval.py takes another folder as data.dataset_dir=.

    Raises:
        FileNotFoundError, ValueError: see `converted_checkpoint`; or `output` is one of the files.
    """
    refuse_input(output, {"checkpoint": checkpoint, "plans": plans, "dataset_json": dataset_json})
    content = converted_checkpoint(checkpoint, plans, dataset_json, configuration, data)
    output = Path(output)
    if data == "custom":
        content["config"]["data"]["prepared_dir"] = str(output.absolute().parent / "prepared")
    with atomic_file(output) as beside:
        torch.save(content, beside)
    network = content["config"]["model"]["network"]["_target_"].rpartition(".")[2]
    log.info("%s: %s, %s, %d tensors.", output, network, content["configuration"], len(content["state_dict"]))
    return output


def converted_checkpoint(
    checkpoint: str | Path,
    plans: str | Path,
    dataset_json: str | Path,
    configuration: str | None = None,
    data: str = "custom",
) -> dict[str, Any]:
    """What `import_checkpoint` writes, from an nnU-Net checkpoint and its two JSON files; arguments as there.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not belong to the others; see `check_same_training`,
            `umamba.models.nnunet_checkpoint`, `recognize`, `convert_state_dict` and `umamba.planning.nnunet_plans`.
    """
    source = read_checkpoint(checkpoint)
    plan = load_plan(plans, DatasetDescription.read(dataset_json))
    trained_with, epoch = source.get("init_args", {}), source.get("current_epoch", 0)
    if not isinstance(trained_with, dict) or not isinstance(epoch, int):
        raise ValueError(
            f"{checkpoint}: init_args must be a dictionary and current_epoch a whole number; they are "
            f"{trained_with!r:.100} and {epoch!r:.100}."
        )
    configuration = configuration or trained_with.get("configuration")
    if not isinstance(configuration, str) or configuration not in plan.configurations:
        raise ValueError(
            f"configuration is {configuration!r}; {plans} has {', '.join(plan.configurations)}. Name the one the "
            "network was trained on with configuration=."
        )
    check_same_training(checkpoint, trained_with, plan, configuration)
    recognized = recognize(source["network_weights"])
    config = _compose(recognized, data)
    if data == "custom":
        config.data.dataset_dir, config.data.prepared_dir = "", ""
    # What comes from the files is put in after the interpolations were resolved: none of theirs is.
    model, data_config = to_plain(config.model), to_plain(config.data)
    model["precision"] = precision_of(source) or model["precision"] or _PRECISION.get(recognized[0])
    data_config |= {"configuration": configuration, "fold": fold_number(trained_with.get("fold", 0))}
    if data == "custom":
        data_config["dataset_dir"] = str(Path(dataset_json).absolute().parent)
    mirrored = mirrored_axes(source)
    if mirrored:
        data_config["augmentation"] = {"mirror": {"_target_": MIRROR, "axes": list(mirrored)}}
    with torch.device("meta"):
        network = build_network(instantiate(model["network"]), plan, configuration, model["deep_supervision"])
    if not isinstance(network, UNet):  # recognize() names U-Mamba and nnU-Net's networks only
        raise TypeError(f"Weights can be imported into a U-Net, not into {type(network).__name__}.")
    weights = convert_state_dict(source["network_weights"], network)
    return {
        "state_dict": {f"network.{name}": tensor for name, tensor in weights.items()},
        "epoch": epoch,
        "global_step": 0,
        "pytorch-lightning_version": version("lightning"),  # Lightning's own loader asks for it
        "plan": plan.to_dict(),
        "configuration": configuration,
        "config": {"model": model, "data": data_config, "data_name": data},
        "cases": cases_of(source),
        "provenance": {
            "imported_from": Path(checkpoint).name,
            "sha256": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(),
            "trainer": str(source.get("trainer_name", "")),
        },
    }


def _compose(model_overrides: list[str], data: str) -> DictConfig:
    """The training config, as if the network had been trained here; block counts are the plan's."""
    overrides = [*model_overrides, f"data={data}", "augmentation=none"]
    register_resolvers()
    running = GlobalHydra.instance().hydra  # of a program that Hydra started, such as predict.py
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", overrides=overrides)
    except MissingConfigException as error:
        known = ", ".join(name for name in error.options or () if not name.startswith("_"))
        raise ValueError(f"data is {data!r}; configs/data has {known}.") from error
    finally:
        GlobalHydra.instance().hydra = running
    config.paths.root = os.environ.get("UMAMBA_ROOT", str(Path.cwd()))  # elsewhere Hydra's own working directory
    return config


def main() -> None:
    """Convert what the command line names; ends with the usage or the reason where it cannot."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = to_plain(OmegaConf.from_cli())
    missing = [name for name, required in ARGUMENTS.items() if required and not arguments.get(name)]
    unknown = [name for name in arguments if name not in ARGUMENTS]
    if missing or unknown:
        usage = " ".join(f"{name}=..." if required else f"[{name}=...]" for name, required in ARGUMENTS.items())
        sys.exit(f"Missing: {missing}, unknown: {unknown}.\nUsage: python -m umamba.models.import_weights {usage}")
    try:
        import_checkpoint(**arguments)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
