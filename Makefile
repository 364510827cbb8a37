# Needs Python 3.11 or newer and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 5
DEMO := demo

.PHONY: demo test lint bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[learn,dicom,cohort,dev]'
	touch $@

demo: $(VENV)/.installed  ## make a virtual patient and analyse it, by rules and by a network
	$(BIN)/strokect phantom -o $(DEMO)/patients -n 1 --seed $(SEED)
	$(BIN)/strokect perfusion $(DEMO)/patients/sub-0001 -o $(DEMO)/result --overwrite
	$(BIN)/strokect predict small_4d $(DEMO)/patients/sub-0001 -o $(DEMO)/predicted --overwrite

test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed  ## figures with their limits, JSON lines; both run, either can fail
	$(BIN)/python benchmarks/accuracy.py; accuracy=$$?; \
	$(BIN)/python benchmarks/speed.py && exit $$accuracy

clean:
	rm -rf $(VENV) $(DEMO)
