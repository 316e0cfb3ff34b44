"""Global batches of real process groups (gloo): the same samples and pixels for every number of ranks and restarts."""

import hashlib
import itertools
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augment import reference
from augment.choices import choose
from augment.order import EpochOrder
from augment.settings import LoaderSettings
from ingest.dataset import Dataset
from ingest.progress import RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings
from ingest.storage import Place
from tests.augment.stored import SIDE, Stored
from tests.augment.world_worker import run_world
from tests.conftest import pictures_folder

WORLDS = (2, 3, 1, 4)
"""In the order in which they are started: a state that one saves is continued by the next."""
BATCH, EPOCH, STEPS = 16, 2, 4
FORMATS = ("arrow", "tfrecord")
VARIANTS: dict[str, dict[str, Any]] = {
    "permuted": {},
    "drop": {"tail": "drop", "crop": 64},
    "fixed, wrap": {"order": "fixed", "tail": "wrap", "crop": 64},
    "chunk": {"crop_chunk": 8, "crop": 64},
    "window": {"window": 1, "crop": 64},
    "window, wrap, chunk": {"window": 2, "tail": "wrap", "crop_chunk": 8, "output": "uint8", "crop": 64},
    "two in the tail": {"global_batch": 58, "crop": 64},
}
REAL: dict[str, Any] = {"mean": "centre", "colour": "paper", "divide": 1.1}
SIZES = {"drop": [16] * 3, "fixed, wrap": [16] * 4, "window, wrap, chunk": [16] * 4, "two in the tail": [58, 2]}
SAVED = (0, 1, 3, 4)
IMAGENET_2011 = 14_197_122

Run = dict[str, Any]
Found = dict[int, dict[str, list[Run]]]


def run(epoch: int = EPOCH, stop_after: int | None = None, load: Path | None = None, save: Path | None = None) -> Run:
    return {"epoch": epoch, "stop_after": stop_after, "load": load and str(load), "save": save and str(save)}


def scenario(name: str, dataset: str, *runs: Run, split: str = "train", views: int = 0, **settings: Any) -> Run:
    settings = {"global_batch": BATCH, "seed": 5, **settings}
    return {"name": name, "dataset": dataset, "split": split, "views": views, "settings": settings, "runs": runs}


def of_each_kind(datasets: dict[str, str], real: dict[str, str]) -> list[dict[str, Any]]:
    """Epochs and evaluations in both formats."""
    made = []
    for format_, dataset in datasets.items():
        made += [scenario(f"{format_}: {name}", dataset, run(), **chosen) for name, chosen in VARIANTS.items()]
        for views in (1, 10):
            how: dict[str, Any] = {"split": "val", "views": views, "global_batch": 7, "crop": 64}
            made.append(scenario(f"{format_}: {views} views", dataset, run(), **how))
    return made + [scenario(f"{format_}: real", dataset, run(), **REAL) for format_, dataset in real.items()]


def broken_and_resumed(dataset: str, world_size: int, folder: Path) -> list[dict[str, Any]]:
    """Loops left early and begun anew; states saved by a world of 2 and continued by one of 3; one step a world."""
    made = [scenario("left early", dataset, run(stop_after=2), run(), run(EPOCH + 1, stop_after=1), run())]
    if world_size == 2:
        made += [scenario(f"to {k}", dataset, run(stop_after=k, save=folder / f"at-{k}")) for k in SAVED]
    if world_size == 3:
        made += [scenario(f"from {k}", dataset, run(load=folder / f"at-{k}"), run(EPOCH + 1)) for k in SAVED]
    made.append(scenario("two epochs", dataset, run(), run(EPOCH + 1)))
    at = WORLDS.index(world_size)
    load = folder / f"after-{at}" if at else None
    return [*made, scenario("relay", dataset, run(stop_after=1, load=load, save=folder / f"after-{at + 1}"))]


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Format -> a sealed dataset of four real pictures of each of ten classes; none if there are no real pictures."""
    folder = pictures_folder()
    if folder is None:
        return {}
    request.getfixturevalue("ray_session")
    out = tmp_path_factory.mktemp("real")
    with tarfile.open(folder / "imagenette-small.tar") as archive:
        pictures = [member for member in archive.getmembers() if member.name.startswith("train/") and member.isfile()]
        by_class = itertools.groupby(sorted(pictures, key=lambda m: m.name), lambda m: Path(m.name).parent.name)
        archive.extractall(out, [m for _, members in by_class for m in itertools.islice(members, 4)], filter="data")
    for name in FORMATS:
        settings = IngestSettings(format=name, samples_per_shard=16)
        ingest(str(out / "train"), str(out / name), settings, RunWriter.begin(Place(out / f"run-{name}"), "ingest", {}))
    return {name: str(out / name) for name in FORMATS}


@pytest.fixture(scope="module")
def datasets(tiny_dataset: str, tiny_tfrecord_dataset: str) -> dict[str, str]:
    return {"arrow": tiny_dataset, "tfrecord": tiny_tfrecord_dataset}


@pytest.fixture(scope="module")
def found(datasets: dict[str, str], real: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """By world size, by scenario: its runs. Every world is a process group of its own, started anew."""
    states, found = tmp_path_factory.mktemp("states"), {}
    for world_size in WORLDS:
        scenarios = of_each_kind(datasets, real) + broken_and_resumed(datasets["arrow"], world_size, states)
        found[world_size] = run_world(world_size, scenarios, states / f"world-{world_size}")
    return found


def steps_of(found: Found, world_size: int, name: str, at: int = 0) -> list[list[list[Any]]]:
    """Global batches of a run: rows [place, sample number, label, hash of the image]."""
    steps: list[list[list[Any]]] = found[world_size][name][at]["steps"]
    return steps


def samples_of(step: list[list[Any]]) -> list[int]:
    assert [row[0] for row in step] == list(range(len(step)))
    return [row[1] for row in step]


@pytest.mark.parametrize("name", [*VARIANTS, "1 views", "10 views"])
def test_global_batches_do_not_depend_on_the_world_size_nor_on_the_format(found: Found, name: str) -> None:
    whole = steps_of(found, 1, f"arrow: {name}")
    rows = [row for step in whole for row in step]
    assert len({row[3] for row in rows}) == len({(row[1], row[3]) for row in rows}) >= 30
    for world_size, format_ in itertools.product(WORLDS, FORMATS):
        assert steps_of(found, world_size, f"{format_}: {name}") == whole, (world_size, format_)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_epoch_holds_every_sample_once_but_for_its_tail(found: Found, datasets: dict[str, str], name: str) -> None:
    labels = Stored(Path(datasets["arrow"])).labels
    for world_size in WORLDS:
        steps = steps_of(found, world_size, f"arrow: {name}")
        assert [len(step) for step in steps] == SIZES.get(name, [16, 16, 16, 12])
        order = [sample for step in steps for sample in samples_of(step)]
        assert len(set(order[:60])) == min(len(order), 60)
        assert order[60:] == order[: max(len(order) - 60, 0)]
        assert (order[:48] == list(range(48))) == name.startswith("fixed")
        assert [row[2] for step in steps for row in step] == labels[order].tolist()


@pytest.mark.parametrize("views", [1, 10])
def test_evaluation_sees_every_sample_exactly_once(found: Found, datasets: dict[str, str], views: int) -> None:
    labels = Stored(Path(datasets["arrow"]), "val").labels.tolist()
    for world_size, format_ in itertools.product(WORLDS, FORMATS):
        steps = steps_of(found, world_size, f"{format_}: {views} views")
        assert [sample for step in steps for sample in samples_of(step)] == list(range(30))
        assert [row[2] for step in steps for row in step] == labels


def test_every_rank_has_the_same_number_of_steps_and_an_equal_share_of_each(found: Found) -> None:
    for world_size, runs in ((w, runs) for w in WORLDS for runs in found[w].values()):
        for one in runs:
            assert len(one["lengths"]) == world_size
            assert len(set(one["lengths"])) == 1
            assert all(len(shares) == world_size and max(shares) - min(shares) <= 1 for shares in one["shares"])
            assert all(sum(shares) == len(step) for shares, step in zip(one["shares"], one["steps"], strict=True))
            assert one["states"] == one["states"][:1] * world_size
    assert found[4]["arrow: two in the tail"][0]["shares"][-1] == [1, 1, 0, 0]


@pytest.mark.parametrize("delivered", SAVED)
def test_a_world_of_three_continues_what_a_world_of_two_began(found: Found, delivered: int) -> None:
    begun, (rest, after) = found[2][f"to {delivered}"][0], found[3][f"from {delivered}"]
    whole, following = (steps_of(found, 1, "two epochs", at) for at in (0, 1))
    assert {(state["epoch"], state["step"]) for state in begun["states"]} == {(EPOCH, delivered)}
    assert (begun["steps"], rest["steps"]) == (whole[:delivered], whole[delivered:])
    assert after["steps"] == following != whole
    assert len(following) == STEPS


def test_an_epoch_passed_on_through_four_worlds_is_the_unbroken_one(found: Found) -> None:
    parts = [steps_of(found, world_size, "relay") for world_size in WORLDS]
    assert [len(part) for part in parts] == [1] * STEPS
    assert [step for part in parts for step in part] == steps_of(found, 1, "two epochs")


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_loop_that_was_left_early_leaves_no_trace_in_the_next(found: Found, world_size: int) -> None:
    whole, following = (steps_of(found, 1, "two epochs", at) for at in (0, 1))
    runs = found[world_size]["left early"]
    assert [one["steps"] for one in runs] == [whole[:2], whole, following[:1], whole]
    assert [one["states"][0]["step"] for one in runs] == [2, STEPS, 1, STEPS]


@pytest.mark.parametrize("format_", FORMATS)
def test_real_pictures_are_the_references_in_every_world(
    shared_data: Path, found: Found, real: dict[str, str], format_: str
) -> None:
    wanted = reference_rows(Stored(Path(real[format_])), LoaderSettings(seed=5, **REAL))
    for world_size in WORLDS:
        steps = steps_of(found, world_size, f"{format_}: real")
        assert [len(step) for step in steps] == [16, 16, 8]
        rows = {sample: (label, image) for step in steps for _, sample, label, image in step}
        assert rows == wanted
        assert steps == steps_of(found, 1, "arrow: real")


def reference_rows(stored: Stored, settings: LoaderSettings) -> dict[int, tuple[int, str]]:
    """Sample number -> label and hash of the image in `EPOCH`, by Pillow and the reference."""
    numbers, pca = np.arange(len(stored.index)), Dataset.open(str(stored.folder)).pca
    chosen, rows = choose(settings, SIDE, pca, EPOCH, numbers, numbers), {}
    for row in numbers.tolist():
        y, x, mirror = int(chosen.y[row]), int(chosen.x[row]), bool(chosen.mirror[row])
        pixels = reference.crop_and_flip(stored.pictures[row], y, x, mirror, settings.crop)
        mean = reference.mean_under(stored.mean, settings.mean, y, x, mirror, settings.crop)
        image = reference.finished(pixels, mean, chosen.offset[row], settings.divide).transpose(2, 0, 1)
        rows[row] = (int(stored.labels[row]), hashlib.sha256(image.tobytes()).hexdigest())
    return rows


@pytest.mark.slow
def test_a_world_of_eight_sees_what_one_process_sees_in_every_kind_of_order(
    datasets: dict[str, str], tmp_path: Path
) -> None:
    """Batches of 25, and of 5, where three ranks of eight have nothing to do."""
    kinds = itertools.product(("permuted", "fixed"), ("drop", "short", "wrap"), (1, 8), (0, 1), (25, 5), FORMATS)
    made: list[Any] = []
    for order, tail, chunk, window, batch, format_ in kinds:
        chosen: dict[str, Any] = {
            "order": order,
            "tail": tail,
            "crop_chunk": chunk,
            "window": window,
            "global_batch": batch,
        }
        made.append(scenario(f"{format_}: {chosen}", datasets[format_], run(), crop=32, **chosen))
    found = {world_size: run_world(world_size, made, tmp_path / str(world_size)) for world_size in (1, 8)}
    for name in (one["name"] for one in made):
        whole = steps_of(found, 1, name)
        assert steps_of(found, 8, name) == whole == steps_of(found, 1, name.replace("tfrecord", "arrow")), name
        assert len({row[1] for step in whole for row in step}) == (50 if "'drop'" in name and "25" in name else 60)


def test_fourteen_million_samples_cost_no_memory() -> None:
    settings = LoaderSettings(global_batch=1024)
    tracemalloc.start()
    try:
        order = EpochOrder(IMAGENET_2011, settings, EPOCH)
        asked = np.linspace(0, order.num_steps - 1, 20).astype(int).tolist()
        drawn = np.concatenate([order.samples(order.positions(step)) for step in asked])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
    assert len(drawn) == 19 * 1024 + IMAGENET_2011 % 1024
    # A function that is no permutation would hit about 1,400 of these samples twice.
    positions = np.random.default_rng(0).choice(IMAGENET_2011, 200_000, replace=False)
    samples = order.samples(positions)
    assert len(np.unique(samples)) == 200_000
    assert 0 <= samples.min() < samples.max() < IMAGENET_2011
    assert abs(samples.mean() / IMAGENET_2011 - 0.5) < 0.005
