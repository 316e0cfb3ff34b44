"""The image, built and used without Docker: its steps in a Debian that debootstrap made, and the demo inside it.

The base image that FROM names is such a Debian less its manuals; everything after FROM is read from the Dockerfile.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.image import Build, Stage, command_in, inside

pytestmark = [pytest.mark.root, pytest.mark.timeout(2400)]
ROOT = Path(__file__).resolve().parents[2]
RELEASE = "bookworm"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a minimal Debian."""
    if shutil.which("debootstrap") is None:
        pytest.skip("there is no debootstrap; run: bash docker/debian.sh debootstrap debootstrap 'this test'")
    root = tmp_path_factory.mktemp("debian") / "root"
    done = subprocess.run(["debootstrap", "--variant=minbase", RELEASE, root], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"debootstrap reaches no mirror of Debian: {done.stdout[-300:]} {done.stderr[-300:]}")
    return root


@pytest.fixture(scope="module")
def image(debian: Path) -> Iterator[Stage]:
    """The last stage of the Dockerfile, all of its steps carried out."""
    folder = debian.parent / "stages"
    folder.mkdir()
    build = Build(ROOT / "docker" / "Dockerfile", ROOT, debian, folder)
    stage = build.run()
    assert all(f":{RELEASE}" in base for base in build.bases)
    yield stage
    shutil.rmtree(folder)


def say(image: Stage, *command: str) -> str:
    done = subprocess.run(command_in(image, list(command), sealed=True), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_image_runs_as_a_user_without_rights_and_holds_no_compiler(image: Stage) -> None:
    assert say(image, "id", "-u") == "1000"
    for name in ("usr/bin/cc", "usr/bin/gcc", "usr/bin/make", "usr/include/jpeglib.h", "usr/include/python3.11"):
        assert not (image.root / name).exists(), name


def test_the_image_holds_neither_tests_nor_secrets(image: Stage) -> None:
    there = {p.name for p in inside(image, "/opt/tench").iterdir()}
    assert {"cluster", "trainer", "augment", "ingest", "docker"} <= there
    assert not {"tests", ".git", ".venv"} & there
    assert not inside(image, "/opt/tench/docker/secrets").exists()


def test_the_demo_runs_in_the_image_without_a_network_and_with_a_root_that_cannot_be_written(image: Stage) -> None:
    command = [*image.words("ENTRYPOINT"), "tench", "demo", "/data/demo", "--json"]
    done = subprocess.run(command_in(image, command, sealed=True, writable=("/data",)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    assert facts["num_samples"] == 240
    assert facts["top1_error"] < 0.9
