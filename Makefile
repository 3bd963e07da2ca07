# Everything runs in .venv, which is made on the first call. PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Without torch, and with the oldest ONNX Runtime that is claimed.
RUNTIME := .venv-runtime
OLDEST := onnxruntime==1.20.0
# Two environments can be made at the same time.
MAKEFLAGS += --jobs=2
# Python compiles what is imported, which is a fraction of what is installed, and keeps it.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
# uv does in seconds what takes pip a minute. It does not know where pip was told to look: if it fails, pip does it.
UV := -m uv pip install --quiet --python
# CPU builds of torch: on Linux, the build on PyPI brings gigabytes of CUDA. TORCH_INDEX= takes that one, for a GPU.
TORCH := torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEVELOPMENT := --constraint constraints.txt --editable '.[cpu,train,parquet,report,serve,app,dask,dev]' --editable ./benchmarks

.PHONY: demo test pytest test-slow test-contract test-rivals matrix fuzz lint docs bench reference scgpt space clean

demo: $(READY)
	$(BIN)/python examples/demo.py

# At the same time: mypy keeps one core busy for a minute. "make test TESTS=all" runs the slow tests too.
test: lint pytest
TESTS = fast

# One thread in each process: the matrices are small, and threads that wait for each other on busy cores take several
# times as long. One process more than cores, as tests wait for browsers and for processes of their own.
PYTEST = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --dist loadfile --no-loadscope-reorder --maxprocesses 4 \
	--numprocesses $$(( $$($(BIN)/python -c "import os; print(os.cpu_count())") + 1 ))

pytest: $(READY) $(RUNTIME)/.ready
	$(PYTEST) $(if $(filter all,$(TESTS)),,-m "not slow")

# The tests that take longest: killed commands, fuzzed files, whole builds, processes of their own.
test-slow: $(READY) $(RUNTIME)/.ready
	$(PYTEST) -m slow

# The graph from another language: needs node and npm.
test-contract: $(READY)
	cd export/examples/node && npm install --ignore-scripts --no-audit --no-fund
	$(BIN)/python tests/contract.py

# Every method of the benchmark on a few hundred cells; those in R run where R and their packages are.
test-rivals: $(READY)
	$(BIN)/python -m tests.rivals

# The newest of everything, the lowest versions that are claimed, and the constraints: the labels are the same. MATRIX names
# some of them: newest, newest-3.11, lowest, constraints.
matrix: $(READY)
	$(BIN)/python -m tests.matrix --index "$(TORCH_INDEX)" $(MATRIX)

# Files of cells, damaged; references, answers of a Hub, recipes, studies and checkpoints, forged: each is read or refused
# in one line.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz.cells --count 500
	$(BIN)/python -m tests.fuzz.valid --count 200
	$(BIN)/python -m tests.fuzz.references --count 1000
	$(BIN)/python -m tests.fuzz.hub --count 600
	$(BIN)/python -m tests.fuzz.strangers --count 900
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

# BENCH_SPEED takes options, such as "--size 1000000" where there is room for 13 GB of cells. SPIKGPT_DATA names the folder
# of the studies, which may not be committed; without SPIKGPT_DATA, only speed is measured.
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

# Build a shipped reference again: make reference NAME=retina DATA=DIR. DATA holds the cells of the study, which are laid
# out as the study publishes its files. The same machine gives the same weights.
NAME = pancreas
DATA = tests/data
VARIANT = $(shell grep -qs '^  shipped:' hub_cards/$(NAME)/recipe.yaml && echo --variant shipped)
reference: $(READY)
	$(BIN)/python hub_cards/mirror.py $(firstword $(subst -four-donors, ,$(NAME))) --data "$(DATA)" build/mirror
	$(BIN)/spikgpt build "$(NAME)" $(VARIANT) --mirror build/mirror --out "build/$(NAME)"
	rm -rf "spikgpt/references/$(NAME)"
	cp -r "build/$(NAME)" "spikgpt/references/$(NAME)"

# Train the small scGPT of the tests again.
scgpt: $(READY)
	$(BIN)/python hub_cards/pretrain_scgpt.py --out scgpt_baron

# A folder to push as a Hugging Face Space; see docs/guides/app.md.
space:
	rm -rf build/space
	mkdir -p build
	cp -r hub_cards/space build/space
	cp LICENSE build/space
	tar --exclude=__pycache__ -cf - spikgpt | tar -xf - -C build/space

$(READY): pyproject.toml benchmarks/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
# The timeout is that of one answer, not of the download.
	test -z "$(TORCH_INDEX)" || $(BIN)/python $(INSTALL) --no-deps --retries 1 --timeout 15 --index-url "$(TORCH_INDEX)" $(TORCH) || \
		echo "$(TORCH_INDEX) has not given $(TORCH): it comes from PyPI, on Linux with gigabytes of CUDA."
	$(BIN)/python $(INSTALL) uv
	$(BIN)/python $(UV) $(BIN)/python $(DEVELOPMENT) || $(BIN)/python $(INSTALL) $(DEVELOPMENT)
# The oracle of the scGPT tests; without its dependencies, which no current torch satisfies.
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
# The core tests run there too.
	$(RUNTIME)/bin/python $(INSTALL) --constraint $(RUNTIME)/constraints.txt pytest
	touch $@

clean:
	rm -rf $(VENV) $(RUNTIME)
