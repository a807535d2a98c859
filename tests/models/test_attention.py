from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebapose.models.attention import BridgeAttention, Mish, mish

HUGE = [0.0, 1e4, -1e4, 1e20, -1e20, 3e38, -3e38, 88.8, -88.8, 20.0, -104.0]


def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mish and its derivative by the definition, in float64."""
    tanh = np.tanh(np.logaddexp(0, x))
    sigmoid = np.exp(-np.logaddexp(0, -x))
    return x * tanh, tanh + x * sigmoid * (1 - tanh**2)


@pytest.mark.parametrize(("dtype", "epsilon"), [(torch.float32, 2.0**-23), (torch.float64, 2.0**-50)], ids=str)
def test_mish_is_exact_to_rounding(dtype: torch.dtype, epsilon: float) -> None:
    x = torch.cat([torch.linspace(-60, 60, 40001, dtype=dtype), torch.tensor(HUGE, dtype=dtype)]).requires_grad_()
    y = mish(x)
    y.sum().backward()
    value, slope = reference(x.detach().double().numpy())
    assert np.all(np.abs(y.detach().double().numpy() - value) <= 4 * epsilon * np.abs(value) + 1e-37)
    assert np.all(np.abs(x.grad.double().numpy() - slope) <= 4 * epsilon)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=64))
def test_mish_never_gives_nan(values: list[float]) -> None:
    x = torch.tensor(values).requires_grad_()
    mish(x).sum().backward()
    assert torch.isfinite(mish(x)).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mish_of_half_precision_is_calculated_in_float32(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([6e4, -6e4])]).to(dtype).requires_grad_()
    y = mish(x)
    y.sum().backward()
    wide = x.detach().float().requires_grad_()
    mish(wide).sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert torch.equal(y, mish(wide).to(dtype))
    assert torch.equal(x.grad, wide.grad.to(dtype))


def test_mish_gradient_agrees_with_finite_differences() -> None:
    x = torch.linspace(-8, 25, 61, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, x)


def test_mish_exports_as_one_operator() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(Mish().eval(), (torch.zeros(2, 3),), dynamo=True, opset_version=18, verbose=False)
    onnx.checker.check_model(program.model_proto)
    assert [node.op_type for node in program.model_proto.graph.node] == ["Mish"]


def test_bridge_attention_follows_the_equations() -> None:
    torch.manual_seed(0)
    attention = BridgeAttention([6, 8], reduction=4).eval()
    for norm in attention.norm:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    features = [torch.randn(3, 6, 5, 4), torch.randn(3, 8, 5, 4)]
    bridged = torch.zeros(3, 2)
    for feature, squeeze, norm in zip(features, attention.squeeze, attention.norm, strict=True):
        squeezed = feature.mean((2, 3)) @ squeeze.weight.T
        bridged += (squeezed - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    expected = torch.sigmoid(torch.nn.functional.mish(bridged) @ attention.restore.weight.T)
    torch.testing.assert_close(attention(features), expected[:, :, None, None])


def test_bridge_attention_has_no_biases_and_at_least_one_hidden_channel() -> None:
    attention = BridgeAttention([8, 8], reduction=16)
    assert attention.restore.weight.shape == (8, 1)
    assert {name for name, _ in attention.named_parameters() if name.endswith("bias")} == {"norm.0.bias", "norm.1.bias"}
