# One virtual environment, .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run demo space docs test test-slow lint format gpu checkpoint release clean

run: .venv/installed ## a long document through the checkpoint of the package, DOCUMENT=a text file or ours
	$(BIN)/longformer-plus quickstart $(DOCUMENT)

demo: .venv/installed ## see in the browser what a model looks at; MODEL=a folder or a name on the hub
	$(BIN)/longformer-plus demo $(if $(MODEL),--model $(MODEL))

space: .venv/installed ## the demo as a Space and a container, into build/space; see docs/examples/space
	rm -rf build/space
	mkdir -p build
	cp -r docs/examples/space build/space
	$(BIN)/python -m pip install --quiet --no-deps --target build/space .

docs: .venv/installed ## the documentation site, into build/site; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: .venv/installed .cache/suite ## the tests
	$(BIN)/python -m pytest -n 2

test-slow: .venv/installed .cache/suite ## all tests, those that take long among them
	$(BIN)/python -m pytest -n 2 -m ""

lint: .venv/installed ## what CI checks besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Half an hour on a machine with a GPU; stopped, it goes on where it was. BIN=where a python3 is that has torch for it.
gpu: $(if $(filter .venv/bin,$(BIN)),.venv/installed) ## tests, benchmark and training on a GPU; see docs/examples/gpu.sh
	PYTHON=$(BIN)/python3 bash docs/examples/gpu.sh

checkpoint: .venv/installed ## the checkpoint of the package made again, from DATA=a folder of texts by way of OUT=a folder; takes hours
	PATH="$(abspath $(BIN)):$$PATH" DATA="$(DATA)" OUT="$(OUT)" sh docs/examples/shipped/build.sh

release: .venv/installed ## the wheel and the source distribution, in dist, each checked and tried in an environment of its own
	rm -rf dist
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	for file in dist/*; do .ci/try_installed $$file || exit 1; done

clean:
	rm -rf .venv .cache build dist *.egg-info

# torch comes first and pinned: an open range would fetch the packages of a GPU build.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# transformers' own model tests are in its source distribution only.
.cache/suite: .venv/installed
	$(BIN)/python -m tests.tools.transformers_suite
	touch $@
