# make demo   trains, applies and scores U-Mamba on generated volumes
# make test   runs the test suite
# Needs Python >= 3.11 and a network; everything is installed into .venv.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# torch stands in the same command as the rest: alone, another package's wish would replace it. Where pip is set up to
# find a CPU build of this version it is taken on machines without a GPU; PIP_ARGS passes further options to pip.
TORCH  ?= torch==2.13.0
PIP_ARGS ?=

.PHONY: install demo test test-all lint clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, $(PYTHON) is older; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt "$(TORCH)" --editable ".[test]"
	touch $@

demo: install
	$(RUN) train.py experiment=demo
	$(RUN) train.py experiment=demo model=umamba_enc

test: install
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-all: install
	$(RUN) -m pytest -n 2 --dist loadfile

lint: install
	$(RUN) -m pip install --quiet ruff
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf $(VENV)
