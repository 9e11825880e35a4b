# Every target does its own set-up; a fresh Debian or Ubuntu needs Python 3.11 or later and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# ONNX Runtime reports to its makers over the network unless told not to before it is imported.
export ORT_DISABLE_TELEMETRY := 1
UV := $(shell command -v uv 2>/dev/null)

# $(call install,LOCK): the locked packages, compiled (a service starts in a third of the time, also where Python is told
# to write no bytecode), by uv where it is present and by pip otherwise.
# The package of MiniLM's weights asks for PyTorch, which nothing here needs: what its lock lists is all there is.
flags_minilm := --no-deps
ifneq ($(UV),)
create := uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
install = VIRTUAL_ENV=$(VENV) uv pip install --quiet --compile-bytecode --require-hashes $(flags_$(1)) -r requirements/$(1).txt \
	&& VIRTUAL_ENV=$(VENV) uv pip install --quiet --no-deps --no-build-isolation -e .
else
create := $(PYTHON) -m venv $(VENV)
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(flags_$(1)) -r requirements/$(1).txt \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.%: requirements/%.txt pyproject.toml
	@test -x $(BIN)/python || $(create)
	@echo "installing requirements/$*.txt into $(VENV)"
	@$(call install,$*)
	@$(BIN)/python -m compileall -q services sdk/python/src
	@touch $@

.PHONY: setup
setup: $(VENV)/.embedded ## Make .venv with what `penstock up` needs, and .venv/bin/penstock

.PHONY: up
up: setup ## Run the whole suite here, embedded, until Ctrl-C
	@$(BIN)/penstock up

.PHONY: demo
demo: setup $(VENV)/.demo ## Serve, watch data drift, approve a retraining, validate and promote what it makes
	@$(BIN)/python -m examples.demo

.PHONY: minilm
minilm: setup $(VENV)/.minilm ## Embed sentences with MiniLM on the suite that is running here
	@$(BIN)/python -m examples.minilm

.PHONY: check
check: $(VENV)/.dev ## Lint, types, the rules of the house, contracts, stubs current
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_house.py
	@$(BIN)/buf lint protos
	@$(BIN)/python protos/generate.py --check

.PHONY: test
test: $(VENV)/.dev $(VENV)/.tensorflow $(VENV)/.minilm ## Run every test, with coverage
	@$(BIN)/coverage erase
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	@$(BIN)/python -m tests.coverage_floor

.PHONY: test-quick
test-quick: $(VENV)/.dev ## Run the unit and contract tests, in under a minute
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow" tests/unit tests/contract

.PHONY: protos
protos: $(VENV)/.dev ## Generate the stubs from protos/
	@$(BIN)/python protos/generate.py

.PHONY: bench
bench: $(VENV)/.dev $(VENV)/.minilm ## Measure, side by side, what docs/benchmarks.md reports
	@$(BIN)/python -m benchmarks

.PHONY: lock
lock: ## Pin the newest versions that pyproject.toml allows (needs uv)
	@uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command "make lock" -o requirements/dev.txt
	@for extra in embedded demo tensorflow minilm; do uv pip compile --quiet pyproject.toml --extra $$extra --universal \
		--python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" \
		-c requirements/dev.txt -o requirements/$$extra.txt; done
	@for image in registry registry+bigquery inference jobs monitoring fetcher trainer cli validator+tensorflow \
		inference+tensorflow jobs+tensorflow trainer+tensorflow; do \
		name=$${image/validator+tensorflow/validator}; \
		uv pip compile --quiet pyproject.toml --extra $${image/+/ --extra } --universal \
		--python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" \
		-c requirements/dev.txt -c requirements/tensorflow.txt -o requirements/$${name/+/-}.txt; done
