# `make demo` shows everything; `make test` proves it. Both make .venv if it is not there.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
SUBJECTS ?= 16
TYPED := .mypy_cache/tree

.PHONY: help demo test test-faults lint clean

help:
	@echo "make demo   faces -> views -> trained model -> report, in a few minutes, into $(DEMO)/"
	@echo "make test   the whole test suite"
	@echo "make test-faults   renders and trainings whose drivers, workers and machines are killed, and Slurm, in full"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove .venv, $(DEMO)/ and caches"

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
	@echo "Look at:"
	@echo "  $(DEMO)/views.png                      the views of some faces"
	@echo "  $(DEMO)/run/evaluation/report.html     how well unseen faces were read"
	@echo "Ask what a face expresses:"
	@echo "  $(BIN)/smile-pipe predict $(DEMO)/run FACE.obj"

test: .venv/installed-dev
	$(BIN)/python -m pytest

test-faults: .venv/installed-dev
	SMILE_PIPE_FAULTS=1 $(BIN)/python -m pytest tests/pipeline/render/test_faults.py tests/pipeline/render/test_nodes_killed.py tests/pipeline/train/test_lost_nodes.py tests/pipeline/train/test_killed.py tests/docker/test_slurm.py --timeout 3600

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@# mypy does not read setuptools' package-dir: give it the installed layout as a tree of links.
	rm -rf $(TYPED) && mkdir -p $(TYPED)/smile_pipe
	ln -s $(CURDIR)/cli $(CURDIR)/model $(CURDIR)/pipeline $(CURDIR)/shards $(CURDIR)/pipeline/api/* $(TYPED)/smile_pipe
	MYPYPATH=$(TYPED) $(BIN)/mypy

clean:
	rm -rf .venv $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build
