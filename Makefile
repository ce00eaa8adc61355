# Every command runs in .venv of this checkout, by its path: nothing is installed elsewhere, nothing has to be activated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.mqlift-setup
SOURCES := gateway adapters config tests
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench fuzz clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything that the other targets need

# Dependencies have changed when pyproject.toml has; a venv of an older Python is made again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "mqlift needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[demo]' --group dev
	@touch $@

demo: setup ## Start an AWS emulator and a gateway to try: make demo ARGS="--port-offset 1000"
	@exec $(BIN)/mqlift demo $(ARGS)

# Much of a test is waiting, so four processes pay on two cores. Files stay whole: their tests share gateways.
# For a debugger: make test ARGS="-n 0 --pdb tests/admin".
test: setup ## Run the tests: make test ARGS="tests/admin -k ready"
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Formatting, lint, types and layers
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code, and mend what lint can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: setup ## Measure: make bench ARGS="--only publish-50"
	$(BIN)/python -m tests.bench $(ARGS)

fuzz: setup ## Feed damaged input to codecs and sessions: make fuzz ARGS="--seconds 600 --seed 1"
	$(BIN)/python -m tests.fuzz $(ARGS)

clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
