"""OpenMP's threads wait without spinning, unless the user has said how they should wait."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def waits(**variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | variables
    code = "import umamba, os; print(os.environ.get('OMP_WAIT_POLICY'))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_threads_wait_passively_unless_the_user_says_otherwise() -> None:
    assert waits() == "PASSIVE"
    assert waits(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
    assert waits(GOMP_SPINCOUNT="1000") == waits(KMP_BLOCKTIME="200") == "None"


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py"])
def test_scripts_say_so_before_torch_is_imported(script: str) -> None:
    body = ast.parse((ROOT / script).read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    third_party = [
        node for node in imports
        if (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        not in sys.stdlib_module_names
    ]  # fmt: skip
    assert isinstance(third_party[0], ast.ImportFrom) and (third_party[0].module or "").startswith("umamba.")
