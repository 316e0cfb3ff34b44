"""The files of docker/ as their own tools see them: hadolint, shellcheck, the Compose specification; and their parts."""

import os
import re
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.serve import DRIVERS_END_WITHIN_S, STREAMS_END_WITHIN_S
from cluster.settings import ServeSettings
from tests.deployment.image import instructions, kept

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
COMPOSE = ("compose.yaml", "compose.gpu.yaml")
OURS = ("head", "worker", "service")
DIGEST = re.compile(r":[\w.-]+@sha256:[0-9a-f]{64}$")


def check(*command: Path | str) -> str:
    """What a checker says; nothing if it finds nothing."""
    done = subprocess.run([str(BIN / command[0]), *map(str, command[1:])], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return loaded


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


def words(service: dict[str, Any]) -> list[str]:
    return str(service["command"][-1]).split()


def test_hadolint_finds_nothing() -> None:
    assert check("hadolint", DOCKER / "Dockerfile") == ""


def test_shellcheck_finds_nothing_in_any_script() -> None:
    scripts = [*sorted(DOCKER.glob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 6
    assert check("shellcheck", *scripts) == ""


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_keep_to_the_specification(name: str) -> None:
    assert check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / name) == ""


def test_a_misspelt_key_of_compose_would_be_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_perod"))
    assert "stop_grace_perod" in check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong)


def test_every_image_that_is_not_built_here_is_pinned_by_tag_and_digest() -> None:
    stages = [i.rest.split() for i in instructions((DOCKER / "Dockerfile").read_text()) if i.keyword == "FROM"]
    names = {name for _, _, name in stages}
    foreign = [base for base, _, _ in stages if base not in names] + [compose()["services"]["store"]["image"]]
    assert len(foreign) == 2
    assert all(DIGEST.search(image) for image in foreign)


def test_the_image_is_a_user_without_rights_and_builds_in_a_stage_that_it_leaves_behind() -> None:
    steps = instructions((DOCKER / "Dockerfile").read_text())
    last = steps[max(n for n, step in enumerate(steps) if step.keyword == "FROM") :]
    assert [step.rest for step in last if step.keyword == "USER"] == ["1000:1000"]
    assert {"HEALTHCHECK", "LABEL", "ENTRYPOINT"} <= {step.keyword for step in last}
    assert not any("build-essential" in step.rest or "-dev" in step.rest for step in last)


def test_what_goes_into_the_image_is_the_four_floors_and_what_installs_them() -> None:
    files = {path.as_posix() for path in kept(ROOT, (DOCKER / "Dockerfile.dockerignore").read_text())}
    assert {name.split("/")[0] for name in files} == {
        "LICENSE", "NOTICE", "README.md", "pyproject.toml", "docker", "ingest", "augment", "trainer", "cluster"
    }  # fmt: skip
    assert {f"docker/{name}" for name in ("install.sh", "healthy.py", "stop_jobs.py", "constraints.txt")} <= files
    assert not any("secrets/" in name or name.endswith(".pyc") for name in files)


def test_every_service_of_compose_is_watched_limited_and_without_rights() -> None:
    for name, service in compose()["services"].items():
        assert service["init"] is True, name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert service["user"] not in ("root", "0"), name
        assert service["cap_drop"] == ["ALL"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert seconds(service["stop_grace_period"]) >= 60, name


def test_only_the_page_is_published_and_only_on_loopback() -> None:
    services = compose()["services"]
    assert {name for name, service in services.items() if "ports" in service} == {"service"}
    assert all(port.startswith("127.0.0.1:") for port in services["service"]["ports"])
    assert compose()["networks"]["ray"] == {"internal": True}
    assert [name for name, service in services.items() if "front" in service["networks"]] == ["service"]


def test_what_a_service_of_compose_needs_is_healthy_before_it_starts() -> None:
    services = compose()["services"]
    needs = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert needs == {"head": set(), "worker": {"head"}, "service": {"head", "store"}, "store": set()}
    conditions = {d["condition"] for s in services.values() for d in s.get("depends_on", {}).values()}
    assert conditions == {"service_healthy"}


def test_secrets_of_compose_are_files_and_nothing_secret_stands_in_an_environment() -> None:
    whole = compose()
    assert all(set(secret) == {"file"} for secret in whole["secrets"].values())
    for service in whole["services"].values():
        assert set(service["secrets"]) <= set(whole["secrets"])
        for name, value in service.get("environment", {}).items():
            if "TOKEN" in name or "PASSWORD" in name:
                assert value.startswith("/run/secrets/")


def test_every_ray_of_compose_demands_the_same_token_and_the_head_takes_no_tasks() -> None:
    services = compose()["services"]
    demands = [services[name]["environment"] for name in OURS]
    assert demands[0] == demands[1] == demands[2]
    assert demands[0]["RAY_AUTH_MODE"] == "token"
    assert "--num-cpus=0" in words(services["head"])
    assert f"--address=head:{_port(words(services['head']))}" in words(services["worker"])


def _port(command: list[str]) -> str:
    (port,) = (word.removeprefix("--port=") for word in command if word.startswith("--port="))
    return port


def test_the_service_of_compose_is_started_with_settings_that_it_knows() -> None:
    service = compose()["services"]["service"]
    command = words(service)
    flags = command[command.index("serve") + 1 :]
    settings = ServeSettings.model_validate({
        name.removeprefix("--").replace("-", "_"): (value,) if name == "--root" else value
        for name, value in zip(flags[::2], flags[1::2], strict=True)
    })  # fmt: skip
    mounts = {mount.rpartition(":")[2] for mount in service["volumes"]}
    assert mounts == {settings.home, f"{settings.home}/runs", *settings.root}
    assert service["ports"][0].endswith(f":{settings.port}")
    assert settings.ray_address == "http://head:8265"
    assert seconds(service["stop_grace_period"]) > DRIVERS_END_WITHIN_S + STREAMS_END_WITHIN_S


def test_runs_and_data_lie_under_the_same_names_in_every_container_of_compose() -> None:
    services = compose()["services"]
    assert services["head"]["volumes"] == services["worker"]["volumes"]
    assert set(services["head"]["volumes"]) < set(services["service"]["volumes"])


def test_settings_of_the_example_are_those_that_compose_reads() -> None:
    read = {name for file in COMPOSE for name in re.findall(r"\$\{(\w+):-", (DOCKER / file).read_text())}
    told = set(re.findall(r"^#?(TENCH_\w+)=", (DOCKER / "env.example").read_text(), re.MULTILINE))
    assert told == read - {"TENCH_TAG"}


def test_the_gpu_file_changes_services_of_the_first_and_asks_for_the_build_for_gpus() -> None:
    services = compose("compose.gpu.yaml")["services"]
    assert set(services) == set(OURS)
    assert services["head"]["build"]["args"] == {"TORCH": "cuda"}
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_secrets_are_made_once_in_a_folder_that_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for _ in range(2):
        command = ["bash", str(DOCKER / "secrets.sh"), os.path.relpath(folder, DOCKER.parent)]
        subprocess.run(command, check=True, capture_output=True, cwd=DOCKER.parent)
        made = {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(made) == {"ray_token", "store_password"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", text) for text in made.values())
    first = dict(made)
    subprocess.run(["bash", DOCKER / "secrets.sh", folder], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first


def test_an_unknown_build_of_torch_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "docker/install.sh", tmp_path / "venv"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "TORCH": "rocm", "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 2
    assert "TORCH=rocm: expected cpu or cuda" in done.stderr


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_health_check_fails_if_any_address_does_not_answer_200() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        asked = [[f"{url}/well"], [f"{url}/well", f"{url}/ill"], [f"{url}/well", "http://127.0.0.1:1/"]]
        codes = [
            subprocess.run([sys.executable, DOCKER / "healthy.py", *urls], capture_output=True).returncode
            for urls in asked
        ]
        server.shutdown()
    assert codes == [0, 1, 1]


@pytest.mark.slow
def test_the_installation_check_takes_only_a_torch_that_knows_gpus_where_one_was_asked_for() -> None:
    import torch

    done = subprocess.run(
        [sys.executable, "docker/check_install.py", "cuda"], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    knows_gpus = torch.version.cuda is not None
    assert done.returncode == (0 if knows_gpus else 1)
    assert ("one for GPUs was asked for" in done.stderr) != knows_gpus


def test_docker_is_no_package_of_python() -> None:
    assert not (DOCKER / "__init__.py").exists()
