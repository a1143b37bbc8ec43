# Two commands on a fresh machine: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint bench clean lock

install: .venv/.installed

# Every package is pinned by hash; the project itself is installed in place.
.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/clearlane demo

test: install lint
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m bench

lock:
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra dev --strip-extras --allow-unsafe --no-header --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .clearlane .pytest_cache .mypy_cache .ruff_cache .hypothesis
