PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test quick test-slow test-gpu fuzz lint format docs bench mutants same kill-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: .venv/installed ## Train the quick-start recipe on MNIST and draw a grid of digits
	@echo "The quick start takes about 5 minutes on 2 CPU cores, less on more."
	$(BIN)/python train.py experiment=quickstart

test: .venv/installed-test ## Run the test suite
	$(BIN)/pytest -n auto --maxprocesses=8 --dist worksteal

quick: .venv/installed-test ## Run the core of the mathematics and one training, in about a minute
	$(BIN)/pytest -q -n 2 tests/maths/test_predictions.py tests/maths/test_schedules.py tests/maths/test_oracle.py \
		tests/common/test_rooms.py tests/train/test_train.py::test_a_run_leaves_checkpoints_pictures_and_metrics

test-slow: .venv/installed-test ## Run the tests that take minutes: planted faults, two processes, launchers
	$(BIN)/pytest -m slow

fuzz: .venv/installed-test ## Read damaged files for ten minutes or so: make fuzz [EXAMPLES=4000]
	EXAMPLES=$(or $(EXAMPLES),4000) $(BIN)/pytest -q -n 2 tests/faults/test_readers.py

test-gpu: .venv/installed-test ## Run the tests that need a GPU
	$(BIN)/pytest -m gpu

lint: .venv/installed-test ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed-docs ## Build the documents as a site, docs/_build/html/index.html
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

bench: .venv/installed-test ## Time this project against others: make bench [DEVICE=cuda]
	PYTHONPATH=tests/oracles $(BIN)/python tests/tools/bench.py $(or $(DEVICE),cpu)

mutants: .venv/installed-test ## Plant faults in the mathematics and see the tests find each
	$(BIN)/python tests/tools/mutants.py

kill-test: .venv/installed-test ## Kill trainings at random moments and resume them: make kill-test [N=100]
	PYTHONPATH=tests/helpers $(BIN)/python tests/tools/kills.py $(or $(N),100)

same: .venv/installed-test ## Compare with another commit, bit by bit: make same REV=HEAD~1
	$(BIN)/python tests/tools/same.py $(or $(REV),HEAD)

clean: ## Remove the virtual environment and caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache dist docs/_build

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
		{ echo "$(PYTHON) is older than Python 3.11.4: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: a few minutes and about 6 GB the first time ..."
	$(INSTALL) -e '.[figures]'
	@touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) -e '.[test]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) -e '.[docs]'
	@touch $@
