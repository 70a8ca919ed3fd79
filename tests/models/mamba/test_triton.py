"""The Triton scan and the fused block on a GPU: numbers, determinism, and how they live inside torch.

pytest -m gpu tests/models/mamba
"""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from scan_inputs import make_inputs, relative, value_and_gradients

from umamba.models.mamba.block import Mamba
from umamba.models.mamba.scan.selective_scan import selective_scan
from umamba.models.mamba.scan.torch_scan import torch_scan

pytestmark = pytest.mark.gpu


def triton(*arguments, **keywords):
    return selective_scan(*arguments, **keywords, backend="triton")


def inputs_and_weight(shape, kind="random"):
    inputs = {name: value.cuda() for name, value in make_inputs(*shape, kind=kind).items()}
    return inputs, torch.randn(shape[:3], dtype=torch.float64, generator=torch.Generator().manual_seed(1)).cuda()


def elsewhere(t):
    """The same tensor at an address that is no multiple of 16 bytes."""
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t)


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize(
    "shape",  # one chunk; few chunks; many; one and two channels a lane
    [(1, 1, 1, 16), (3, 1, 40, 16), (1, 30, 7, 5), (1, 150, 8, 64), (2, 840, 640, 16), (2, 777, 96, 16),
     (1, 5000, 33, 16), (2, 60000, 64, 16)],
)  # fmt: skip
def test_agrees_with_float64(shape, kind):
    inputs, weight = inputs_and_weight(shape, kind)
    expected = value_and_gradients(torch_scan, inputs, weight)
    got = value_and_gradients(triton, {n: v.float() for n, v in inputs.items()}, weight.float())
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < 1e-5


# Rows of whole words, which are copied to shared memory as they are, and of an odd number of channels; few chunks, many
@pytest.mark.parametrize("shape", [(2, 2000, 64, 16), (2, 2000, 48, 5), (1, 2003, 33, 16), (2, 150, 96, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype, shape):
    inputs, weight = inputs_and_weight(shape, "trained")
    rounded = {n: v.to(dtype) if v.dim() == 3 else v.float() for n, v in inputs.items()}
    expected = value_and_gradients(torch_scan, {n: v.double() for n, v in rounded.items()}, weight.to(dtype).double())
    got = value_and_gradients(triton, rounded, weight.to(dtype))
    assert got[0].dtype == dtype
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < 1e-2


def test_tensors_that_begin_anywhere():
    """Triton compiles other kernels for addresses that are no multiple of 16 bytes."""
    inputs, weight = inputs_and_weight((2, 300, 32, 16))
    single = {n: v.float() for n, v in inputs.items()}
    shifted = {n: elsewhere(v) for n, v in single.items()}
    assert shifted["u"].data_ptr() % 16 == 4
    expected = value_and_gradients(triton, single, weight.float())
    for again in (single, shifted, single):
        with torch.no_grad():
            assert relative(triton(**again, delta_softplus=True), expected[0].double()) < 1e-6
    leaves = {n: v.requires_grad_() for n, v in shifted.items()}
    got = torch.autograd.grad((triton(**leaves, delta_softplus=True) * weight.float()).sum(), list(leaves.values()))
    assert all(relative(a, b.double()) < 1e-6 for a, b in zip(got, expected[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_that_begins_anywhere(dtype):
    """What cannot be copied as whole words of four bytes against what can: another kernel, so not bit for bit."""
    inputs, weight = inputs_and_weight((2, 300, 64, 16))
    rounded = {n: v.to(dtype) if n in ("u", "z", "delta") else v.float() for n, v in inputs.items()}
    shifted = {n: elsewhere(v) for n, v in rounded.items()}
    wide = {n: torch.cat([v, v[..., :1]], -1)[..., :-1] if n in ("u", "z", "delta") else v for n, v in rounded.items()}
    assert shifted["u"].data_ptr() % 4 == 2 and wide["u"].stride(1) == 65
    expected = value_and_gradients(triton, rounded, weight.to(dtype))
    for others in (shifted, wide):
        leaves = {n: v.detach().requires_grad_() for n, v in others.items()}
        out = triton(**leaves, delta_softplus=True)
        got = [out, *torch.autograd.grad((out * weight.to(dtype)).sum(), list(leaves.values()))]
        assert all(relative(a, b.double()) < 1e-3 for a, b in zip(got, expected, strict=True))


def test_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 100 * 2**30:
        pytest.skip("needs 100 GiB of GPU memory")
    channels, tail = 64, 3000
    length = 2**31 // channels + 5000
    generator = torch.Generator("cuda").manual_seed(0)

    def random(width):
        return torch.randn(1, length, width, device="cuda", dtype=torch.bfloat16, generator=generator)

    inputs = {"u": random(channels), "delta": random(channels), "B": random(4), "C": random(4), "z": random(channels)}
    A = -torch.arange(1.0, 5.0, device="cuda").repeat(channels, 1)  # memory of some tens of tokens
    ends = []
    for part in (inputs, {n: t[:, -tail:].contiguous() for n, t in inputs.items()}):
        u = part["u"].requires_grad_()
        out = triton(**{**part, "u": u}, A=A, delta_softplus=True)
        (gradient,) = torch.autograd.grad(out, u, torch.ones_like(out))
        ends.append((out[:, -1000:].detach().clone(), gradient[:, -1000:].clone()))
        del out, gradient, u
    assert inputs["u"].numel() > 2**31
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-2) and b.abs().max() > 1


def test_mamba_ssm_behind_the_same_function():
    pytest.importorskip("mamba_ssm")
    inputs, weight = inputs_and_weight((2, 500, 32, 16))
    expected = value_and_gradients(torch_scan, inputs, weight)

    def official(*arguments, **keywords):
        return selective_scan(*arguments, **keywords, backend="mamba_ssm")

    got = value_and_gradients(official, {n: v.float() for n, v in inputs.items()}, weight.float())
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < 1e-4


def test_optional_inputs_strides_and_no_softplus():
    inputs, _ = inputs_and_weight((2, 300, 12, 16))
    u, delta, B, C = (inputs[n].float() for n in ("u", "delta", "B", "C"))
    A, delta = inputs["A"].float(), delta.abs() * 0.1
    contiguous = triton(u, delta, A, B, C)
    wide = torch.cat([u, u], dim=-1)[..., :12]
    transposed = delta.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(triton(wide, transposed, A, B, C), contiguous)
    assert relative(contiguous, torch_scan(u.double(), delta.double(), A.double(), B.double(), C.double())) < 1e-5


def test_same_bits_every_time():
    inputs, weight = inputs_and_weight((2, 3000, 96, 16))
    single = {n: v.float() for n, v in inputs.items()}
    first = value_and_gradients(triton, single, weight.float())
    for _ in range(3):
        again = value_and_gradients(triton, single, weight.float())
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("d_model", "length"), [(32, 3000), (32, 5), (96, 500)])  # steps projected in the scan, or not
def test_fused_block_agrees_with_float64(d_model, length):
    torch.manual_seed(0)
    fused, exact = Mamba(d_model, backend="triton").cuda(), Mamba(d_model, backend="torch").cuda().double()
    exact.load_state_dict(fused.state_dict())
    x = torch.randn(2, length, d_model, device="cuda", requires_grad=True)
    y = x.detach().double().requires_grad_()
    weight = torch.randn_like(x)
    with torch.autocast("cuda", torch.bfloat16):
        out = fused(x)
    assert out.dtype == torch.float32
    out.backward(weight)
    expected = exact(y)
    expected.backward(weight.double())
    assert relative(out, expected) < 1e-5 and relative(x.grad, y.grad) < 1e-5
    for (name, a), b in zip(fused.named_parameters(), exact.parameters(), strict=True):
        assert relative(a.grad, b.grad) < 1e-5, name


def test_matrices_need_not_be_contiguous():
    inputs, weight = inputs_and_weight((2, 300, 32, 16))
    single = {n: v.float() for n, v in inputs.items()}
    expected = value_and_gradients(triton, single, weight.float())
    turned = {n: single[n].t().contiguous().t() if n == "A" else single[n] for n in single}
    assert not turned["A"].is_contiguous()
    for a, b in zip(value_and_gradients(triton, turned, weight.float()), expected, strict=True):
        assert torch.equal(a, b)


def test_self_check_passes_and_names_what_is_wrong(monkeypatch):
    from umamba.models.mamba.kernels import scan_forward as triton_forward
    from umamba.models.mamba.scan import selfcheck

    device = torch.device("cuda", torch.cuda.current_device())
    state, matmul = torch.cuda.get_rng_state(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    assert selfcheck.check.__wrapped__(device) is None
    assert torch.get_float32_matmul_precision() == "high" and torch.equal(torch.cuda.get_rng_state(), state)
    torch.set_float32_matmul_precision(matmul)
    correct = triton_forward.scan_forward

    def wrong(*arguments, **keywords):
        out, kept = correct(*arguments, **keywords)
        return out * 1.0001, kept

    monkeypatch.setattr(triton_forward, "scan_forward", wrong)
    assert "are wrong on NVIDIA" in (fault := selfcheck.check.__wrapped__(device))
    assert "output (few chunks) by 1.0e-04" in fault and "u (" not in fault


def test_operations_are_registered_as_torch_expects():
    inputs, _ = inputs_and_weight((1, 200, 8, 16))
    arguments = [v.float().requires_grad_() for v in inputs.values()]
    torch.library.opcheck(torch.ops.umamba.selective_scan.default, (*arguments, True))


def test_compiles_without_graph_breaks_and_checkpoints():
    torch.manual_seed(0)
    layer = Mamba(32, backend="triton").cuda()
    x = torch.randn(2, 300, 32, device="cuda", requires_grad=True)
    expected = layer(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    compiled = torch.compile(layer, fullgraph=True)(x)
    assert torch.allclose(compiled, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(compiled.sum(), x)[0], gradient, rtol=1e-4, atol=1e-5)
    kept = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(kept.sum(), x)[0], gradient)


def test_runs_in_a_cuda_graph_and_in_inference_mode():
    torch.manual_seed(0)
    layer, x = Mamba(32, backend="triton").cuda(), torch.randn(1, 500, 32, device="cuda")
    with torch.inference_mode():
        expected = layer(x).clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(x)
        graph.replay()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_in_a_cuda_graph_gives_the_same_numbers(dtype):
    """No pass reads the device, gets memory past torch or launches on another stream: a graph holds all of a step."""
    from umamba.models.mamba.layer import MambaLayer

    torch.manual_seed(0)
    layer = MambaLayer(32, spatial_dims=2).cuda()
    first, second, weight = torch.randn(3, 2, 30, 20, 32, device="cuda").movedim(-1, 2).to(dtype).unbind()
    x = first.clone().requires_grad_()

    def step():
        out = layer(x)
        return [out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], weight)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # builds what there is to build
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for values in (first, second):
        with torch.no_grad():
            x.copy_(values)
        graph.replay()
        got = [t.clone() for t in captured]
        assert all(relative(a, b.double()) < 1e-5 for a, b in zip(got, step(), strict=True))


def test_operations_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    inputs, _ = inputs_and_weight((1, 200, 8, 16))
    triton(**{n: v.float() for n, v in inputs.items()})  # loads the kernels, which tell torch how to count them
    with FlopCounterMode(display=False) as counter:
        triton(**{n: v.float() for n, v in inputs.items()}, delta_softplus=True)
    assert counter.get_total_flops() == 6 * 200 * 8 * 16


def test_float64_is_refused_by_name():
    inputs, _ = inputs_and_weight((1, 10, 4, 16))
    with pytest.raises(ValueError, match="'triton' needs float32 or narrower"):
        triton(**inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3000, 32), (1, 700, 128)])  # step sizes projected inside the scan, and outside
def test_layer_in_half_precision(dtype, shape):
    """Half-precision maps and products against the float32 layer on the same inputs, and against itself."""
    from umamba.models.mamba.layer import MambaLayer

    batch, length, width = shape
    layer = MambaLayer(width, spatial_dims=2).cuda()
    x = torch.randn(batch, length // 10, 10, width, device="cuda").movedim(-1, 1).to(dtype)  # channels-last
    weight = torch.randn_like(x)

    def run(x, weight):
        x = x.detach().requires_grad_()
        out = layer(x)
        assert out.dtype == x.dtype and out.stride() == x.stride()
        return [out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], weight)]

    got, again, expected = run(x, weight), run(x, weight), run(x.float(), weight.float())
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    limit = 1e-2 if dtype == torch.float16 else 4e-2
    assert all(relative(a, b.double()) < limit for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_norm_of_tensors_that_begin_anywhere(dtype):
    """A gradient may be part of a larger tensor: a kernel compiled for whole words must not get it."""
    from umamba.models.kernels.layer_norm import layer_norm

    generator = torch.Generator("cuda").manual_seed(0)
    x, grad = torch.randn(2, 5, 33, 48, device="cuda", generator=generator).to(dtype)
    weight, bias = (torch.rand(2, 48, device="cuda", generator=generator) + 0.5).unbind()

    def run(x, grad):
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        out = layer_norm(*leaves, 1e-5)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    expected = run(x, grad)
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    out = torch.nn.functional.layer_norm(exact[0], (48,), *exact[1:], 1e-5)
    for a, b in zip(expected, [out, *torch.autograd.grad(out, exact, grad.double())], strict=True):
        assert relative(a, b.detach()) < 1e-2
    for others in ((x, elsewhere(grad)), (elsewhere(x), grad), (x, grad)):
        assert all(relative(a, b.double()) < 1e-3 for a, b in zip(run(*others), expected, strict=True))
