# Two commands on a fresh machine: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for processes: four at a time keep two cores busy, each with servers of its own.
AT_ONCE = --numprocesses=4 --dist=worksteal
LOCK = $(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe --no-header

.PHONY: install demo test lint chaos chaos-schedules chaos-fire chaos-long bench bench-peers bench-long bench-lock clean lock

install: .venv/.installed

# Every package is pinned by hash; the project itself is installed in place.
.venv/.installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/clearlane demo

test: install lint
	$(BIN)/pytest $(AT_ONCE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Faults on purpose: seeded schedules, kill -9, real stacks under fire. `make test` has a slice.
FIRE = tests/chaos/test_fleet_faults.py tests/chaos/test_overload.py tests/chaos/test_rolling.py tests/chaos/test_hostile.py tests/chaos/test_parsers.py tests/test_gateway_fuzz.py

chaos: install
	$(MAKE) --jobs=2 chaos-schedules chaos-fire

chaos-schedules:
	$(BIN)/python -m tests.chaos.run

chaos-fire:
	CHAOS_SCALE=1 $(BIN)/pytest $(AT_ONCE) --timeout=900 $(FIRE)

chaos-long: install
	$(BIN)/python -m tests.chaos.run schedules --schedules 500000 --seed 1000000
	CHAOS_SCALE=100 $(BIN)/pytest $(AT_ONCE) --timeout=86400 $(FIRE)

# What is measured beside us has an environment of its own, pinned by hash like ours.
.venv-bench/.installed: bench/requirements.lock
	$(PYTHON) -m venv .venv-bench
	echo '*' > .venv-bench/.gitignore
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock
	@touch $@

bench-peers: .venv-bench/.installed

# PGLEDGER=path/to/pgledger.sql measures pgledger as well.
bench: install bench-peers
	$(BIN)/python -m bench $(if $(PGLEDGER),--pgledger $(PGLEDGER))

bench-long: install bench-peers
	$(BIN)/python -m bench --long

bench-lock:
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe --no-header --output-file bench/requirements.lock bench/requirements.in

lock:
	$(LOCK) --extra traces --output-file requirements.lock pyproject.toml
	$(LOCK) --extra traces --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv .venv-bench .clearlane .pytest_cache .mypy_cache .ruff_cache .hypothesis
