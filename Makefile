# Every target works from a clean checkout with nothing but Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --constraint constraints.txt
IMAGES ?=
# Each process of tests starts servers of its own, so those in the environment serve one process.
TEST_PROCESSES ?= $(if $(DATABASE_URL)$(REDIS_URL),0,2)
OUT ?= demo-out

.DEFAULT_GOAL := help
.PHONY: help demo dev test system-packages test-system test-gpu bench bench-gpu bench-queue bench-api lint format clean

help: ## Explain the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo ## Upscale pictures on this machine: make demo IMAGES="a.png b.jpg" OUT=folder
	$(RUN) -m twofold_producer demo --out "$(OUT)" $(IMAGES)

dev: $(VENV)/.demo ## Run everything on this machine until Ctrl-C
	$(RUN) -m twofold_producer dev

test: $(VENV)/.test ## Run all tests that PyPI's packages alone can serve
	$(RUN) -m pytest --numprocesses $(TEST_PROCESSES) -m "not gpu and not system"

system-packages: ## Install what test-system needs (Debian, Ubuntu)
	apt-get update --quiet
	apt-get install --yes --quiet --no-install-recommends pgbouncer redis-server

test-system: $(VENV)/.test ## Run the tests that need system packages
	$(RUN) -m pytest -m system

test-gpu: $(VENV)/.test ## Run the tests that need a CUDA device
	$(RUN) -m pytest -m gpu tests/gpu

bench: $(VENV)/.bench ## Measure the engine without a GPU: timed, and the small model on the CPU
	$(RUN) -m benchmarks.engine --device timed
	$(RUN) -m benchmarks.engine --device cpu

bench-gpu: $(VENV)/.bench ## Measure everything on a CUDA device, in full size
	$(RUN) -m benchmarks.engine --device cuda --size full

bench-queue: $(VENV)/.bench ## Measure the queue against others, in full size: about an hour
	$(RUN) -m benchmarks.queue --size full

bench-api: $(VENV)/.bench ## Measure the HTTP API, in full size: some minutes
	$(RUN) -m benchmarks.api --size full

lint: $(VENV)/.test ## Check style, types, who imports whom, and what a deployment starts from
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command as lint; lint()"
	$(VENV)/bin/hadolint --failure-threshold style infra/Dockerfile
	$(RUN) -m check_jsonschema --builtin-schema vendor.compose-spec infra/compose.yaml
	$(RUN) -m compose_lint check --quiet --fail-on low --skip-suppressed --strict-config \
	  --config infra/.compose-lint.yml infra/compose.yaml

format: $(VENV)/.test ## Put the code into the house's form
	$(RUN) -m ruff format
	$(RUN) -m ruff check --fix

clean: ## Remove what the targets made
	rm -rf $(VENV) demo-out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.python: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Twofold needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	@echo "Installing Twofold into $(VENV): a few minutes the first time." >&2
	$(PIP) --editable ".[worker,dev]"
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	@echo "Installing Twofold and its test tools into $(VENV): a few minutes the first time." >&2
	$(PIP) --editable ".[api,worker,dev]" --group test --group lint --group bench
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.python pyproject.toml
	@echo "Installing Twofold and its benchmarks into $(VENV): a few minutes the first time." >&2
	$(PIP) --editable ".[api,worker,dev]" --group bench
	@touch $@ $(VENV)/.demo
