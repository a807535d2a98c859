"""What a check of annotations finds: the kinds of problems, and the report that names them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType

Level = Literal["error", "warning"]

KINDS: dict[str, tuple[Level, str]] = {
    "category": ("error", "no category with a usable id, or several: choose one by its name"),
    "skeleton": ("error", "keypoint names, flip pairs or sigmas are missing or contradict each other"),
    "image entry": ("error", "an entry of images has no usable id, file_name, width or height"),
    "duplicate image id": ("error", "several entries of images have the same id"),
    "missing picture": ("error", "the file is not in the images folder"),
    "unreadable picture": ("error", "the file is damaged, truncated or not a picture"),
    "picture size": ("error", "width or height differ from those of the picture (after its EXIF rotation)"),
    "annotation entry": ("error", "a field is missing, not a number, or has the wrong length"),
    "duplicate annotation id": ("error", "several annotations have the same id"),
    "orphan annotation": ("error", "image_id is not listed in images"),
    "unlisted category": ("error", "category_id is not listed in categories; training leaves the annotation out"),
    "nobody": ("error", "no person with a labelled keypoint who is no crowd: nobody to learn from"),
    "visibility": ("error", "a visibility other than 0, 1 or 2"),
    "empty box": ("error", "width or height of bbox is not positive; training leaves the person out"),
    "box outside": ("error", "bbox does not touch the picture; training leaves the person out"),
    "box beyond": ("warning", "bbox sticks out of the picture by more than 2 px (xyxy instead of xywh?)"),
    "no area": ("error", "area is not positive; training leaves the person out, evaluation counts it as not found"),
    "area larger than box": ("warning", "area exceeds that of bbox: OKS will be too kind"),
    "keypoint outside": ("warning", "a labelled keypoint lies outside of the picture"),
    "keypoint far from box": ("warning", "a labelled keypoint lies outside of bbox by more than half its size"),
    "num_keypoints": ("warning", "num_keypoints differs from the number of labelled keypoints"),
    "duplicate person": ("warning", "two annotations of a picture have the same keypoints"),
    "never labelled": ("warning", "a keypoint of the skeleton is labelled nowhere"),
    "left and right": ("warning", "a pair of keypoints looks swapped, compared with its names or the other pairs"),
}


@dataclass(frozen=True)
class Finding:
    """One kind of problem: how often, and where first.

    Attributes:
        kind: a key of `KINDS`.
        level: "error" or "warning".
        meaning: what it is, for a person.
        count: how often it was found.
        examples: the first few places.
    """

    kind: str
    level: Level
    meaning: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """Result of `check_annotations`; rich prints it, `to_dict` makes JSON of it.

    Attributes:
        annotations, images_dir: what was checked.
        skeleton: its name, None if it could not be read.
        num_images, num_annotations: entries in the file; annotations of the checked category only.
        num_persons: annotations with at least one labelled keypoint that are no crowd.
        labelled: keypoint name -> persons on which it is labelled.
        findings: problems, errors first.
    """

    annotations: str
    images_dir: str
    skeleton: str | None
    num_images: int
    num_annotations: int
    num_persons: int
    labelled: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error (there may be warnings)."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, **asdict(self)}

    def __rich__(self) -> RenderableType:
        """Summary and a table of findings."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        head = (
            f"[bold]{escape(self.annotations)}[/]: {self.num_images} pictures, {self.num_annotations} annotations, "
            f"{self.num_persons} persons to learn from, skeleton {escape(self.skeleton or 'unknown')}"
        )
        if not self.findings:
            return Group(head, "[green]nothing wrong found[/]")
        table = Table("problem", "count", "what it means", "for example", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        table.columns[3].overflow = "fold"
        for finding in self.findings:
            colour = "red" if finding.level == "error" else "yellow"
            examples = escape("\n".join(finding.examples))
            table.add_row(f"[{colour}]{finding.kind}[/]", str(finding.count), finding.meaning, examples)
        return Group(head, table)


class Findings:
    """Collects problems: how many of each kind, and the first few places.

    Args:
        max_examples: places to keep per kind.
    """

    def __init__(self, max_examples: int) -> None:
        self.max_examples = max_examples
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one problem; `kind` is a key of `KINDS`, `example` says where it is."""
        self.counts[kind] += 1
        if self.counts[kind] <= self.max_examples:
            self.examples.setdefault(kind, []).append(" ".join(example.split())[:300])

    def all(self) -> tuple[Finding, ...]:
        """Errors first, each group in the order of `KINDS`."""
        kinds = sorted((kind for kind in KINDS if self.counts[kind]), key=lambda kind: KINDS[kind][0] != "error")
        return tuple(
            Finding(kind, *KINDS[kind], self.counts[kind], tuple(self.examples.get(kind, ()))) for kind in kinds
        )
