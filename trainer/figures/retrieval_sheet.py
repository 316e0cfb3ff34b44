"""A network's answers become figure 4 of the paper. In: what `retrieval.py` found. Out: uint8 RGB pixels.

Left: pictures, each over its label and the best classes, a bar as long as its probability, the right one in another
colour. Right: a picture a row, and beside it the training pictures that are nearest. Pictures as they are stored.
"""

from typing import Any

from ingest.dataset import Dataset, Split
from ingest.words import counted
from trainer.figures.canvas import INK, LARGE, PLAIN, RULE, SMALL, SOFT_INK, Canvas, Pixels, Rgb, squared, text_width
from trainer.figures.retrieval import BEST, NEAREST, Labelled, Retrieval, Searched

MARGIN, GAP, PANEL_GAP = 24, 14, 48
ACROSS, LARGE_SIDE, SMALL_SIDE = 4, 144, 84
HEAD, LINE, BAR = 60, 18, 17
RIGHT, WRONG = (238, 150, 138), (171, 201, 232)
CARD = LARGE_SIDE + 6 + LINE + 4 + BEST * (BAR + 2)
ROW = SMALL_SIDE + LINE
LEFT_WIDTH = ACROSS * (LARGE_SIDE + GAP) - GAP
RIGHT_WIDTH = (NEAREST + 1) * (SMALL_SIDE + GAP) - GAP + GAP
PERCENT = text_width("100%", SMALL)


def drawn(found: Retrieval, dataset: Dataset) -> Pixels:
    """The figure, uint8 (height, width, 3)."""
    split, train = dataset.split(found.split), dataset.split("train")
    card_rows = -(-len(found.labelled) // ACROSS)
    height = max(card_rows * (CARD + 2 * GAP), len(found.searched) * (ROW + 8)) + HEAD + MARGIN
    canvas = Canvas(2 * MARGIN + LEFT_WIDTH + PANEL_GAP + RIGHT_WIDTH, height)
    right = MARGIN + LEFT_WIDTH + PANEL_GAP
    _headings(canvas, found, right)
    for i, one in enumerate(found.labelled):
        left = MARGIN + i % ACROSS * (LARGE_SIDE + GAP)
        _card(canvas, left, HEAD + MARGIN + i // ACROSS * (CARD + 2 * GAP), one, split)
    for i, asked in enumerate(found.searched):
        _row(canvas, right, HEAD + MARGIN + i * (ROW + 8), asked, split, train)
    return canvas.pixels


def told(found: Retrieval, dataset: Dataset) -> dict[str, Any]:
    """The answers with keys and words in place of rows and labels."""
    split, train = dataset.split(found.split), dataset.split("train")

    def sample(of: Split, row: int) -> dict[str, str]:
        return {"key": of.key(row), "class": class_words(dataset, int(of.label[row]))}

    labelled = [
        {**sample(split, one.row), "best": [[class_words(dataset, label), share] for label, share in one.best]}
        for one in found.labelled
    ]
    searched = [
        {**sample(split, one.row), "nearest": [{**sample(train, row), "distance": far} for row, far in one.nearest]}
        for one in found.searched
    ]
    return {"split": found.split, "epoch": found.epoch, "labelled": labelled, "searched": searched}


def class_words(dataset: Dataset, label: int) -> str:
    """The first of a class's names, or its wnid if it has none."""
    one = dataset.classes[label]
    return one.words.split(",")[0] or one.wnid


def _headings(canvas: Canvas, found: Retrieval, right: int) -> None:
    run = found.run.rstrip("/").rpartition("/")[2]
    canvas.words((MARGIN, MARGIN, LEFT_WIDTH), "Five best labels", size=LARGE)
    canvas.words(
        (MARGIN, MARGIN + 24, LEFT_WIDTH),
        f"{run} after {counted(found.epoch, 'epoch')}, split {found.split}",
        colour=SOFT_INK,
    )
    canvas.words((right, MARGIN, RIGHT_WIDTH), "Nearest training pictures", size=LARGE)
    canvas.words(
        (right, MARGIN + 24, RIGHT_WIDTH), "by Euclidean distance in the last hidden layer, nearest first",
        colour=SOFT_INK,
    )  # fmt: skip


def _card(canvas: Canvas, left: int, top: int, one: Labelled, split: Split) -> None:
    """A picture, its label, and its bars."""
    canvas.picture(left, top, squared(split.pixels(one.row), LARGE_SIDE))
    words = class_words(split.dataset, one.label)
    canvas.words((left, top + LARGE_SIDE + 6, LARGE_SIDE), words, side="centre", size=PLAIN)
    for i, (label, probability) in enumerate(one.best):
        colour = RIGHT if label == one.label else WRONG
        _bar(
            canvas,
            left,
            top + LARGE_SIDE + 10 + LINE + i * (BAR + 2),
            class_words(split.dataset, label),
            probability,
            colour,
        )


def _bar(canvas: Canvas, left: int, top: int, words: str, probability: float, colour: Rgb) -> None:
    canvas.bar(left, top, max(1, round(probability * LARGE_SIDE)), BAR, colour)
    room = LARGE_SIDE - 4 - round(PERCENT) - 6
    canvas.words((left + 4, top + 2, room), words)
    canvas.words((left, top + 2, LARGE_SIDE - 3), f"{probability:.0%}", side="right", colour=SOFT_INK)


def _row(canvas: Canvas, left: int, top: int, asked: Searched, split: Split, train: Split) -> None:
    """A picture, and its neighbours behind a line; under each its class, dark if it is the picture's own."""
    _small(canvas, left, top, split, asked.row, INK)
    line = left + SMALL_SIDE + GAP
    canvas.bar(line - 1, top, 1, SMALL_SIDE, RULE)
    for i, (row, _) in enumerate(asked.nearest):
        same = train.label[row] == asked.label
        _small(canvas, line + GAP + i * (SMALL_SIDE + GAP), top, train, row, INK if same else SOFT_INK)


def _small(canvas: Canvas, left: int, top: int, split: Split, row: int, colour: Rgb) -> None:
    canvas.picture(left, top, squared(split.pixels(row), SMALL_SIDE))
    words = class_words(split.dataset, int(split.label[row]))
    canvas.words((left, top + SMALL_SIDE + 2, SMALL_SIDE), words, side="centre", colour=colour)
