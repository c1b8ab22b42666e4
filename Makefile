# `make demo` runs every stage on synthetic faces; `make test` runs all tests. Both create .venv if it is missing.
PYTHON ?= python3
# TORCH=cpu installs PyTorch without CUDA, from PyTorch's own index.
TORCH ?=
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check \
	$(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH))
BIN := .venv/bin
LOWEST := .venv-lowest
DEMO ?= demo
SUBJECTS ?= 32
TYPED := .mypy_cache/tree
# One process per core. All tests with Ray run in one of them, with one cluster.
PARALLEL ?= --numprocesses 2 --dist loadgroup

.PHONY: help demo test test-fast test-faults test-lowest lint clean

help:
	@echo "make demo          faces -> views -> trained model -> report, in a few minutes, into $(DEMO)/"
	@echo "make test          all tests"
	@echo "make test-fast     the tests that need no Ray and take less than about five seconds each"
	@echo "make test-faults   the tests in which drivers, workers and machines are killed, and Slurm, in full"
	@echo "make test-lowest   the fast tests with the lowest declared versions of all dependencies, in $(LOWEST)/"
	@echo "make lint          ruff, mypy and deptry"
	@echo "make clean         remove .venv, $(LOWEST)/, $(DEMO)/ and caches"
	@echo "TORCH=cpu          with any of these: install PyTorch without CUDA, which saves about 5 GB"

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (several GB with PyTorch; a few minutes)"
	$(PIP_INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

demo: .venv/installed
	test -f $(DEMO)/faces/synth.json || $(BIN)/smile-pipe synth $(DEMO)/faces --subjects $(SUBJECTS)
	# Landmarks are found, and not read from the files of synth, because scans of your own have none.
	$(BIN)/smile-pipe render $(DEMO)/faces --out $(DEMO)/shards --channels rgb,depth,normal,landmarks --landmarks detect
	$(BIN)/smile-pipe inspect $(DEMO)/shards --preview $(DEMO)/views.png
	$(BIN)/smile-pipe train --shards $(DEMO)/shards --out $(DEMO)/run --split kfold:4:0 --channel normal,landmarks $(if $(wildcard $(DEMO)/run/config.json),--resume)
	$(BIN)/smile-pipe evaluate $(DEMO)/run --shards $(DEMO)/shards
	@echo
	@echo "Results:"
	@echo "  $(DEMO)/views.png                      views of some faces"
	@echo "  $(DEMO)/run/evaluation/report.html     accuracy on subjects that were not trained on"
	@echo "Predict the expression of a face:"
	@echo "  $(BIN)/smile-pipe predict $(DEMO)/run FACE.obj"

test: .venv/installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not ray and not slow"

test-faults: .venv/installed-dev
	SMILE_PIPE_FAULTS=1 $(BIN)/python -m pytest -m faults --timeout 3600

test-lowest: .venv/installed-dev
	$(BIN)/uv venv --clear --python 3.11 $(LOWEST)
	$(BIN)/uv pip install --python $(LOWEST) --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not ray and not slow"

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/deptry .
	@# mypy does not read setuptools' package-dir: check a tree of links with the installed layout.
	rm -rf $(TYPED) && mkdir -p $(TYPED)/smile_pipe
	ln -s $(CURDIR)/cli $(CURDIR)/model $(CURDIR)/pipeline $(CURDIR)/shards $(CURDIR)/pipeline/api/* $(TYPED)/smile_pipe
	MYPYPATH=$(TYPED) $(BIN)/mypy

clean:
	rm -rf .venv $(LOWEST) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build
