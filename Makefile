# Two commands: `make demo` shows everything at work, `make test` checks it. Both install first, once.
#   make install [PYTHON=python3.12] [IMAGING=pillow]   the command .venv/bin/tench
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON IMAGING TORCH_INDEX

.PHONY: help install install-test demo test test-slow test-root test-gpu test-interop bench bench-peers soak check clean

help:
	@echo "make install       the virtual environment with the command $(BIN)/tench"
	@echo "make demo          archives -> dataset -> AlexNet -> errors, on this machine, watched on a web page"
	@echo "make test          the tests (a quarter of an hour); also test-slow, test-root, test-gpu, test-interop"
	@echo "make check         lint, types, floors"
	@echo "make bench         the benchmarks, one after another; bench-peers: ingest beside four others"

install:
	@bash docker/install.sh $(VENV) core

install-test:
	@bash docker/install.sh $(VENV) test

demo: install
	$(BIN)/tench demo $(DEMO)

test: install-test
	$(BIN)/python -m pytest --tier test

test-slow: install-test
	@bash docker/debian.sh chromium chromium "the browser tests"
	@bash docker/debian.sh pg_ctlcluster postgresql "the tests of a store in PostgreSQL"
	$(BIN)/python -m pytest --tier slow

test-root: install-test
	@bash docker/debian.sh ip iproute2 "the tests with several hosts"
	@bash docker/debian.sh debootstrap debootstrap "the test of the image"
	$(BIN)/python -m pytest --tier root

test-gpu: install-test
	$(BIN)/python -m pytest --tier gpu

test-interop: install-test
	bash docker/interop.sh .venv-interop
	$(BIN)/python -m pytest --tier interop

bench: install-test
	@bash docker/debian.sh pg_ctlcluster postgresql "the measures of a store in PostgreSQL"
	set -e; for name in ingest ingest_run scale loader network train store service; do \
		$(BIN)/python -m tests.benchmarks.bench_$$name; done

bench-peers: install-test
	$(BIN)/python -m tests.benchmarks.bench_peers --make
	$(BIN)/python -m tests.benchmarks.bench_peers
	$(BIN)/python -m tests.benchmarks.bench_loader_peers --make
	$(BIN)/python -m tests.benchmarks.bench_loader_peers

soak: install-test
	$(BIN)/python -m tests.benchmarks.soak_loader
	$(BIN)/python -m tests.benchmarks.soak_service

check: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis *.egg-info
