"""torch.ops.mixwright, loaded into Python, beside the formulas it stands for."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

torch.ops.load_library(os.environ.get("MIXWRIGHT_OPERATORS", str(Path(__file__).resolve().parents[2] / "build/release/lib/mixwright_operators.so")))
ops = torch.ops.mixwright
torch.set_num_threads(1)

EXPERTS, TOP_K, D, WIDTH = 6, 2, 72, 50
FORMATS = [(torch.float32, None), (torch.bfloat16, None), (torch.float32, "int8"), (torch.bfloat16, "int8"), (torch.float32, "int4")]


def dequantized(values, scales, cols):
    if values.dtype == torch.int8:
        return values.double() * scales.double()[..., None]
    # Two groups of 32 share their bytes: low and high nibbles; w = least + scale * q.
    pairs = values.unflatten(-1, (-1, 32))
    codes = torch.stack([pairs & 15, pairs >> 4], -2).flatten(-3, -2).double()
    scale, least = scales.double().unbind(-2)
    return (least[..., None] + scale[..., None] * codes).flatten(-2)[..., :cols]


def weights(shape, dtype, format):
    """What the operators take, and what it stands for."""
    plain = (torch.randn(shape) / shape[-1] ** 0.5).to(dtype)
    if format is None:
        return (plain, None), plain.double()
    values, scales = ops.quantize(plain, format)
    return (values, scales), dequantized(values, scales, shape[-1])


def tolerance(dtype, format, rows):
    if dtype == torch.bfloat16:
        return 0.02
    # With many rows quantised weights are widened to bf16.
    return 2e-5 if format is None else 1e-3 if rows <= 16 else 5e-3


def mixture(x, gates, chosen, gate_up, down):
    y = torch.zeros_like(x, dtype=torch.float64)
    for n, token in enumerate(x.double()):
        for gate, e in zip(gates[n].double(), chosen[n]):
            left, right = F.linear(token, gate_up[e]).chunk(2)
            y[n] += gate * F.linear(F.silu(left) * right, down[e])
    return y


@pytest.mark.parametrize("dtype, format", FORMATS)
@pytest.mark.parametrize("tokens", [0, 1, 7, 120])
def test_experts_are_their_formula(dtype, format, tokens):
    torch.manual_seed(tokens)
    (gate_up, gate_up_scales), true_gate_up = weights((EXPERTS, 2 * WIDTH, D), dtype, format)
    (down, down_scales), true_down = weights((EXPERTS, D, WIDTH), dtype, format)
    x = torch.randn(tokens, D).to(dtype)
    gates, chosen = torch.rand(tokens, EXPERTS).topk(TOP_K, -1)
    y = ops.experts(x, gates, chosen, gate_up, down, gate_up_scales, down_scales)
    assert y.dtype == dtype and y.shape == x.shape
    truth = mixture(x, gates, chosen, true_gate_up, true_down)
    assert tokens == 0 or (y.double() - truth).abs().max() < tolerance(dtype, format, tokens) * truth.abs().max()


@pytest.mark.parametrize("dtype, format", FORMATS)
@pytest.mark.parametrize("shape", [(D,), (1, D), (2, 3, D), (90, D)])
def test_linear_is_its_formula(dtype, format, shape):
    torch.manual_seed(len(shape))
    (weight, scales), true_weight = weights((130, D), dtype, format)
    x, bias = torch.randn(shape).to(dtype), torch.randn(130).to(dtype)
    y, truth = ops.linear(x, weight, bias, scales), F.linear(x.double(), true_weight, bias.double())
    assert y.dtype == dtype and y.shape == truth.shape
    assert (y.double() - truth).abs().max() < tolerance(dtype, format, x.numel() // D) * truth.abs().max()


@pytest.mark.parametrize("format, worst", [("int8", 0.01), ("int4", 0.1)])
def test_quantized_weights_are_close(format, worst):
    plain = torch.randn(3, 20, 100)
    values, scales = ops.quantize(plain, format)
    assert (dequantized(values, scales, 100) - plain).norm() / plain.norm() < worst


def test_results_are_tensors_like_any_other():
    x, weight = torch.randn(2, D), torch.randn(8, D)
    scale = torch.ones(8, requires_grad=True)
    (ops.linear(x, weight) * scale).sum().backward()
    assert torch.allclose(scale.grad, F.linear(x, weight).sum(0), atol=1e-4)
    with torch.inference_mode():
        assert ops.linear(x, weight).is_inference()


def test_operators_can_be_traced():
    """Schemas tell the truth, and shapes are known without data."""
    gates, chosen = torch.rand(5, EXPERTS).topk(TOP_K, -1)
    stacks = torch.randn(EXPERTS, 2 * WIDTH, D), torch.randn(EXPERTS, D, WIDTH)
    torch.library.opcheck(ops.linear.default, (torch.randn(2, 3, D), torch.randn(8, D), torch.randn(8)))
    values, scales = ops.quantize(torch.randn(8, D), "int8")
    torch.library.opcheck(ops.linear.default, (torch.randn(3, D), values, None, scales))
    torch.library.opcheck(ops.experts.default, (torch.randn(5, D), gates, chosen, *stacks))


@pytest.mark.parametrize("change, error, message", [
    (dict(gate_up=torch.randn(EXPERTS, 2 * WIDTH, D + 1)), ValueError, r"gate_up: got Float \[6, 100, 73\] on cpu, expected Float \[6, 100, 72\]"),
    (dict(down=torch.randn(EXPERTS, D, WIDTH).bfloat16()), ValueError, "down: got BFloat16"),
    (dict(down=torch.randn(EXPERTS - 1, D, WIDTH)), ValueError, "down: got"),
    (dict(experts=torch.full((4, TOP_K), EXPERTS)), IndexError, "got numbers from 6 to 6, there are 6 experts"),
    (dict(experts=torch.full((4, TOP_K), -1)), IndexError, "got numbers from -1"),
    (dict(weights=torch.ones(4, TOP_K + 1)), ValueError, "weights: got"),
    (dict(gate_up_scales=torch.ones(EXPERTS, 2 * WIDTH)), ValueError, "gate_up: got Float"),
    (dict(x=torch.randn(4, D, requires_grad=True)), RuntimeError, "call it under torch.no_grad"),
])
def test_what_does_not_fit_is_refused(change, error, message):
    inputs = dict(x=torch.randn(4, D), weights=torch.ones(4, TOP_K), experts=torch.zeros(4, TOP_K, dtype=torch.int64),
                  gate_up=torch.randn(EXPERTS, 2 * WIDTH, D), down=torch.randn(EXPERTS, D, WIDTH))
    with pytest.raises(error, match=message):
        ops.experts(**{**inputs, **change})
