#!/usr/bin/env bash
# An environment of other people's readers, apart from Tench's own: TensorFlow, Hugging Face datasets, DuckDB.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${1:-.venv-interop}
PYTHON=${PYTHON:-.venv/bin/python}
[ -f "$VENV/.installed" ] && exit 0
echo "==> Installing TensorFlow, datasets and DuckDB into $VENV" >&2
"$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --only-binary :all: \
    tensorflow-cpu==2.21.0 datasets==5.2.0 duckdb pillow
touch "$VENV/.installed"
