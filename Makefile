# Every target sets itself up: Python 3.11, make and git are enough. `make help` explains targets and variables.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# --- variables -------------------------------------------------------------------------------------------------
PROFILE   ?= demo## size of a run: demo (two CPU cores), study (the same, 90 minutes), small (one 16 GB GPU), paper (four 80 GB GPUs)
DATA      ?= data/demo## folder of the cohort
TASKS     ?=## tasks of a report, separated by commas; all that have finished points by default
TASK      ?= malignancy## downstream task; finetune takes all, for every one of them
FRACTION  ?= 1.0## share of the training labels, in (0, 1]
ENCODER   ?= scratch## image encoder
MODE      ?= finetune## finetune, or probe: a linear model on frozen features
FRACTIONS ?=## shares of the labels of a curve, separated by commas; 0.05,0.1,0.2,0.4,0.8,1.0 by default
ENCODERS  ?=## encoders of a curve, separated by commas; all that have weights here by default
SEEDS     ?=## seeds of a curve, separated by commas; 42,2024,2025 by default in the demo
SEED      ?= 42## seed of fraction, weights and order
STAGES    ?=## pretraining stages, separated by commas; all by default
PRETRAIN_SEED ?= 42## seed of the pretraining whose encoder ENCODER= takes
REFERENCE ?= scratch## encoder that compare measures the others against
EXTRACTOR ?= rules## who reads attributes out of reports: rules, llm
COMPARE   ?=## second extractor, for the agreement
MODEL     ?= smollm2## language model of the extractor llm: folder, hub id, smollm2
REVIEW    ?=## CSV of a reviewer's corrections
PRETRAIN_TAG ?=## TAG of the pretraining whose encoder ENCODER= takes
DEVICES   ?= auto## devices of each node, as Lightning's Trainer takes them
NODES     ?= 1## machines that a training command runs on; LAUNCH= says what starts it on each
LAUNCH    ?=## what starts the processes of a training command: srun, or torchrun with its flags
RUNS      ?= runs## folder of all runs and of the MLflow store
JOB       ?= pretrain## training target that submit gives to SLURM
JOBS      ?= 1## points of a curve that run side by side, each with a GPU or a share of the cores of its own
PARAMS    ?=## YAML file of hyper-parameters for finetune, for example a sweep's best.yaml
TRIALS    ?= 20## trials of a sweep in all, over all of its workers
SPACE     ?= finetune## search space of a sweep: finetune, pretrained, survival, or a YAML file
PRUNER    ?= median## which trials of a sweep end early: median, hyperband, none
STORAGE   ?=## database that the workers of a sweep share, as a URL; a SQLite file under RUNS by default
TAG       ?=## suffix of a run whose configuration you changed
PATIENTS  ?= 1000## number of patients of the phantom cohort
PRETRAINING ?= 680## further phantoms at the pretraining centres, with scan and report
SOURCE    ?=## folder or manifest to import
OUT       ?=## folder to write: the imported cohort, or what embed finds
MASK      ?=## mask of the kidneys of one scan
KIND      ?= auto## kind of source: auto, kits23, manifest, dicom, tcia
OPTIONS   ?= {}## options of the source as YAML, for example OPTIONS='{sites: sites.csv}'
SYSTEMS   ?=## systems that write reports, separated by commas; all that need no name by default, and of medgemma, gpt4o, ct_chat, radfm, endpoint those that are here
RUN       ?=## run folder or MLflow id to resume
BENCH     ?= data## benchmark to run: data, train, text, encoding, contrastive, statistics
WEIGHTS   ?= $(or $(RENAL_WEIGHTS),weights)## folder of published weights: WEIGHTS/<encoder>/<file>
PORT      ?= 5000## port of the MLflow page, or of the review page
ARGS      ?=## further flags of the command
WORKERS   ?= 2## processes that run tests side by side, each with one thread
PYTEST    ?=## further flags of pytest

# --- environment: conda's when environment.yml was activated, else a virtual environment of our own ----------------
ifeq ($(CONDA_DEFAULT_ENV),renal-suite)
  BIN := $(CONDA_PREFIX)/bin
  READY := $(CONDA_PREFIX)/.renal-suite-ready
else
  BIN := .venv/bin
  READY := .venv/.ready
endif
BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(BIN)/python
RUN_SUITE := $(PY) -m experiments
export RENAL_WEIGHTS := $(WEIGHTS)
# torchrun starts Python itself; anything else is put before it.
TRAIN_SUITE = $(if $(filter torchrun,$(firstword $(LAUNCH))),$(BIN)/$(LAUNCH) -m experiments,$(LAUNCH) $(RUN_SUITE))
PRETRAINED = $(if $(PRETRAIN_TAG),--pretrain_tag "$(PRETRAIN_TAG)")
ALIGNED = $(if $(filter-out scratch,$(ENCODER)),--encoder $(ENCODER)) $(PRETRAINED)
ON_DEVICES = --devices $(DEVICES) --nodes $(NODES)

.PHONY: help setup cohort import volumes encoders data-check qc reports attributes pretrain pretrain-image pretrain-text \
  pretrain-alignment pretrain-report finetune radiomics curve sweep probe compare report evaluate-text zeroshot retrieval embed generate \
  score-reports review submit resume ui doctor licences figure benchmarks \
  test lint clean

help: ## explain targets and variables
	@printf 'Targets\n'
	@sed -n -E 's/^([a-z-]+):.*## (.*)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@printf 'Variables (make TARGET NAME=value)\n'
	@sed -n -E 's/^([A-Z]+) +\?= ?([^#]*)## (.*)/  \1|\2|\3/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-12s %-11s %s\n", $$1, $$2, $$3}'

setup: $(READY) ## install the environment (every target does it when needed)

$(READY): pyproject.toml constraints.txt
	@test -d "$(BIN)" || { \
	  "$(BASE_PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	    || { echo "Python 3.11 was not found (python3.11 or python3); install it, or use conda with environment.yml."; exit 2; }; \
	  "$(BASE_PYTHON)" -m venv .venv; }
	$(PY) -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,radiomics]"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --group no-deps --group radiomics-no-deps
	@touch $@

# --- cohorts ----------------------------------------------------------------------------------------------------
cohort: $(READY) ## draw the phantom cohort of multi-centre renal-mass patients
	$(RUN_SUITE) cohort --out $(or $(OUT),$(DATA)) --patients $(PATIENTS) --pretraining $(PRETRAINING) --seed $(SEED) --profile $(PROFILE) $(ARGS)

# The phantom cohort is drawn when a run asks for it and it is not there.
data/demo/cohort.json: | $(READY)
	$(RUN_SUITE) cohort --out data/demo --patients $(PATIENTS) --pretraining $(PRETRAINING) --seed 42 --profile $(PROFILE)

ifeq ($(DATA),data/demo)
  COHORT := data/demo/cohort.json
endif

import: $(READY) ## import scans as a cohort: SOURCE=folder or manifest, OUT=cohort folder
	$(RUN_SUITE) import --source "$(SOURCE)" --out "$(OUT)" --kind $(KIND) --options '$(OPTIONS)' --profile $(PROFILE) $(ARGS)

volumes: $(READY) $(COHORT) ## write the volumes that ENCODER reads, from the sources of the cohort DATA
	$(RUN_SUITE) volumes --encoder $(ENCODER) --data "$(DATA)" --profile $(PROFILE) \
	  $(if $(SOURCE),--source "$(SOURCE)" --kind $(KIND) --options '$(OPTIONS)') $(ARGS)

encoders: $(READY) ## every encoder: what it reads, its licence, what is here, how to get the rest
	$(RUN_SUITE) encoders --data "$(DATA)" --runs "$(RUNS)" --profile $(PROFILE) --pretrain_seed $(PRETRAIN_SEED)

data-check: $(READY) ## check the cohort DATA: findings as PASS, WARN, FAIL, and as JSON; ARGS=--deep=true reads every byte
	$(RUN_SUITE) data-check --data "$(DATA)" $(ARGS)

qc: $(READY) $(COHORT) ## one picture and one table of the cohort's scans: thumbnails, HU, spacing, flags
	$(RUN_SUITE) qc --data "$(DATA)" $(ARGS)

reports: $(READY) ## write reports of measured geometry for the cohort DATA, which has masks and no reports
	$(RUN_SUITE) reports --data "$(DATA)"

attributes: $(READY) $(COHORT) ## read attributes out of the reports: EXTRACTOR=, COMPARE=, MODEL=, REVIEW=
	$(RUN_SUITE) attributes --data "$(DATA)" --extractor $(EXTRACTOR) --compare "$(COMPARE)" --model "$(MODEL)" \
	  $(if $(REVIEW),--review "$(REVIEW)") $(ARGS)

# --- training ---------------------------------------------------------------------------------------------------
pretrain: $(READY) $(COHORT) ## run the pretraining stages in order; finished stages are skipped
	$(TRAIN_SUITE) pretrain $(if $(STAGES),--stages '["$(STAGES)"]') --data "$(DATA)" --profile $(PROFILE) --seed $(SEED) \
	  $(ON_DEVICES) --runs "$(RUNS)" --tag "$(TAG)" $(ARGS)

pretrain-image: STAGES = image
pretrain-image: pretrain ## run stage 1 alone: the image encoder, supervised by report attributes

pretrain-text: STAGES = text
pretrain-text: pretrain ## run stage 2 alone: masked prediction, SimCSE, contrast by attributes

pretrain-alignment: STAGES = alignment
pretrain-alignment: pretrain ## run stage 3 alone: image and text encoder in one space

finetune: $(READY) $(COHORT) ## train and test one point: TASK=, FRACTION=, ENCODER=, SEED=, PROFILE=, DATA=
	$(TRAIN_SUITE) finetune --task $(TASK) --fraction $(FRACTION) --encoder $(ENCODER) --mode $(MODE) --seed $(SEED) \
	  --pretrain_seed $(PRETRAIN_SEED) $(PRETRAINED) --data "$(DATA)" --profile $(PROFILE) $(ON_DEVICES) --runs "$(RUNS)" \
	  --tag "$(TAG)" $(if $(PARAMS),--params "$(PARAMS)") $(ARGS)

radiomics: $(READY) $(COHORT) ## measure radiomics inside the masks of lesion and kidney, for ENCODER=radiomics: DATA=
	$(RUN_SUITE) radiomics --data "$(DATA)" --profile $(PROFILE) --runs "$(RUNS)" $(ARGS)

curve: $(READY) $(COHORT) ## all points of a data-efficiency curve: TASK=, ENCODERS=, FRACTIONS=, SEEDS=, MODE=
	$(TRAIN_SUITE) curve --task $(TASK) $(if $(ENCODERS),--encoders '[$(ENCODERS)]') \
	  $(if $(FRACTIONS),--fractions '[$(FRACTIONS)]') $(if $(SEEDS),--seeds '[$(SEEDS)]') --mode $(MODE) \
	  --pretrain_seed $(PRETRAIN_SEED) $(PRETRAINED) --data "$(DATA)" --profile $(PROFILE) $(ON_DEVICES) --runs "$(RUNS)" \
	  --jobs $(JOBS) --tag "$(TAG)" $(ARGS)

# The URL may hold a password, so that it is on no command line.
sweep: export SWEEP_STORAGE := $(or $(STORAGE),$(SWEEP_STORAGE))
sweep: $(READY) $(COHORT) ## search hyper-parameters on validation patients: TASK=, ENCODER=, FRACTION=, TRIALS=, SPACE=, STORAGE=
	$(RUN_SUITE) sweep --task $(TASK) --encoder $(ENCODER) --fraction $(FRACTION) --trials $(TRIALS) --space "$(SPACE)" \
	  --pruner $(PRUNER) --mode $(MODE) --seed $(SEED) --pretrain_seed $(PRETRAIN_SEED) $(PRETRAINED) --data "$(DATA)" \
	  --profile $(PROFILE) --devices $(DEVICES) --runs "$(RUNS)" --tag "$(TAG)" $(ARGS)

probe: $(READY) $(COHORT) ## linear models on an encoder's frozen features, attribute by attribute: ENCODER=
	$(RUN_SUITE) probe --encoder $(ENCODER) --data "$(DATA)" --profile $(PROFILE) --seed $(PRETRAIN_SEED) \
	  --runs "$(RUNS)" $(ARGS)

compare: $(READY) ## encoders of finished points against each other, seeds pooled, paired intervals: TASK=, REFERENCE=
	$(RUN_SUITE) compare --task $(TASK) --reference $(REFERENCE) --mode $(MODE) --data "$(DATA)" --runs "$(RUNS)" --tag "$(TAG)" $(ARGS)

report: $(READY) ## study report of finished points, one HTML page and its tables as CSV: DATA=, RUNS=, TASKS=, OUT=
	$(RUN_SUITE) report --data "$(DATA)" --runs "$(RUNS)" $(if $(TASKS),--tasks '[$(TASKS)]') $(if $(OUT),--out "$(OUT)") $(ARGS)

evaluate-text: $(READY) $(COHORT) ## text encoders against their base and TF-IDF on held-out reports
	$(RUN_SUITE) evaluate-text --data "$(DATA)" --seed $(SEED) --runs "$(RUNS)" $(ARGS)

zeroshot: $(READY) $(COHORT) ## classify without labels, by prompts, with the aligned model: TASK=
	$(RUN_SUITE) zeroshot --task $(TASK) $(ALIGNED) --data "$(DATA)" --profile $(PROFILE) --seed $(PRETRAIN_SEED) --runs "$(RUNS)" $(ARGS)

retrieval: $(READY) $(COHORT) ## reports by scans and scans by reports, with the aligned model
	$(RUN_SUITE) retrieval $(ALIGNED) --data "$(DATA)" --profile $(PROFILE) --seed $(PRETRAIN_SEED) --runs "$(RUNS)" $(ARGS)

pretrain-report: STAGES = report
pretrain-report: pretrain ## the report writer: image tokens into a language model, after the alignment

generate: $(READY) $(COHORT) ## write reports of the tested kidneys: SYSTEMS=
	$(RUN_SUITE) generate $(if $(SYSTEMS),--systems '[$(SYSTEMS)]') --data "$(DATA)" --profile $(PROFILE) \
	  --seed $(PRETRAIN_SEED) --runs "$(RUNS)" --tag "$(TAG)" $(ARGS)

score-reports: $(READY) ## generated reports against the real ones, on facts and on words: SYSTEMS=
	$(RUN_SUITE) score-reports $(if $(SYSTEMS),--systems '[$(SYSTEMS)]') --data "$(DATA)" --seed $(PRETRAIN_SEED) \
	  --runs "$(RUNS)" --tag "$(TAG)" $(ARGS)

review: $(READY) ## rate generated reports in the browser, systems blinded: SYSTEMS=, PORT=; ARGS=--export=summary for the means
	$(RUN_SUITE) review $(if $(SYSTEMS),--systems '[$(SYSTEMS)]') --data "$(DATA)" --seed $(PRETRAIN_SEED) \
	  --runs "$(RUNS)" --tag "$(TAG)" --port $(PORT) $(ARGS)

embed: $(READY) ## one scan: embedding, attributes, nearest reports, zero-shot: SOURCE=scan MASK=mask OUT=
	$(RUN_SUITE) embed --image "$(SOURCE)" $(if $(MASK),--mask "$(MASK)") $(if $(OUT),--out "$(OUT)") \
	  --runs "$(RUNS)" $(ARGS)

submit: ## give a training target to SLURM, queued again at its time limit: JOB=pretrain, finetune, curve, NODES=
	sbatch --export=ALL --nodes=$(NODES) cluster/train.sbatch $(JOB) # the variables travel in MAKEFLAGS

resume: $(READY) ## go on with an interrupted run: RUN=folder or MLflow id
	$(RUN_SUITE) resume "$(RUN)" --runs "$(RUNS)"

ui: $(READY) ## open MLflow on the runs: http://localhost:PORT
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(RUNS)/mlflow.db --port $(PORT)

# --- care -------------------------------------------------------------------------------------------------------
doctor: $(READY) ## check Python, packages, GPU, quantisation, disk, MLflow store and cohort
	$(RUN_SUITE) doctor --data "$(DATA)" --runs "$(RUNS)" $(ARGS)

licences: $(READY) ## write docs/LICENCES.md and refuse what is GPL in a default installation
	$(RUN_SUITE) licences

figure: $(READY) $(COHORT) ## draw the README's picture of a phantom patient
	$(RUN_SUITE) figure --data "$(DATA)" $(ARGS)

benchmarks: $(READY) ## measure a hot path side by side: BENCH=
	$(RUN_SUITE) benchmarks --bench $(BENCH) $(ARGS)

test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove caches; cohorts, runs and the environment stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
