"""Drawings: where the colours are, what is left out, and that nothing outside of the picture breaks them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from ebapose import draw
from ebapose.draw import LEFT, MIDDLE, RIGHT, draw_poses, edge_colours
from ebapose.skeleton import COCO17, Skeleton
from ebapose.structures import Boxes, Poses
from poses_factory import make_poses

PAIR = Skeleton("pair", ("left_end", "right_end"), ((0, 1),), ((0, 1),), (0.1, 0.1))
GREY = 100


def canvas(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def pair(
    start: tuple[float, float],
    end: tuple[float, float],
    scores: tuple[float, float] = (1.0, 1.0),
    sigma: float = np.nan,
) -> Poses:
    """One person with two keypoints and a line between them."""
    return Poses(
        np.array([[start, end]]),
        np.array([scores]),
        np.full((1, 2, 2), sigma),
        Boxes.from_xyxy([[10, 10, 150, 110]], [0.5]),
        PAIR,
        "test",
        (120, 160),
    )


def changed(image: np.ndarray) -> np.ndarray:
    return (image != GREY).any(axis=2)


def test_returns_a_copy_and_leaves_the_input() -> None:
    image = canvas()
    image.flags.writeable = False
    drawn = draw_poses(image, pair((40, 60), (120, 60)))
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape
    assert (image == GREY).all()
    assert changed(drawn).any()


def test_no_person_changes_nothing() -> None:
    poses = Poses.empty(COCO17, "test", (120, 160))
    np.testing.assert_array_equal(draw_poses(canvas(), poses, show_boxes=True, show_uncertainty=True), canvas())


def test_sides_have_their_colours() -> None:
    drawn = draw_poses(canvas(), pair((40, 60), (120, 60)))
    for (x, y), colour in (((40, 60), LEFT), ((120, 60), RIGHT), ((80, 60), MIDDLE)):
        np.testing.assert_allclose(drawn[y, x].astype(int), colour, atol=3)
    by_edge = dict(zip(COCO17.edges, edge_colours(COCO17), strict=True))
    assert by_edge[(5, 7)] == LEFT
    assert by_edge[(6, 8)] == RIGHT
    assert by_edge[(5, 6)] == MIDDLE
    assert by_edge[(0, 1)] == LEFT  # nose to left eye: the one side there is


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5, 0.75])
def test_keypoints_are_drawn_to_a_fraction_of_a_pixel(offset: float) -> None:
    """The centre of what is painted lies at the keypoint, a pixel's centre being the integer."""
    hidden = pair((40 + offset, 60 + offset), (150, 20), scores=(1.0, 0.0))
    weight = np.abs(draw_poses(canvas(), hidden).astype(float) - GREY).sum(axis=2)
    y, x = np.mgrid[0:120, 0:160]
    assert (weight * x).sum() / weight.sum() == pytest.approx(40 + offset, abs=0.15)
    assert (weight * y).sum() / weight.sum() == pytest.approx(60 + offset, abs=0.15)


def test_low_scores_are_left_out_with_their_edges() -> None:
    drawn = draw_poses(canvas(), pair((40, 60), (120, 60), scores=(1.0, 0.1)), min_score=0.2)
    assert changed(drawn)[60, 40]
    assert not changed(drawn)[:, 60:].any()
    everything = draw_poses(canvas(), pair((40, 60), (120, 60), scores=(1.0, 0.1)), min_score=0.0)
    assert changed(everything)[60, 120]


def test_opacity_follows_the_score() -> None:
    strengths = [
        np.abs(draw_poses(canvas(), pair((40, 60), (120, 60), scores=(s, s)))[60, 40].astype(int) - GREY).max()
        for s in (0.35, 0.6, 1.0)
    ]
    assert strengths[0] < strengths[1] < strengths[2]


def test_lines_are_anti_aliased() -> None:
    drawn = draw_poses(canvas(), pair((40, 50), (120, 63)))
    assert len(np.unique(drawn[:, 70:90].reshape(-1, 3), axis=0)) > 20


def test_uncertainty_ellipse_holds_68_percent() -> None:
    sigma = 50.0  # so large that the width of the drawn line does not count
    poses = pair((200, 200), (10, 10), scores=(1.0, 0.0), sigma=sigma)
    inside = changed(draw_poses(canvas(400, 400), poses, show_uncertainty=True))
    x, y = np.rint(np.random.default_rng(0).normal(200, sigma, (20_000, 2))).astype(int).clip(0, 399).T
    assert inside[y, x].mean() == pytest.approx(0.68, abs=0.025)


def test_ellipse_axes_are_x_and_y() -> None:
    poses = pair((80, 60), (150, 20), scores=(1.0, 0.0), sigma=5.0)
    sigmas = np.array([[[20.0, 5.0], [1.0, 1.0]]])
    y, x = np.nonzero(changed(draw_poses(canvas(), replace(poses, sigmas_px=sigmas), show_uncertainty=True)))
    assert np.ptp(x) == pytest.approx(2 * 20 * 1.51, abs=4)
    assert np.ptp(y) == pytest.approx(2 * 5 * 1.51, abs=4)


def test_unknown_uncertainty_draws_no_ellipse() -> None:
    poses = pair((40, 60), (120, 60))
    np.testing.assert_array_equal(draw_poses(canvas(), poses, show_uncertainty=True), draw_poses(canvas(), poses))


def test_boxes_and_labels() -> None:
    poses = pair((40, 60), (120, 60))
    plain, boxed = draw_poses(canvas(), poses), draw_poses(canvas(), poses, show_boxes=True)
    assert not changed(plain)[105:115].any()
    assert changed(boxed)[110, 80]
    tracked = draw_poses(canvas(), replace(poses, track_ids=np.array([3])))
    assert changed(tracked)[:10, :40].any()  # the id is written beside the person, without a box
    assert not changed(tracked)[110, 80]


def test_better_persons_are_drawn_over_the_others() -> None:
    low, high = pair((40, 60), (120, 60)), pair((80, 20), (80, 100))
    both = Poses(
        np.concatenate([high.keypoints, low.keypoints]),
        np.array([[1.0, 1.0], [0.5, 0.5]]),
        np.full((2, 2, 2), np.nan),
        Boxes.from_xyxy([[10, 10, 150, 110]] * 2),
        PAIR,
        "test",
        (120, 160),
    )
    crossing = draw_poses(canvas(), both)[60, 80]
    np.testing.assert_array_equal(crossing, draw_poses(canvas(), both[[1, 0]])[60, 80])
    np.testing.assert_allclose(crossing.astype(int), MIDDLE, atol=3)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((-500, -500), (-400, -400)),
        ((1e30, 60), (80, 60)),
        ((-1e5, -1e5), (1e5, 1e5)),
        ((-15_000, 60), (15_000, 60)),
        ((159.9, 119.9), (200, 300)),
        ((0, 0), (0, 0)),
    ],
)
def test_keypoints_outside_of_the_picture(start: tuple[float, float], end: tuple[float, float]) -> None:
    poses = pair(start, end, sigma=1e6)
    drawn = draw_poses(canvas(), poses, show_boxes=True, show_uncertainty=True)
    assert drawn.shape == (120, 160, 3)


def test_an_edge_across_the_picture_is_drawn_where_it_crosses() -> None:
    drawn = draw_poses(canvas(), pair((-300, 60), (460, 60)))
    assert changed(drawn)[60].all()


def test_tiny_pictures_and_boxes_beyond() -> None:
    poses = replace(make_poses(3, image_hw=(4, 3), track_ids=True), boxes=Boxes.from_xyxy([[-1e30, -5, 1e30, 9]] * 3))
    assert draw_poses(np.zeros((4, 3, 3), np.uint8), poses, show_boxes=True, show_uncertainty=True).shape == (4, 3, 3)


def test_very_wide_pictures() -> None:
    image = np.zeros((60, 20_000, 3), np.uint8)
    keypoints = np.tile([19_900.0, 30.0], (1, 17, 1))
    boxes = Boxes.from_xyxy([[19_800, 5, 19_950, 55]], [0.9])
    poses = Poses(keypoints, np.ones((1, 17)), np.ones((1, 17, 2)), boxes, COCO17, "m", (60, 20_000))
    drawn = draw_poses(image, poses, show_boxes=True).any(axis=2)
    assert drawn[30, 19_900]
    assert drawn[55, 19_805:19_945].all()
    assert not drawn[:, :19_700].any()


def test_lines_grow_with_the_person() -> None:
    def thickness(length: int) -> int:
        poses = replace(
            pair((50, 500), (50 + length, 500)),
            boxes=Boxes.from_xyxy([[50, 490, 50 + length, 510]]),
            image_hw=(1000, 1000),
        )
        return int(changed(draw_poses(canvas(1000, 1000), poses))[:, 50 + length // 2].sum())

    assert thickness(60) < thickness(400) < thickness(900)


@pytest.mark.parametrize("px", [1, 8, 17, 44])
def test_large_rims_are_as_wide_as_exact_ones(px: int) -> None:
    alpha = np.zeros((301, 400), np.uint8)
    cv2.circle(alpha, (150, 140), 60, 255, cv2.FILLED)
    cv2.line(alpha, (250, 30), (330, 260), 200, px + 2)
    exact = cv2.dilate(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1, 2 * px + 1)))
    found = draw._dilated(alpha, px)
    assert found.shape == exact.shape
    assert abs(found.astype(float).mean() - exact.mean()) < 0.05 * exact.mean()
    border = cv2.dilate(cv2.Canny(exact, 50, 150), np.ones((px // 4 + 3, px // 4 + 3), np.uint8)) > 0
    np.testing.assert_allclose(found[~border].astype(int), exact[~border], atol=24)
