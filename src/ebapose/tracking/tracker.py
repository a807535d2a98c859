"""Who is who: identities of persons over time, from their boxes and poses.

Each person has a track: a box motion (`ebapose.tracking.motion`) and the last pose. When the detector has run, tracks
and detections are assigned to each other, all at once, by how much their boxes overlap and how alike their poses are
(OKS). Detections of low score may continue a track (ByteTrack, Zhang et al. 2022); they begin one only where their pose
convinces and is nobody else's. Whom the detector overlooks is followed by the pose, for a while and where nobody else
is near. A person out of sight keeps the identity for `max_lost_s`. Between detections each box follows its pose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ebapose.geometry import boxes as box_geometry
from ebapose.geometry.oks import SEGMENT_SHARE
from ebapose.geometry.persons import Doubt, believed, worth_a_look
from ebapose.structures import Boxes, Poses
from ebapose.tracking.assignment import assign
from ebapose.tracking.motion import FOLLOWED_STD, BoxMotion

Float64Array = NDArray[np.float64]

MAX_COST = 0.8  # of a pair of track and detection; 0: same box and same pose
CROWDED_IOU = 0.15  # boxes that overlap more may be mixed up: then every frame is looked at
CONTINUED_IOU = 0.5  # a weak detection that overlaps more with where somebody is expected is that person
SLOW_S = 0.5  # between frames: beyond, waiting for another frame to believe in somebody would lose them
FASTEST = 6.0  # body heights per s: a sprinter
SIZE_RATIO = 1.4  # between two sights of somebody who has been seen once only
DOUBTFUL = 0.6  # a pose whose score falls below this share of its usual one has lost its person


@dataclass(frozen=True)
class TrackerOptions:
    """How identities are kept.

    Attributes:
        start_score: box score that begins a track, whatever the pose.
        sure_score: weaker detections get a pose only where they continue a track, or where nobody is in sight.
        confirm: detections in a row before a new track is believed; persons in the first frame, and where frames are
            more than `SLOW_S` apart, are believed at once.
        max_lost_s: how long a person out of sight keeps the identity, in s; until the next frame at least.
        max_overlooked_s: how long a person whom the detector overlooks is followed by the pose, in s.
    """

    start_score: float = 0.5
    sure_score: float = 0.0
    confirm: int = 2
    max_lost_s: float = 3.0
    max_overlooked_s: float = 1.0


@dataclass(eq=False)
class _Track:
    motion: BoxMotion
    keypoints: Float64Array  # (K, 2) image px, of the last pose
    variances: Float64Array  # (K,) px^2, predicted
    scores: Float64Array  # (K,)
    box_score: float
    seen_s: float
    detected_s: float
    usual_score: float
    identity: int = 0  # 0: not yet believed
    hits: int = 1
    visible: bool = True

    def box_at(self, time_s: float) -> NDArray[np.float32]:
        """(4,) where the box should be, as `Boxes` holds it: what is left of it in the picture must still have area."""
        return self.motion.at(time_s).box_xyxy.astype(np.float32)

    def take(self, poses: Poses, number: int, time_s: float) -> None:
        """Remember a pose as the last one."""
        self.keypoints, self.variances, self.scores = _pose_parts(poses, number)
        self.seen_s = time_s


def _pose_parts(poses: Poses, number: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    sigmas = np.nan_to_num(poses.sigmas_px[number].astype(np.float64), nan=0.0, posinf=0.0)
    scores = poses.scores[number].astype(np.float64)
    return poses.keypoints[number].astype(np.float64), (sigmas**2).mean(axis=1), scores


class Tracker:
    """Gives the poses of one video their identities. Use it frame by frame:

    after the detector ran: `update(poses_of(steady(worth_a_look(boxes, time_s), time_s)), time_s)`;
    else: `follow(poses_of(expected(time_s, image_hw)), time_s)`.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self._tracks: list[_Track] = []
        self._followed: list[_Track] = []
        self._missed: list[_Track] = []
        self._next_identity = 1
        self._first = True
        self._last_s = -np.inf

    @property
    def needs_detection(self) -> bool:
        """Whether the next frame should be looked at by the detector: nobody is in sight, somebody is new, people
        overlap, or a pose has become doubtful."""
        seen = [track for track in self._tracks if track.visible]
        if not seen or any(not t.identity or t.scores.mean() < DOUBTFUL * t.usual_score for t in seen):
            return True
        boxes = np.stack([track.motion.box_xyxy for track in seen])
        overlap = box_geometry.iou(boxes, boxes)
        np.fill_diagonal(overlap, 0)
        return bool(overlap.max() > CROWDED_IOU)

    def worth_a_look(self, boxes: Boxes, time_s: float) -> Boxes:
        """Which detected boxes should get a pose: each costs as much as a person."""
        sure = boxes.scores >= self.options.sure_score
        if sure.all():
            return boxes
        seen = [track for track in self._tracks if track.visible]
        if not any(track.identity for track in seen):
            return boxes[worth_a_look(boxes, self.options.sure_score)]
        overlap = box_geometry.iou(np.stack([track.motion.at(time_s).box_xyxy for track in seen]), boxes.xyxy)
        to_sure = box_geometry.iou(boxes.xyxy, boxes.xyxy[sure])
        copies = (to_sure > CONTINUED_IOU).any(axis=1)  # among them the sure ones
        overlooked = np.where(copies, 0, overlap[~(overlap[:, sure] > CONTINUED_IOU).any(axis=1)])
        best = np.unique(overlooked.argmax(axis=1))
        chosen = sure.copy()
        chosen[best] |= (overlooked[:, best] > CONTINUED_IOU).any(axis=0)
        return boxes[chosen]

    def steady(self, boxes: Boxes, time_s: float) -> Boxes:
        """Detected boxes with less jitter: moved towards where their persons are expected, where that is clear.

        The network sees what the box shows: a box that trembles makes the pose tremble.
        """
        tracks = [track for track in self._tracks if track.visible]
        if not tracks or not len(boxes):
            return boxes
        expected = np.stack([track.motion.at(time_s).box_xyxy for track in tracks])
        overlap = box_geometry.iou(expected, boxes.xyxy)
        steadied = np.array(boxes.xyxy, np.float64)
        for i, j in assign(1 - overlap, 0.4):
            steadied[j] = tracks[i].motion.detected(boxes.xyxy[j], time_s).box_xyxy
        return Boxes.from_xyxy(steadied, boxes.scores)

    def expected(self, time_s: float, image_hw: tuple[int, int]) -> Boxes:
        """Where the persons in sight should be now, for a frame that the detector does not look at."""
        self._followed = []
        boxes, scores = [], []
        for track in self._tracks:
            box = track.box_at(time_s)
            if track.visible and box_geometry.area(box_geometry.clip(box, image_hw)) > 0:
                self._followed.append(track)
                boxes.append(box)
                scores.append(track.box_score)
        return Boxes.from_xyxy(boxes, scores)

    def follow(self, poses: Poses, time_s: float) -> Poses:
        """Take in the poses of the boxes that `expected` gave; returns them with track ids."""
        for number, track in enumerate(self._followed):
            previous, weights = track.keypoints, np.sqrt(track.scores * poses.scores[number])
            shift = _weighted_median(poses.keypoints[number] - previous, weights)
            last_center = track.motion.center
            track.motion = track.motion.seen(last_center + shift, time_s, FOLLOWED_STD)
            track.take(poses, number, time_s)
        self._last_s = time_s
        return self._identified(poses, self._followed)

    def update(self, poses: Poses, time_s: float) -> Poses:
        """Take in the poses of detected boxes; returns those of believed tracks, with track ids, in their order."""
        owners: list[_Track | None] = [None] * len(poses)
        since_last_s = time_s - self._last_s
        longest_s = max(self.options.max_lost_s, 1.5 * since_last_s)
        free = [track for track in self._tracks if time_s - track.seen_s <= longest_s]
        strong = poses.boxes.scores >= self.options.start_score
        for chosen in (np.flatnonzero(strong), np.flatnonzero(~strong)):
            if not free or not len(chosen):
                continue
            pairs = assign(self._costs(free, poses[chosen], time_s), MAX_COST)
            for i, j in pairs:
                owners[chosen[j]] = free[i]
            taken = {i for i, _ in pairs}
            free = [track for i, track in enumerate(free) if i not in taken]
        new = [track for track in free if track.visible and track.hits == 1]  # nobody knows where to they are moving
        left = np.array([n for n, owner in enumerate(owners) if owner is None], np.intp)
        if new and len(left):
            pairs = assign(_reach_costs(new, poses.boxes.xyxy[left], time_s), 1.0)
            for i, j in pairs:
                owners[left[j]] = new[i]
                free.remove(new[i])
        self._missed = [track for track in free if track.visible and track.identity]
        for track in free:
            track.visible = False
        # A track that was never believed does not outlive a single miss
        self._tracks = [track for track in free if track.identity]
        somebody = self._somebody(poses, owners, time_s)
        for number, owner in enumerate(owners):
            if owner is not None:
                owner.motion = owner.motion.detected(poses.boxes.xyxy[number], time_s)
                owner.box_score = float(poses.boxes.scores[number])
                owner.hits, owner.visible, owner.detected_s = owner.hits + 1, True, time_s
                owner.take(poses, number, time_s)
                # Only where the detector agrees: else the score of a box that lost its person would become usual
                owner.usual_score += 0.2 * (float(owner.scores.mean()) - owner.usual_score)
            elif somebody[number]:
                owner = self._begin(poses, number, time_s)
            else:
                continue
            at_once = self._first or since_last_s > SLOW_S
            if not owner.identity and (at_once or owner.hits >= self.options.confirm):
                owner.identity, self._next_identity = self._next_identity, self._next_identity + 1
            owners[number] = owner
            self._tracks.append(owner)
        self._first = self._first and not self._tracks
        self._last_s = time_s
        return self._identified(poses, owners)

    def _somebody(self, poses: Poses, owners: list[_Track | None], time_s: float) -> NDArray[np.bool_]:
        """(N,) which poses are persons of their own: those of a track, and which others may begin one.

        A weak one may not where somebody is overlooked: it may be a part of that person.
        """
        owned = np.array([owner is not None for owner in owners], bool)
        start_score = self.options.start_score
        chosen = believed(poses, Doubt(sure=start_score, certain=start_score), known=owned)
        if self._missed:
            expected = np.stack([track.box_at(time_s) for track in self._missed])
            away = ~(box_geometry.intersection(poses.boxes.xyxy, expected) > 0).any(axis=1)
            chosen &= owned | (poses.boxes.scores >= start_score) | away
        return chosen

    def overlooked(self, time_s: float, image_hw: tuple[int, int]) -> Boxes:
        """After `update`: where the persons should be who were in sight and whom the detector has not found.

        Without those near another person: there their poses would be the other's.
        """
        self._followed, boxes, scores = [], [], []
        others = np.array([track.motion.box_xyxy for track in self._tracks if track.visible]).reshape(-1, 4)
        for track in self._missed:
            box = track.box_at(time_s)
            alone = not (box_geometry.iou(box[None], others) > CROWDED_IOU).any()
            fresh = time_s - track.detected_s <= self.options.max_overlooked_s
            if alone and fresh and box_geometry.area(box_geometry.clip(box, image_hw)) > 0:
                self._followed.append(track)
                boxes.append(box)
                scores.append(track.box_score)
                others = np.concatenate([others, box[None]])
        return Boxes.from_xyxy(boxes, scores)

    def keep(self, found: Poses, poses: Poses, time_s: float) -> Poses:
        """The poses that `update` gave, and those of `overlooked` boxes that do show a person, with track ids."""
        sure = [n for n, t in enumerate(self._followed) if poses.scores[n].mean() >= DOUBTFUL * t.usual_score]
        self._followed = [self._followed[n] for n in sure]
        for track in self._followed:
            track.visible = True
        return joined(found, self.follow(poses[np.array(sure, np.intp)], time_s))

    def _begin(self, poses: Poses, number: int, time_s: float) -> _Track:
        box, score = poses.boxes.xyxy[number], float(poses.boxes.scores[number])
        parts = _pose_parts(poses, number)
        return _Track(BoxMotion.start(box, time_s), *parts, score, time_s, time_s, float(parts[2].mean()))

    def _costs(self, tracks: list[_Track], poses: Poses, time_s: float) -> Float64Array:
        """(T, N) in 0..1: mean of box and pose distance; poses count less the longer ago they were seen."""
        ahead = [_in_picture(track.motion.at(time_s), poses.image_hw) for track in tracks]
        unseen_s = np.array([time_s - track.seen_s for track in tracks])
        margins = 0.1 + 0.4 * np.minimum(unseen_s, 1.0)
        overlap = np.concatenate(
            [
                box_geometry.iou(_enlarged(motion.box_xyxy[None], margin), _enlarged(poses.boxes.xyxy, margin))
                for motion, margin in zip(ahead, margins, strict=True)
            ]
        )
        similarity = np.stack([self._oks(track, motion, poses) for track, motion in zip(tracks, ahead, strict=True)])
        weight = 0.5 * np.exp(-unseen_s / 0.5)[:, None]
        costs = 1 - ((1 - weight) * overlap + weight * similarity)
        costs[overlap == 0] = 2.0
        return costs

    @staticmethod
    def _oks(track: _Track, motion: BoxMotion, poses: Poses) -> Float64Array:
        """(N,) OKS of a track's last pose, moved along with its box, with each pose.

        The variance of each keypoint is OKS's, area (2 sigma)^2, plus what the model predicts for both poses: where it
        is unsure, a distance proves little.
        """
        moved = track.keypoints + (motion.center - track.motion.center)
        distance_sq = ((poses.keypoints.astype(np.float64) - moved) ** 2).sum(axis=-1)
        predicted = (np.nan_to_num(poses.sigmas_px.astype(np.float64), nan=0.0, posinf=0.0) ** 2).mean(axis=-1)
        area = SEGMENT_SHARE * np.sqrt(motion.scale**2 * box_geometry.area(poses.boxes.xyxy))
        spread = area[:, None] * (2 * np.asarray(poses.skeleton.sigmas)) ** 2 + predicted + track.variances
        weights = np.sqrt(track.scores * poses.scores) + 1e-9
        return np.asarray((weights * np.exp(-distance_sq / (2 * spread))).sum(axis=1) / weights.sum(axis=1))

    @staticmethod
    def _identified(poses: Poses, owners: list[_Track] | list[_Track | None]) -> Poses:
        identities = np.array([0 if owner is None else owner.identity for owner in owners], dtype=np.int64)
        known = np.flatnonzero(identities)
        known = known[np.argsort(identities[known])]
        return replace(poses, track_ids=identities)[known]


def _reach_costs(tracks: list[_Track], boxes_xyxy: NDArray[np.floating], time_s: float) -> Float64Array:
    """(T, N) how far somebody who was seen once, and may be running, would have come, as a share of what is possible.

    Where frames are far apart the boxes of a fast person do not overlap, and nothing is known of the direction yet.
    Beyond 1: too far, or of another size.
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    costs = np.full((len(tracks), len(boxes)), 2.0)
    for i, track in enumerate(tracks):
        reach = FASTEST * float(track.motion.size_wh.max()) * (time_s - track.seen_s)
        scales = np.sqrt(np.maximum(sizes.prod(axis=1), 1.0)) / track.motion.scale
        alike = (scales > 1 / SIZE_RATIO) & (scales < SIZE_RATIO)
        distances = np.linalg.norm(centers - track.motion.center, axis=1) / max(reach, 1e-6)
        costs[i] = np.where(alike, np.minimum(distances, 2.0), 2.0)
    return costs


def joined(some: Poses, more: Poses) -> Poses:
    """Two sets of tracked poses of one picture, by track id."""
    assert some.track_ids is not None
    assert more.track_ids is not None
    xyxy = np.concatenate([some.boxes.xyxy, more.boxes.xyxy])
    all_poses = replace(
        some,
        keypoints=np.concatenate([some.keypoints, more.keypoints]),
        scores=np.concatenate([some.scores, more.scores]),
        sigmas_px=np.concatenate([some.sigmas_px, more.sigmas_px]),
        boxes=Boxes.from_xyxy(xyxy, np.concatenate([some.boxes.scores, more.boxes.scores])),
        track_ids=np.concatenate([some.track_ids, more.track_ids]),
    )
    assert all_poses.track_ids is not None
    return all_poses[np.argsort(all_poses.track_ids)]


def _in_picture(motion: BoxMotion, image_hw: tuple[int, int]) -> BoxMotion:
    """Who left the picture comes back at its edge, wherever the way out there led."""
    return replace(motion, center=np.clip(motion.center, 0, (image_hw[1], image_hw[0])))


def _enlarged(boxes_xyxy: NDArray[np.floating], margin: float) -> Float64Array:
    boxes = np.asarray(boxes_xyxy, np.float64)
    grow = margin * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - grow, boxes[:, 2:] + grow], axis=1)


def _weighted_median(values: NDArray[np.floating], weights: NDArray[np.floating]) -> Float64Array:
    """(D,) median of (K, D) values along the first axis, for (K,) weights that are not all 0."""
    weights = weights + 1e-9
    result = np.empty(values.shape[1])
    for axis in range(values.shape[1]):
        order = np.argsort(values[:, axis])
        cumulated = np.cumsum(weights[order])
        result[axis] = values[order[np.searchsorted(cumulated, cumulated[-1] / 2)], axis]
    return result
