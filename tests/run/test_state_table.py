"""Tables show what a user wrote as it is: brackets and colons are no markup of the library that draws them."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path

from tests import warm_start
from tests.planning.raw_data import make_dataset
from umamba.run.job_state import Condition, show_states


def test_overrides_stay_whole():
    said = io.StringIO()
    with redirect_stdout(said):
        show_states([(Condition.FAILED, {"run": "job_0", "overrides": "freeze=[nonsuch*] tags=[bold] a=:heart:"})])
    text = "".join(said.getvalue().split())
    assert "freeze=[nonsuch*]tags=[bold]a=:heart:" in text


def test_names_with_brackets_are_shown(tmp_path: Path):
    make_dataset(tmp_path / "Dataset001_[bold]", cases=2)
    path = tmp_path / "Dataset001_[bold]" / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {"background": 0, "[red]liver": 1, "[/spleen]": 2}
    path.write_text(json.dumps(content))
    wide = os.environ | {"COLUMNS": "200"}
    data = ["data=custom", f"data.dataset_dir={str(path.parent)!r}", f"paths.prepared={tmp_path / 'prepared'}"]
    planned = warm_start.run("-m", "umamba.planning", *data, "workers=1", cwd=tmp_path, env=wide)
    doctor = ["-m", "umamba.datamodules.doctor", *data, "output='[doctor]'"]
    looked = warm_start.run(*doctor, cwd=tmp_path, env=wide)
    assert planned.returncode == 0, planned.stderr
    assert "[red]liver, [/spleen]" in planned.stdout
    assert "[red]liver" in looked.stdout and "[/spleen]" in looked.stdout
    assert "contact sheet in [doctor]" in looked.stdout, looked.stdout + looked.stderr
