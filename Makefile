# make notebook    execute the notebook from the top into notebooks/executed/ (.ipynb and .html)
# make test        lint, check the types, and run the tests
# make test-slow   the tests that take too long for that
# make docs        API pages in docs/api/, from the docstrings
# make benchmark   measure each stage against the classic loop, one JSON object per line
# make peers       measure each stage beside plain PyTorch, which it installs into an environment of its own
# make experiments compare variants of the decoder on folds and on the test split
# make rehearsal   the stages at the size of ROCO: seconds and memory
# make browser     run the notebook in JupyterLab and Chromium, with screenshots
# make runtimes    run notebook and tests with Colab's and Kaggle's package versions
# make gpu-graph   trace training and search with TensorFlow's GPU build, which needs no card for that
# make jax         run the tests with JAX instead of TensorFlow (KERAS_BACKEND=jax)
# make torture     kill the pipeline 100 times, inject faults, read 2,000 bad images
# make fuzz        half an hour of a coverage-guided fuzzer per reader (Linux)
# make distributed the tests that need Ray, which it installs (about 400 MB)
# make publish     REPOSITORY=owner/name writes the address of your fork into badges and notebook
# make clean       remove environments and executed notebooks; data and checkpoints stay

# TensorFlow has packages for these versions; the first Python that is one of them is used.
VERSIONS := 3.11, 3.12 or 3.13
IS_ONE := import sys; sys.exit(not (3, 11) <= tuple(sys.version_info[:2]) <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
    $$python -c "$(IS_ONE)" 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# With an NVIDIA card CUDA is installed too; without one the smaller build is enough. macOS has one build.
CARD := $(shell command -v nvidia-smi)$(wildcard /proc/driver/nvidia/gpus)
TENSORFLOW := $(if $(CARD),tensorflow[and-cuda],$(if $(filter Darwin,$(shell uname -s)),tensorflow,tensorflow-cpu))

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: notebook test test-slow docs benchmark peers experiments rehearsal browser runtimes gpu-graph jax torture fuzz distributed \
    publish clean

$(VENV)/ready: requirements.txt requirements-dev.txt
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c "$(IS_ONE)" || { echo "Python $(VERSIONS) is needed:" \
	    "TensorFlow has no packages for $$($(or $(PYTHON),python3) --version 2>&1). Install one of them, or name it:" \
	    "make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed 's/^tensorflow>/$(TENSORFLOW)>/' requirements.txt > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -r $(VENV)/requirements.txt -r requirements-dev.txt
	touch $@

notebook: $(VENV)/ready
	ROCO_PROGRESS=text $(BIN)/python tools/run_notebook.py notebooks/roco_captioning.ipynb notebooks/executed

test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 4 --dist worksteal

docs: $(VENV)/ready
	$(BIN)/pdoc --docformat google --output-directory docs/api roco_caption

benchmark: $(VENV)/ready
	$(BIN)/python -m benchmarks

peers: $(VENV)/ready
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy pillow
	$(BIN)/python -m benchmarks.peers

experiments: $(VENV)/ready
	ROCO_PROGRESS=text $(BIN)/python -m benchmarks.experiments

rehearsal: $(VENV)/ready
	ROCO_PROGRESS=text $(BIN)/python -m benchmarks.rehearsal

browser: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check jupyterlab playwright
	$(BIN)/python tests/campaigns/browser.py notebooks/executed/browser

runtimes:
	bash tests/campaigns/runtimes.sh

gpu-graph:
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv-gpu/bin/python tests/campaigns/gpu_graph.py

jax: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(VENV)/jax --upgrade jax
	PYTHONPATH=$(abspath $(VENV)/jax) KERAS_BACKEND=jax $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

torture: $(VENV)/ready
	$(BIN)/python tests/campaigns/torture.py

fuzz: $(VENV)/ready
	# not in requirements-dev.txt: it is large, with wheels for Linux only
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3'
	$(BIN)/python tests/campaigns/fuzz.py

distributed: $(VENV)/ready
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project'] \
	    ['optional-dependencies']['distributed'], sep='\n')" > $(VENV)/distributed.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/distributed.txt
	$(BIN)/python -m pytest tests/features/test_shards.py tests/scale

publish: $(VENV)/ready
	@$(BIN)/python tools/publish.py "$(REPOSITORY)" "$(KAGGLE)"

clean:
	rm -rf .venv* notebooks/executed docs/api
