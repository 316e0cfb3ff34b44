"""The model card: what it says is what the run's folder holds; nothing from outside is markup; no path of the machine."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.app import run as tench
from ingest.dataset import Dataset
from tests.trainer.runs import Left, train_here
from trainer.evaluate import evaluate_run
from trainer.model_card import card_text, escaped
from trainer.settings import EvaluateSettings

LAST = "step-00000002.0001"
CHOSEN: dict[str, Any] = {"preset": "cifar", "epochs": 1, "seed": 3, "switch": ("rule.momentum=0.8",)}


@pytest.fixture(scope="module")
def carded(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A trained run that was evaluated once with one view and once with ten."""
    folder = tmp_path_factory.mktemp("carded")
    train_here(tiny_dataset, folder, **CHOSEN)
    for views in (1, 10):
        evaluate_run(tiny_dataset, str(folder), EvaluateSettings(device="cpu", views=views), None)
    return Left(folder)


def card_of(run: Left) -> tuple[dict[str, Any], str]:
    """model_card.json and model_card.md of a run."""
    facts: dict[str, Any] = json.loads((run.folder / "model_card.json").read_text())
    return facts, (run.folder / "model_card.md").read_text()


def test_the_card_names_data_network_and_what_differs_from_the_preset(carded: Left, tiny_dataset: str) -> None:
    facts, text = card_of(carded)
    opened = Dataset.open(tiny_dataset)
    assert (facts["data"]["dataset_id"], facts["data"]["content_id"]) == (opened.dataset_id, opened.content_id)
    assert facts["data"]["splits"] == {"train": 60, "val": 30}
    assert [known["wnid"] for known in facts["data"]["classes"]] == [known.wnid for known in opened.classes]
    assert facts["differs"] == [
        {"setting": "epochs", "preset": 40, "here": 1},
        {"setting": "seed", "preset": 0, "here": 3},
        {"setting": "rule.momentum", "preset": 0.9, "here": 0.8},
        {"setting": "loader.global_batch", "preset": 128, "here": 40},
    ]
    assert facts["network"]["num_parameters"] == 89_578
    assert facts["network"]["layers"]["conv2"] == {"weight": [32, 32, 5, 5], "bias": [32]}
    assert facts["versions"].keys() >= {"tench", "torch"}
    for shown in (
        opened.dataset_id,
        "89,578 parameters",
        "| rule.momentum | 0.9 | 0.8 |",
        "| conv2 | 32 x 32 x 5 x 5 |",
    ):
        assert shown in text


def test_the_card_has_the_errors_of_the_training_and_of_each_evaluation(carded: Left, tiny_dataset: str) -> None:
    facts, text = card_of(carded)
    errors = carded.state(LAST)["errors"]
    assert facts["errors"] == errors
    one, ten = facts["measured"]
    assert (one["views"], ten["views"]) == (1, 10)
    assert one["top1_error"] == pytest.approx(errors["top1_error"])
    assert one["loss"] != ten["loss"]
    again = evaluate_run(tiny_dataset, str(carded.folder), EvaluateSettings(device="cpu", views=10), None)
    assert len(card_of(carded)[0]["measured"]) == 2
    row = f"| val | 10 | fractional | 2 | {again['top1_error']:.2%} | {again['top5_error']:.2%} |"
    assert row in text


def test_the_card_names_no_path_of_this_machine(carded: Left, tiny_dataset: str) -> None:
    for name in ("model_card.md", "model_card.json"):
        written = (carded.folder / name).read_text()
        assert not [said for said in (str(carded.folder), tiny_dataset, str(Path.home()), socket.gethostname(), ".cache")
                    if said in written]  # fmt: skip


def test_what_comes_from_outside_is_shown_as_it_stands_and_is_no_markup(carded: Left) -> None:
    facts, _ = card_of(carded)
    words = "<script>alert(1)</script> | [a](http://b) `c`\n# d \x1b[31m\u202e*e*"
    facts["data"]["classes"][0]["words"] = words
    facts["versions"]["torch"] = "<img>"
    lines = card_text(facts).splitlines()
    (row,) = [line for line in lines if "alert" in line]
    assert row.split(" | ", 2)[2] == (
        r"&lt;script&gt;alert(1)&lt;/script&gt; \| \[a\](http://b) \`c\` \# d \[31m\*e\* |"
    )
    assert "<" not in "".join(lines)
    assert escaped("x" * 300) == "x" * 200 + "..."


def test_a_training_leaves_its_curves_on_its_card(carded: Left, tmp_path: Path) -> None:
    facts, text = card_of(carded)
    assert facts["curves"] == "figures/curves.png"
    assert "](figures/curves.png)" in text
    picture = (carded.folder / "figures/curves.png").read_bytes()
    assert tench(["figure", "curves", str(carded.folder), str(tmp_path / "again.png")]) == 0
    assert picture == (tmp_path / "again.png").read_bytes()  # every step of the training is on it
    assert card_of(carded) == (facts, text)


def test_curves_that_cannot_be_drawn_do_not_fail_the_training_and_show_once_they_are(
    tiny_dataset: str, tmp_path: Path
) -> None:
    (tmp_path / "run" / "figures" / "curves.png").mkdir(parents=True)
    assert train_here(tiny_dataset, tmp_path / "run", **CHOSEN)["steps"] == 2
    left = Left(tmp_path / "run")
    assert any("curves were not drawn: TenchError: " in text for text in left.texts("warning"))
    before = card_of(left)
    assert before[0]["curves"] is None
    (tmp_path / "run" / "figures" / "curves.png").rmdir()
    other = str(shutil.copytree(left.folder, tmp_path / "other"))
    assert tench(["figure", "curves", str(left.folder), other]) == 0  # a picture of two runs is no one's
    assert card_of(left) == before
    assert tench(["figure", "curves", str(left.folder)]) == 0
    assert card_of(left)[0] == {**before[0], "curves": "figures/curves.png"}
    assert "](figures/curves.png)" in card_of(left)[1]


def test_a_card_of_a_newer_tench_is_left_as_it_is(carded: Left, tmp_path: Path) -> None:
    newer = Left(tmp_path / "newer")
    shutil.copytree(carded.folder, newer.folder)
    card = newer.folder / "model_card.json"
    card.write_text(json.dumps({"format_version": 99}))
    assert tench(["figure", "curves", str(newer.folder)]) == 3
    assert json.loads(card.read_text()) == {"format_version": 99}


def test_a_card_that_cannot_be_written_does_not_fail_the_training(tiny_dataset: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "model_card.json").mkdir(parents=True)
    facts = train_here(tiny_dataset, tmp_path / "run", **CHOSEN)
    assert facts["steps"] == 2
    assert any("model card was not written" in text for text in Left(tmp_path / "run").texts("warning"))
