"""A service without Ray for the whole of these tests: jobs stay queued, and everything but running them works."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.postgres import postgres, store_place
from tests.cluster.ray_api import TOKEN, RayApi, ray_api
from tests.cluster.served import Served, closed_port, serving

__all__ = ["postgres", "store_place"]


@pytest.fixture(scope="session")
def no_ray() -> Iterator[str]:
    """The address of a Ray that does not answer."""
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def served(no_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service on loopback that asks for no token."""
    with serving(tmp_path_factory.mktemp("home"), no_ray) as service:
        yield service


@pytest.fixture(scope="module")
def api() -> Iterator[RayApi]:
    """Ray's interface, played, for the tests of a file."""
    with ray_api() as played:
        yield played


@pytest.fixture(scope="module")
def with_ray(api: RayApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that starts jobs on that Ray."""
    with serving(tmp_path_factory.mktemp("with-ray"), api.url, ray_token=TOKEN) as service:
        yield service


@pytest.fixture(scope="session")
def served_dataset(served: Served, tiny_dataset: str) -> Path:
    """A sealed dataset under the root of that service."""
    return Path(shutil.copytree(tiny_dataset, served.root / "tiny"))
