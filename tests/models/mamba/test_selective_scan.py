"""The choice of a backend and the refusal of bad inputs."""

from __future__ import annotations

import pytest
import torch
from scan_inputs import make_inputs

from umamba.models.mamba.block import Mamba
from umamba.models.mamba.scan import choice
from umamba.models.mamba.scan import selective_scan as scan


def test_auto_is_torch_on_the_cpu():
    inputs = make_inputs(1, 20, 3, 4)
    assert torch.equal(scan.selective_scan(**inputs), scan.selective_scan(**inputs, backend="torch"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": (1, 19, 3)}, r"delta must have shape \(1, 20, 3\).*\(1, 19, 3\)"),
        ({"B": (1, 20, 5)}, r"B must have shape \(1, 20, 4\).*\(1, 20, 5\)"),
        ({"D": (4,)}, r"D must have shape \(3,\)"),
        ({"A": (3, 65)}, "d_state must be 1 to 64.*d_state is 65"),
        ({"A": (3,)}, r"A \(d_inner, d_state\)"),
        ({"u": (1, 0, 3)}, "at least one batch entry, token and channel"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    inputs = make_inputs(1, 20, 3, 4) | {name: torch.zeros(shape) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        scan.selective_scan(**inputs)


def test_wrong_device_is_named():
    inputs = make_inputs(1, 20, 3, 4)
    inputs["C"] = inputs["C"].to("meta")
    with pytest.raises(ValueError, match="C must be on cpu like u, but it is on meta"):
        scan.selective_scan(**inputs)


def test_nan_in_A_is_counted():
    inputs = make_inputs(1, 20, 3, 4)
    inputs["A"][1, 2] = float("nan")
    with pytest.raises(ValueError, match="A holds NaN in 1 of its 12 entries"):
        scan.refuse_nan(inputs["A"])


@pytest.mark.parametrize("backend", ["triton", "mamba_ssm"])
def test_gpu_backends_refuse_the_cpu(backend):
    with pytest.raises(ValueError, match=f"{backend!r} needs float32 or narrower tensors on a CUDA device.*'cpu'"):
        scan.selective_scan(**make_inputs(1, 20, 3, 4), backend=backend)


@pytest.fixture
def nothing_chosen():
    choice._choice.cache_clear()
    yield
    choice._choice.cache_clear()


def test_a_failed_check_refuses_triton_and_makes_auto_fall_back(monkeypatch, caplog, nothing_chosen):
    from umamba.models.mamba.scan import selfcheck

    monkeypatch.setattr(selfcheck, "check", lambda device: "the kernels are wrong on this GPU")
    with pytest.raises(RuntimeError, match="'triton' refused: the kernels are wrong"):
        choice.choose_backend("triton", "cuda", 0, False)
    with caplog.at_level("WARNING"):
        assert choice.choose_backend("auto", "cuda", 0, False) == "torch"
    assert "falls back to the slower torch backend: the kernels are wrong" in caplog.text


def test_non_contiguous_inputs_give_the_same_numbers():
    inputs = make_inputs(2, 50, 6, 4)
    strided = {n: v.transpose(0, -1).contiguous().transpose(0, -1) for n, v in inputs.items()}
    assert torch.equal(scan.selective_scan(**inputs), scan.selective_scan(**strided))


def test_block_compiles_without_graph_breaks():
    torch.manual_seed(0)
    block, x = Mamba(8), torch.randn(1, 40, 8, requires_grad=True)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)(x)
    assert torch.allclose(compiled, block(x), rtol=1e-5, atol=1e-6)
    compiled.sum().backward()
    assert x.grad.isfinite().all()
