# Needs Python 3.11+ and make. Everything else is installed into .venv, once, by hash.

.DEFAULT_GOAL := help
.PHONY: help demo test nightly check audit bench rivals fmt lock messages generated clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell for each in python3.13 python3.12 python3.11 python3 python; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$each; break; }; done)
BIN := .venv/bin
# Many tests wait for a process or a database that they started: three for two cores leave none idle.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(max(2, (os.cpu_count() or 1) * 3 // 2))')
# Some machines forbid Python to keep compiled files; each of hundreds of started processes would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Where the decisions are, every branch: 99.9, since a branch that only a race takes may be missed once; it is named then.
COMPLETE := monitor/domain/*,monitor/usecases/*,monitor/store/*
LOCKED := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-emit-package subscription-monitor --quiet

help: ## This list
	@echo "make <target>:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.run ## The whole product on this machine in under a minute, no key needed
	@$(BIN)/monitor demo

test: .venv/.dev ## All tests with the coverage they must reach (ARGS=tests/flow: some, without coverage)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(ARGS),$(ARGS),--cov --cov-report=)
	@$(if $(ARGS),,status=0; \
	$(BIN)/python -m coverage report --include='$(COMPLETE)' --precision=2 --fail-under=99.9 || status=1; \
	$(BIN)/python -m coverage report --omit='$(COMPLETE)' --fail-under=90 || status=1; \
	exit $$status)

nightly: .venv/.dev ## The big figures of the promises, full size: 200 kills, 50 seeds of 5,000 rows, 10,000 webhooks (an hour)
	MONITOR_TEST_SCALE=5 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(ARGS),$(ARGS),tests/faults tests/flow)

check: .venv/.dev ## Lint, format, types, import layers, architecture, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_architecture.py tests/unit/test_docs.py

audit: .venv/.dev ## Known vulnerabilities of the libraries that are installed in production
	$(BIN)/python .ci/audit.py

bench: .venv/.dev ## Measure speed beside other ways and write docs/benchmarks.md (ARGS="--rows 5000 --rounds 1")
	$(BIN)/python -m benchmarks $(ARGS)

rivals: .venv/.python ## Install what the benchmarks compare with, each into a virtual environment of its own
	$(BIN)/python -m venv var/rivals/dlt && var/rivals/dlt/bin/python -m pip --disable-pip-version-check --quiet \
		install "dlt[postgres]"
	$(BIN)/python -m venv var/rivals/post_office && var/rivals/post_office/bin/python -m pip --disable-pip-version-check \
		--quiet install "django-post_office[bleach]" "psycopg[binary]"

fmt: .venv/.dev ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/.python ## Choose the newest allowed versions and lock them by hash (KEEP=1: only what pyproject asks for)
	@set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(BIN)/python -m venv "$$tools"; "$$tools/bin/python" -m pip --disable-pip-version-check --quiet install uv; \
	"$$tools/bin/uv" pip compile $(LOCKED) $(if $(KEEP),,--upgrade) --extra dev pyproject.toml -o requirements/dev.lock; \
	"$$tools/bin/uv" pip compile $(LOCKED) --upgrade -c requirements/dev.lock --no-annotate \
		--extra postgres pyproject.toml requirements/build.in -o requirements/run.lock
	@echo "requirements/dev.lock and requirements/run.lock are written: read the diff, then run make check test"

messages: .venv/.dev ## Collect the mails' words for translators, and bring them into the catalogs there are
	$(BIN)/python -m monitor.mail.catalog
	@for catalog in templates/locale/*/LC_MESSAGES/messages.po; do \
		test -e "$$catalog" || continue; \
		$(BIN)/pybabel --quiet update --no-fuzzy-matching --input-file templates/locale/messages.pot \
			--output-file "$$catalog" --locale "$$(basename "$$(dirname "$$(dirname "$$catalog")")")" || exit 1; \
	done

generated: .venv/.dev ## Write what is made from the code: the manual page, the list of licences
	$(BIN)/python docs/make_manual.py
	$(BIN)/python docs/make_licences.py

clean: ## Remove the virtual environment and everything that was made
	rm -rf .venv .coverage .coverage.* .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov dist demo

.venv/.python:
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer is needed and was not found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; \
		rm -rf .venv; exit 2; }
	@touch $@

.venv/.run: requirements/run.lock pyproject.toml | .venv/.python
	@echo "Installing what the product needs (once) ..."
	@$(PIP) install --require-hashes -r requirements/run.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements/dev.lock pyproject.toml | .venv/.python
	@echo "Installing what the tests need (once) ..."
	@$(PIP) install --require-hashes -r requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch .venv/.run $@
