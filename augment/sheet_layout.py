"""Pictures in titled columns on a white sheet. In: tiles with a line or two of text. Out: one uint8 RGB picture.

Which pictures these are is sheet.py's business. Text is drawn with the font that the imaging library carries within
itself; an installation without FreeType has a coarser one, and so other pixels, but the same words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, features

Pixels = npt.NDArray[np.uint8]
Rgb = tuple[int, int, int]
FONT_SIZE = 12 if features.check("freetype2") else None
LINE, MARGIN = 16, 16
GAP, GROUP_GAP, ROW_GAP, PAIR_GAP = 8, 24, 16, 4
BAR = 3
INK, SOFT_INK, RULE = (20, 20, 20), (95, 95, 95), (190, 190, 190)


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 (height, width, 3), and the lines below it."""

    pixels: Pixels
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """Tiles below each other, one a row; `colour` is a bar under the title."""

    title: str
    tiles: tuple[Tile, ...]
    colour: Rgb | None = None

    @property
    def width(self) -> int:
        return max(int(tile.pixels.shape[1]) for tile in self.tiles)


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    title: str
    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        return sum(column.width + GAP for column in self.columns) - GAP


def drawn(caption: Sequence[str], groups: Sequence[Group], rows_together: int = 1) -> Pixels:
    """uint8 (height, width, 3): caption, headings and columns. Every `rows_together` rows stand close together."""
    width = sum(group.width + GROUP_GAP for group in groups) - GROUP_GAP
    lines = [line for paragraph in caption for line in wrapped(paragraph, width)]
    head = MARGIN + len(lines) * LINE + LINE
    tops, bottom = _row_tops(groups, head + 2 * LINE + BAR + GAP, rows_together)
    sheet = Image.new("RGB", (width + 2 * MARGIN, bottom + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        _text(draw, MARGIN, MARGIN + i * LINE, line, SOFT_INK if i else INK)
    left = MARGIN
    for group in groups:
        _draw_group(sheet, draw, group, left, head, tops)
        left += group.width + GROUP_GAP
    return np.asarray(sheet)


def wrapped(paragraph: str, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words."""
    lines: list[str] = []
    for word in paragraph.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def fitted(text: str, width: int) -> str:
    """The text, its end replaced by dots if it is wider than `width` pixels."""
    if text_width(text) <= width:
        return text
    while text and text_width(f"{text}..") > width:
        text = text[:-1]
    return f"{text}.."


def text_width(text: str) -> float:
    """Pixels from left to right."""
    return ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(_plain(text), font_size=FONT_SIZE)


def scaled(pixels: Pixels, factor: float) -> Pixels:
    """A picture at another size: averaged over the area if it shrinks, in plain squares if it grows, itself at 1."""
    height, width = (max(1, round(n * factor)) for n in pixels.shape[:2])
    way = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((width, height), way))


def outlined(pixels: Pixels, boxes: Sequence[tuple[float, float, float, float]], colours: Sequence[Rgb]) -> Pixels:
    """A copy with rectangles (left, top, right, bottom; the right and bottom edges just inside) drawn one pixel wide."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for (left, top, right, bottom), colour in zip(boxes, colours, strict=True):
        draw.rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), outline=colour)
    return np.asarray(image)


def _row_tops(groups: Sequence[Group], top: int, rows_together: int) -> tuple[list[int], int]:
    """Where each row begins, and where the last one ends."""
    columns = [column for group in groups for column in group.columns]
    tops = []
    for row, tiles in enumerate(zip(*(column.tiles for column in columns), strict=True)):
        if row:
            top += ROW_GAP if row % rows_together == 0 else PAIR_GAP
        tops.append(top)
        top += max(len(tile.pixels) + LINE * len(tile.notes) for tile in tiles)
    return tops, top


def _draw_group(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, group: Group, left: int, top: int, tops: Sequence[int]
) -> None:
    _text(draw, left, top, fitted(group.title, group.width))
    draw.line((left, top + LINE, left + group.width - 1, top + LINE), fill=RULE)
    for column in group.columns:
        _text(draw, left, top + LINE + 3, fitted(column.title, column.width))
        if column.colour:
            bar = top + 2 * LINE + 4
            draw.rectangle((left, bar, left + column.width - 1, bar + BAR - 1), fill=column.colour)
        for tile, row_top in zip(column.tiles, tops, strict=True):
            _draw_tile(sheet, draw, tile, left, row_top)
        left += column.width + GAP


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    height, width = tile.pixels.shape[:2]
    # Just outside the picture, so that white ones have an edge and no pixel is lost.
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=RULE)
    sheet.paste(Image.fromarray(tile.pixels), (left, top))
    for i, note in enumerate(tile.notes):
        _text(draw, left, top + height + 1 + i * LINE, fitted(note, width), SOFT_INK)


def _text(draw: ImageDraw.ImageDraw, left: int, top: int, text: str, colour: Rgb = INK) -> None:
    draw.text((left, top), _plain(text), fill=colour, font_size=FONT_SIZE)


def _plain(text: str) -> str:
    """The built-in font has few letters beyond ASCII, and without FreeType none."""
    return text.encode("ascii", "replace").decode()
