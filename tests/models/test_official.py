"""Import of published checkpoints: files of tensors with the published names; anything else is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from ebapose.cli import main
from ebapose.errors import ModelFileError, UsageError
from ebapose.models.official import import_official
from ebapose.models.weights import load_model, load_weights
from vectors import GOLDEN, network_weight


def published(name: str) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of the published implementation."""
    entries = json.loads((GOLDEN / f"{name}_names.json").read_text())
    return {e["name"]: torch.from_numpy(network_weight(e["name"], tuple(e["shape"]))) for e in entries}


@pytest.mark.parametrize(
    ("name", "architecture", "size_hw"),
    [
        ("simcc_resnet18_384x288", "simcc18", (384, 288)),
        ("simcc_resnet50_256x192", "simcc50", (256, 192)),
        ("simple_baseline_resnet50_256x192", "simple_baseline50", (256, 192)),
    ],
)
def test_published_names_and_shapes_are_recognised(name, architecture, size_hw, tmp_path):
    state = published(name)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}}  # as saved by DataParallel
    torch.save(wrapped, tmp_path / f"{name}.pth")
    card = import_official(tmp_path / f"{name}.pth", tmp_path / "w.safetensors", license="MIT")
    assert (card.architecture, card.input.size_hw, card.input.crop_center) == (architecture, size_hw, "corner")
    assert (card.license, card.source) == ("MIT", f"converted from {name}.pth")
    ours, stored = load_weights(tmp_path / "w.safetensors")
    assert stored.architecture == architecture
    assert torch.equal(ours["conv1.weight"], state["conv1.weight"].flip(1))  # BGR to RGB
    last = "mlp_head_y.weight" if "simcc" in name else "final_layer.weight"
    assert torch.equal(ours[last], state[last])
    if architecture == "simcc18":
        # the same picture in the other channel order, normalised with the means in the published order: same result
        model, _ = load_model(tmp_path / "w.safetensors")
        assert [o.shape[-1] for o in model(torch.zeros(1, 3, *size_hw))] == [2 * size_hw[1], 2 * size_hw[0]]
        assert card.input.mean == pytest.approx((103.53, 116.28, 123.675))


def test_the_command(tmp_path, capsys):
    torch.save(published("simcc_resnet18_384x288"), tmp_path / "pose.pth")
    out = tmp_path / "simcc.safetensors"
    arguments = ["weights", "import", str(tmp_path / "pose.pth"), "--out", str(out), "--targets", "one_hot"]
    assert main([*arguments, "--sigma", "5", "--color", "rgb"]) == 0
    assert "simcc" in capsys.readouterr().out
    _, card = load_weights(out)
    assert (card.codec.targets, card.codec.sigma) == ("one_hot", (5.0, 5.0))
    assert card.input.mean == pytest.approx((123.675, 116.28, 103.53))


def test_what_contradicts_the_tensors_is_refused(tmp_path, capsys):
    path, out = tmp_path / "pose_256x192.pth", tmp_path / "w.safetensors"
    torch.save(published("simcc_resnet18_384x288"), path)
    with pytest.raises(UsageError, match="heads are for 384x288, not 256x192"):
        import_official(path, out, input_hw=(256, 192))
    assert import_official(path, out, input_hw=(384, 288)).input.size_hw == (384, 288)
    torch.save(published("simple_baseline_resnet50_256x192"), path)
    with pytest.raises(UsageError, match="one-hot targets are SimCC's"):
        import_official(path, out, targets="one_hot")


def test_other_keypoints_need_their_skeleton(tmp_path, capsys):
    state, path = published("simcc_resnet18_384x288"), tmp_path / "mpii.pth"
    state |= {name: state[name][:16] for name in ("final_layer.weight", "final_layer.bias")}
    torch.save(state, path)
    command = ["weights", "import", str(path), "--out", str(tmp_path / "w.safetensors")]
    assert main(command) == 2
    assert "16 keypoints, skeleton 'coco17' 17" in capsys.readouterr().err
    assert main([*command, "--skeleton", "mpii16"]) == 0
    assert load_weights(tmp_path / "w.safetensors")[1].skeleton.name == "mpii16"


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/ebapose-harmed"),)


def test_what_is_no_checkpoint_of_tensors_is_refused(tmp_path, capsys):
    path, out = tmp_path / "bad.pth", tmp_path / "w.safetensors"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(ModelFileError, match="not a PyTorch file of tensors only"):
        import_official(path, out)
    assert not Path("/tmp/ebapose-harmed").exists()
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelFileError, match="not a PyTorch file"):
        import_official(path, out)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ModelFileError, match="holds no state dict"):
        import_official(path, out)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelFileError, match=r"neither Simple Baseline nor SimCC .*conv1\.weight is missing"):
        import_official(path, out)
    with pytest.raises(ModelFileError, match="no such file"):
        import_official(tmp_path / "none.pth", out)
    capsys.readouterr()
    assert main(["weights", "import", str(tmp_path / "none.pth"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_damaged_files_are_one_line_without_advice_to_unpickle(tmp_path, capsys):
    whole, path = tmp_path / "whole.pth", tmp_path / "bad.pth"
    torch.save(published("simcc_resnet18_384x288"), whole)
    content = whole.read_bytes()
    half = content[: len(content) // 2]
    for bad, cause in (
        (b"", "other content"),
        (half, "damaged or cut off"),
        (pickle.dumps({"a": Path("x")}, protocol=2), "it holds pathlib."),
        (b"\x10" + b"\0" * 7 + b'{"a":1}         ', "other content"),
    ):
        path.write_bytes(bad)
        assert main(["weights", "import", str(path), "--out", str(tmp_path / "w.safetensors")]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"ebapose: {path}: not a PyTorch file of tensors only ({cause}")
        assert err.count("\n") == 1
        assert "weights_only" not in err
    assert main(["weights", "import", str(tmp_path), "--out", str(tmp_path / "w.safetensors")]) == 2
    assert "a folder, not a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("mlp_head_y.weight", None, "mlp_head_y.weight is missing"),
        ("mlp_head_x.weight", None, "mlp_head_x.weight is missing"),
        ("mlp_head_x.weight", torch.zeros(5), r"mlp_head_x.weight has shape \(5,\), expected 2 dimensions"),
        ("mlp_head_y.weight", torch.tensor(1.0), r"mlp_head_y.weight has shape \(\), expected 2"),
        ("mlp_head_x.weight", torch.zeros(0, 0), r"mlp_head_x.weight has shape \(0, 0\)"),
        ("final_layer.weight", torch.tensor(1.0), r"final_layer.weight has shape \(\), expected 4"),
        ("conv1.weight", torch.zeros(3), r"conv1.weight has shape \(3,\), expected 4"),
        ("bn1.weight", torch.zeros(64, dtype=torch.complex64), "bn1.weight is no plain tensor of real numbers"),
        ("conv1.weight", torch.zeros(64, 3, 7, 7).to_sparse(), "conv1.weight is no plain tensor of real numbers"),
    ],
)
def test_tensors_of_no_such_network_are_refused(name, tensor, message, tmp_path):
    state, path = published("simcc_resnet18_384x288"), tmp_path / "pose.pth"
    state[name] = tensor
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    with pytest.raises(ModelFileError, match=message):
        import_official(path, tmp_path / "w.safetensors")


def test_shapes_that_fit_no_network_are_refused(tmp_path):
    state, path = published("simple_baseline_resnet50_256x192"), tmp_path / "pose.pth"
    torch.save(state, path)
    with pytest.raises(UsageError, match="fits any input size"):
        import_official(path, tmp_path / "w.safetensors")
    assert import_official(path, tmp_path / "w.safetensors", input_hw=(384, 288)).input.size_hw == (384, 288)
    del state["layer3.5.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(ModelFileError, match="no known ResNet has"):
        import_official(path, tmp_path / "w.safetensors", input_hw=(256, 192))
    state = published("simcc_resnet18_384x288")
    state["mlp_head_x.weight"] = state["mlp_head_x.weight"][:-7]
    torch.save(state, path)
    with pytest.raises(ModelFileError, match="fit no input size"):
        import_official(path, tmp_path / "w.safetensors")
