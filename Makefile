# The verbs a person types. By default each uses .venv and creates or refreshes it; `make TARGET PYTHON=python3`
# uses that interpreter as it is: nothing is installed, nothing is fetched for the environment.

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

.PHONY: chaos export-proofs fuzz oldest help reproduce-table1 bench-cpu bench-train bench-layers bench-gpu test test-all check-small check-small-mutants lint report simulate tune-ablations compare-products publish data clean

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r verb what; do \
	  printf '  make %-20s %s\n' "$$verb" "$$what"; done

reproduce-table1: $(ENV) ## train every cell of Table 1 and show the table (SCALE=paper|small|auto SEEDS=1 LIMIT=9m)
	$(PY) -m reproduce run table1 --scale $(SCALE) --seeds $(SEEDS) $(options) $(if $(LIMIT),--time-limit $(LIMIT))

bench-cpu: $(ENV) ## figure 3 on this machine's CPU: products, MLP, ConvNet (minutes; wants a quiet machine)
	$(PY) -m reproduce bench $(data_option)

bench-train: $(ENV) ## training steps on this machine's CPU, ours against a plain loop (4 minutes; wants a quiet machine)
	$(PY) -m reproduce bench --train $(data_option)

bench-layers: $(ENV) ## single 1-bit layers of PyTorch beside float32 and int8: from which size on 1 bit pays (1 minute; wants a quiet machine)
	$(PY) -m reproduce bench --layers

bench-gpu: $(ENV) ## figure 3 on an NVIDIA GPU, every CUDA backend (minutes; wants CuPy)
	@$(PY) -m reproduce bench --gpu $(data_option)

test: $(ENV) ## the test suite (MARK=… selects other tests by their markers)
	$(PY) -m pytest $(PARALLEL) $(if $(MARK),-m "$(MARK)")

test-all: $(ENV) ## the test suite, the exhaustive tests and those that measure time, as CI runs it
	$(PY) -m pytest $(PARALLEL) -m "not timed and not slow and not gpu"
	$(PY) -m pytest -m "timed and not slow and not gpu"

chaos: $(ENV) ## kill a small campaign N=200 times; what it leaves must be the undisturbed one's; RECORD=folder
	$(PY) tests/chaos/harness.py --kills $(or $(N),200) $(if $(RECORD),--record "$(RECORD)")

fuzz: $(ENV) ## N=5000 mutants of experiment files, packed nets, records, data files; RECORD=folder
	FUZZ=$(or $(N),5000) $(if $(RECORD),FUZZ_RECORD="$(RECORD)") $(PY) -m pytest -q -s -m "not gpu" $(FUZZED)

check-small: $(ENV) ## train two small nets afresh; they must land in the committed bands
	$(PY) -m reproduce check $(data_option)

check-small-mutants: $(ENV) ## train them without mask, clipping, multiplier: does the check notice?
	$(PY) -m reproduce check --mutants $(data_option)

lint: $(ENV) ## ruff, mypy, and pip-audit where it reaches the advisories
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tests/supply/audit.py

oldest: $(ENV) ## a part of the tests with the oldest versions that pyproject.toml allows (gigabytes in .venv-oldest; 9 minutes)
	$(PY) tests/supply/oldest.py

report: $(ENV) ## tables, figures, claims and verdicts from the committed records: results/report/index.html
	$(PY) -m reproduce report

simulate: $(ENV) ## try the verdict's rule on made-up runs, image by image: results/verdict-simulation.csv (2 minutes)
	$(PY) -c 'from reproduce import verdict_simulation; verdict_simulation.main()'

tune-ablations: $(ENV) ## try the learning rates of the ablations' arms on validation images, CELLS=… of some: results/tuning (hours; resumes where it stopped)
	$(PY) -m reproduce.campaign.rates $(CELLS)

compare-products: $(ENV) ## do 16-bit products change what nets learn? three small cells, 8 seeds, both modes (hours; resumes where it stopped)
	$(PY) -c 'from reproduce.campaign import compare_products; compare_products.main()'

publish: $(ENV) ## copy your runs into the committed evidence, refresh the report and README's table
	$(PY) -m reproduce publish $(options)

export-proofs: $(ENV) ## prove the exports of RUN=name, a published run whose net is in your store: results/exports
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
