"""A data set of 3D TIFF, as nnU-Net takes it, from training over prediction to scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from miniatures import run

SPACING = [2.0, 1.0, 1.0]


def write_case(folder: Path, split: str, name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = np.zeros((12, 24, 24), np.uint8)
    label[3:9, 6:18, 5:15] = 1
    image = (50 + 100 * label + random.normal(0, 5, label.shape)).astype(np.uint16)
    for kind, stem, array in ((f"images{split}", f"{name}_0000", image), (f"labels{split}", name, label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / kind / f"{stem}.tif", array, photometric="minisblack", compression="zlib")
        (folder / kind / f"{name}.json").write_text(json.dumps({"spacing": SPACING}))


def test_train_predict_and_score(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset950_Stacks"
    for number in range(5):
        write_case(raw, "Tr", f"stack_{number}", number)
    write_case(raw, "Ts", "stack_2023", 9)
    description = {
        "channel_names": {"0": "microscopy"},
        "labels": {"background": 0, "cell": 1, "other": 2},
        "numTraining": 5,
        "file_ending": ".tif",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    run(
        "train.py", "data=custom", f"data.dataset_dir={raw}", f"data.prepared_dir={tmp_path / 'prepared'}",
        "model=nnunet", "trainer=cpu", "trainer.max_epochs=1", "data.iterations_per_epoch=2", "data.val_iterations=1",
        "data.num_workers=0", "data.planning.base_features=4", f"run_dir={tmp_path / 'run'}", folder=tmp_path,
    )  # fmt: skip
    predicted = tmp_path / "run" / "predictions"
    assert json.loads((predicted / "stack_2023.json").read_text()) == {"spacing": SPACING}
    assert tifffile.imread(predicted / "stack_2023.tif").shape == (12, 24, 24)
    scores = pd.read_csv(tmp_path / "run" / "tables" / "scores.csv")
    assert set(scores["case"]) == {"stack_2023"} and {"cell"} <= set(scores["class"])
    assert (tmp_path / "run" / "figures" / "overlays.png").is_file()

    checkpoint = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    run("predict.py", checkpoint, f"input={raw / 'imagesTs'}", f"output={tmp_path / 'out'}", folder=tmp_path)
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out" / "stack_2023.tif"), tifffile.imread(predicted / "stack_2023.tif")
    )
    run(
        "eval.py", f"predictions={tmp_path / 'out'}", f"references={raw / 'labelsTs'}", "nsd_tolerance=2",
        f"output={tmp_path / 'scores'}", folder=tmp_path,
    )  # fmt: skip
    again = pd.read_csv(tmp_path / "scores" / "tables" / "scores.csv")
    pd.testing.assert_frame_equal(again[scores.columns], scores, check_dtype=False)
