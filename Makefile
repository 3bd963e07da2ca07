# The first call creates .venv with the interpreter PYTHON. All commands run in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Environment without torch, with the oldest supported ONNX Runtime.
RUNTIME := .venv-runtime
OLDEST := onnxruntime==1.20.0
# Build both environments in parallel.
MAKEFLAGS += --jobs=2
# Skip compilation: Python compiles and caches the imported modules, a fraction of the installed modules.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
# uv needs seconds, and pip needs a minute. uv ignores the package indexes of pip's configuration, so pip is the fallback.
UV := -m uv pip install --quiet --python
# CPU build of torch: on Linux, the build on PyPI brings gigabytes of CUDA. For a GPU, an empty TORCH_INDEX= uses PyPI.
TORCH := torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEVELOPMENT := --constraint constraints.txt --editable '.[cpu,train,parquet,report,serve,app,dask,dev]' --editable ./benchmarks

.PHONY: demo test pytest test-slow test-contract test-rivals matrix fuzz lint docs bench reference scgpt space clean

demo: $(READY)
	$(BIN)/python examples/demo.py

# lint and pytest run in parallel, because mypy keeps one core busy for a minute. "make test TESTS=all" adds the slow tests.
test: lint pytest
TESTS = fast

# One thread in each process: for small matrices on busy cores, several threads take several times as long. One process
# more than cores, because tests wait for browsers and for other processes.
PYTEST = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --dist loadfile --no-loadscope-reorder --maxprocesses 4 \
	--numprocesses $$(( $$($(BIN)/python -c "import os; print(os.cpu_count())") + 1 ))

pytest: $(READY) $(RUNTIME)/.ready
	$(PYTEST) $(if $(filter all,$(TESTS)),,-m "not slow")

# Run only the slow tests: killed commands, fuzzed files, whole builds, separate processes.
test-slow: $(READY) $(RUNTIME)/.ready
	$(PYTEST) -m slow

# Run the ONNX graph from Node.js; needs node and npm.
test-contract: $(READY)
	cd export/examples/node && npm install --ignore-scripts --no-audit --no-fund
	$(BIN)/python tests/contract.py

# Run every method of the benchmark on a few hundred cells. Methods in R are skipped if R or their packages are missing.
test-rivals: $(READY)
	$(BIN)/python -m tests.rivals

# Check that the labels are the same with the newest dependencies, the lowest supported dependencies, and constraints.txt.
# MATRIX selects environments: newest, newest-3.11, lowest, constraints.
matrix: $(READY)
	$(BIN)/python -m tests.matrix --index "$(TORCH_INDEX)" $(MATRIX)

# Test damaged files of cells, and maliciously altered references, Hub answers, recipes, studies and checkpoints. Each file
# must be read, or refused with a one-line message.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz.cells --count 500
	$(BIN)/python -m tests.fuzz.valid --count 200
	$(BIN)/python -m tests.fuzz.references --count 1000
	$(BIN)/python -m tests.fuzz.hub --count 600
	$(BIN)/python -m tests.fuzz.untrusted_files --count 900
	$(BIN)/python -m tests.fuzz.together --count 20
	$(BIN)/python -m tests.fuzz.kills --count 50
	$(BIN)/python -m tests.fuzz.builds

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.structure
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -d docs/_build/doctrees docs docs/_build/html

# BENCH_SPEED passes options, such as "--size 1000000" (13 GB of cells). SPIKGPT_DATA names the folder of the studies,
# which may not be committed. Without SPIKGPT_DATA, only speed is measured.
BENCH = $(BIN)/spikgpt benchmark --out build/bench
bench: $(READY) $(RUNTIME)/.ready
	$(BENCH) --suite speed --suite graph $(BENCH_SPEED)
	$(BIN)/python benchmarks/footprint.py
	$(RUNTIME)/bin/python benchmarks/footprint.py
	$(BIN)/python -m benchmarks.scgpt_speed
	$(BIN)/python benchmarks/service_load.py
	$(if $(SPIKGPT_DATA),$(BENCH) --data "$(SPIKGPT_DATA)" --seeds 5 $(foreach suite,$(LABEL_SUITES),--suite $(suite)),@echo "Set SPIKGPT_DATA=DIR to measure labels and Unknown cells across studies too.")
	$(if $(SPIKGPT_DATA),$(BENCH) --data "$(SPIKGPT_DATA)" --suite transfer --panel 400 --panel 200 --panel 100)

LABEL_SUITES := accuracy unseen ood-scores false-rejection donors calibration foreign-cells

# Build a shipped reference again: make reference NAME=retina DATA=DIR. DATA is the folder with the cells of the study.
# mirror.py writes these cells in the file layout of the study. The same machine gives the same weights.
NAME = pancreas
DATA = tests/data
VARIANT = $(shell grep -qs '^  shipped:' hub_cards/$(NAME)/recipe.yaml && echo --variant shipped)
reference: $(READY)
	$(BIN)/python hub_cards/mirror.py $(firstword $(subst -four-donors, ,$(NAME))) --data "$(DATA)" build/mirror
	$(BIN)/spikgpt build "$(NAME)" $(VARIANT) --mirror build/mirror --out "build/$(NAME)"
	rm -rf "spikgpt/references/$(NAME)"
	cp -r "build/$(NAME)" "spikgpt/references/$(NAME)"

# Train the small scGPT network of the tests again.
scgpt: $(READY)
	$(BIN)/python hub_cards/pretrain_scgpt.py --out scgpt_baron

# Write a folder to upload as a Hugging Face Space; see docs/guides/app.md.
space:
	rm -rf build/space
	mkdir -p build
	cp -r hub_cards/space build/space
	cp LICENSE build/space
	tar --exclude=__pycache__ -cf - spikgpt | tar -xf - -C build/space

$(READY): pyproject.toml benchmarks/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed. Run: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
# The timeout limits one answer of the server, not the whole download.
	test -z "$(TORCH_INDEX)" || $(BIN)/python $(INSTALL) --no-deps --retries 1 --timeout 15 --index-url "$(TORCH_INDEX)" $(TORCH) || \
		echo "Could not install $(TORCH) from $(TORCH_INDEX). PyPI is used instead; on Linux this adds gigabytes of CUDA."
	$(BIN)/python $(INSTALL) uv
	$(BIN)/python $(UV) $(BIN)/python $(DEVELOPMENT) || $(BIN)/python $(INSTALL) $(DEVELOPMENT)
# The scGPT tests compare with the scgpt package. No current torch satisfies its dependencies, so they are left out.
	$(BIN)/python $(INSTALL) --no-deps scgpt==0.2.4
	touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python $(INSTALL) --constraint constraints.txt --editable '.[docs]'
	touch $@

$(RUNTIME)/.ready: pyproject.toml constraints.txt $(shell find spikgpt export/spikgpt_onnx hub_cards/spikgpt_recipes -type f -not -path '*/__pycache__/*')
	$(PYTHON) -m venv $(RUNTIME)
	sed '/^onnxruntime==/d' constraints.txt > $(RUNTIME)/constraints.txt
	$(RUNTIME)/bin/python $(INSTALL) --constraint $(RUNTIME)/constraints.txt '.[cpu]' $(OLDEST)
	$(RUNTIME)/bin/python $(INSTALL) --force-reinstall --no-deps .
# The core tests also run in this environment.
	$(RUNTIME)/bin/python $(INSTALL) --constraint $(RUNTIME)/constraints.txt pytest
	touch $@

clean:
	rm -rf $(VENV) $(RUNTIME)
