"""What a conversion has done so far: counted for its budget, told in events and figures."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ingest.convert import ShardReport
from ingest.errors import BudgetError
from ingest.progress import RunWriter
from ingest.storage import Place

if TYPE_CHECKING:
    from ingest.pool import Converted

SHOWN_ACTORS = 64


@dataclass
class _Worked:
    """What one actor has done."""

    host: str
    samples: int = 0
    seconds: float = 0.0


@dataclass
class Tally:
    """Counts over the shards of a dataset, `budget` bad pictures allowed. `converted_now` leaves out earlier runs."""

    dataset: Place
    total: int
    max_bad: str
    samples: int = 0
    quarantined: int = 0
    bytes: int = 0
    converted_now: int = 0
    actors: dict[int, _Worked] = field(default_factory=dict)

    def count(self, report: ShardReport) -> None:
        """Add a shard."""
        self.samples += report.num_samples
        self.quarantined += len(report.quarantined)
        self.bytes += report.size

    def refuse_over_budget(self) -> None:
        """Raises BudgetError if more pictures are bad than the run was allowed."""
        allowed = allowed_bad(self.max_bad, self.total)
        if self.quarantined > allowed:
            raise BudgetError(
                f"{self.quarantined} pictures cannot be decoded; --max-bad {self.max_bad} allows {allowed}. They lie "
                f"with their reasons in {self.dataset.name('quarantine')}; look at them, then run the same command "
                "with a larger --max-bad to go on"
            )

    def converted(self, done: "Converted", run: RunWriter) -> None:
        """Add a shard that an actor has made, and tell it. Raises BudgetError."""
        report, num_entries = done.report, done.report.num_samples + len(done.report.quarantined)
        run.event(
            "shard",
            f"Shard {report.path}: {report.num_samples} samples in {done.seconds:.1f} s.",
            split=report.split, shard=report.number, num_samples=report.num_samples, seconds=round(done.seconds, 3),
            actor=done.actor.number, host=done.actor.host, node=done.actor.node,
        )  # fmt: skip
        for bad in report.quarantined:
            run.event("quarantined", f"{bad['key']}: {bad['code']}.", split=report.split, **bad)
        worked = self.actors.setdefault(done.actor.number, _Worked(done.actor.host))
        worked.samples += num_entries
        worked.seconds += done.seconds
        self.converted_now += num_entries
        self.count(report)
        self.tell(run, "converting")
        self.refuse_over_budget()

    def tell(self, run: RunWriter, phase: str, *, force: bool = False) -> None:
        """Write the progress, at most as often as it is read."""
        if not force and not run.progress_due():
            return
        done = self.samples + self.quarantined
        run.progress(phase, done, self.total, "samples", force=force, **self.figures())

    def figures(self) -> dict[str, Any]:
        """The counters for the progress; of many actors the slowest are shown."""
        rows: list[dict[str, Any]] = [
            {"actor": n, "host": w.host, "samples": w.samples, "samples_per_s": round(w.samples / w.seconds, 1)}
            for n, w in self.actors.items()
            if w.seconds
        ]
        return {
            "samples": self.samples,
            "quarantined": self.quarantined,
            "bytes": self.bytes,
            "num_actors": len(rows),
            "actors": sorted(rows, key=lambda row: row["samples_per_s"])[:SHOWN_ACTORS],
        }


def allowed_bad(max_bad: str, num_entries: int) -> int:
    """Pictures that may be bad: a count, or a share of all (rounded down)."""
    if max_bad.endswith("%"):
        return math.floor(num_entries * Fraction(max_bad[:-1]) / 100)
    return int(max_bad)
