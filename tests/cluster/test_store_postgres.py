"""A store in PostgreSQL when the server goes away and comes back, and what is said of it: never the password."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.launcher import RayJobs
from cluster.store import Store
from cluster.watcher import Watcher
from ingest.errors import RefusedError
from ingest.storage import Place
from tests.cluster.postgres import PASSWORD, Postgres
from tests.cluster.ray_api import TOKEN, RayApi, node, ray_api
from tests.cluster.rows import new_job
from tests.cluster.served import serving
from tests.cluster.test_store_processes import became_watcher

pytestmark = pytest.mark.slow


@pytest.fixture
def api() -> Iterator[RayApi]:
    with ray_api(node("head", 4)) as played:
        yield played


@contextmanager
def watched(store: Store, api: RayApi, runs: Path) -> Iterator[Watcher]:
    """A watcher at work in a thread."""
    ray = RayJobs(api.url, TOKEN)
    watcher = Watcher(store, ray, Place(runs), [])
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.stop()
        thread.join(30)
        ray.close()
        assert not thread.is_alive()


def test_the_watcher_survives_a_restart_of_the_server_and_goes_on(
    postgres: Postgres, api: RayApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(postgres.new().place)
    with watched(store, api, tmp_path):
        first = store.add(new_job())[0].id
        api.wait_for(f"tench-{first}-1")
        postgres.stop()
        assert not store.is_usable()
        threading.Event().wait(2)  # The watcher looks every 0.7 s.
        postgres.start()
        assert store.is_usable()
        second = store.add(new_job())[0].id
        api.wait_for(f"tench-{second}-1")
    assert [move["state"] for move in store.moves(first)][:2] == ["queued", "starting"]
    assert api.submits == [f"tench-{first}-1", f"tench-{second}-1"]
    store.close()
    said = "".join(capfd.readouterr())
    assert "the store does not answer" in said
    assert PASSWORD not in said
    assert "Traceback" not in said


def test_a_restart_of_the_server_ends_a_watchers_turn_and_another_may_take_it(postgres: Postgres) -> None:
    place = postgres.new().place
    first, second = Store.open(place), Store.open(place)
    with first.watching() as is_mine:
        assert is_mine()
        postgres.stop()
        postgres.start()
        with second.watching() as is_others:
            assert is_others()
            assert not is_mine()
    assert first.is_usable()
    first.close()
    second.close()


def test_a_turn_that_ends_in_an_error_is_free_for_others(postgres: Postgres) -> None:
    place = postgres.new().place
    first, second = Store.open(place), Store.open(place)
    with pytest.raises(ZeroDivisionError), first.watching():
        raise ZeroDivisionError
    with became_watcher(second) as is_mine:
        assert is_mine()
    first.close()
    second.close()


def test_a_database_that_cannot_be_opened_is_refused_without_its_password(postgres: Postgres) -> None:
    user = f"tench:{PASSWORD}"
    for url, words in [
        (f"postgresql://{user}@127.0.0.1:1/tench", "Connection refused"),
        (f"postgresql://{user}@127.0.0.1:port/tench", "no URL of a database"),
        (postgres.url("nowhere"), '"nowhere" does not exist'),
        (postgres.url("postgres").replace(PASSWORD, f"not-{PASSWORD}"), "password authentication failed"),
        (f"{postgres.url('postgres')}?sslcert={PASSWORD}&{PASSWORD}=1", "cannot be opened"),
    ]:
        with pytest.raises(RefusedError) as refused:
            Store.open(url)
        assert words in refused.value.message
        assert f":{PASSWORD}@" not in refused.value.message
        if "?" not in url:
            assert PASSWORD not in refused.value.message


def test_a_service_keeps_its_jobs_in_postgresql_over_a_kill_and_a_restart_of_the_server(
    postgres: Postgres, api: RayApi, tmp_path: Path
) -> None:
    place = postgres.new()
    with serving(tmp_path, api.url, ray_token=TOKEN, store=place.place) as service:
        job = service.submit()["id"]
        service.job_once(job, "starting")
        words = Path(f"/proc/{service.process.pid}/cmdline").read_bytes()
        service.process.kill()
        service.process.wait()
    with serving(tmp_path, api.url, ray_token=TOKEN, store=place.place) as service:
        assert [found["id"] for found in service.get("/v1/jobs").json()["jobs"]] == [job]
        postgres.stop()
        assert service.get("/readyz").status == 503
        assert service.get(f"/v1/jobs/{job}").status >= 500
        assert service.get("/healthz").status == 200
        postgres.start()
        api.say(f"tench-{job}-1", "RUNNING")
        assert service.job_once(job, "running")["attempt"] == 1
        assert service.get("/readyz").status == 200
    assert place.rows("SELECT id, state FROM jobs") == [(job, "running")]
    assert api.submits == [f"tench-{job}-1"]
    assert PASSWORD.encode() not in words
    assert PASSWORD not in (tmp_path / "serve.out").read_text()
    assert not (tmp_path / "store.sqlite").exists()
