"""Weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

torch = pytest.importorskip("torch")

from ebapose import zoo  # noqa: E402
from ebapose.card import METADATA_KEY, Calibration  # noqa: E402
from ebapose.cli import main  # noqa: E402
from ebapose.errors import ModelFileError, UsageError  # noqa: E402
from ebapose.models.registry import create_model, default_card  # noqa: E402
from ebapose.models.weights import (  # noqa: E402
    average_weights,
    beyond_float16,
    load_weights,
    resize_state_dict,
    save_weights,
)

TINY = "test_simcc_64x64"


def tiny(path: Path, seed: int, name: str = TINY, **changes) -> Path:
    torch.manual_seed(seed)
    model = create_model(name)
    card = default_card(model, path.stem).model_copy(update=changes)
    save_weights(path, model.state_dict(), card)
    return path


def test_the_mean_of_weights(tmp_path):
    calibrated = Calibration(sigma_scale=(2.0,) * 17)
    files = [tiny(tmp_path / "a.safetensors", 1, calibration=calibrated), tiny(tmp_path / "b.safetensors", 2)]
    (a, first), (b, _) = map(load_weights, files)

    average_weights(files, tmp_path / "mean.safetensors")
    mean, card = load_weights(tmp_path / "mean.safetensors")
    assert mean.keys() == a.keys()
    for name in a:
        torch.testing.assert_close(mean[name], (a[name] + b[name]) / 2)
    assert card.calibration == Calibration()  # that of a part says nothing about the mean
    assert (card.name, card.input, card.codec) == (first.name, first.input, first.codec)
    assert [part["file"] for part in card.about["average_of"]] == [
        f"{tmp_path.name}/a.safetensors",
        f"{tmp_path.name}/b.safetensors",
    ]
    assert card.about["average_of"][0]["sha256"] == first.sha256

    average_weights(files, tmp_path / "mostly_b.safetensors", [1, 3])
    weighted, card = load_weights(tmp_path / "mostly_b.safetensors")
    for name in a:
        torch.testing.assert_close(weighted[name], 0.25 * a[name] + 0.75 * b[name])
    assert [part["share"] for part in card.about["average_of"]] == [0.25, 0.75]


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    tensors, card = load_weights(tiny(tmp_path / "a.safetensors", 1))
    tensors["bn1.bias"][3] = torch.nan
    save_file(tensors, tmp_path / "broken.safetensors", metadata={METADATA_KEY: card.to_json(sha256="")})
    with pytest.raises(ModelFileError, match=r"broken\.safetensors: bn1\.bias holds values that are not finite"):
        average_weights([tmp_path / "broken.safetensors", tmp_path / "a.safetensors"], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_numbers_beyond_float16_are_found():
    large = torch.tensor([1.0, 7e4])
    assert beyond_float16({"a": torch.tensor([65504.0]), "b": large}) == "b"
    infinite = large * torch.inf  # another fault, which `save_weights` names
    assert beyond_float16({"bn.num_batches_tracked": torch.tensor(70_000), "a": infinite}) is None


def test_the_first_file_says_how_boxes_and_outputs_are_read(tmp_path):
    a, b = tiny(tmp_path / "a.safetensors", 1), tiny(tmp_path / "b.safetensors", 2, options={"sigma": 6.0})
    state_dict, card = load_weights(a)
    changes = {
        "input": card.input.model_copy(update={"padding": 1.1}),
        "codec": card.codec.model_copy(update={"position": "expected", "sigma": (4.0, 4.0)}),
        "options": {"sigma": 4.0},
    }
    save_weights(a, state_dict, card.model_copy(update=changes))
    for order, expected in (((a, b), (1.1, "expected", 4.0)), ((b, a), (1.25, "peak", 6.0))):
        mean = average_weights(order, tmp_path / "mean.safetensors")
        assert (mean.input.padding, mean.codec.position, mean.options["sigma"]) == expected
        assert mean.codec.sigma == (expected[2], expected[2])


def test_another_input_size_is_resampled_to_the_first_files(tmp_path):
    a, larger = tiny(tmp_path / "a.safetensors", 1), tiny(tmp_path / "larger.safetensors", 4, "test_simcc_96x64")
    (small, small_card), (large, _) = load_weights(a), load_weights(larger)
    mean_card = average_weights([larger, a], tmp_path / "mean.safetensors")
    assert (mean_card.name, mean_card.input.size_hw) == ("larger", (96, 64))
    resized = resize_state_dict(small, (64, 64), (96, 64), small_card.codec.split_ratio)
    mean, _ = load_weights(tmp_path / "mean.safetensors")
    for name in mean:
        torch.testing.assert_close(mean[name], (resized[name] + large[name]) / 2)


def test_weights_that_cannot_be_averaged(tmp_path):
    a, b = tiny(tmp_path / "a.safetensors", 1), tiny(tmp_path / "b.safetensors", 2)
    other = tiny(tmp_path / "other.safetensors", 3, "test_simple_baseline_64x64")
    larger = tiny(tmp_path / "larger.safetensors", 4, "test_simple_baseline_96x64")
    out = tmp_path / "mean.safetensors"
    with pytest.raises(UsageError, match="two weights files"):
        average_weights([a], out)
    for shares in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(UsageError, match="2 positive numbers"):
            average_weights([a, b], out, shares)
    with pytest.raises(UsageError, match=r"other\.safetensors: another architecture than .*a\.safetensors"):
        average_weights([a, other], out)
    with pytest.raises(UsageError, match=r"larger\.safetensors: another input"):
        average_weights([other, larger], out)
    with pytest.raises(UsageError, match=r"larger\.safetensors: another architecture"):  # before anything is resampled
        average_weights([a, larger], out)
    with pytest.raises(ModelFileError, match="no such file"):
        average_weights([a, tmp_path / "nowhere.safetensors"], out)
    kept = b.read_bytes()
    with pytest.raises(UsageError, match=r"b\.safetensors: the mean must not replace what it is made from"):
        average_weights([a, b], tmp_path / "." / "b.safetensors")
    assert b.read_bytes() == kept
    assert not out.exists()


def test_the_command(tmp_path, capsys):
    files = [str(tiny(tmp_path / f"{name}.safetensors", seed)) for seed, name in enumerate("ab")]
    assert main(["weights", "average", *files, "--shares", "1", "3", "--out", str(tmp_path / "mean.safetensors")]) == 0
    assert f"mean of 0.25 {tmp_path.name}/a.safetensors, 0.75 {tmp_path.name}/b.safetensors" in capsys.readouterr().out
    assert main(["weights", "average", files[0], "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "two weights files" in capsys.readouterr().err


def test_the_mean_of_bundled_weights_by_name(tmp_path, capsys):
    bundled, own = zoo.bundled_models()["default"], tmp_path / "own.safetensors"
    state_dict, card = load_weights(bundled)
    moved = next(key for key in state_dict if key.endswith("running_mean"))
    save_weights(own, {**state_dict, moved: state_dict[moved] + 1}, card)
    out = tmp_path / "mean.safetensors"
    assert main(["weights", "average", "default", str(own), "--out", str(out)]) == 0
    assert f"mean of 0.5 zoo/{bundled.name}, 0.5 {tmp_path.name}/own.safetensors" in capsys.readouterr().out
    mean, _ = load_weights(out)
    torch.testing.assert_close(mean[moved].float(), state_dict[moved].float() + 0.5, atol=1e-2, rtol=1e-2)
    assert main(["weights", "average", "defualt", str(own), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "unknown model 'defualt', did you mean 'default'?" in capsys.readouterr().err
