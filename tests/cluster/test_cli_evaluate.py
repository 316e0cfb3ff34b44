"""`tench evaluate` and `tench predict`: what they print, and with which exit code they leave."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.cli.app import run
from tests.conftest import TinySource
from tests.trainer.saved_runs import saved_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("runs")
    return [saved_run(place / f"run{seed}", tiny_dataset, seed=seed) for seed in (1, 2)]


def told(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    """The object that a command prints with --json."""
    assert run([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_ensemble_is_evaluated_with_tables_and_predictions(
    runs: list[str], tiny_dataset: str, tmp_path: Path, capsys: Capture
) -> None:
    table = f"{tmp_path}/p.parquet"
    facts = told(capsys, "evaluate", tiny_dataset, *runs, "--device", "cpu", "--predictions", table)
    assert Path(facts["run"]).parent == Path(runs[0], "evaluations")
    assert [member["run"] for member in facts["members"]] == runs
    assert (len(facts["classes"]), facts["num_networks"], facts["num_samples"]) == (10, 2, 30)
    assert sum(pair["count"] for pair in facts["confusions"]) == pytest.approx(30 * facts["top1_error"])
    assert pq.read_table(table).num_rows == 30
    recorded = json.loads(Path(facts["run"], "result/0001.json").read_text())["facts"]
    assert recorded["top1_error"] == facts["top1_error"]
    assert not {"classes", "confusions"} & set(recorded)
    asked = json.loads(Path(facts["run"], "request.json").read_text())["settings"]
    assert (asked["runs"], asked["predictions"], asked["ties"]) == (runs, table, "fractional")


def test_a_person_is_shown_errors_worst_classes_and_worst_pairs(
    runs: list[str], tiny_dataset: str, capsys: Capture
) -> None:
    assert run(["evaluate", tiny_dataset, *runs, "--device", "cpu", "--ties", "better"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    assert [part.splitlines()[0].split()[0] for part in parts] == ["run", "Each", "Worst", "Most"]
    assert "ties                better" in parts[0]
    assert [line.split()[-1] for line in parts[1].splitlines()[1:]] == runs
    errors = [line.split()[-3] for line in parts[2].splitlines()[1:]]
    assert len(errors) == 10
    assert errors == sorted(errors, key=lambda text: -float(text.removesuffix("%")))
    assert len({len(line) for line in parts[2].splitlines()}) == 1
    assert 1 <= len(parts[3].splitlines()[1:]) <= 10


def test_pictures_are_named_and_a_bad_one_does_not_keep_the_others(
    runs: list[str], tiny_source: TinySource, tmp_path: Path, capsys: Capture
) -> None:
    good = sorted(map(str, tiny_source.folders.glob("val/*/*.JPEG")))[:2]
    bad = tmp_path / "text.jpg"
    bad.write_text("no picture")
    facts = told(capsys, "predict", runs[0], good[0], str(bad), f"{tmp_path}/missing.jpg", good[1], code=1)
    assert [one["picture"] for one in facts["pictures"]] == [good[0], str(bad), f"{tmp_path}/missing.jpg", good[1]]
    assert "neither a JPEG nor a PNG" in facts["pictures"][1]["error"]
    assert facts["pictures"][2]["error"] == "No such file or directory"
    assert [len(facts["pictures"][n]["best"]) for n in (0, 3)] == [5, 5]
    assert run(["predict", runs[0], str(bad), *good, "--views", "10"]) == 1
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if not line.startswith(" ")] == good
    assert f"tench: {bad}: neither a JPEG nor a PNG" in shown.err


def test_a_file_is_taken_for_the_same_as_its_sample(
    runs: list[str], tiny_source: TinySource, tiny_dataset: str, tmp_path: Path, capsys: Capture
) -> None:
    table = f"{tmp_path}/p.parquet"
    told(capsys, "evaluate", tiny_dataset, runs[0], "--device", "cpu", "--predictions", table)
    expected = {row["key"]: row for row in pq.read_table(table).to_pylist()}
    pictures = sorted(tiny_source.folders.glob("val/*/*.JPEG"))[::7]
    facts = told(capsys, "predict", runs[0], *map(str, pictures), "--device", "cpu")
    for one, path in zip(facts["pictures"], pictures, strict=True):
        row = expected[f"{path.parent.name}/{path.stem}"]
        assert [named["wnid"] for named in one["best"]] == row["best_wnids"]
        assert [named["probability"] for named in one["best"]] == pytest.approx(row["probabilities"], rel=1e-5)


def test_predict_without_a_picture_is_wrong_use(runs: list[str], capsys: Capture) -> None:
    assert run(["predict", runs[0]]) == 2
    assert "no picture is named" in capsys.readouterr().err
