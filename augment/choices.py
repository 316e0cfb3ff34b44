"""What happens to each sample: crop, flip, colour shift, division, as functions of (seed, epoch, sample). See choices.md."""

import statistics
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from augment.random_words import words
from augment.settings import LoaderSettings
from augment.views import evaluation_views
from ingest.pixel_stats import Pca

GEOMETRY_STREAM, COLOUR_STREAM = 0, 1
QUANTUM = 2.0**-20
NOISE = 0.1


@dataclass(frozen=True)
class Choices:
    """Choices for n samples: `y`, `x` int64 (n,) upper left corner of the crop, `mirror` bool (n,), `offset`
    float32 (n, 3) added to R, G and B in pixel units, `divide` float32 (n,) what is divided by after that."""

    y: npt.NDArray[np.int64]
    x: npt.NDArray[np.int64]
    mirror: npt.NDArray[np.bool_]
    offset: npt.NDArray[np.float32]
    divide: npt.NDArray[np.float32]

    def part(self, start: int, stop: int) -> "Choices":
        """Those of consecutive samples."""
        some = slice(start, stop)
        return Choices(self.y[some], self.x[some], self.mirror[some], self.offset[some], self.divide[some])


def choose(
    settings: LoaderSettings,
    side: int,
    pca: Pca,
    epoch: int,
    samples: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
) -> Choices:
    """Training choices for sample numbers that stand at `positions` of the epoch's order."""
    index = samples if settings.crop_chunk == 1 else positions // settings.crop_chunk
    w0, w1, w2, _ = words(settings.seed, index, epoch, GEOMETRY_STREAM)
    num_places = np.uint64(max(side - settings.crop + (settings.crop_positions == "all"), 1))
    y, x = (((w * num_places) >> np.uint64(32)).astype(np.int64) for w in (w0, w1))
    mirror = (w2 >> np.uint64(31)).astype(bool) if settings.flip else np.zeros(len(samples), bool)
    # In 2012 the division stood in one branch with the noise: both ended in the same epoch.
    divide = np.full(len(samples), settings.divide_test if _is_plain(settings, epoch) else settings.divide, np.float32)
    return Choices(y, x, mirror, _offsets(settings, pca, epoch, samples), divide)


def view_choices(settings: LoaderSettings, side: int, num_views: int, num_samples: int) -> Choices:
    """Evaluation choices: the views of each sample, one sample after another; no noise."""
    columns = zip(*evaluation_views(side, settings.crop, num_views), strict=True)
    y, x, mirror = (np.tile(np.array(column), num_samples) for column in columns)
    return Choices(y, x, mirror, np.zeros((len(y), 3), np.float32), np.full(len(y), settings.divide_test, np.float32))


def normals(seed: int, epoch: int, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Three standard normal values for each sample, float64 (n, 3)."""
    table = quantiles()
    drawn = words(seed, samples, epoch, COLOUR_STREAM)[:3]
    return np.stack([table[(w >> np.uint64(16)).astype(np.int64)] * np.float64(QUANTUM) for w in drawn], axis=-1)


@cache
def quantiles() -> npt.NDArray[np.int32]:
    """65,536 quantiles of the normal distribution at (j + 0.5) / 65536, int32, in multiples of 2**-20."""
    inverse = statistics.NormalDist().inv_cdf
    upper = np.array([round(inverse((j + 0.5) / 65536) / QUANTUM) for j in range(32768, 65536)], np.int32)
    return np.concatenate([-upper[::-1], upper])


def _is_plain(settings: LoaderSettings, epoch: int) -> bool:
    """Whether the noise is over, and with it the division that went with it."""
    return settings.colour_until_epoch is not None and epoch >= settings.colour_until_epoch


def _offsets(settings: LoaderSettings, pca: Pca, epoch: int, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    if settings.colour == "none" or _is_plain(settings, epoch):
        return np.zeros((len(samples), 3), np.float32)
    # The paper's wording means values of [0, 1]; the eigenvalue of those, back in pixel units.
    scale = pca.stdevs if settings.colour == "museum" else pca.eigenvalues / 255.0**2 * 255.0
    z = normals(settings.seed, epoch, samples)
    total = np.zeros((len(samples), 3))
    # Plain multiplications and additions in this order: the same bits on every processor.
    for k in range(3):
        amplitude = NOISE * z[:, k] * scale[k]
        for c in range(3):
            total[:, c] += pca.eigenvectors[c, k] * amplitude
    return total.astype(np.float32)
