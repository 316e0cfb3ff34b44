"""A service with 10,000 stored jobs: its memory, a page of jobs, a tick of the watcher; in SQLite and in PostgreSQL.

python -m tests.benchmarks.bench_store        needs Debian's package postgresql
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cluster import tables
from cluster.launcher import RayJobs
from cluster.store import Store
from cluster.watcher import Watcher
from ingest.progress import RunWriter
from ingest.storage import Place
from tests.benchmarks import report
from tests.benchmarks.material import scratch
from tests.cluster.postgres import StorePlace, postgres_server
from tests.cluster.ray_api import TOKEN, RayApi, node, ray_api
from tests.cluster.rows import new_job
from tests.cluster.served import Served, serving

JOBS, AT_WORK, QUEUED, PAGE = 10_000, 16, 34, 100
TIMES = 40
MIB = 2**20
NOTES = f"""\
`tench serve` as a process with a Ray that is played over HTTP; all on loopback, the databases on the same disk \
(PostgreSQL without fsync: only reads are timed). {JOBS:,} stored jobs, of them {AT_WORK} at work with run folders and \
{QUEUED} queued; the newest {PAGE} have a run folder with progress and result, which a page reads. Milliseconds are \
medians of {TIMES}, the databases in turn; a tick is one of a second watcher in this process, which moves nothing."""


class Filled:
    """A service at work on a store, which is filled while it runs."""

    def __init__(self, service: Served, place: StorePlace, api: RayApi) -> None:
        self._service, self._place = service, place
        self._store = Store.open(place.place)
        self._ray = RayJobs(api.url, TOKEN)
        runs = Place(service.home / "runs")
        self._watcher = Watcher(self._store, self._ray, runs, [str(service.root)])
        self.page()
        self.empty_mib = self.memory_mib()
        self._fill(runs, api)

    def close(self) -> None:
        self._ray.close()
        self._store.close()

    def memory_mib(self) -> int:
        return int(psutil.Process(self._service.process.pid).memory_info().rss // MIB)

    def page(self) -> float:
        """Milliseconds of the first page."""
        return self._milliseconds(lambda: self._get(""))

    def page_in_the_middle(self) -> float:
        """Milliseconds of a page of old jobs."""
        return self._milliseconds(lambda: self._get(f"&cursor=old-{JOBS // 2}"))

    def tick(self) -> float:
        """Milliseconds of a look at all open jobs."""
        return self._milliseconds(self._watcher.tick)

    def all_pages(self) -> int:
        """The number of jobs on all pages together."""
        count, cursor = 0, ""
        while True:
            found = self._get(cursor)
            count += len(found["jobs"])
            if found["next"] is None:
                return count
            cursor = f"&cursor={found['next']}"

    def _get(self, more: str) -> Any:
        answer = self._service.get(f"/v1/jobs?limit={PAGE}{more}")
        assert answer.status == 200, answer.body
        return answer.json()

    def _milliseconds(self, work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - started)

    def _fill(self, runs: Place, api: RayApi) -> None:
        """One job as it is stored, and the others made of it by the database; the open ones are older than they."""
        first, _ = self._store.add(new_job("first", state="succeeded", attempt=1, exit_code=0, result={"ok": True}))
        _multiply(self._place, JOBS - 1 - AT_WORK - QUEUED)
        for number in range(PAGE):
            _put_run(runs.inside(f"old-{JOBS - 1 - AT_WORK - QUEUED - number}"), ended=True)
        for number in range(AT_WORK):
            job = new_job(f"at-work-{number}", state="running", attempt=1, created_at=first.created_at - 1)
            _put_run(runs.inside(job.id), ended=False)
            api.jobs[f"tench-{job.id}-1"] = {"submission_id": f"tench-{job.id}-1", "status": "RUNNING"}
            self._store.add(job)
        for number in range(QUEUED):
            self._store.add(new_job(f"queued-{number}", created_at=first.created_at - 1))


def _multiply(place: StorePlace, count: int) -> None:
    columns = {column.name: f'"{column.name}"' for column in tables.jobs.columns}
    values = columns | {"id": "'old-' || i", "created_at": "created_at + i"}
    place.rows(
        f"INSERT INTO jobs ({', '.join(columns.values())}) "
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
        f"SELECT {', '.join(values.values())} FROM jobs CROSS JOIN n WHERE id = 'first'"
    )


def _put_run(place: Place, ended: bool) -> None:
    run = RunWriter.begin(place, "verify", {})
    run.progress("verifying", 3, 12, "files", force=True)
    if ended:
        run.finish("succeeded", 0, ok=True)


def main() -> None:
    """Measure, write the result file."""
    with scratch() as out, postgres_server() as postgres, ray_api(node("head", 16)) as api:
        places = {"sqlite": StorePlace(str(out / "sqlite.store")), "postgresql": postgres.new()}
        report.write("store", _measured(out, places, api), NOTES)


def _measured(out: Path, places: dict[str, StorePlace], api: RayApi) -> dict[str, Any]:
    with (
        serving(out / "a", api.url, ray_token=TOKEN, store=places["sqlite"].place) as first,
        serving(out / "b", api.url, ray_token=TOKEN, store=places["postgresql"].place) as second,
    ):
        services = dict(zip(places, (first, second), strict=True))
        filled = {name: Filled(services[name], place, api) for name, place in places.items()}
        figures: dict[str, Any] = {"jobs": JOBS}
        for what in ("page", "page_in_the_middle", "tick"):
            found = report.in_turn({name: getattr(one, what) for name, one in filled.items()}, TIMES)
            figures |= {f"{what}_{name}_ms": report.median(values) for name, values in found.items()}
            figures[f"{what}_postgresql_to_sqlite"] = float(f"{report.ratio(found, 'postgresql', 'sqlite'):.3g}")
        for name, one in filled.items():
            assert one.all_pages() == JOBS
            figures[f"memory_{name}_empty_mib"] = one.empty_mib
            figures[f"memory_{name}_after_all_pages_mib"] = one.memory_mib()
            one.close()
        return figures


if __name__ == "__main__":
    main()
