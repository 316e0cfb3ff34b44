"""A white sheet for pictures and words. In: uint8 RGB pictures, words. Out: uint8 RGB pixels.

Words are drawn with the font that the imaging library carries within itself, so no font of the machine is needed; an
installation without FreeType has a coarser one. Places are (left, top) in pixels.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, features

Pixels = npt.NDArray[np.uint8]
Rgb = tuple[int, int, int]
Side = Literal["left", "centre", "right"]
SCALABLE = features.check("freetype2")
SMALL, PLAIN, LARGE = 12, 13, 17
INK, SOFT_INK, RULE, WHITE = (20, 20, 20), (95, 95, 95), (205, 205, 205), (255, 255, 255)
SHARES: dict[Side, float] = {"left": 0.0, "centre": 0.5, "right": 1.0}


class Canvas:
    """`width` x `height` white pixels to draw on."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width, height), WHITE)
        self._draw = ImageDraw.Draw(self._image)

    @property
    def pixels(self) -> Pixels:
        """uint8 (height, width, 3)."""
        return np.asarray(self._image)

    def picture(self, left: int, top: int, pixels: Pixels) -> None:
        """Put a picture down, with a thin frame outside it."""
        height, width = pixels.shape[:2]
        self._draw.rectangle((left - 1, top - 1, left + width, top + height), outline=RULE)
        self.paste(left, top, pixels)

    def paste(self, left: int, top: int, pixels: Pixels) -> None:
        """Put a picture down without a frame."""
        self._image.paste(Image.fromarray(pixels), (left, top))

    def bar(self, left: int, top: int, width: int, height: int, colour: Rgb) -> None:
        """A filled rectangle; nothing if it has no width."""
        if width > 0:
            self._draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)

    def rule(self, left: int, top: int, width: int, colour: Rgb = RULE) -> None:
        """A line from left to right, one pixel high."""
        self.bar(left, top, width, 1, colour)

    def words(
        self, box: tuple[int, int, int], text: str, *, side: Side = "left", size: int = SMALL, colour: Rgb = INK
    ) -> None:
        """One line of text inside box (left, top, width) at a side of it; its end is replaced by dots if it is wider."""
        left, top, width = box
        shown = fitted(text, width, size)
        free = width - text_width(shown, size)
        self._draw.text((left + round(free * SHARES[side]), top), shown, fill=colour, font_size=_size(size))


def fitted(text: str, width: int, size: int = SMALL) -> str:
    """The text in letters that the font has, its end replaced by dots if it is wider than `width` pixels."""
    text = _plain(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}..", size) > width:
        text = text[:-1].rstrip()
    return f"{text}.."


def text_width(text: str, size: int = SMALL) -> float:
    """Pixels from left to right."""
    return ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(_plain(text), font_size=_size(size))


def squared(pixels: Pixels, side: int) -> Pixels:
    """A picture at another size, (side, side, 3): smoothed if it shrinks, in plain squares if it grows."""
    way = Image.Resampling.LANCZOS if side < len(pixels) else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((side, side), way))


def _size(size: int) -> int | None:
    return size if SCALABLE else None


def _plain(text: str) -> str:
    """The built-in font has few letters beyond ASCII, and without FreeType none."""
    return text.encode("ascii", "replace").decode()
