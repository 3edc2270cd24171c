# Every target sets up .venv by itself. `make` alone prints this list.
PYTHON ?= python3
VENV   := .venv
PY     := OMP_NUM_THREADS=1 $(VENV)/bin/python
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu lint types check check-real check-data check-cases check-sandbox check-gym check-environments check-browser check-trl test-engines cluster cluster-down test-slurm nano-bases benchmark benchmark-grading benchmark-sandbox benchmark-sweep benchmark-runs benchmark-scale benchmark-peer benchmark-check paper paper-quick algorithms docs dashboard clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv with everything the demo and the tests need

# An interpreter that the dependencies cannot have is refused before pip looks for versions that do not exist.
FITS := 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "error: PYTHON=$(PYTHON): is Python %d.%d; Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." % v)'
# $(call install,VENV,ARGUMENTS): pip says what went wrong, and its exit code ends make. Most modules are never imported, so that
# compiling them all would take as long as the rest of the installation: Python compiles what it imports.
define install
@$(PYTHON) -c $(FITS)
@echo 'installing $(1): 2 GB or more, some minutes without a word'
$(PYTHON) -m venv $(1)
$(call pip,$(1),$(2))
endef
pip = $(1)/bin/python -m pip install --no-compile --quiet --progress-bar off --disable-pip-version-check --root-user-action ignore $(2)

$(READY): pyproject.toml setup.py constraints.txt
	$(call install,$(VENV),-e '.[dev]' -c constraints.txt)
	$(VENV)/bin/python -c 'import torch, transformers, hydra, mlflow, pytest'
	touch $(READY)

demo: setup  ## the main job: Dr. GRPO makes the embedded base model a better reasoner, 3 minutes on a CPU once .venv is there
	$(PY) -m zero.train algo=drgrpo template=none

# An extra of its own: what it needs compiles C, and the demo shall not
GYM := $(VENV)/.gym
$(GYM): $(READY)
	$(call pip,$(VENV),-e '.[gym]' -c constraints.txt) || { echo 'error: reasoning-gym needs pycosat, which compiles C: install a C compiler and the headers of Python'; exit 1; }
	touch $@

# A third worker while two wait for processes and clocks; a worker takes neighbours, which share their fixtures. WORKERS= for one.
WORKERS := -n 3 --dist worksteal
test: $(GYM)  ## all tests but the slow ones
	$(PY) -m pytest $(WORKERS) -m 'not slow and not gpu and not engines and not slurm'

PART := 1/1
test-slow: $(GYM)  ## minutes each: kill -9 at ten random moments and what else is marked slow (PART=2/3: the second third of the files)
	$(PY) -m pytest $(WORKERS) --part $(PART) -m 'slow and not gpu and not engines and not slurm'

# $(call layer,VENV,ARGUMENTS): an environment on top of .venv, for what must not come into it: pip adds what .venv lacks.
define layer
$(PYTHON) -m venv $(1)
$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(1)/lib/python3.*/site-packages)/below.pth
$(call pip,$(1),$(2))
endef

ENGINES := .venv-engines
$(ENGINES)/.ready: tests/engines/requirements.txt $(READY)
	$(call layer,$(ENGINES),--no-deps -r $<)
	DS_BUILD_OPS=0 $(call pip,$(ENGINES),--no-deps --no-build-isolation deepspeed==0.19.8)
	$(ENGINES)/bin/python -c 'import vllm, deepspeed, pytest'
	touch $@

test-engines: WORKERS := -n 2 --dist loadfile
test-engines: $(ENGINES)/.ready  ## the real vLLM and the real DeepSpeed on the CPU, in an environment of their own on top of .venv (.venv-engines, 1.2 GB; PART=)
	OMP_NUM_THREADS=1 $(ENGINES)/bin/python -m pytest $(WORKERS) --part $(PART) -m 'engines and not gpu' tests/engines tests/gpu

cluster:  ## a real Slurm on this machine (as root, Debian; NODES= ACCT=none|db NET=loopback|netns)
	tests/slurm/cluster/up.sh

cluster-down:  ## take it down
	tests/slurm/cluster/down.sh

test-slurm: setup  ## everything that can go wrong on a cluster, on a real Slurm (as root, else skipped; 15 minutes; PART=)
	[ "$$(id -u)" != 0 ] || $(MAKE) $(ENGINES)/.ready
	$(PY) -m pytest -p no:xdist -rs --part $(PART) -m slurm tests/slurm

test-gpu: setup  ## what needs a CUDA device; PYTHON_GPU=PATH for an interpreter that has torch, transformers and the rest already
	$(or $(PYTHON_GPU),$(PY)) -m pytest -m gpu

lint: setup  ## style
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: setup  ## static types
	$(VENV)/bin/mypy

check: lint types test  ## lint, types, tests

GSM8K ?= $(wildcard ../shared/data/train/gsm8k_train_7473.jsonl)
STEPS_GSM ?= 10
STEPS_COUNTDOWN ?= 60
MINUTES ?= 30
GGUF := $(VENV)/.gguf
$(GGUF): $(READY)
	$(call pip,$(VENV),-e '.[gguf]' -c constraints.txt)
	touch $@

check-real: $(GGUF)  ## Dr. GRPO on a real pretrained model: SmolLM2-135M on GSM8K and on Countdown
	$(PY) -m tests.real.check_real --gsm8k '$(GSM8K)' --gsm-steps $(STEPS_GSM) --countdown-steps $(STEPS_COUNTDOWN) --minutes $(MINUTES)

DATA ?= ../shared/data
check-data: setup  ## question sets, templates and graders on the real files under DATA=FOLDER (train/*.jsonl, eval/*.jsonl)
	$(PY) -m tests.data.check_data $(DATA)

CASES ?= ../shared/cases
check-cases: setup  ## the grader on the pairs of CASES=FOLDER: grader.jsonl with {"answer", "reference", "equal"} a line
	$(PY) -m tests.data.check_cases $(CASES)

check-sandbox: setup  ## programs that try to get out of the sandbox, in every sandbox that this machine has, as a table (3 minutes)
	$(PY) -m tests.sandbox.check_sandbox

check-gym: $(GYM)  ## every set of reasoning-gym: rows, and its scorer on 1,000 hostile answers, as the table of docs/gym.md
	$(PY) -m tests.grading.check_gym && $(PY) -m analysis.docs

check-browser: setup  ## the MLflow comparison and the report in a real browser (Debian: installs chromium)
	$(PY) tests/browser/check_dashboard.py
	$(PY) tests/browser/check_report.py

TRL := .venv-trl
$(TRL)/.ready: constraints.txt $(READY)
	$(call layer,$(TRL),trl==1.16.0 -c constraints.txt)
	$(TRL)/bin/python -c 'import trl, torch, hydra'
	touch $@

check-trl: $(TRL)/.ready  ## our losses and gradients against TRL's own code, in an environment of its own on top of .venv (.venv-trl)
	OMP_NUM_THREADS=1 $(TRL)/bin/python -m tests.peers.check_trl

ENVIRONMENTS := .venv-environments
$(ENVIRONMENTS)/.ready: constraints.txt pyproject.toml $(READY)
	$(call layer,$(ENVIRONMENTS),textarena==0.7.4 verifiers==0.4.0 -c constraints.txt)
	$(ENVIRONMENTS)/bin/python -c 'import textarena, verifiers.v1, pytest'
	touch $@

check-environments: $(ENVIRONMENTS)/.ready  ## environments of TextArena and verifiers, the real packages, in an environment of their own on top of .venv (.venv-environments)
	OMP_NUM_THREADS=1 $(ENVIRONMENTS)/bin/python -m pytest tests/environments/test_adapters.py

NANO_BASES := runs/nano-bases
nano-bases: setup  ## rebuild the embedded base models from nothing in runs/nano-bases (an hour and a half), compare with the shipped ones
	rm -rf $(NANO_BASES)
	$(PY) -m zero.pretrain out=$(NANO_BASES)/base
	$(PY) -m zero.pretrain corpus=nano_search model.path=$(NANO_BASES)/base out=$(NANO_BASES)/search
	$(PY) -m zero.pretrain corpus=nano_plain out=$(NANO_BASES)/plain
	$(PY) -m zero.pretrain corpus=nano_domain model.path=$(NANO_BASES)/plain out=$(NANO_BASES)/domain
	$(PY) -m zero.pretrain corpus=nano_code model.path=$(NANO_BASES)/base out=$(NANO_BASES)/code_once
	$(PY) -m zero.pretrain corpus=nano_code model.path=$(NANO_BASES)/code_once seed=1 out=$(NANO_BASES)/code
	$(PY) -m zero.pretrain corpus=nano_rules out=$(NANO_BASES)/rules_once
	$(PY) -m zero.pretrain corpus=nano_rules corpus.stages.skills.tokens=5000000 model.path=$(NANO_BASES)/rules_once seed=1 out=$(NANO_BASES)/rules
	$(PY) -m zero.pretrain corpus=nano_vl model.path=$(NANO_BASES)/rules sequences=8 micro_sequences=8 out=$(NANO_BASES)/vl
	for base in base search plain domain code rules vl; do cmp $(NANO_BASES)/$$base/model.safetensors zero/nano/$$base/model.safetensors || exit 1; done
	echo 'the same bytes as the shipped weights'

WORKLOADS ?= W1,W2
PAIRS ?= 2
benchmark: setup  ## whole steps, rollout and update beside plain torch: tokens per CPU second, share of the roof, memory
	$(PY) -m benchmarks.peer --workloads $(WORKLOADS) --pairs $(PAIRS)

benchmark-scale: setup  ## steps of 1,000 to 256,000 tokens (seconds, memory), one and two processes (13 minutes)
	$(PY) -m benchmarks.scale

ANSWERS ?= 1024
benchmark-grading: setup  ## answers graded per second, and every verdict that differs from math-verify's (DATA=FOLDER ANSWERS=1024)
	$(PY) -m benchmarks.grading $(DATA) --answers $(ANSWERS)

benchmark-sandbox: setup  ## short foreign programs judged per second, and what each costs
	$(PY) -m benchmarks.sandbox

benchmark-sweep: setup  ## planning and watching sweeps of 100, 1,000 and 10,000 cells: seconds, memory, files opened
	$(PY) -m benchmarks.sweeps

benchmark-runs: setup  ## reading 500 runs of 1,000 steps and 40 metrics
	$(PY) -m benchmarks.runs

paper: setup  ## all experiments in their embedded size, 5 seeds, resumable (some 2 h 20 min on two cores: 1 h 47 min and, measured apart, 35 min), then figure, verdicts and report
	$(PY) -m zero.train -m experiment=all hydra.launcher.name=paper
	$(PY) -m analysis.experiments runs/sweeps/paper --page runs/sweeps/paper/PAPER.md
	$(PY) -m analysis.paper runs/sweeps/paper
	$(PY) -m analysis.report runs/sweeps/paper

QUICK := fig5_templates,fig6_length,table4_recipe,oat_zero_reflection,grpo_demo
paper-quick: setup  ## five of them with two seeds: effects without verdicts (11 minutes)
	$(PY) -m zero.train -m experiment=$(QUICK) seed=0,1 hydra.launcher.name=paper-quick
	$(PY) -m analysis.report runs/sweeps/paper-quick

PAIRS ?= 5
WORKLOADS ?= W1,W2,W3,W4
benchmark-peer: setup $(TRL)/.ready  ## whole steps beside TRL's GRPOTrainer on four workloads (W4 is long; WORKLOADS=W1,W2,W3 PAIRS=5)
	$(PY) -m benchmarks.peer --trl $(TRL)/bin/python --workloads $(WORKLOADS) --pairs $(PAIRS)

benchmark-check: setup $(TRL)/.ready  ## the same on W1, W2, W3; fails if a ratio fell by more than 15 % (benchmarks/baseline.json)
	$(PY) -m benchmarks.peer --trl $(TRL)/bin/python --workloads W1,W2,W3 --pairs 3 --check

algorithms: setup  ## every algorithm, 5 seeds, one budget (an hour on two cores, resumable), then docs/algorithms.md
	$(PY) -m zero.train -m experiment=algorithms hydra.launcher.name=algorithms
	$(PY) -m analysis.algorithms runs/sweeps/algorithms

docs: setup  ## write the generated parts of docs/ (settings, options, models, metrics, algorithms) anew
	$(PY) -m analysis.docs

dashboard: setup  ## open the MLflow comparison of all runs
	$(PY) -m launch.dashboard

clean:  ## remove caches, keep .venv and runs
	rm -rf .pytest_cache .mypy_cache .ruff_cache
