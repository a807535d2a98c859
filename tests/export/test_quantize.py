"""int8: sensitive layers are found, the file keeps the poses, and a file that does not is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest

pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from ebapose.data.coco import load_coco  # noqa: E402
from ebapose.data.synthetic import draw_people  # noqa: E402
from ebapose.errors import EbaposeError  # noqa: E402
from ebapose.export import files, quantize  # noqa: E402
from ebapose.export.files import ExportedModel, annotated_crops, export_model  # noqa: E402
from ebapose.export.onnx import export_onnx  # noqa: E402
from ebapose.export.quantize import Sensitivity, _choose, _group, group_nodes, output_error  # noqa: E402
from ebapose.export.verify import example_crops, open_module  # noqa: E402
from ebapose.inference.loading import load  # noqa: E402
from ebapose.inference.runtime import RuntimeName, TorchRuntime, load_model_file  # noqa: E402
from ebapose.skeleton import COCO17  # noqa: E402

TINY = "test_eba_prnetcc_64x64"
CATEGORY = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoint_names)}


def people_file(folder: Path, count: int = 4) -> Path:
    """COCO annotations of drawn people, each with a picture; keypoints lie on a grid in the box."""
    images, annotations = [], []
    for number in range(1, count + 1):
        scene = draw_people((160, 120), number, num_people=1)
        (folder / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), scene.image[:, :, ::-1])
        x1, y1, x2, y2 = (float(v) for v in scene.boxes_xyxy[0])
        points = [[x1 + (x2 - x1) * (i % 4) / 4, y1 + (y2 - y1) * (i // 4) / 5, 2] for i in range(17)]
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 160})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": 17,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "keypoints": [float(v) for point in points for v in point],
            }
        )
    path = folder / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [CATEGORY]}))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """With the search for sensitive layers, the slow part."""
    return export_model(TINY, tmp_path_factory.mktemp("int8"), precision="int8")


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "FLOAT_BUDGET", -1.0)


def agrees_with_pytorch(path: Path, names: tuple[RuntimeName, ...]) -> None:
    module, card = open_module(TINY)
    crops = example_crops(card)[0]
    exact = TorchRuntime(module, card)(crops)
    for name in names:
        runtime, inside = load_model_file(path, name)
        assert runtime.precision == "int8"
        assert inside.model_copy(update={"sha256": ""}) == card
        assert output_error(exact, runtime(crops)) < 0.3
        # any batch size; how a batch is shared out may turn the rounding of an activation
        assert output_error(tuple(o[:3] for o in runtime(crops)), runtime(crops[:3])) < 0.1
    assert load(path).runtime.precision == "int8"  # not replaced by bfloat16


def test_int8_keeps_the_outputs_in_every_runtime(exported: ExportedModel) -> None:
    assert exported.path.name == f"{TINY}.int8.onnx"
    agrees_with_pytorch(exported.path, ("openvino", "onnxruntime"))


@pytest.mark.usefixtures("no_search")
def test_int8_as_openvino_files(tmp_path: Path) -> None:
    result = export_model(TINY, tmp_path, format="openvino", precision="int8")
    assert result.path.name == f"{TINY}.openvino.int8.xml"
    agrees_with_pytorch(result.path, ("openvino",))


def test_sensitive_layers_are_found_and_stay_in_float(exported: ExportedModel, tmp_path: Path) -> None:
    quantized = exported.quantized
    assert quantized is not None
    assert quantized.error <= quantized.error_all_int8
    assert {"attention", "final_layer"} <= {s.group for s in quantized.groups}
    assert "left in float32" in exported.summary()
    left = {s.group for s in quantized.groups if s.in_float}
    assert left
    assert sum(s.mac_share for s in quantized.groups if s.in_float) <= quantize.FLOAT_BUDGET
    module, card = open_module(TINY)
    groups = group_nodes(onnx.load(export_onnx(module, card, tmp_path / "float.onnx")))
    proto = onnx.load(exported.path)
    made_by = {output: node.op_type for node in proto.graph.node for output in node.output}
    weights = {node.name: made_by.get(node.input[1]) for node in proto.graph.node if len(node.input) > 1}
    for group in left:
        assert all(weights[name] != "DequantizeLinear" for name in groups[group])
    assert all(weights[name] == "DequantizeLinear" for name in groups["conv1"])


@pytest.mark.usefixtures("no_search")
def test_int8_judged_by_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = people_file(tmp_path)
    assert annotated_crops(open_module(TINY)[1], load_coco(annotations).persons()).shape == (4, 64, 64, 3)
    result = export_model(TINY, tmp_path / "out", precision="int8", annotations=annotations)
    assert result.ap is not None
    assert result.ap[1] >= result.ap[0] - files.AP_TOLERANCE
    assert "in PyTorch float32" in result.summary()
    nameless = tmp_path / "nameless.json"
    nameless.write_text(annotations.read_text().replace('"keypoints": ["nose"', '"names": ["nose"'))
    same = export_model(TINY, tmp_path / "out", precision="int8", annotations=nameless, skeleton="coco17")
    assert same.ap == result.ap
    monkeypatch.setattr(files, "AP_TOLERANCE", -2.0)
    monkeypatch.setattr(files, "_write", lambda module, card, path, *_: (shutil.copy(result.path, path), None)[1])
    with pytest.raises(EbaposeError, match=r"AP falls from .* nothing was written"):
        export_model(TINY, tmp_path / "none", precision="int8", annotations=annotations)
    assert list((tmp_path / "none").iterdir()) == []


def test_int8_that_moves_keypoints_is_refused(exported: ExportedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    module, card = open_module(TINY)
    monkeypatch.setattr(files, "INT8_TOLERANCE_PX", -1.0)
    with pytest.raises(EbaposeError, match="int8 is too far from PyTorch float32, nothing was written"):
        files._compare(module, card, exported.path, "int8", trained=True, judged=False)
    files._compare(module, card, exported.path, "int8", trained=True, judged=True)  # there AP judges


def test_the_budget_goes_to_what_buys_most() -> None:
    groups = [
        Sensitivity("cheap", 0.01, 0.5),
        Sensitivity("dear", 0.09, 0.6),
        Sensitivity("too much", 0.05, 0.9),
        Sensitivity("useless", 0.001, 0.999),
    ]
    assert {s.group for s in _choose(groups, 1.0) if s.in_float} == {"cheap", "dear"}


def test_groups_follow_the_names_of_the_weights() -> None:
    assert _group("layer1.0.attention.squeeze.0.weight") == "attention"
    assert _group("mlp_head_x.0.weight") == _group("mlp_head_y.2.weight") == "head"
    assert _group("deconv_layers.3.weight") == "deconv_layers"
