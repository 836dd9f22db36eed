# `make demo` and `make test` set everything up by themselves: Debian, Python 3.11 and a compiler are enough.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q

.PHONY: help setup demo test test-fast lint format types check bench release validate schemas lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Make .venv from the pinned, hashed requirements
	@scripts/bootstrap.sh

demo: setup ## Grade a small class and say where to look
	$(BIN)/classroom demo

# Proofs of the labs take turns at the clock by themselves; the other timed tests run alone.
test: export WITH_BROWSER = 1
test: setup ## Everything, as CI runs it
	$(PYTEST) -n 2 -m "not timing and not slow and not proof"
	$(PYTEST) -n 2 -m proof
	$(PYTEST) -m "timing or slow"

test-fast: setup ## What answers within two minutes
	$(PYTEST) -n 2 -m "not timing and not slow and not proof"

lint: setup ## ruff, without changing a file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup ## ruff, changing files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## mypy on the engine
	$(BIN)/mypy

check: lint types test-fast ## What to run before a push

bench: setup ## The reference modules against the best libraries, side by side
	$(BIN)/python -m bench.simd
	$(BIN)/python -m bench.hnsw
	$(BIN)/python -m bench.serving

release: setup ## Build release/ from source/
	$(BIN)/classroom release

validate: setup ## Prove every lab
	$(BIN)/classroom validate

schemas: setup ## Write docs/schemas/ from the code
	$(BIN)/python -m graders.yaml_file docs/schemas

lock: ## Pin requirements.txt again (needs uv)
	uv pip compile --quiet --no-header --generate-hashes --python-version 3.11 --group instructor --group dev pyproject.toml -o requirements.txt

clean: ## Remove what is generated and not committed
	rm -rf demo .pytest_cache .ruff_cache .mypy_cache build
