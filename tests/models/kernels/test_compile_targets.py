"""The fused kernels compile for every target that the installed Triton knows; no GPU is needed."""

from __future__ import annotations

import pytest

TARGETS = (80, 86, 89, 90, 100, 120)  # compute capability: A100, RTX 30, RTX 40, H100, B200, RTX 50
SHARED_MEMORY = 48 * 1024  # bytes a program may have on any of them
REGISTERS = 65536  # of a multiprocessor


def variants():
    from umamba.models.kernels import norm_act_triton as kernels

    for whole in (False, True):
        for residual in (0, 1):
            yield kernels.moments, {"RESIDUAL": residual, "WHOLE": whole}
        for residual in (0, 1, 2):
            yield kernels.gradient_sums, {"RESIDUAL": residual, "WHOLE": whole}
        yield kernels.input_gradient, {"ACTIVATED": whole}
    for residual in (0, 1, 2):
        yield kernels.normalize, {"RESIDUAL": residual}
    yield kernels.join_moments, {}
    yield kernels.join_sums, {}


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_compiles(capability, dtype):
    pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")
    from umamba.models.kernels.norm_act_launch import ELEMENTS, WARPS, WIDEST

    maps = ("x", "residual", "out", "grad", "grad_residual", "grad_x", "source")
    tables = ("partial", "weight", "bias", "stats", "sums", "r_weight", "r_bias", "r_stats")
    for kernel, constants in variants():
        fixed = constants | {"ROWS": ELEMENTS // WIDEST, "BLOCK": WIDEST, "col": 1}
        types = dict.fromkeys(("slope", "r_slope", "eps"), "fp32")
        types |= dict.fromkeys(maps, f"*{dtype}") | dict.fromkeys(tables, "*fp32")
        build(kernel, types, fixed, ("row",), capability, WARPS)


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_joining_compiles(capability, dtype):
    pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")
    from umamba.models.kernels import concatenation_triton
    from umamba.models.kernels.concatenation_launch import ELEMENTS, WIDEST
    from umamba.models.kernels.norm_act_launch import WARPS

    maps = dict.fromkeys(("x", "other", "out", "grad", "grad_x", "grad_other"), f"*{dtype}")
    types = maps | {"bias": "*fp32", "partial": "*fp32"}
    for kernel in (concatenation_triton.join, concatenation_triton.part):
        for absent in ({}, {"bias": None, "partial": None}):
            fixed = absent | {"ROWS": ELEMENTS // WIDEST, "BLOCK": WIDEST}
            build(kernel, types, fixed, ("C", "A"), capability, WARPS)


@pytest.mark.slow
@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize(("dtype", "classes"), [("fp32", 2), ("fp16", 14), ("bf16", 120), ("fp32", 1024)])
def test_the_loss_compiles(capability, dtype, classes):
    pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")
    from umamba.models.kernels import dice_ce_triton
    from umamba.models.kernels.dice_ce import ELEMENTS, WARPS
    from umamba.models.mamba.kernels.tiling import next_power_of_2

    block = next_power_of_2(classes)
    types = {"logits": f"*{dtype}", "grad_logits": f"*{dtype}", "label": "*i16", "partial": "*fp32", "grad": "*fp32"}
    types |= dict.fromkeys(("zd", "zh", "zw"), "fp32")
    for kernel in (dice_ce_triton.class_sums, dice_ce_triton.logits_gradient):
        for flag in (False, True):
            fixed = {"K": classes, "LAST": flag, "SAME": not flag, "IGNORE": flag}
            build(kernel, types, fixed | {"ROWS": max(1, ELEMENTS // block), "BLOCK": block}, (), capability, WARPS)


def build(kernel, types, fixed, divisible, capability, warps):
    """Compile for a target; `types` are of the tensors and floats, `fixed` the constants, by the names of arguments."""
    import triton
    from triton.backends.compiler import GPUTarget

    names = kernel.arg_names
    types = dict.fromkeys(names, "i32") | types | dict.fromkeys(fixed, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n][0] == "*" or n in divisible}
    values = {(names.index(n),): value for n, value in fixed.items() if n in names}
    source = triton.compiler.ASTSource(kernel, {n: types[n] for n in names}, values, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert built.metadata.shared <= SHARED_MEMORY, kernel.__name__
    assert built.asm["cubin"]
    return built
