"""When a service says that it is ready: store, watcher and Ray, each on its own."""

import fcntl
from pathlib import Path

from tests.cluster.ray_api import TOKEN, ray_api
from tests.cluster.served import serving


def test_a_service_is_ready_once_its_watcher_is_at_work_and_ray_answers(tmp_path: Path) -> None:
    with ray_api() as api, (tmp_path / "store.sqlite.watcher").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # Somebody else watches, or seems to.
        with serving(tmp_path, api.url, ray_token=TOKEN) as service:
            ready = service.get("/readyz")
            assert (ready.status, ready.json()) == (503, {"store": True, "watcher": False, "ray": False})
            assert service.get("/healthz").status == 200
            fcntl.flock(held, fcntl.LOCK_UN)
            service.eventually("/v1/cluster", lambda found: found["reachable"])
            ready = service.get("/readyz")
            assert (ready.status, ready.json()) == (200, {"store": True, "watcher": True, "ray": True})


def test_a_service_whose_store_is_gone_is_alive_and_not_ready(tmp_path: Path) -> None:
    with ray_api() as api, serving(tmp_path, api.url, ray_token=TOKEN) as service:
        assert service.get("/readyz").status == 200
        for file in tmp_path.glob("store.sqlite*"):
            file.write_bytes(b"no database any more" * 500)
        ready = service.get("/readyz")
        assert (ready.status, ready.json()["store"]) == (503, False)
        assert service.get("/healthz").status == 200
        answer = service.get("/v1/jobs")
        assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
