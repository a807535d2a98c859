"""Tables of videos on a disk that fills up: what was written until then can be read."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ebapose.io.video_table import VIDEO_COLUMNS

WRITE_UNTIL_FULL = """
    import resource, sys
    sys.path[:0] = {path!r}
    from pathlib import Path
    import numpy as np
    from ebapose.io.video_table import open_table
    from ebapose.skeleton import COCO17
    from ebapose.structures import Boxes, Frame, Poses
    rng = np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
    table = open_table(Path({target!r}), {kind!r})
    image = np.zeros((8, 8, 3), np.uint8)
    boxes = Boxes(np.tile(np.float32([0, 0, 8, 8]), (20, 1)), np.ones(20, np.float32))
    try:
        for index in range(2000):
            numbers = [rng.random(shape).astype(np.float32) for shape in ((20, 17, 2), (20, 17), (20, 17, 2))]
            poses = Poses(*numbers, boxes, COCO17, "model", (8, 8))
            table.write(Frame(image, "clip", index, index / 30), poses)
    except OSError as error:
        print("write:", error.strerror)
    try:
        table.close()
    except OSError as error:
        print("close:", error.strerror)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_full_disk_leaves_whole_records(kind: str, tmp_path: Path) -> None:
    target = tmp_path / f"clip.{kind}"
    code = WRITE_UNTIL_FULL.format(path=sys.path, target=str(target), kind=kind)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("write: File too large"), done.stderr
    assert list(tmp_path.iterdir()) == [target]
    if kind == "json":
        records = [json.loads(line) for line in target.read_text().splitlines()]
        assert [record["frame"] for record in records] == list(range(len(records)))
        assert target.stat().st_size > 4_900_000
    elif kind == "csv":
        with target.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[-1]) == VIDEO_COLUMNS
        assert target.stat().st_size > 4_900_000
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(target)
        assert rows.num_rows > 60_000
        np.testing.assert_array_equal(rows["frame"].to_numpy(), np.arange(rows.num_rows) // 340)
        assert not rows["sigma_y"].null_count
