"""A table of results becomes a picture. In: sections of text cells. Out: uint8 RGB pixels."""

from collections.abc import Sequence

from trainer.figures.canvas import PLAIN, RULE, SOFT_INK, Canvas, Pixels, Rgb
from trainer.figures.results import Row, Section

MARGIN, LINE, TITLE, GAP = 24, 22, 28, 20
NAME, VIEWS, NUMBER, SOURCE = 280, 56, 96, 262
MOST_NUMBERS = 4
WIDTH = NAME + VIEWS + MOST_NUMBERS * NUMBER + 24 + SOURCE
POINT = 42
"""Where in its column the point of a number stands."""
TINT: Rgb = (226, 236, 248)


def drawn(sections: Sequence[Section]) -> Pixels:
    """The table, uint8 (height, width, 3): numbers stand with their points below each other."""
    height = sum(_height(section) for section in sections) - GAP
    canvas = Canvas(WIDTH + 2 * MARGIN, height + 2 * MARGIN)
    top = MARGIN
    for section in sections:
        _section(canvas, top, section)
        top += _height(section)
    return canvas.pixels


def _height(section: Section) -> int:
    return TITLE + LINE * (1 + len(section.rows) + bool(section.note)) + GAP


def _section(canvas: Canvas, top: int, section: Section) -> None:
    canvas.words((MARGIN, top, WIDTH), section.title, size=15)
    top += TITLE
    _headings(canvas, top, section)
    for row in section.rows:
        top += LINE
        if section.is_ours:
            canvas.bar(MARGIN - 6, top - 1, WIDTH + 12, LINE, TINT)
        _row(canvas, top, row)
    if section.note:
        canvas.words((MARGIN, top + LINE + 3, WIDTH), section.note, colour=SOFT_INK)


def _headings(canvas: Canvas, top: int, section: Section) -> None:
    left = MARGIN + NAME
    if any(row.views for row in section.rows):
        canvas.words((left, top, VIEWS - 12), "views", side="right", colour=SOFT_INK)
    for i, heading in enumerate(section.headings):
        canvas.words((left + VIEWS + i * NUMBER, top, NUMBER - 8), heading, side="centre", colour=SOFT_INK)
    canvas.rule(MARGIN, top + LINE - 5, WIDTH, RULE)


def _row(canvas: Canvas, top: int, row: Row) -> None:
    left, top = MARGIN + NAME, top + 2
    canvas.words((MARGIN, top, NAME - 8), row.name, size=PLAIN)
    canvas.words((left, top, VIEWS - 12), row.views, side="right", size=PLAIN)
    for i, number in enumerate(row.numbers):
        whole, point, digits = number.partition(".")
        at = left + VIEWS + i * NUMBER
        canvas.words((at, top, POINT), whole, side="right", size=PLAIN)
        canvas.words((at + POINT, top, NUMBER - POINT), point + digits, size=PLAIN)
    canvas.words((left + VIEWS + MOST_NUMBERS * NUMBER + 24, top, SOURCE), row.source, colour=SOFT_INK)
