#!/usr/bin/env bash
# Install Tench into a virtual environment: what `make install` and the images run.
#
#   docker/install.sh VENV [core|test|packages]      packages: everything that Tench stands on, but not Tench
#
# PYTHON (default python3), IMAGING=simd|pillow (default simd), TORCH=cpu|cuda (default: cuda where an NVIDIA GPU is
# found), TORCH_INDEX (default: PyTorch's CPU index for cpu). A second run with nothing changed ends at once.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${1:?usage: docker/install.sh VENV [core|test|packages]}
EXTRAS=${2:-core}
PYTHON=${PYTHON:-python3}
IMAGING=${IMAGING:-simd}
TORCH=${TORCH:-}
TORCH_INDEX=${TORCH_INDEX:-}
CONSTRAINTS=docker/constraints.txt
CPU_INDEX=https://download.pytorch.org/whl/cpu
APT_PACKAGES="build-essential python3-dev zlib1g-dev libjpeg-dev"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'tench install: %s\n' "$*" >&2; exit 2; }

check_python() {
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
        fail "found $("$PYTHON" --version 2>&1 || echo "no $PYTHON"), expected Python 3.11 to 3.13; run: make install PYTHON=python3.12"
}

make_venv() {
    [ -x "$VENV/bin/python" ] && return
    say "Making the virtual environment $VENV"
    "$PYTHON" -m venv "$VENV" 2>/dev/null && return
    rm -rf "$VENV"
    apt_install python3-venv
    "$PYTHON" -m venv "$VENV"
}

apt_install() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing Debian packages: $*"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        fail "missing: $*. Run: sudo apt-get install -y --no-install-recommends $*
  and then this again."
    fi
}

# uv is several times quicker than pip; both install the same versions.
choose_installer() {
    if command -v uv >/dev/null; then
        UV=$(command -v uv)
    elif "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv 2>/dev/null; then
        UV="$VENV/bin/uv"
    else
        UV=""
    fi
    # pip's own setting for local wheels holds for uv as well.
    export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
    [ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS
}

install() {
    if [ -n "$UV" ]; then
        # Compiled now: every process of Ray would do it again where Python may not write beside its sources.
        "$UV" pip install --quiet --compile-bytecode --python "$VENV/bin/python" "$@"
    else
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    fi
}

# An image for GPUs is built where there is none: then TORCH says which build is meant.
choose_torch() {
    case "$TORCH" in
        cpu | cuda) ;;
        "") if nvidia-smi -L >/dev/null 2>&1; then TORCH=cuda; else TORCH=cpu; fi ;;
        *) fail "TORCH=$TORCH: expected cpu or cuda" ;;
    esac
}

# Torch comes first: every later requirement is met by it, so nothing can bring another build.
install_torch() {
    "$VENV/bin/python" -c 'import importlib.metadata as m, sys; sys.exit(not m.version("torch").startswith("2.13.0"))' 2>/dev/null && return
    local index=()
    if [ -n "$TORCH_INDEX" ]; then
        index=(--index-url "$TORCH_INDEX")
    elif [ "$TORCH" = cpu ] && [ -z "${PIP_FIND_LINKS:-}${UV_FIND_LINKS:-}" ]; then
        index=(--index-url "$CPU_INDEX")
    fi
    say "Installing torch 2.13.0 (${index[1]:-standard index})"
    install "${index[@]}" torch==2.13.0
}

requirements() {
    "$VENV/bin/python" - "$EXTRAS" <<'PY'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = project["dependencies"] + (project["optional-dependencies"]["test"] if sys.argv[1] == "test" else [])
print("\n".join(line for line in wanted if not line.startswith(("pillow", "torch"))))
PY
}

install_packages() {
    say "Installing the packages ($EXTRAS)"
    requirements >"$VENV/requirements.txt"
    # pillow-simd and pillow fill the same folder: whatever asks for pillow must fail here, not overwrite it.
    printf 'torch==2.13.0\npillow<0\n' >"$VENV/guard.txt"
    install --only-binary :all: -c "$CONSTRAINTS" -c "$VENV/guard.txt" -r "$VENV/requirements.txt"
}

headers_are_there() {
    local include
    include=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    printf '#include <stdio.h>\n#include <jpeglib.h>\n#include <zlib.h>\n#include <Python.h>\n' |
        cc -E -I"$include" - >/dev/null 2>&1
}

remove_distribution() {
    if [ -n "$UV" ]; then
        "$UV" pip uninstall --quiet --python "$VENV/bin/python" "$1" 2>/dev/null || true
    else
        "$VENV/bin/python" -m pip uninstall --quiet --yes "$1" 2>/dev/null || true
    fi
}

has() {
    "$VENV/bin/python" -c 'import importlib.metadata as m, sys; sys.exit(m.version(sys.argv[1]) != sys.argv[2])' "$1" "$2" 2>/dev/null
}

install_imaging() {
    # Never one over the other: leftovers of the first would load beside the second.
    if [ "$IMAGING" = pillow ] || [ "$(uname -m)" != x86_64 ]; then
        remove_distribution pillow-simd
        say "Installing plain pillow: everything works, rescaling is four to eight times slower"
        install --only-binary :all: pillow==12.1.1
        return
    fi
    remove_distribution pillow
    has pillow-simd 12.1.1.post0 && return
    if ! headers_are_there; then
        if [ "$(id -u)" != 0 ]; then
            fail "pillow-simd is built here and needs a C compiler and the headers of Python, zlib and libjpeg. Run:
    sudo apt-get install -y --no-install-recommends $APT_PACKAGES
  or go on with plain pillow (pixels within one level, about half as fast):
    make install IMAGING=pillow"
        fi
        # shellcheck disable=SC2086 # a list of package names
        apt_install $APT_PACKAGES
    fi
    say "Building pillow-simd (half a minute, once)"
    (unset CC; install --no-deps pillow-simd==12.1.1.post0)
}

main() {
    local stamp="$VENV/.tench-installed" recipe have
    check_python
    choose_torch
    recipe="$(cat pyproject.toml "$CONSTRAINTS" docker/install.sh | sha256sum | cut -c1-16) $IMAGING"
    have=$(cat "$stamp" 2>/dev/null || true)
    # An environment with the test packages serves `core` as well.
    if [ -x "$VENV/bin/tench" ] && { [ "$have" = "$recipe $EXTRAS" ] || [ "$have" = "$recipe test" ]; }; then
        say "Tench is installed in $VENV"
        return
    fi
    make_venv
    choose_installer
    install_torch
    install_packages
    install_imaging
    [ "$EXTRAS" = packages ] && return
    say "Installing Tench itself"
    install --no-deps --no-build-isolation -e .
    "$VENV/bin/python" -m compileall -q ingest augment trainer cluster
    "$VENV/bin/python" docker/check_install.py "$TORCH"
    printf '%s' "$recipe $EXTRAS" >"$stamp"
    say "Done: $VENV/bin/tench --help"
}

main
