# The two commands a newcomer needs: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Pins what is installed and what builds it.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
STAMP := $(VENV)/.installed

.PHONY: demo test test-adapters check bench plans fmt clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[train,serve,plot,nvidia,predict,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/mofang demo

# Parallel first; the tests that start worker processes of their own then get the machine to themselves.
test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile -m "not serial"
	$(BIN)/pytest -m serial

# Other people's training loops, killed and resumed; they bring packages that nothing else here needs.
test-adapters: $(STAMP)
	$(BIN)/pip install --disable-pip-version-check -e '.[adapters]'
	$(BIN)/pytest -m serial tests/recovery/test_adapters.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/pytest -q tests/test_house.py

bench: $(STAMP)
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# The outputs shown in docs/plans.md.
plans: $(STAMP)
	$(BIN)/python docs/make_plans.py

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
