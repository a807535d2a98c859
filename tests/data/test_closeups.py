from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coco_entries import person
from ebapose.data.coco import load_coco

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def closeups() -> Any:
    spec = importlib.util.spec_from_file_location("closeups", ROOT / "benchmarks/closeups.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parts_of_the_persons_take_their_place(
    closeups: Any, write_coco: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    people = []
    for number in range(1, 21):
        points = np.concatenate([rng.uniform(5, 40, (17, 2)), np.full((17, 1), 2)], axis=1)
        people.append({**person(number), "bbox": [4, 4, 38, 38], "keypoints": points.ravel().tolist()})
    people.append({**people[0], "id": 99, "keypoints": [10, 10, 2] * 3 + [0] * 42, "num_keypoints": 3})
    source, out = write_coco(people), tmp_path / "out.json"
    assert closeups.main([str(source), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    whole = load_coco(source).persons()
    parts = load_coco(out, whole.images_dir).persons()
    assert f"parts of {len(parts)} of 21 persons" in printed
    assert 10 < len(parts) < 21
    for i in range(len(parts)):
        part, before = parts[i], whole[int(np.flatnonzero(whole.annotation_ids == parts.annotation_ids[i])[0])]
        size, large = (np.diff(r.box_xyxy.reshape(2, 2), axis=0)[0] + 1 for r in (part, before))
        assert size.prod() <= 0.4 * large.prod() * 1.01
        assert part.area == pytest.approx(0.53 * size.prod(), rel=0.01)
        labelled = part.visibility > 0
        assert 4 <= labelled.sum() < 17
        np.testing.assert_array_equal(part.keypoints[labelled], before.keypoints[labelled])
    first = out.read_text()
    assert closeups.main([str(source), "--out", str(out)]) == 0
    assert out.read_text() == first

    broken = json.loads(source.read_text())
    del broken["annotations"][3]["bbox"]
    source.write_text(json.dumps(broken))
    capsys.readouterr()
    assert closeups.main([str(source), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert out.read_text() == first
