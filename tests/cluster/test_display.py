"""What a terminal shows of a run's progress: all that is known, in words."""

from cluster.display import facts_lines, progress_words
from ingest.progress import Progress


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
