# make demo: train and score an RNN and a Transformer on the built-in task.  make compare: a report on both families,
# every question asked, within a quarter of an hour.  make bench: speed and costs, side by side with others.
# make test: the tests; make test-fast: those of a minute; make test-long: some of them over more models.
# make docs: the documentation as a site.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo compare bench test test-fast test-long test-faults check docs resolve package format clean

# Installs once; again only when what to install has changed.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@.ci/install $(VENV) $(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(VENV)/installed
	$(RUN) -m seqloom demo

compare: $(VENV)/installed
	HF_HUB_OFFLINE=1 $(RUN) -m seqloom compare configs/scan-rnn-no-attention.yaml configs/scan-rnn.yaml \
		configs/scan-transformer.yaml --max_steps 1500 --eval_steps 300 --output runs/compare --overwrite

# docs/benchmarks.md anew, on cores that do nothing else; BENCH=--quick: a look.
bench: $(VENV)/installed
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/bench.py $(BENCH)

test: $(VENV)/installed
	$(RUN) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

# Without the tests that start processes, train models or take more than a second.
test-fast: $(VENV)/installed
	$(RUN) -m pytest -q -n auto -m "not slow and not long and not faults"

# More models, dtypes and engines of what `make test` tries with some.
test-long: $(VENV)/installed
	$(RUN) -m pytest -q -n auto --dist loadfile -m long

# A hundred kills at random moments, and thousands of wrong inputs over every command: half an hour.
test-faults: $(VENV)/installed
	$(RUN) -m pytest -q -m faults tests/training/test_faults.py tests/test_fuzz.py

check: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	PYTHON=$(RUN) .ci/types

# The site of docs/, English and Korean, into build/site; a link that leads nowhere is an error.
docs: $(VENV)/installed
	$(RUN) -m zensical build --clean --strict
	$(RUN) -m zensical build --clean --strict --config-file mkdocs.ko.yml

# Whether an ordinary pip finds all that an installation needs.
resolve:
	PYTHON=$(PYTHON) .ci/resolve

# dist/'s wheel and sdist, and whether the wheel works without a checkout.
package: $(VENV)/installed
	PYTHON=$(RUN) .ci/package

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info
