# make demo   trains, applies and scores U-Mamba on generated volumes
# make test   runs the test suite; make test-all the slow and GPU tests too
# make test-lowest, test-newest  part of the suite with the lowest versions that are allowed, and with the newest
# make trust  kills, full disks, NaN, two at once, hostile files: all of tests/trust; its fast part is in make test
# make evidence  makes the pages of docs/evidence anew from its records, and fails if they are others
# make lint   runs ruff and mypy; make types mypy alone
# make docs   builds the documentation into site/
# make peer   compares planning and preprocessing with nnunetv2, in environments of its own, and writes docs/peer.md
# Needs Python >= 3.11 and a network; everything is installed into .venv.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# torch stands in the same command as the rest: alone, another package's wish would replace it. Where pip is set up to
# find a CPU build of this version it is taken on machines without a GPU; PIP_ARGS passes further options to pip.
TORCH  ?= torch==2.13.0
PIP_ARGS ?=

# ruff, mypy and the types that it reads, as pyproject.toml pins them; a file that stands for having just these.
PINS    := $(shell sed -n 's/^lint = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
LINTERS := $(VENV)/linters-$(shell echo '$(PINS)' | cksum | cut -d ' ' -f 1)

.PHONY: install demo test test-all test-lowest test-newest trust peer evidence lint types docs clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, $(PYTHON) is older; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt "$(TORCH)" --editable ".[test]"
	touch $@

# On a CPU a step of Enc takes twice as long as one of Bot, but fewer are enough.
demo: install
	$(RUN) train.py experiment=demo
	$(RUN) train.py experiment=demo model=umamba_enc trainer.max_epochs=20

test: install
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-all: install
	$(RUN) -m pytest -n 2 --dist loadfile

# Whether the lower bounds of pyproject.toml are true, and whether the newest versions do, in environments of their own
# with the index's torch (on Linux the one for CUDA) unless PIP_ARGS says where another is.
# SHORT=<files or folders of tests> runs these instead; 5 GB each are fetched and kept.
SHORT := tests/planning tests/raw tests/models tests/inference tests/evaluation tests/test_configs.py tests/test_end_to_end.py
test-lowest: LIMITS = --constraint build/lowest.txt
test-newest: LIMITS = --upgrade --upgrade-strategy eager
test-lowest test-newest: test-%: build/lowest.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet $(PIP_ARGS) $(LIMITS) --editable ".[test]"
	$(VENV)-$*/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" $(SHORT)

build/lowest.txt: pyproject.toml .ci/lowest_versions.py
	mkdir -p build && $(PYTHON) .ci/lowest_versions.py > $@

# SEED=<number that a failure names> repeats its random choices.
KILLS ?= 100
SEED  ?=
trust: install
	UMAMBA_TRUST_KILLS=$(KILLS) UMAMBA_TRUST_SEED=$(or $(SEED),$(shell date +%s)) $(RUN) -m pytest -n 2 -m trust tests/trust

# nnunetv2 pulls torchvision and another torch into its environment, so it never enters ours. HIPPOCAMPUS=<folder of
# Dataset004_Hippocampus> compares that set too.
PEER ?= .venv-peer
HIPPOCAMPUS ?=
peer: install
	for v in 2.8.1 2.1.2; do \
	  $(PYTHON) -m venv $(PEER)/$$v && $(PEER)/$$v/bin/python -m pip install --quiet $(PIP_ARGS) "$(TORCH)" \
	    nnunetv2==$$v batchgenerators==0.25.5 || exit 1; done
	$(RUN) tests/peer/make_sets.py $(PEER)/raw $(HIPPOCAMPUS)
	for v in 2.8.1 2.1.2; do out=$(CURDIR)/$(PEER)/out-$$v; \
	  TQDM_DISABLE=1 nnUNet_raw=$(CURDIR)/$(PEER)/raw nnUNet_preprocessed=$$out nnUNet_results=$$out \
	    $(PEER)/$$v/bin/python tests/peer/run_nnunet.py || exit 1; done
	$(RUN) tests/peer/compare.py $(PEER)/raw docs/peer.md $(PEER)/out-2.8.1 $(PEER)/out-2.1.2

evidence: install
	rm -rf build/evidence
	for folder in evidence evidence/too_short; do \
	  $(RUN) -m umamba.evaluation.report runs=docs/$$folder output=build/$$folder || exit 1; \
	  for part in README.md details.md figures tables; do diff -r docs/$$folder/$$part build/$$folder/$$part || exit 1; done; done

# mypy looks for a package under its name; the link gives the folder that name.
lint: $(LINTERS) types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(LINTERS)
	mkdir -p build/api && ln -sfn ../../src build/api/umamba
	$(RUN) -m mypy

# VENV= may name the environment of another checkout, whose project must stay that checkout's: there only the tools are
# installed, which read the source without importing it.
$(LINTERS): $(if $(filter file,$(origin VENV)),$(VENV)/installed)
	$(RUN) -m pip install --quiet $(PIP_ARGS) $(PINS)
	touch $@

# mkdocstrings reads the source without importing it; the link gives the folder its import name.
docs: install
	$(RUN) -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt "$(TORCH)" --editable ".[docs]"
	mkdir -p build/api && ln -sfn ../../src build/api/umamba
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean:
	rm -rf $(VENV)
