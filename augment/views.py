"""Views of a picture for evaluation: the centre, or the paper's ten (section 4.1 there)."""

from typing import NamedTuple


class View(NamedTuple):
    """Upper left corner of a crop, and whether it is mirrored."""

    y: int
    x: int
    mirror: bool


def evaluation_views(side: int, crop: int, num_views: int) -> tuple[View, ...]:
    """One view: the centre. Ten: upper left, upper right, centre, lower left, lower right, then these mirrored."""
    far, centre = side - crop, (side - crop) // 2
    if num_views == 1:
        return (View(centre, centre, False),)
    corners = ((0, 0), (0, far), (centre, centre), (far, 0), (far, far))
    return tuple(View(y, x, mirror) for mirror in (False, True) for y, x in corners)
