"""What an evaluation writes down: Parquet, submissions, tables of classes; and what a run takes any picture for."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ingest.dataset import Dataset
from ingest.errors import RefusedError
from ingest.progress import RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings
from ingest.storage import Place
from tests.ingest.archives import DEVKIT, TEST, TRAIN, VAL, class_table, devkit, tar_bytes, train_tar
from tests.trainer.saved_runs import saved_run
from trainer.evaluate import Outputs, evaluate_runs
from trainer.predict import Predictor
from trainer.settings import EvaluateSettings, PredictSettings

ON_CPU = EvaluateSettings(device="cpu")
TABLE = Path(__file__).parents[2] / "ingest" / "ilsvrc2012_synsets.tsv"
TEST_NAMES = [f"ILSVRC2012_test_{n:08d}" for n in (7, 2, 5, 1, 3, 6, 4)]


def picture(seed: int) -> bytes:
    """A JPEG of a few large patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize((96, 80), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def synsets() -> dict[str, int]:
    """ILSVRC2012_ID by wnid, from the published table."""
    with TABLE.open() as file:
        return {row["wnid"]: int(row["ilsvrc_id"]) for row in csv.DictReader(file, delimiter="\t", quoting=3)}


@pytest.fixture(scope="module")
def thousand(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of the classes of 2012: a training picture of each, two validation and seven unlabelled test pictures."""
    place = tmp_path_factory.mktemp("thousand")
    wnids = sorted(synsets(), key=synsets().__getitem__)
    pictures = {wnid: [(f"{wnid}_1.JPEG", picture(0))] for wnid in wnids}
    official = place / "official"
    official.mkdir()
    (official / TRAIN).write_bytes(train_tar(pictures))
    (official / VAL).write_bytes(tar_bytes((f"ILSVRC2012_val_{n:08d}.JPEG", picture(10 + n)) for n in (1, 2)))
    (official / TEST).write_bytes(tar_bytes((f"{name}.JPEG", picture(20 + n)) for n, name in enumerate(TEST_NAMES)))
    (official / DEVKIT).write_bytes(devkit(class_table(2012, [(wnid, "words") for wnid in wnids]), b"3\n4\n"))
    run = RunWriter.begin(Place(place / "run"), "ingest", {})
    ingest(str(official), str(place / "dataset"), IngestSettings(side=64, num_actors=2, samples_per_shard=512), run)
    return str(place / "dataset")


@pytest.fixture(scope="module")
def tiny_run(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_dataset, seed=5)


@pytest.fixture(scope="module")
def evaluated(tiny_dataset: str, tiny_run: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Facts, tables and predictions of an evaluation."""
    place = tmp_path_factory.mktemp("evaluated")
    run = RunWriter.begin(Place(place), "evaluate", {})
    facts = evaluate_runs(tiny_dataset, [tiny_run], ON_CPU, run, Outputs(predictions=f"{place}/deep/found.parquet"))
    tables = json.loads((place / "per_class.json").read_text())
    return {"facts": facts, **tables, "rows": pq.read_table(place / "deep/found.parquet")}


def index(dataset: str, split: str) -> pa.Table:
    """The index of a split, read without our code."""
    path = json.loads(Path(dataset, "manifest.json").read_text())["splits"][split]["index"]
    return pa.ipc.open_file(Path(dataset, path)).read_all()


def test_predictions_have_a_row_a_sample_in_the_order_of_the_index(
    evaluated: dict[str, Any], tiny_dataset: str
) -> None:
    rows, stored = evaluated["rows"], index(tiny_dataset, "val")
    assert (rows["key"].to_pylist(), rows["label"].to_pylist()) == (
        stored["key"].to_pylist(),
        stored["label"].to_pylist(),
    )
    assert rows.schema.field("best_labels").type == pa.list_(pa.int32())
    assert rows.schema.field("probabilities").type == pa.list_(pa.float32())
    wnids = [c["wnid"] for c in json.loads(Path(tiny_dataset, "manifest.json").read_text())["classes"]]
    for row in rows.to_pylist():
        assert len(set(row["best_labels"])) == 5
        assert row["best_wnids"] == [wnids[label] for label in row["best_labels"]]
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        assert 0 < row["probabilities"][4] <= sum(row["probabilities"]) < 1 + 1e-6


def test_errors_follow_from_the_predictions(evaluated: dict[str, Any]) -> None:
    rows = evaluated["rows"].to_pylist()
    wrong = [row["label"] != row["best_labels"][0] for row in rows]
    missed = [row["label"] not in row["best_labels"] for row in rows]
    assert evaluated["facts"]["top1_error"] == pytest.approx(np.mean(wrong))
    assert evaluated["facts"]["top5_error"] == pytest.approx(np.mean(missed))
    assert 0 < np.mean(missed) < np.mean(wrong)


def test_classes_are_listed_worst_first_with_their_own_errors(evaluated: dict[str, Any]) -> None:
    rows = evaluated["rows"].to_pylist()
    assert sorted(c["label"] for c in evaluated["classes"]) == list(range(10))
    for told in evaluated["classes"]:
        own = [row for row in rows if row["label"] == told["label"]]
        assert told["num_samples"] == len(own) == 3
        assert told["top1_error"] == pytest.approx(np.mean([r["best_labels"][0] != told["label"] for r in own]))
        assert told["top5_error"] == pytest.approx(np.mean([told["label"] not in r["best_labels"] for r in own]))
        assert own[0]["key"].startswith(told["wnid"])
    order = [(-told["top1_error"], -told["top5_error"]) for told in evaluated["classes"]]
    assert order == sorted(order) != order[::-1]


def test_confusions_are_counted_by_pair_most_frequent_first(evaluated: dict[str, Any]) -> None:
    pairs = Counter((row["label"], row["best_labels"][0]) for row in evaluated["rows"].to_pylist())
    expected = {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}
    told = evaluated["confusions"]
    assert {(p["label"], p["predicted_label"]): p["count"] for p in told} == expected
    assert [p["count"] for p in told] == sorted(expected.values(), reverse=True)
    wnids = {c["label"]: c["wnid"] for c in evaluated["classes"]}
    assert all((p["wnid"], p["predicted_wnid"]) == (wnids[p["label"]], wnids[p["predicted_label"]]) for p in told)


def test_a_submission_holds_five_ids_a_line_in_the_order_of_file_names(thousand: str, tmp_path: Path) -> None:
    run, outputs = saved_run(tmp_path / "run", thousand), Outputs(f"{tmp_path}/p.parquet", f"{tmp_path}/s.txt")
    writer = RunWriter.begin(Place(tmp_path / "evaluation"), "evaluate", {})
    facts = evaluate_runs(thousand, [run], ON_CPU.model_copy(update={"split": "test"}), writer, outputs)
    assert [facts[name] for name in ("top1_error", "top5_error", "loss", "num_samples")] == [None, None, None, 7]
    assert not (tmp_path / "evaluation/per_class.json").exists()
    found = {row["key"]: row for row in pq.read_table(tmp_path / "p.parquet").to_pylist()}
    assert {row["label"] for row in found.values()} == {-1}
    ids = synsets()
    expected = [" ".join(str(ids[wnid]) for wnid in found[name]["best_wnids"]) for name in sorted(TEST_NAMES)]
    text = (tmp_path / "s.txt").read_text()
    assert text == "\n".join(expected) + "\n"
    assert len(set(text.split())) > 5


def test_a_submission_of_labelled_pictures_is_sorted_by_file_not_by_class(thousand: str, tmp_path: Path) -> None:
    keys = index(thousand, "val")["key"].to_pylist()
    assert sorted(keys) != sorted(keys, key=lambda key: key.split("/")[1])
    run, outputs = saved_run(tmp_path / "run", thousand), Outputs(f"{tmp_path}/p.parquet", f"{tmp_path}/s.txt")
    evaluate_runs(thousand, [run], ON_CPU, None, outputs)
    rows = sorted(pq.read_table(tmp_path / "p.parquet").to_pylist(), key=lambda row: row["key"].split("/")[1])
    ids = synsets()
    lines = (tmp_path / "s.txt").read_text().splitlines()
    assert lines == [" ".join(str(ids[wnid]) for wnid in row["best_wnids"]) for row in rows]


def test_a_split_without_labels_needs_a_file_to_be_written(thousand: str, tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", thousand)
    with pytest.raises(RefusedError, match=r"split test has no labels.* --predictions FILE or --submission FILE"):
        evaluate_runs(thousand, [run], ON_CPU.model_copy(update={"split": "test"}), None)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"submission": "{folder}/s.txt"}, "needs the 1,000 classes of ILSVRC2012, and n9.* is not among them"),
        ({"predictions": "{folder}"}, "is a folder; give the name of a file"),
        ({"predictions": "https://example.org/p.parquet"}, "a web server takes no files"),
    ],
)
def test_files_that_could_not_be_written_are_refused_before_anything_is_done(
    outputs: dict[str, str], said: str, tiny_dataset: str, tiny_run: str, tmp_path: Path
) -> None:
    asked = Outputs(**{name: text.format(folder=tmp_path) for name, text in outputs.items()})
    with pytest.raises(RefusedError, match=said):
        evaluate_runs(tiny_dataset, [tiny_run], ON_CPU, None, asked)
    assert not list(tmp_path.iterdir())


def stored(dataset: str, split: str, key: str) -> npt.NDArray[np.uint8]:
    """A sample's picture as it lies in its shard."""
    opened = Dataset.open(dataset).split(split)
    row = index(dataset, split)["key"].to_pylist().index(key)
    return np.array(opened.pixels(row))


@pytest.mark.parametrize("views", [1, 10])
def test_a_picture_is_taken_for_what_its_sample_is_taken_for(
    tiny_dataset: str, tiny_run: str, tmp_path: Path, views: Any
) -> None:
    settings = ON_CPU.model_copy(update={"views": views})
    evaluate_runs(tiny_dataset, [tiny_run], settings, None, Outputs(predictions=f"{tmp_path}/p.parquet"))
    predictor = Predictor(tiny_run, None, PredictSettings(device="cpu", views=views))
    for row in pq.read_table(tmp_path / "p.parquet").to_pylist()[:4]:
        best = predictor.best(stored(tiny_dataset, "val", row["key"]))
        assert [named.label for named in best] == row["best_labels"]
        assert [named.wnid for named in best] == row["best_wnids"]
        assert [named.probability for named in best] == pytest.approx(row["probabilities"], rel=1e-5)


def test_a_run_whose_dataset_is_gone_says_so_and_takes_another(
    tiny_dataset: str, tiny_raw_dataset: str, tiny_run: str, tmp_path: Path
) -> None:
    run = saved_run(tmp_path / "run", tiny_dataset)
    request = tmp_path / "run/request.json"
    request.write_text(request.read_text().replace(tiny_dataset, f"{tmp_path}/gone"))
    settings = PredictSettings(device="cpu")
    with pytest.raises(RefusedError, match=f"was trained on {tmp_path}/gone, .*no such dataset.* give --dataset"):
        Predictor(run, None, settings)
    assert Predictor(run, tiny_dataset, settings).facts()["dataset"] == tiny_dataset
    request.write_text(request.read_text().replace(f"{tmp_path}/gone", tiny_raw_dataset))
    with pytest.raises(RefusedError, match="holds other data now"):
        Predictor(run, None, settings)
    assert Predictor(run, tiny_raw_dataset, settings).best(np.zeros((256, 256, 3), np.uint8))
