"""The sheet shows samples as stored, and what the loader makes of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from augment.settings import LoaderSettings
from augment.sheet import GAP, write_png
from tests.augment.stored import SIDE, Stored


def test_the_sheet_begins_with_the_stored_pictures_and_shows_other_crops_beside(
    tiny_dataset: str, tmp_path: Path
) -> None:
    write_png(tiny_dataset, tmp_path / "sheet.png", LoaderSettings(divide=1.1))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tile = SIDE + GAP
    assert sheet.shape == (8 * tile + GAP, 6 * tile + GAP, 3)
    stored = Stored(Path(tiny_dataset))
    for row in range(8):
        top = GAP + row * tile
        assert np.array_equal(sheet[top : top + SIDE, GAP : GAP + SIDE], stored.pictures[row])
        crops = [sheet[top : top + 224, left : left + 224] for left in range(GAP + tile, 6 * tile, tile)]
        assert all(abs(float(crop.mean()) - stored.pictures[row].mean()) < 60 for crop in crops)
        assert len({crop.tobytes() for crop in crops}) == 5
