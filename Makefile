# The commands for a checkout; `make help` lists them. By default each creates or refreshes .venv and uses it.
# `make TARGET PYTHON=python3` uses that interpreter and installs nothing.

SCALE ?= auto
SEEDS ?= 1
DATA ?=
RESULTS ?= results/local
MARK ?=
LIMIT ?=
RUN ?=

ifdef PYTHON
PY := $(PYTHON)
ENV :=
else
PY := .venv/bin/python
ENV := .venv/.installed
endif

data_option := $(if $(DATA),--data "$(DATA)")
options := --results "$(RESULTS)" $(data_option)

PARALLEL := -n logical --maxprocesses 8 --dist worksteal
FUZZED := tests/spec/test_spec_mutants.py tests/records/test_foreign_files.py tests/datasets/test_data_damage.py tests/test_storage.py

.PHONY: chaos export-proofs fuzz oldest help reproduce-table1 bench-cpu bench-train bench-layers bench-gpu test test-all check-small check-small-mutants lint report simulate compare-products publish data clean

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r verb what; do \
	  printf '  make %-20s %s\n' "$$verb" "$$what"; done

reproduce-table1: $(ENV) ## train every cell of Table 1 and show the table (SCALE=paper|small|auto SEEDS=1 LIMIT=9m)
	$(PY) -m reproduce run table1 --scale $(SCALE) --seeds $(SEEDS) $(options) $(if $(LIMIT),--time-limit $(LIMIT))

bench-cpu: $(ENV) ## measure Figure 3 on this machine's CPU: products, MLP, ConvNet (7 minutes; run nothing else meanwhile)
	$(PY) -m reproduce bench $(data_option)

bench-train: $(ENV) ## measure training steps on this machine's CPU against a plain PyTorch loop (4 minutes; run nothing else meanwhile)
	$(PY) -m reproduce bench --train $(data_option)

bench-layers: $(ENV) ## measure single 1-bit PyTorch layers against float32 and int8 ones of many sizes (1 minute; run nothing else meanwhile)
	$(PY) -m reproduce bench --layers

bench-gpu: $(ENV) ## measure Figure 3 on an NVIDIA GPU with every CUDA backend (minutes; needs CuPy)
	@$(PY) -m reproduce bench --gpu $(data_option)

test: $(ENV) ## run the test suite (MARK=… selects tests by their markers)
	$(PY) -m pytest $(PARALLEL) $(if $(MARK),-m "$(MARK)")

test-all: $(ENV) ## also run the exhaustive tests and those that measure time (not those marked slow or gpu)
	$(PY) -m pytest $(PARALLEL) -m "not timed and not slow and not gpu"
	$(PY) -m pytest -m "timed and not slow and not gpu"

chaos: $(ENV) ## kill a small campaign N=200 times, and compare its records with those of an undisturbed one; RECORD=folder
	$(PY) tests/chaos/harness.py --kills $(or $(N),200) $(if $(RECORD),--record "$(RECORD)")

fuzz: $(ENV) ## test N=5000 damaged experiment files, packed nets, records and data files of each kind; RECORD=folder
	FUZZ=$(or $(N),5000) $(if $(RECORD),FUZZ_RECORD="$(RECORD)") $(PY) -m pytest -q -s -m "not gpu" $(FUZZED)

check-small: $(ENV) ## train two small nets; their errors must lie within committed bounds
	$(PY) -m reproduce check $(data_option)

check-small-mutants: $(ENV) ## train them without mask, clipping or multiplier, and show whether the check notices
	$(PY) -m reproduce check --mutants $(data_option)

lint: $(ENV) ## run ruff, mypy and, if the advisories can be reached, pip-audit
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tests/supply/audit.py

oldest: $(ENV) ## run some of the tests with the oldest packages that pyproject.toml allows (gigabytes in .venv-oldest; 9 minutes)
	$(PY) tests/supply/oldest.py

report: $(ENV) ## write the report of the committed records: results/report/index.html
	$(PY) -m reproduce report

simulate: $(ENV) ## try the rule of the verdict on simulated runs: results/verdict-simulation.csv (2 minutes)
	$(PY) -c 'from reproduce import verdict_simulation; verdict_simulation.main()'

compare-products: $(ENV) ## compare errors after training with 16-bit and float32 products: three small cells, 8 seeds (CELLS=… for some; hours; resumes)
	$(PY) -m reproduce.campaign.compare_products $(CELLS)

publish: $(ENV) ## copy your runs into the committed records, and refresh the report and README's table
	$(PY) -m reproduce publish $(options)

export-proofs: $(ENV) ## export RUN=name (published, its net in your store) to each format, and record the check: results/exports
	for kind in onnx qonnx npz; do \
	  $(PY) -m reproduce export "$(RUN)" --format $$kind $(options) --record results/exports || exit; done

data: $(ENV) ## fetch and check the data sets
	$(PY) -m reproduce data $(data_option)

clean: ## remove the virtual environment (your runs in results/local stay)
	rm -rf .venv

.venv/.installed: pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; python3 here is $$(python3 --version 2>&1)"; exit 2; }
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@
