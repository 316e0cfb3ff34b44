"""A small source in ImageNet's shape: ten classes that a network can learn, in both layouts people have.

Each class has its own colour, shape and texture; position, size, rotation, background and lighting vary, so that
a class is learnt from the pictures and not from one pixel. As in ImageNet, a few files are not what their name
says: one PNG and one CMYK JPEG named .JPEG.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ingest.errors import RefusedError
from ingest.settings import SampleSettings
from ingest.sources.ilsvrc2012 import DEVKIT, GROUND_TRUTH, META, TRAIN, VAL
from ingest.storage import Place

CLASSES = (
    ("n90000011", "red disc", 0),
    ("n90000023", "orange stripes", 28),
    ("n90000037", "yellow ring", 55),
    ("n90000041", "green square", 105),
    ("n90000059", "teal checks", 165),
    ("n90000062", "cyan triangle", 190),
    ("n90000078", "blue cross", 220),
    ("n90000084", "violet star", 265),
    ("n90000095", "magenta bars", 300),
    ("n90000106", "rose dots", 335),
)
SIZES = ((500, 375), (375, 500), (500, 333), (333, 500), (320, 240), (300, 300), (400, 300), (240, 320), (640, 427))
Floats = npt.NDArray[np.float64]


def write_sample(
    out: str, settings: SampleSettings, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write OUT/official (archives) and OUT/folders (class folders) of the same pictures.

    Raises RefusedError if OUT is not empty. Returns the paths and counts.
    """
    place = Place(out)
    if place.files() or place.folders():
        raise RefusedError(f"{place.uri}: is not empty; give a new folder")
    total = len(CLASSES) * (settings.num_train + settings.num_val)
    train: dict[str, list[tuple[str, bytes]]] = {wnid: [] for wnid, _, _ in CLASSES}
    val: list[tuple[str, int, bytes]] = []
    for done, (name, label, split, data) in enumerate(_pictures(settings), start=1):
        wnid = CLASSES[label][0]
        place.put_new(f"folders/{split}/{wnid}/{name}", data)
        if split == "train":
            train[wnid].append((name, data))
        else:
            val.append((name, label, data))
        if on_progress is not None:
            on_progress(done, total)
    _write_official(place, train, val)
    return {
        "official": place.name("official"),
        "folders": place.name("folders"),
        "num_classes": len(CLASSES),
        "num_train": sum(len(v) for v in train.values()),
        "num_val": len(val),
    }


def _pictures(settings: SampleSettings) -> Iterator[tuple[str, int, str, bytes]]:
    """(file name, label, split, bytes): training pictures by class, validation pictures in mixed order."""
    for label, (wnid, _, _) in enumerate(CLASSES):
        for number in range(settings.num_train):
            random = np.random.default_rng([settings.seed, 0, label, number])
            name = f"{wnid}_{1 + number * 7}.JPEG"
            yield name, label, "train", _file(_draw(label, random), kind=number if label == 0 else 0)
    order = np.random.default_rng([settings.seed, 1]).permutation(len(CLASSES) * settings.num_val)
    for number, place in enumerate(order, start=1):
        label = int(place) % len(CLASSES)
        random = np.random.default_rng([settings.seed, 2, number])
        yield f"ILSVRC2012_val_{number:08d}.JPEG", label, "val", _file(_draw(label, random), kind=0)


def _draw(label: int, random: np.random.Generator) -> Image.Image:
    """A picture of a class, at one of the sizes that are common in ImageNet."""
    width, height = SIZES[random.integers(len(SIZES))]
    hue = (CLASSES[label][2] + random.uniform(-7, 7)) / 360
    colour = _rgb(hue, random.uniform(0.65, 1.0), random.uniform(0.55, 1.0))
    background = _background(width, height, random)
    mask = _shape(label, width, height, random)[..., None]
    shade = 1 + 0.15 * random.standard_normal((height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)
    figure = colour * shade[:height, :width, None]
    pixels = background * (1 - mask) + figure * mask + random.normal(0, 5, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _background(width: int, height: int, random: np.random.Generator) -> Floats:
    """A dull gradient between two colours."""
    first, second = (_rgb(random.uniform(), random.uniform(0, 0.25), random.uniform(0.2, 0.9)) for _ in range(2))
    ramp = np.linspace(0, 1, width)[None, :, None] * random.uniform(-1, 1) + np.linspace(0, 1, height)[:, None, None]
    ramp = np.clip(ramp, 0, 1)
    return np.asarray(first * (1 - ramp) + second * ramp)


def _shape(label: int, width: int, height: int, random: np.random.Generator) -> Floats:
    """1.0 where the figure of the class lies, float64 (height, width)."""
    short = min(width, height)
    size = short * random.uniform(0.28, 0.42)
    centre_x = width / 2 + random.uniform(-0.1, 0.1) * short
    centre_y = height / 2 + random.uniform(-0.1, 0.1) * short
    angle = random.uniform(-0.35, 0.35)
    y, x = np.mgrid[0:height, 0:width]
    u = ((x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)) / size
    v = ((y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)) / size
    radius = np.hypot(u, v)
    box = np.maximum(np.abs(u), np.abs(v))
    turn = np.arctan2(v, u)
    period = random.uniform(3.5, 4.5)
    masks: tuple[Callable[[], Any], ...] = (
        lambda: radius < 1,
        lambda: (radius < 1.1) & (np.sin(u * period * 2) > -0.2),
        lambda: (radius < 1.1) & (radius > 0.55),
        lambda: box < 0.9,
        lambda: (box < 1.0) & (np.sin(u * period) * np.sin(v * period) > -0.1),
        lambda: (v < 0.7) & (v > 2 * np.abs(u) - 1.1),
        lambda: (box < 1.0) & (np.minimum(np.abs(u), np.abs(v)) < 0.33),
        lambda: radius < 0.65 + 0.4 * np.cos(5 * turn),
        lambda: (box < 1.0) & (np.sin(v * period * 1.6) > 0),
        lambda: (radius < 1.2) & (np.cos(u * period * 1.5) * np.cos(v * period * 1.5) > 0.15),
    )
    return np.asarray(masks[label](), np.float64)


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    """A colour as three values 0-255."""
    offsets = np.array([5.0, 3.0, 1.0]) + hue * 6
    k = offsets % 6
    return np.asarray(255 * (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)))


def _file(image: Image.Image, kind: int) -> bytes:
    """A JPEG file; as in ImageNet, one in a while is a PNG (kind 1) or a CMYK JPEG (kind 2) by the same name."""
    file = io.BytesIO()
    if kind == 1:
        image.save(file, "PNG")
    elif kind == 2:
        image.convert("CMYK").save(file, "JPEG", quality=92)
    else:
        image.save(file, "JPEG", quality=88)
    return file.getvalue()


def _write_official(place: Place, train: dict[str, list[tuple[str, bytes]]], val: list[tuple[str, int, bytes]]) -> None:
    """The three archives. The published validation tar is not sorted by number, so this one is not either."""
    class_tars = [(f"{wnid}.tar", _tar(pictures)) for wnid, pictures in train.items()]
    place.put_new(f"official/{TRAIN}", _tar(class_tars))
    unsorted = sorted(((name, data) for name, _, data in val), key=lambda member: member[0][::-1])
    place.put_new(f"official/{VAL}", _tar(unsorted))
    truth = "".join(f"{_ilsvrc_id(label)}\n" for _, label, _ in sorted(val)).encode()
    kit = [(f"ILSVRC2012_devkit_t12/{META}", _meta_mat()), (f"ILSVRC2012_devkit_t12/{GROUND_TRUTH}", truth)]
    place.put_new(f"official/{DEVKIT}", _tar(kit, "w:gz"))


def _ilsvrc_id(label: int) -> int:
    """ILSVRC_IDs do not follow the order of wnids, as in the official kit."""
    return (label * 7 + 3) % len(CLASSES) + 1


def _meta_mat() -> bytes:
    """A MATLAB-5 file of the official structure: leaf classes first, then their parent."""
    from scipy.io import savemat

    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = np.zeros((len(CLASSES) + 1, 1), dtype=[(name, object) for name in names])
    for label, (wnid, words, _) in enumerate(CLASSES):
        number = _ilsvrc_id(label)
        rows[number - 1, 0] = (float(number), wnid, words, f"a picture of {words}", 0.0, np.zeros((1, 0)), 0.0, 0.0)
    children = np.arange(1.0, len(CLASSES) + 1)[None]
    rows[-1, 0] = (len(CLASSES) + 1.0, "n90000999", "figure", "a figure", float(len(CLASSES)), children, 1.0, 0.0)
    file = io.BytesIO()
    savemat(file, {"synsets": rows}, do_compression=True)
    return file.getvalue()


def _tar(members: list[tuple[str, bytes]], mode: Any = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()
