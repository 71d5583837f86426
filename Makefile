# make run          talk to a model on this machine           make test         run the tests
# make check        lint, format, types, import rules         make bench        run the benchmarks
# make machine      a thousand random sequences of faults against the whole service (an hour or less)
# make proof        Phi-4, Phi-2 and Mistral at full width and few layers, with random weights (15 minutes, 20 GB)
# make proof-servers  the tests over vLLM's CPU build, and greedy answers of ours, llama.cpp's and vLLM's (15 minutes)
# make constraints  renew constraints.txt                     make clean        remove what was installed here
# make soak         200 SIGKILLs at random points, then two hours of a team's traffic with faults on (ARGS='--minutes 60')
#
# Each sets up what it needs in .venv, and the model in the user's cache; the second time there is nothing left to do.
#   PYTHON=...       the Python to make .venv with (3.11 or newer)
#   TORCH_INDEX=URL  a package index to take torch from (one with CPU-only builds, or with another CUDA)
#   ARGS='...'       more arguments: make run ARGS='--temperature 0.7', make test ARGS='-k queue', or ARGS=--cov for the coverage
#   JOBS=4           how many processes run the tests; they wait a lot, so twice the number of cores is a good one
#   ISA=avx2         make test as on a processor with no more than AVX2 (ISA=sse4: with no AVX)
# The setup prints to stderr, so that `make run` works in a pipe.

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
JOBS ?= 4
ISA ?=
KEEP ?= torch==2.13.0

# The instruction sets that torch's own kernels, oneDNN and MKL may use.
LOWERED_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
LOWERED_sse4 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
ifneq ($(ISA),)
ifeq ($(LOWERED_$(ISA)),)
$(error ISA is avx2 or sse4, not '$(ISA)')
endif
endif

VENV := .venv
BIN := $(VENV)/bin
PIP = -m pip --disable-pip-version-check install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# A venv whose Python was removed by an upgrade is made anew.
$(shell $(BIN)/python -c '' 2>/dev/null || rm -f $(VENV)/made $(VENV)/ready $(VENV)/ready-dev)
MADE_FROM := $(shell cat $(VENV)/torch-index 2>/dev/null)

ifneq ($(TORCH_INDEX),)
ifneq ($(MADE_FROM),)
ifneq ($(TORCH_INDEX),$(MADE_FROM))
$(error .venv has its torch from another index ($(MADE_FROM)); run `make clean` first)
endif
endif
endif

.SILENT:
.PHONY: run test machine check bench bench-gpu proof proof-servers soak constraints clean model

run: $(VENV)/ready model
	$(BIN)/inhouse chat $(ARGS)

test: $(VENV)/ready-dev model
	$(LOWERED_$(ISA)) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

machine: $(VENV)/ready-dev
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest tests/crash/test_state_machine.py $(ARGS)

check: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/project/test_imports.py

bench: $(VENV)/ready-dev model
	$(BIN)/python -m bench.batching
	$(BIN)/python -m bench.turns
	$(BIN)/python -m bench.adapters --platform discord
	$(BIN)/python -m bench.adapters --platform slack
	$(BIN)/python -m bench.adapters --burst
	$(BIN)/python -m bench.full_queue
	$(BIN)/python -m bench.remote
	$(BIN)/python -m bench.database

bench-gpu: $(VENV)/ready-dev
	$(BIN)/python -m bench.gpu

proof: $(VENV)/ready-dev
	$(BIN)/python -m pytest bench/proof -o timeout=600 --durations=0 $(ARGS)

proof-servers: $(VENV)/ready-dev model
	$(BIN)/python -m pytest bench/proof_servers -o timeout=1800 --durations=0 $(ARGS)
	$(BIN)/python -m pytest -p bench.proof_servers.vllm_engine tests/engine/contract -k vLLM -o timeout=1800 $(ARGS)
	$(BIN)/python -m bench.agreement --vllm

soak: $(VENV)/ready-dev
	$(BIN)/python -m bench.kills --kills 200
	$(BIN)/python -m bench.soak $(ARGS)

model: | $(VENV)/made
	$(BIN)/inhouse pull smollm2 </dev/null 1>&2

$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/made
	$(BIN)/python $(PIP) -c constraints.txt -e . </dev/null 1>&2
	echo "$(or $(TORCH_INDEX),the usual one)" >$(VENV)/torch-index
	touch $@

$(VENV)/ready-dev: pyproject.toml constraints.txt | $(VENV)/made
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]' </dev/null 1>&2
	echo "$(or $(TORCH_INDEX),the usual one)" >$(VENV)/torch-index
	touch $(VENV)/ready $@

$(VENV)/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Inhouse needs Python 3.11 or newer, and '$(PYTHON)' is not: say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: install its venv package (Debian: python3-venv)" >&2; exit 1; }
	echo "Setting up in $(VENV), once. To be downloaded: Python packages, 70 MB (150 MB with the tests' tools), and torch:" >&2
	echo "200 MB without CUDA, 3 GB with it, which is what the usual index has for Linux (TORCH_INDEX=URL names another)." >&2
	echo "Then the model SmolLM2-135M-Instruct, 90 to 270 MB, into your cache." >&2
	$(PYTHON) -m venv --clear $(VENV) </dev/null 1>&2
	touch $@

# In a separate venv, so that no other package of .venv is included. Left out: packages that follow from others' versions
# (the CUDA libraries of torch), and the local part of versions, since other machines install with this file too.
constraints:
	rm -rf build/fresh
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python $(PIP) '.[dev,quantize]' $(KEEP) 1>&2
	{ echo "# Every version that the tests ran with. Renew it with: make constraints (KEEP='torch==2.13.0' holds one back)"; \
	  build/fresh/bin/python -m pip freeze --all --exclude pip --exclude inhouse | sed -E 's/^([^ ]+==[^+ ]+)\+.*/\1/' \
	  | grep -viE '^(nvidia|cuda|triton)'; } >build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build

clean:
	rm -rf $(VENV) build *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
