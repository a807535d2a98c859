"""Losses against the reference implementations' values and gradients.

Golden vectors simcc_losses, heatmap_loss and mmpose_simcc_loss in tests/golden, made by SimCC (leeyegy/SimCC aa6e089),
Simple Baseline (microsoft/human-pose-estimation.pytorch 49f3f44) and MMPose (open-mmlab/mmpose 759b39c).
"""

from __future__ import annotations

import numpy as np
import pytest

from vectors import GOLDEN, generator

torch = pytest.importorskip("torch")

from ebapose.training.loss import coordinate_loss, heatmap_loss, simcc_loss  # noqa: E402

DTYPES = [(torch.float64, 1e-9, 2e-6), (torch.float32, 1e-6, 5e-6)]  # value rel, gradient of the largest entry


def logits(tag: str, scale: float, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    values = (scale * generator(tag).standard_normal(shape)).astype(np.float32)
    return torch.from_numpy(values).to(dtype).requires_grad_()


def simcc_case(name: str) -> dict:
    """Keyword arguments of simcc_loss (targets and weights) of one golden case."""
    golden = np.load(GOLDEN / "simcc_losses.npz")
    if name.startswith("kl"):
        weights = golden["target_weight"][..., 0]
        if name == "kl_jointweight":
            weights = weights * golden["joint_weight"][:, 0]
        return {
            "target_x": golden["target_x"],
            "target_y": golden["target_y"],
            "weights": weights,
            "reduction": "reference",
        }
    label = golden["label"]
    return {
        "target_x": np.eye(96)[label[..., 0]],
        "target_y": np.eye(128)[label[..., 1]],
        "weights": golden["label_weight"][..., 0],
        "reduction": "reference" if name.startswith("nmtnorm") else "nmt",
        "label_smoothing": float(name.rsplit("ls", 1)[1]),
    }


def as_tensors(arguments: dict, dtype: torch.dtype) -> dict:
    return {k: torch.from_numpy(v).to(dtype) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}


def check(golden, case: str, value, x, y, value_rel: float, gradient_rel: float) -> None:
    assert value.item() == pytest.approx(float(golden[f"{case}/value"]), rel=value_rel)
    if f"{case}/grad_x" in golden:
        value.backward()
        for found, name in ((x.grad, "grad_x"), (y.grad, "grad_y")):
            wanted = golden[f"{case}/{name}"]
            np.testing.assert_allclose(found.double().numpy(), wanted, rtol=0, atol=gradient_rel * np.abs(wanted).max())


@pytest.mark.parametrize(("dtype", "value_rel", "gradient_rel"), DTYPES)
@pytest.mark.parametrize(
    "case", ["kl", "kl_jointweight", "nmtnorm_ls0.1", "nmt_ls0.1", "nmtnorm_ls0.2", "nmt_ls0.2", "nmt_ls0.4"]
)
def test_simcc_reference(case, dtype, value_rel, gradient_rel):
    golden = np.load(GOLDEN / "simcc_losses.npz")
    x = logits("losses/output_x", 2, (4, 17, 96), dtype)
    y = logits("losses/output_y", 2, (4, 17, 128), dtype)
    np.testing.assert_allclose(x.detach().flatten()[:8].numpy(), golden["output_x_check"], rtol=1e-6)
    value = simcc_loss(x, y, **as_tensors(simcc_case(case), dtype))
    check(golden, case, value, x, y, value_rel, gradient_rel)


@pytest.mark.parametrize(("dtype", "value_rel", "gradient_rel"), DTYPES)
@pytest.mark.parametrize(
    ("case", "targets", "options"),
    [
        ("beta1", "normalized", {}),
        ("beta10_label_softmax", "peak1", {"beta": 10, "label_beta": 10}),
        ("beta10_label_softmax_label_beta5", "peak1", {"beta": 10, "label_beta": 5}),
        ("unweighted", "normalized", {}),
        ("masked", "peak1", {"beta": 10, "label_beta": 10}),
    ],
)
def test_mmpose(case, targets, options, dtype, value_rel, gradient_rel):
    golden = np.load(GOLDEN / "mmpose_simcc_loss.npz")
    x = logits("mmpose_loss/output_x", 0.5, (4, 17, 96), dtype)
    y = logits("mmpose_loss/output_y", 0.5, (4, 17, 128), dtype)
    weights = golden[f"target_weight_{targets}"]
    if case == "unweighted":
        weights = np.ones_like(weights)
    if case == "masked":
        weights = weights * np.where(np.isin(np.arange(17), [1, 4, 16]), 0.25, 1.0)
    arguments = {
        "target_x": golden[f"target_x_{targets}"],
        "target_y": golden[f"target_y_{targets}"],
        "weights": weights,
        **options,
    }
    value = simcc_loss(x, y, reduction="mmpose", **as_tensors(arguments, dtype))
    check(golden, case, value, x, y, value_rel, gradient_rel)


@pytest.mark.parametrize(("dtype", "value_rel", "gradient_rel"), DTYPES)
def test_simple_baseline(dtype, value_rel, gradient_rel):
    golden = np.load(GOLDEN / "heatmap_loss.npz")
    output = logits("joints_mse/output", 0.3, (4, 17, 16, 12), dtype)
    target = torch.from_numpy(generator("joints_mse/target").random((4, 17, 16, 12)).astype(np.float32)).to(dtype)
    weights = torch.from_numpy(golden["target_weight"][..., 0]).to(dtype)
    assert heatmap_loss(output, target).item() == pytest.approx(float(golden["unweighted/value"]), rel=value_rel)
    value = heatmap_loss(output, target, weights)
    assert value.item() == pytest.approx(float(golden["weighted/value"]), rel=value_rel)
    value.backward()
    wanted = golden["weighted/grad"]
    np.testing.assert_allclose(output.grad.numpy(), wanted, rtol=0, atol=gradient_rel * np.abs(wanted).max())


def test_every_layer_counts_in_full():
    """Every decoder layer counts in full: the sum over layers, not their mean."""
    one = torch.full((2, 3, 2), 0.3)
    loss = coordinate_loss(torch.stack([one] * 6), torch.zeros(2, 3, 2), torch.ones(2, 3))
    torch.testing.assert_close(loss, torch.tensor(6 * 0.3))
