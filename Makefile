# Each target sets up what it needs; `make help` lists them. Needs Python >= 3.11 and make, nothing else.
# the first of these that runs and is new enough
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
export WANDB_MODE ?= offline

.DEFAULT_GOAL := help
.PHONY: help install mlserver chatserver demo test test-slow reliability golden lint types format check bench results docs clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## set up .venv with everything for development, versions as tested

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Install one (Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

mlserver: $(VENV)/mlserver/.installed ## set up MLServer beside .venv, for the tests against a server that is not ours

$(VENV)/mlserver/.installed: $(VENV)/.installed
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)/mlserver
	$(BIN)/uv pip install --quiet --python $(VENV)/mlserver/bin/python 'mlserver==1.7.1'
	@touch $@

chatserver: $(VENV)/chatserver/.installed ## set up `transformers serve` beside .venv, likewise; it shares the packages of .venv

$(VENV)/chatserver/.installed: $(VENV)/.installed
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)/chatserver
	cd $(VENV)/chatserver/lib/python*/site-packages && echo "$$(cd ../../../../lib/python*/site-packages && pwd)" > shared.pth
	$(BIN)/uv pip install --quiet --python $(VENV)/chatserver/bin/python --no-deps \
		transformers==5.24.0 tokenizers==0.23.3 regex==2026.11.19 accelerate==1.15.0 fastapi==0.165.0 openai==3.57.0 \
		jiter==0.19.0 psutil==7.2.2 typer==0.29.2 shellingham==1.5.4 annotated-doc==0.0.7
	@touch $@

demo: install ## distil a hard-label black box on handwritten digits (about 5 minutes) into runs/demo
	$(BIN)/python -m kdlightning run experiments/demo.yaml

test: install ## the test suite (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-slow: install ## the tests that take longer
	$(BIN)/python -m pytest -m slow

reliability: install ## run everything under tests/hostile and write what held into docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/reliability.py

golden: install ## remake the golden curves of all methods: only when arithmetic changes on purpose
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden/cases.py

lint: install ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy --strict
	$(BIN)/mypy

format: install ## rewrite in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test ## everything that has to pass before a change lands

bench: install ## speed and query efficiency against named baselines
	$(BIN)/python benchmarks/boundary.py

results: install ## rewrite docs/results.md from the records under results/
	$(BIN)/python experiments/results.py

docs: $(VENV)/.docs ## build the documentation into site/; any warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -c docs -d build/doctrees . site
	@echo "site/index.html"

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean: ## remove .venv and caches, never runs/ or data/
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
