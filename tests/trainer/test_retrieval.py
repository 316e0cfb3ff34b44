"""Figure 4: the pictures that are chosen, the labels and neighbours that are found, and how these are drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ingest.dataset import Dataset, Split
from ingest.errors import RefusedError
from tests.trainer.drawn_runs import write_tiny_network
from trainer.figures.retrieval import Labelled, Nearest, Retrieval, Searched, chosen_rows, retrieve
from trainer.figures.retrieval_sheet import drawn, told
from trainer.settings import EvaluateSettings

RED, BLUE = (238, 150, 138), (171, 201, 232)
LARGE, SMALL = 144, 84


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [3, 64, 33]])
def test_nearest_are_those_of_a_sort_however_they_are_shown(sizes: list[int]) -> None:
    rng = np.random.default_rng(3)
    features = rng.integers(0, 3, (100, 5)).astype(np.float32)  # many equal distances
    queries = rng.integers(0, 3, (4, 5)).astype(np.float32)
    nearest = Nearest([torch.from_numpy(query) for query in queries], 6)
    rows = np.arange(100)
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        nearest.see(torch.from_numpy(part), torch.from_numpy(features[part]))
    assert nearest.num_seen == 100
    for query, found in zip(queries, nearest.found, strict=True):
        distances = np.sqrt(((features.astype(np.float64) - query) ** 2).sum(axis=1))
        wanted = np.argsort(distances, kind="stable")[:6]
        assert [row for row, _ in found] == wanted.tolist()
        assert [far for _, far in found] == pytest.approx(distances[wanted].tolist())


def test_chosen_pictures_are_of_different_classes_while_there_are_some() -> None:
    labels = np.repeat(np.arange(10), 30).astype(np.int32)
    rows = chosen_rows(labels, 13, seed=0)
    assert len(set(rows)) == 13
    assert sorted(labels[rows[:10]]) == list(range(10))
    assert rows == chosen_rows(labels, 13, seed=0) != chosen_rows(labels, 13, seed=1)
    assert sorted(chosen_rows(labels[:4], 13, seed=0)) == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def asked(tiny_raw_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Any, Retrieval]:
    """The dataset, the network, and what it was asked in batches of 7."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    network = write_tiny_network(folder, tiny_raw_dataset)
    dataset = Dataset.open(tiny_raw_dataset)
    return dataset, network, retrieve(dataset, str(folder), EvaluateSettings(batch=7, device="cpu"))


def shown_to(network: Any, split: Split) -> tuple[Any, Any]:
    """Probabilities and last hidden outputs of all pictures, caught before the last layer: centre crops minus the mean."""
    mean = split.dataset.mean.mean(axis=(0, 1))
    pixels = np.stack([split.pixels(row) for row in range(split.num_samples)])[:, 112:144, 112:144]
    images = torch.from_numpy(((pixels - mean) / 60).astype(np.float32)).permute(0, 3, 1, 2)
    caught = []
    last = list(network.children())[-1]
    handle = last.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        logits = network(images).double().numpy()
    handle.remove()
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), caught[0].double().numpy()


def test_labels_and_neighbours_are_those_of_all_features_at_once(asked: tuple[Dataset, Any, Retrieval]) -> None:
    dataset, network, found = asked
    val, train = dataset.split("val"), dataset.split("train")
    probabilities, features = shown_to(network, val)
    _, known = shown_to(network, train)
    assert (found.epoch, len(found.labelled), len(found.searched)) == (3, 8, 5)
    for one in found.labelled:
        assert one.label == val.label[one.row]
        wanted = np.argsort(-probabilities[one.row], kind="stable")[:5]
        assert [label for label, _ in one.best] == wanted.tolist()
        assert [share for _, share in one.best] == pytest.approx(probabilities[one.row][wanted].tolist(), rel=1e-3)
    for search in found.searched:
        distances = np.sqrt(((known - features[search.row]) ** 2).sum(axis=1))
        wanted = np.argsort(distances, kind="stable")[:6]
        assert [row for row, _ in search.nearest] == wanted.tolist()
        assert [far for _, far in search.nearest] == pytest.approx(distances[wanted].tolist(), rel=1e-3)
    assert len({one.row for one in found.labelled} | {one.row for one in found.searched}) == 13


def places(sheet: Any, tile: Any) -> list[tuple[int, int]]:
    """(top, left) of each place where a picture stands in a sheet."""
    height, width = tile.shape[:2]
    starts = (sheet[: 1 - height or None, : 1 - width or None] == tile[0, 0]).all(axis=2)
    starts &= (sheet[height - 1 :, width - 1 :] == tile[-1, -1]).all(axis=2)
    return [(t, n) for t, n in np.argwhere(starts) if np.array_equal(sheet[t : t + height, n : n + width], tile)]


def test_the_sheet_shows_each_picture_as_stored_and_bars_as_long_as_their_probabilities(tiny_raw_dataset: str) -> None:
    dataset = Dataset.open(tiny_raw_dataset)
    val, train = dataset.split("val"), dataset.split("train")
    label = int(val.label[3])
    right = Labelled(3, label, ((label, 0.5), ((label + 1) % 10, 0.25)))
    wrong = Labelled(4, int(val.label[4]), tuple(((int(val.label[4]) + 1 + i) % 10, 0.25) for i in range(2)))
    sheet = drawn(Retrieval("val", "/run", 3, (right, wrong), (Searched(5, 0, ((8, 1.0), (9, 2.0))),)), dataset)

    def at(split: Split, row: int, side: int) -> tuple[int, int]:
        tile = Image.fromarray(split.pixels(row)).resize((side, side), Image.Resampling.LANCZOS)
        (found,) = places(sheet, np.asarray(tile))
        return found

    tops = [
        at(split, row, side)
        for split, row, side in (
            (val, 3, LARGE),
            (val, 4, LARGE),
            (val, 5, SMALL),
            (train, 8, SMALL),
            (train, 9, SMALL),
        )
    ]
    assert len({top for top, _ in tops}) == 1
    lefts = [left for _, left in tops]
    assert lefts == sorted(lefts)
    below = sheet[tops[0][0] + LARGE :]
    for left, widths in ((lefts[0], {RED: LARGE // 2, BLUE: LARGE // 4}), (lefts[1], {BLUE: LARGE // 4})):
        card = below[:, left : left + LARGE]
        for colour, width in widths.items():
            columns = (card == colour).all(axis=2).any(axis=0)
            assert np.flatnonzero(columns).tolist() == list(range(width))
        assert (RED in widths) == (card == RED).all(axis=2).any()


def test_the_facts_name_keys_and_classes(asked: tuple[Dataset, Any, Retrieval]) -> None:
    dataset, _, found = asked
    facts = told(found, dataset)
    first, search = found.labelled[0], found.searched[0]
    assert facts["labelled"][0]["key"] == dataset.split("val").key(first.row)
    # This source gives no words for its classes.
    assert facts["labelled"][0]["best"][0] == [dataset.classes[first.best[0][0]].wnid, first.best[0][1]]
    near = facts["searched"][0]["nearest"][0]
    assert near["key"] == dataset.split("train").key(search.nearest[0][0])
    assert near["distance"] == search.nearest[0][1]


def test_a_split_of_few_pictures_is_shown_as_far_as_it_goes(tiny_raw_dataset: str) -> None:
    dataset = Dataset.open(tiny_raw_dataset)
    sheet = drawn(Retrieval("val", "/run", 3, (Labelled(0, 0, ((0, 1.0),)),), ()), dataset)
    assert sheet.shape[2] == 3


def test_a_run_folder_without_checkpoint_is_refused(tiny_raw_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="holds no checkpoint"):
        retrieve(Dataset.open(tiny_raw_dataset), str(tmp_path), EvaluateSettings(device="cpu"))
