"""Random kills of everything while the service works: nothing may be lost, doubled or shown wrong.

    python -m tests.benchmarks.soak_service [KILLS] [SEED]        default: 100 kills, a seed of the clock

A service with its own Ray makes datasets and trains small networks, over and over. Service, head, raylet, GCS,
workers and drivers are killed with SIGKILL at moments and in an order that the seed draws; a service that was killed
is started again, as a supervisor would. In the end every job has to have succeeded, with the dataset id or the final
weights of a run that nobody disturbed. Ends with exit code 1 if anything is otherwise.
"""

import collections
import itertools
import json
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ingest.sample_source import write_sample
from ingest.settings import SampleSettings
from tests.benchmarks import report
from tests.benchmarks.material import scratch
from tests.cluster.postgres import StorePlace
from tests.cluster.served import environment
from tests.cluster.work import KINDS, drivers, made_by, settings_of

KILLS, MAX_ATTEMPTS, AT_ONCE = 100, 500, 3
PAUSE_S = (1.0, 20.0)
"""Between kills, drawn anew each time: in the start of a head, of a driver, of workers, and in the middle of work."""
VICTIM_S = 120
START_S, JOB_S, ANSWER_S = 180, 900, 30
VICTIMS = ("service", "head", "raylet", "gcs", "worker", "driver")
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Processes that Ray's node needs to live, not workers of a job."""
NOTES = f"""\
Jobs are ingests of 90 pictures (2 actors) and CPU trainings of a small AlexNet with a checkpoint after every step, in a \
worker of Ray Train and in the driver itself, at most {AT_ONCE} open at a time, max_attempts {MAX_ATTEMPTS}. Victims and \
pauses ({PAUSE_S[0]:.0f} to {PAUSE_S[1]:.0f} s) are drawn by the seed; a victim that is not there at its moment \
is waited for, at most {VICTIM_S} s."""


@dataclass
class World:
    """A home, the service that works in it, and the jobs that were asked for."""

    home: Path
    process: "subprocess.Popen[bytes] | None" = None
    kinds: dict[str, str] = field(default_factory=dict)
    """The kind of work by job id, in the order of asking."""
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each job as it was last shown."""
    faults: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Start the service, and wait until it answers."""
        (self.home / "service.json").unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "cluster.cli", "serve", "--port", "0", "--home", str(self.home), "--num-cpus", "2",
        ]  # fmt: skip
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(), start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while self.ask("/healthz") is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start: {(self.home / 'serve.log').read_text()[-2000:]}")
            time.sleep(0.2)

    def end(self) -> None:
        """End the service in order, and its Ray with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(START_S)

    def ask(self, path: str, body: Any = None, key: str = "") -> Any:
        """The JSON of an answer; None while the service does not answer."""
        try:
            url = json.loads((self.home / "service.json").read_text())["url"]
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
            with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=ANSWER_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise RuntimeError(f"{path}: {error.code} {error.read()!r}") from error
        except (OSError, ValueError, KeyError):
            return None

    def submit(self, kind: str) -> None:
        """Ask for the next job, until it is answered: the key makes it one job."""
        name = f"{kind}-{len(self.kinds)}"
        body = {"kind": kind.split("-")[0], "settings": settings_of(kind, self.home / "data", name), "name": name}
        while (job := self.ask("/v1/jobs", body | {"max_attempts": MAX_ATTEMPTS}, key=name)) is None:
            self.revive()
            time.sleep(0.2)
        self.kinds[job["id"]] = kind
        self.seen.setdefault(job["id"], job)

    def revive(self) -> None:
        """Start the service again if it is dead."""
        if self.process is not None and self.process.poll() is not None:
            self.start()

    def look(self) -> int:
        """Look at every job that has not ended; how many there are. What cannot be is noted as a fault."""
        for job_id in self.kinds:
            before = self.seen[job_id]
            if before["has_ended"] or (now := self.ask(f"/v1/jobs/{job_id}")) is None:
                continue
            if (now["version"], now["attempt"]) < (before["version"], before["attempt"]):
                self.faults.append(f"{job_id} went back from {before} to {now}")
            if now["has_ended"] and now["state"] != "succeeded":
                self.faults.append(f"{job_id} {now['state']}: {now['error']}")
            self.seen[job_id] = now
        return sum(not job["has_ended"] for job in self.seen.values())

    def run_out(self) -> None:
        """Wait until every job has ended."""
        deadline = time.monotonic() + JOB_S
        while self.look():
            self.revive()
            if time.monotonic() > deadline:
                self.faults.append(f"jobs that do not end within {JOB_S} s: {self._open_ones()}")
                return
            time.sleep(0.5)

    def victims(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that are there now, oldest first."""
        if kind == "service":
            return [psutil.Process(self.process.pid)] if self.process and self.process.poll() is None else []
        if kind == "driver":
            return sorted(drivers(self.home).values(), key=psutil.Process.create_time)
        try:
            ray = json.loads((self.home / "ray.json").read_text())
            head = psutil.Process(ray["pid"])
            children = head.children(recursive=True)
        except (FileNotFoundError, ValueError, psutil.Error):
            return []
        if kind == "head":
            return [head]
        named = {"raylet": "raylet/raylet", "gcs": "gcs_server", "worker": "ray::"}[kind]
        programs = [(process, _command(process).split(" ")[0]) for process in children]
        return [process for process, program in programs if named in program and program not in RAYS_OWN]

    def made(self) -> dict[str, str]:
        """What each job has left, by its id."""
        return {job_id: made_by(self.home, self.seen[job_id]) for job_id in self.kinds}

    def _open_ones(self) -> list[Any]:
        return [(job["id"], job["state"]) for job in self.seen.values() if not job["has_ended"]]


def main() -> int:
    """Kill, count, compare, write the result file; whether all was as it should be."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"seed {seed}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with scratch() as out:
        world = World(out)
        write_sample(str(out / "data" / "source"), SampleSettings(num_train=6, num_val=3))
        started = time.monotonic()
        try:
            wanted = _undisturbed(world)
            killed = _kill(world, random.Random(seed), kills)
            world.run_out()
            made = world.made()
        finally:
            world.end()
        faults = [*world.faults, *_misfits(world, made, wanted), *_store_faults(world)]
        figures = {
            "seed": seed, "kills": sum(killed.values()), "killed": dict(killed), "jobs": len(world.kinds),
            "attempts": sum(job["attempt"] for job in world.seen.values()),
            "most_attempts_of_one_job": max(job["attempt"] for job in world.seen.values()),
            "seconds": round(time.monotonic() - started), "faults": faults,
        }  # fmt: skip
        if faults:
            print((out / "serve.log").read_text()[-5000:], file=sys.stderr)
    report.write("soak-service", figures, NOTES)
    return 1 if faults else 0


def _undisturbed(world: World) -> dict[str, str]:
    """What each kind of work makes when nobody disturbs it."""
    world.start()
    for kind in KINDS:
        world.submit(kind)
        world.run_out()
    if world.faults:
        raise RuntimeError(f"undisturbed, and yet: {world.faults}")
    made = world.made()
    return {kind: made[job_id] for job_id, kind in world.kinds.items()}


def _kill(world: World, rng: random.Random, kills: int) -> "collections.Counter[str]":
    """Keep the service busy and kill; the number of kills of each kind of process."""
    killed: collections.Counter[str] = collections.Counter()
    while sum(killed.values()) < kills:
        due, kind = time.monotonic() + rng.uniform(*PAUSE_S), rng.choice(VICTIMS)
        while time.monotonic() < due + VICTIM_S:
            _keep_busy(world, rng)
            if time.monotonic() >= due and (victim := _killed(world.victims(kind), rng)):
                killed[kind] += 1
                print(f"{sum(killed.values())}: {kind} {victim}", file=sys.stderr)
                break
            time.sleep(0.1)
    return killed


def _keep_busy(world: World, rng: random.Random) -> None:
    world.revive()
    if world.look() < AT_ONCE:
        world.submit(rng.choice(KINDS))


def _killed(victims: list[psutil.Process], rng: random.Random) -> str:
    """Kill one of them; which one it was, empty if there was none."""
    for victim in rng.sample(victims, len(victims)):
        words = f"{victim.pid} {_command(victim)[:60]}"
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
        return words
    return ""


def _misfits(world: World, made: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return [
        f"{job_id} ({kind}) made {made[job_id][:16]}, undisturbed {wanted[kind][:16]}"
        for job_id, kind in world.kinds.items()
        if made[job_id] != wanted[kind]
    ]


def _store_faults(world: World) -> list[str]:
    """Jobs that are lost or doubled, and moves that do not follow on one another, as the database itself tells them."""
    place = StorePlace(str(world.home / "store.sqlite"))
    faults = []
    stored = {row[0] for row in place.rows("SELECT id FROM jobs")}
    if stored != set(world.kinds):
        faults.append(f"jobs stored {sorted(stored)}, asked for {sorted(world.kinds)}")
    for job_id in stored:
        moves = place.rows(f"SELECT number, state_before, state FROM moves WHERE job = '{job_id}' ORDER BY number")
        chain = all(later[1] == earlier[2] for earlier, later in itertools.pairwise(moves))
        if [move[0] for move in moves] != list(range(len(moves))) or not chain:
            faults.append(f"{job_id}: moves {moves}")
    return faults


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


if __name__ == "__main__":
    raise SystemExit(main())
