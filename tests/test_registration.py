"""How a part lies against the average one: found where it can be, at rest where it cannot."""

import cv2
import numpy as np
import pytest

from inspect_cli.scoring.registration import AT_REST, motion_of, onto_part, onto_usual
from inspect_cli.scoring.smooth import smoothed

PICTURE = smoothed(np.random.default_rng(0).normal(0, 1, (50, 80, 1)).astype(np.float32), 3.0)


def moved(picture, x, y, turn, **more):
    matrix = cv2.getRotationMatrix2D((40, 25), turn, 1)
    matrix[:, 2] += x, y
    return cv2.warpAffine(picture, matrix, (80, 50), borderMode=cv2.BORDER_REFLECT, **more)[..., None]


@pytest.mark.parametrize(("x", "y", "turn"), [(0, 0, 0), (1.3, -0.6, 0), (-2, 1.5, 2), (0.2, 3, -3)])
def test_a_part_that_was_moved_and_turned_is_found_in_any_light(x, y, turn):
    part = 0.5 + 0.7 * moved(PICTURE, x, y, turn)
    motion = motion_of(part.astype(np.float32), PICTURE)
    wanted = cv2.getRotationMatrix2D((40, 25), turn, 1)
    wanted[:, 2] += x, y
    corners = np.array([(x, y, 1) for x in (0, 80) for y in (0, 50)]).T
    assert motion @ corners == pytest.approx(wanted @ corners, abs=0.4)
    laid = onto_usual(part.astype(np.float32), motion)
    inside = (slice(6, -6), slice(6, -6))
    assert laid[inside] == pytest.approx(0.5 + 0.7 * PICTURE[inside], abs=0.03)


def at_an_angle(degrees, x=0.0, y=0.0):
    """Return a round part (64, 64, 1) on a dark ground, turned and moved; and by what motion."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    inside = np.clip(26 - np.hypot(rows, columns), 0, 1)
    part = (inside * (3 + cv2.resize(PICTURE[..., 0], (64, 64)))).astype(np.float32)
    turn = cv2.getRotationMatrix2D((31.5, 31.5), degrees, 1)
    turn[:, 2] += x, y
    return cv2.warpAffine(part, turn, (64, 64))[..., None], turn


@pytest.mark.parametrize(("degrees", "x", "y"), [(0, 0, 0), (42, 2, -1), (97.5, 0, 3), (180, -3, 0), (-61, 1, 1)])
def test_a_part_at_any_angle_is_found_if_parts_may_lie_so(degrees, x, y):
    usual, _ = at_an_angle(0)
    part, turn = at_an_angle(degrees, x, y)
    motion = motion_of(0.2 + 0.6 * part, usual, turned=True)
    marks = np.array([(20, 20, 1), (44, 40, 1), (32, 12, 1)]).T
    assert motion @ marks == pytest.approx(turn @ marks, abs=0.4)
    assert np.abs(onto_usual(part, motion) - usual)[20:44, 20:44].max() < 0.05
    if abs(degrees) > 40:
        assert motion_of(part, usual) @ marks != pytest.approx(turn @ marks, abs=4)


def test_places_outside_the_roi_of_a_part_at_any_angle_do_not_lead_astray():
    usual, _ = at_an_angle(0)
    part, turn = at_an_angle(140)
    for picture in (usual, part):
        picture[picture < 1] = np.nan  # as by the rule `foreground`
    part[36:44, 20:28] = np.nan
    marks = np.array([(20, 20, 1), (44, 40, 1), (32, 12, 1)]).T
    assert motion_of(part, usual, turned=True) @ marks == pytest.approx(turn @ marks, abs=0.4)
    narrow = np.ones((2, 200, 1), np.float32)
    narrow[:, ::3] = 2
    assert motion_of(narrow, narrow, turned=True).shape == (2, 3), "too narrow to be turned"


def test_what_holds_at_a_place_of_the_average_part_is_brought_to_that_of_the_part():
    part = moved(PICTURE, 2, -1, 0).astype(np.float32)
    motion = motion_of(part, PICTURE)
    marks = np.zeros((50, 80), np.float32)
    marks[20, 30] = 1
    brought = onto_part(marks, motion)
    assert np.unravel_index(brought.argmax(), brought.shape) == (19, 32)
    ramp = np.tile(np.arange(80, dtype=np.float32), (50, 1))
    assert np.isfinite(onto_part(ramp, motion)).all(), "the nearest place where the average part does not reach"
    assert np.isnan(onto_usual(ramp, motion)[0, -1])


def test_what_does_not_look_like_it_lies_at_rest():
    other = smoothed(np.random.default_rng(5).normal(0, 1, (50, 80, 1)).astype(np.float32), 3.0)
    even = np.full_like(PICTURE, 0.5)
    for part, usual in ((even, PICTURE), (PICTURE, even), (np.full_like(PICTURE, np.nan), PICTURE)):
        assert np.array_equal(motion_of(part, usual), AT_REST)
    corners = np.array([(x, y, 1) for x in (0, 80) for y in (0, 50)]).T
    assert np.abs(motion_of(other, PICTURE) @ corners - corners[:2]).max() <= 8
    assert np.array_equal(motion_of(moved(PICTURE, 30, 0, 0).astype(np.float32), PICTURE), AT_REST), "too far off"


def test_places_outside_the_roi_do_not_lead_astray():
    part = moved(PICTURE, 2, 1, 0).astype(np.float32)
    part[:, :30] = np.nan
    motion = motion_of(part, PICTURE)
    assert motion[:, 2] == pytest.approx([2, 1], abs=0.3)
    assert np.isnan(onto_usual(part, motion)[:, :27]).all()
