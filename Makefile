# Everything a person or CI does here is one of these commands: `make help`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
# Named after its contents, so that setup runs again when the dependencies change, and only then.
STAMP = $(VENV)/.installed-$(shell cksum < pyproject.toml | cut -d" " -f1)

BENCH_VENV := .venv-bench
BENCH_STAMP = $(BENCH_VENV)/.installed-$(shell cat pyproject.toml benchmarks/requirements.txt | cksum | cut -d" " -f1)

# Bytecode caches halve the import time of every process that the tests start.
unexport PYTHONDONTWRITEBYTECODE
# A checkout says what it runs; the caller's path and home do not.
unexport PYTHONPATH PYTHONHOME

# $(call make_venv,folder): a virtual environment of the first Python 3.11 or later. A version manager's shim takes
# a tenth of a second each time, so it is asked once for the interpreter behind it.
define make_venv
if [ ! -x $(1)/bin/python ]; then
	python=
	for name in $${PYTHON:-} python3.11 python3; do
		python=$$($$name -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null) || true
		if [ -n "$$python" ]; then break; fi
	done
	if [ -z "$$python" ]; then
		echo "Jitney needs Python 3.11 or later: install it, or run 'make PYTHON=/path/to/python ...'." >&2
		exit 1
	fi
	if ! $$python -c 'import ensurepip' 2>/dev/null; then
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
			apt-get update -qq
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv
		else
			echo "$$python cannot make virtual environments: run 'sudo apt-get install python3-venv' first." >&2
			exit 1
		fi
	fi
	echo "making $(1) with $$python"
	$$python -m venv $(1)
fi
endef

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything; instant when nothing changed

$(STAMP): pyproject.toml
	@$(call make_venv,$(VENV))
	echo 'installing Jitney and its tools (a minute, once)'
	$(PY) -m pip install -qq --disable-pip-version-check --editable '.[dev,demo]'
	rm -f $(VENV)/.installed-*
	touch $@

.PHONY: demo
demo: setup ## Find the best digit classifier on this machine, as a first use would
	@$(VENV)/bin/jitney run examples/digits_search.py

.PHONY: test
test: setup ## All tests but the slow ones, with coverage; whole platforms apart from the rest
	@$(PY) -m pytest tests -m "not slow and not e2e" -n 2 --dist worksteal --cov --cov-report=
	$(PY) -m pytest tests -m "e2e and not slow" -n 2 --dist loadfile --cov --cov-append --cov-report=term:skip-covered

.PHONY: test-slow
test-slow: setup ## The slow tests: whole platforms, chaos, long simulations
	@$(PY) -m pytest tests -m slow --timeout 600 || { code=$$?; [ $$code = 5 ] || exit $$code; }

.PHONY: check
check: setup ## Format, lint, types, import contracts, generated docs
	@$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/basedpyright $(wildcard src/jitney/client src/jitney/values tests/typing)
	$(VENV)/bin/lint-imports
	if [ -e tools/gen_docs.py ]; then $(PY) tools/gen_docs.py --check; fi

.PHONY: fix
fix: setup ## Format, and repair what the linter can repair
	@$(PY) -m ruff check --fix --quiet . || true
	$(PY) -m ruff format .

.PHONY: docs
docs: setup ## Write the generated reference pages again
	@$(PY) tools/gen_docs.py

.PHONY: bench-setup
bench-setup: $(BENCH_STAMP)

$(BENCH_STAMP): pyproject.toml benchmarks/requirements.txt
	@$(call make_venv,$(BENCH_VENV))
	echo 'installing the peers (some minutes, once)'
	$(BENCH_VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable . -r benchmarks/requirements.txt
	rm -f $(BENCH_VENV)/.installed-*
	touch $@

.PHONY: bench
bench: setup bench-setup ## Us and our peers on the same work: the table of benchmarks/RESULTS.md (ARGS="--rounds 5")
	@$(PY) benchmarks/run.py $(ARGS)

.PHONY: bench-containers
bench-containers: setup ## Containers behind walls: starts, cost, what they leave (ARGS="--rounds 5")
	@$(PY) benchmarks/containers.py $(ARGS)

.PHONY: bench-smoke
bench-smoke: setup ## Every benchmark once, small, without peers
	@$(PY) benchmarks/run.py --smoke $(ARGS)
	$(PY) benchmarks/containers.py --smoke
	$(PY) benchmarks/mount_bench.py --smoke
	$(PY) benchmarks/durability.py --smoke

.PHONY: durability
durability: setup ## Kill containers, workers and servers 500 times, and look what was lost (ARGS="--kills 50")
	@$(PY) benchmarks/durability.py $(ARGS)

.PHONY: clean
clean: ## Remove environments, caches and builds
	@rm -rf $(VENV) $(BENCH_VENV) build dist .coverage .coverage.* htmlcov .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests benchmarks tools examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
