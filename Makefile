# One folder holds everything that is installed: .venv. Every target makes it first where it is missing or out of date.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench chaos chaos-full up down clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Install everything into .venv, exact versions from constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer,serving,local,dev]'
	@touch $@

demo: $(STAMP) ## Stream samples through a real Kafka and Redis, train, serve, and watch
	$(BIN)/dimflow demo $(ARGS)

test: $(STAMP) ## Run every test; the real Kafka and Redis start by themselves
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## Run every benchmark in its quick form
	@for name in table resize checkpoint train recipe ingest increment serving dimensions shifting_slot search_cost gate_band codecs precision turned_columns; do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

chaos: $(STAMP) ## Kill, freeze, corrupt and empty everything for at most 15 minutes; JSON as the last line
	$(BIN)/python -m tests.chaos $(ARGS)

chaos-full: $(STAMP) ## The same with the kills in one loop alone, without a limit of time
	$(BIN)/python -m tests.chaos --scale full $(ARGS)

up: ## The same loop in containers: Kafka, Redis, trainer, server
	docker compose up --build

down: ## Stop the containers; the volumes stay
	docker compose down

clean: ## Remove what was installed and cached here
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
