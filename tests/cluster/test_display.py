"""What a terminal shows of a run's progress: all that is known, in words."""

from typing import Any

import pytest

from cluster.cli.display import Display, facts_lines, progress_words
from ingest.progress import Event, Progress
from ingest.words import counted


def _progress(**changes: object) -> Progress:
    facts = {"attempt": 1, "seq": 1, "at": 0.0, "phase": "converting", "done": 500, "unit": "samples", **changes}
    return Progress.model_validate(facts)


def test_an_ingest_shows_samples_rate_time_left_bytes_bad_ones_and_each_actors_rate() -> None:
    actors = [{"actor": 1, "samples_per_s": 61.2}, {"actor": 2, "samples_per_s": 63.9}]
    figures = {"bytes": 12_340_000, "quarantined": 2, "num_actors": 2, "actors": actors}
    words = progress_words(_progress(total=2000, rate=125.0, seconds_left=12.0, figures=figures))
    assert words == "500 / 2,000 samples  125/s  12 s left  12.3 MB  2 bad  2 actors, 61 to 64/s each"


def test_what_is_not_known_yet_is_left_out() -> None:
    assert progress_words(_progress(figures={"bytes": 0, "actors": []})) == "500 samples"


def test_final_facts_have_a_line_each_and_a_split_too() -> None:
    facts = {"ok": True, "num_samples": 1860, "splits": {"train": {"num_samples": 1500, "num_shards": 2}}, "none": None}
    assert [" ".join(line.split()) for line in facts_lines(facts)] == [
        "ok yes", "num samples 1,860", "train samples 1,500, shards 2",
    ]  # fmt: skip


def test_one_of_a_kind_is_told_in_the_singular() -> None:
    figures = {"num_actors": 1, "actors": [{"samples_per_s": 61.2}]}
    assert progress_words(_progress(done=0, total=1, unit="shards", figures=figures)) == (
        "0 / 1 shard  1 actor, 61 to 61/s each"
    )
    assert progress_words(_progress(done=1, total=2, unit="shards")) == "1 / 2 shards"
    assert progress_words(_progress(done=1)) == "1 sample"
    told = [counted(number, noun) for number in (0, 1, 2000) for noun in ("shard", "class")]
    assert told == ["0 shards", "0 classes", "1 shard", "1 class", "2,000 shards", "2,000 classes"]


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({"samples_converted": 0, "samples_per_s": 0.0, "seconds": 0.2}, ["seconds 0.2"]),
        ({"samples_converted": 9, "samples_per_s": 4.5}, ["samples converted 9", "samples per s 4.5"]),
        ({"samples_per_s": 4.5}, ["samples per s 4.5"]),
        ({"estimated_hours": 0.0001}, ["estimated seconds 1"]),
        ({"estimated_hours": 0.0099}, ["estimated seconds 36"]),
        ({"estimated_hours": 0.01}, ["estimated hours 0.01"]),
        ({"repaired": ["a", "b"], "set_aside": [], "damages": []}, ["repaired 2", "set aside 0"]),
    ],
)
def test_final_facts_are_those_that_people_can_use(facts: dict[str, Any], lines: list[str]) -> None:
    assert [" ".join(line.split()) for line in facts_lines(facts)] == lines


@pytest.mark.parametrize(("num_bad", "more"), [(20, 0), (21, 1), (50, 1)])
def test_after_twenty_bad_pictures_the_command_that_lists_all_is_told_once(
    num_bad: int, more: int, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display()
    for seq in range(1, num_bad + 1):
        display.tell(Event(attempt=1, seq=seq, at=0.0, kind="quarantined", text=f"bad {seq}"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:20] == [f"! bad {n}" for n in range(1, 21)]
    assert lines[20:] == ["! more: tench quarantine list DATASET"] * more
