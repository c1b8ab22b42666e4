# `make demo` runs every stage on synthetic faces; `make test` runs all tests. Both create .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
SUBJECTS ?= 16
TYPED := .mypy_cache/tree
# One process per core. All tests with Ray run in one of them, with one cluster.
PARALLEL ?= --numprocesses 2 --dist loadgroup

.PHONY: help demo test test-fast test-faults lint clean

help:
	@echo "make demo          faces -> views -> trained model -> report, in a few minutes, into $(DEMO)/"
	@echo "make test          all tests"
	@echo "make test-fast     the tests that need no Ray and take less than about five seconds each"
	@echo "make test-faults   the tests in which drivers, workers and machines are killed, and Slurm, in full"
	@echo "make lint          ruff and mypy"
	@echo "make clean         remove .venv, $(DEMO)/ and caches"

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (several GB with PyTorch; a few minutes)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/installed
	test -f $(DEMO)/faces/synth.json || $(BIN)/smile-pipe synth $(DEMO)/faces --subjects $(SUBJECTS)
	$(BIN)/smile-pipe render $(DEMO)/faces --out $(DEMO)/shards
	$(BIN)/smile-pipe inspect $(DEMO)/shards --preview $(DEMO)/views.png
	$(BIN)/smile-pipe train --shards $(DEMO)/shards --out $(DEMO)/run --split kfold:4:0 $(if $(wildcard $(DEMO)/run/config.json),--resume)
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

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@# mypy does not read setuptools' package-dir: check a tree of links with the installed layout.
	rm -rf $(TYPED) && mkdir -p $(TYPED)/smile_pipe
	ln -s $(CURDIR)/cli $(CURDIR)/model $(CURDIR)/pipeline $(CURDIR)/shards $(CURDIR)/pipeline/api/* $(TYPED)/smile_pipe
	MYPYPATH=$(TYPED) $(BIN)/mypy

clean:
	rm -rf .venv $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build
