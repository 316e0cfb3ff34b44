"""Counters of a conversion: in the run folder while it works, one row an actor, slowest first."""

import json
from pathlib import Path

from ingest.progress import RunReader, RunWriter
from ingest.run import ingest
from ingest.settings import IngestSettings
from ingest.storage import Place
from tests.conftest import TinySource


def test_the_run_folder_counts_samples_bytes_bad_ones_and_what_each_actor_did(
    tiny_source: TinySource, ray_session: None, tmp_path: Path
) -> None:
    run = RunWriter.begin(Place(tmp_path / "run"), "ingest", {})
    settings = IngestSettings(samples_per_shard=8, num_actors=2)
    facts = ingest(str(tiny_source.folders), str(tmp_path / "dataset"), settings, run)
    run.flush()
    progress = RunReader(Place(tmp_path / "run")).progress()
    assert progress is not None
    figures = progress.figures
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    assert (progress.phase, progress.done, progress.total) == ("sealing", 90, 90)
    assert (figures["samples"], figures["quarantined"], facts["num_quarantined"]) == (90, 0, 0)
    assert figures["bytes"] == sum(shard["size"] for shard in shards)
    events = [e for e in RunReader(Place(tmp_path / "run")).events() if e.kind == "shard"]
    rows = {row["actor"]: row for row in figures["actors"]}
    assert figures["num_actors"] == len(rows) == len({e.data["actor"] for e in events})
    for number, row in rows.items():
        of_actor = [e for e in events if e.data["actor"] == number]
        assert row["samples"] == sum(e.data["num_samples"] for e in of_actor)
        assert row["host"] == of_actor[0].data["host"]
    rates = [row["samples_per_s"] for row in figures["actors"]]
    assert rates == sorted(rates)
    assert min(rates) > 0
