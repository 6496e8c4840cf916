# make demo: train, score and compare an RNN and a Transformer on the built-in task.  make test: the tests.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test test-faults check format clean

# Installs once; again only when what to install has changed.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/installed
	$(RUN) -m seqloom.demo

test: $(VENV)/installed
	$(RUN) -m pytest -q -n auto --dist loadfile

# A hundred kills at random moments, some minutes.
test-faults: $(VENV)/installed
	$(RUN) -m pytest -q -m faults tests/test_faults.py

check: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) build dist src/*.egg-info
