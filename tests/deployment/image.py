"""A Dockerfile carried out without Docker: every stage a folder, every RUN in a chroot of it, COPY by its rules.

Knows what Tench's Dockerfile uses; any other instruction is an error, so that nothing of it is passed over.
"""

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

METADATA = ("LABEL", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
PASSED_ON = ("PIP_", "UV_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""How this machine gets its packages: the same for what is built on it."""
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
CERTIFICATES_INSIDE = "/run/certificates.crt"


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword, and the rest of its lines as one."""

    keyword: str
    rest: str


@dataclass(frozen=True)
class Stage:
    """What a stage has come to: its folder and what its instructions have set."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def words(self, keyword: str) -> list[str]:
        """The words of an ENTRYPOINT or CMD in JSON form."""
        return [str(word) for word in json.loads(self.metadata[keyword])]


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, comments and line ends gone."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [Instruction(*line.strip().split(maxsplit=1)) for line in whole]


def kept(context: Path, ignore: str) -> Iterator[Path]:
    """The files of a context that a .dockerignore leaves, relative to it: the last pattern that fits decides."""
    patterns = [line.strip() for line in ignore.splitlines() if line.strip()]
    wanted = [p[1:] for p in patterns if p.startswith("!")]
    for top in wanted:
        found = [context / top] if (context / top).is_file() else sorted((context / top).rglob("*"))
        for path in found:
            name = path.relative_to(context).as_posix()
            if path.is_file() and not any(_ignores(p, name) for p in patterns if p.startswith("**/")):
                yield path.relative_to(context)


def _ignores(pattern: str, name: str) -> bool:
    return any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in name.split("/"))


@dataclass
class Build:
    """Carries a Dockerfile out below a folder, from the root of a Debian instead of the image that FROM names."""

    dockerfile: Path
    context: Path
    debian: Path
    folder: Path
    stages: dict[str, Stage] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def run(self) -> Stage:
        """Every instruction in order; the last stage."""
        stage: Stage | None = None
        name = ""
        for step in instructions(self.dockerfile.read_text()):
            if step.keyword == "FROM":
                base, _, name = step.rest.split()
                stage = self._from(base, name)
            else:
                assert stage is not None, "an instruction before the first FROM"
                stage = self._step(step, stage)
            self.stages[name] = stage
        assert stage is not None
        return stage

    def _from(self, base: str, name: str) -> Stage:
        root = self.folder / name
        start = self.stages.get(base)
        if start is None:
            self.bases.append(base)
        subprocess.run(["cp", "-a", "--reflink=auto", start.root if start else self.debian, root], check=True)
        return replace(start, root=root, arguments={}) if start else Stage(root)

    def _step(self, step: Instruction, stage: Stage) -> Stage:
        if step.keyword in ("ENV", "ARG"):
            kind = "environment" if step.keyword == "ENV" else "arguments"
            values = dict(pair.split("=", 1) for pair in shlex.split(step.rest))
            more: dict[str, Any] = {kind: {**getattr(stage, kind), **values}}
            return replace(stage, **more)
        if step.keyword == "WORKDIR":
            inside(stage, step.rest).mkdir(parents=True, exist_ok=True)
            return replace(stage, workdir=step.rest)
        if step.keyword == "USER":
            return replace(stage, user=step.rest)
        if step.keyword in METADATA:
            return replace(stage, metadata={**stage.metadata, step.keyword: step.rest})
        if step.keyword == "COPY":
            self._copy(step.rest.split(), stage)
        elif step.keyword == "RUN":
            self.log.append(step.rest)
            building = replace(stage, environment={**stage.environment, **stage.arguments})
            done = subprocess.run(command_in(building, ["/bin/sh", "-c", step.rest]), capture_output=True, text=True)
            assert done.returncode == 0, f"RUN {step.rest}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        else:
            raise ValueError(f"{step.keyword}: not known here; teach tests/deployment/image.py what it does")
        return stage

    def _copy(self, words: list[str], stage: Stage) -> None:
        source_stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *sources, target = words
        if source_stage is not None:
            (source,) = sources
            shutil.copytree(inside(self.stages[source_stage], source), inside(stage, target), symlinks=True)
            return
        place = inside(stage, os.path.join(stage.workdir, target))
        ignore = self.dockerfile.with_name(f"{self.dockerfile.name}.dockerignore").read_text()
        files = set(kept(self.context, ignore))
        for source in sources:
            for file in files if source == "." else [Path(source)]:
                assert file in files, f"COPY {source}: .dockerignore leaves it out"
                to = place / (file if source == "." else file.name)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.context / file, to)


def inside(stage: Stage, path: str) -> Path:
    """A path of an image as a path of this machine."""
    return stage.root / path.lstrip("/")


def command_in(stage: Stage, command: list[str], *, sealed: bool = False, writable: tuple[str, ...] = ()) -> list[str]:
    """The command line that runs a command in a stage, as its user, in its folder, with its environment and no other.

    It ends with everything that it started. `sealed`: without any network but loopback, and with a root that cannot
    be written except in /tmp and the folders named in `writable`.
    """
    root, outside = shlex.quote(str(stage.root)), {} if sealed else _outside()
    lines = [
        "set -e", f"mount --bind {root} {root}", f"mount -t proc proc {root}/proc",
        f"mount --rbind -o ro /sys {root}/sys", f"mount --rbind /dev {root}/dev", f"mount -t tmpfs tmpfs {root}/dev/shm",
    ]  # fmt: skip
    if sealed:
        lines += ["ip link set lo up", f"mount -t tmpfs tmpfs {root}/tmp"]
        lines += [f"mount --bind {root}{place} {root}{place}" for place in writable]
        lines += [f"mount -o remount,ro,bind {root}"]
    else:
        lines += _packages_mounts(root, outside)
    variables = {**_certificates_inside(outside), **stage.environment, "HOME": _home_of(stage)}
    words = ["chroot", f"--userspec={stage.user}", str(stage.root), "/usr/bin/env", "-i", f"--chdir={stage.workdir}"]
    words += [f"{name}={value}" for name, value in variables.items()]
    lines += [f"exec {shlex.join([*words, *command])}"]
    spaces = ["--mount", "--pid", "--ipc", "--uts", *(["--net"] if sealed else [])]
    return ["unshare", *spaces, "--fork", "--kill-child", "/bin/sh", "-c", "\n".join(lines)]


def _home_of(stage: Stage) -> str:
    return "/root" if stage.user == "0:0" else "/home/tench"


def _outside() -> dict[str, str]:
    """This machine's settings of its package clients."""
    return {n: v for n, v in os.environ.items() if n.startswith(PASSED_ON) or n in CERTIFICATES}


def _certificates_inside(outside: dict[str, str]) -> dict[str, str]:
    return {name: CERTIFICATES_INSIDE if name in CERTIFICATES else value for name, value in outside.items()}


def _packages_mounts(root: str, outside: dict[str, str]) -> list[str]:
    """What those settings name, under the same name inside; names of hosts as this machine resolves them."""
    lines = [f"touch {root}/etc/resolv.conf", f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf"]
    bundles = {value for name, value in outside.items() if name in CERTIFICATES}
    for bundle in bundles:
        lines += [f"touch {root}{CERTIFICATES_INSIDE}", f"mount --bind {bundle} {root}{CERTIFICATES_INSIDE}"]
    for links in {v for n, v in outside.items() if n.endswith("FIND_LINKS") and v.startswith("/")}:
        lines += [f"mkdir -p {root}{links}", f"mount --bind -o ro {links} {root}{links}"]
    return lines
