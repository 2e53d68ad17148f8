# Everything that one does with Maskloom. CI calls the same targets (.ci/run).
#
#   make run                                        photos of scikit-image, ports 8080 and 9090
#   make run IMAGES=~/photos LABELS="cat, cup, person" PORT=8081 BACKEND_PORT=9091
#   make run ENGINE=edgetam-cpu                     with a stronger model (docs/how-to/engines.md), fetched the first time
#   make test-fast                                  while working: no network, no Label Studio, no browser
#   make check test                                 before handing in
#
# The environment of Maskloom is .venv; all that `make run` makes lies in .maskloom (or in $MASKLOOM_HOME).

PYTHON ?= python3
PORT ?= 8080
BACKEND_PORT ?= 9090
STATE := $(or $(MASKLOOM_HOME),.maskloom)
BIN := .venv/bin
FETCHED := $(filter-out embedded colour,$(ENGINE))
PACKAGES := .venv/for-$(if $(FETCHED),engines,run)

FAST := not slow and not studio and not long

export IMAGES LABELS
ifneq ($(ENGINE),)
export MASKLOOM_ENGINE := $(ENGINE)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# tests start many processes that import the same: it is compiled once, also where containers ask for no byte code
check test-fast test-slow test-long test-search: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run serve test test-fast test-slow test-long test-bulk test-search test-lowest sbom coverage house check fix bench bench-quality train docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(PACKAGES) ## open Label Studio with masks on photos: IMAGES=folder LABELS="cat, cup" ENGINE= PORT= BACKEND_PORT=
	@$(if $(FETCHED),MASKLOOM_HOME="$(STATE)/backend" $(BIN)/maskloom fetch --take missing "$(ENGINE)")
	@exec $(BIN)/maskloom demo --home "$(STATE)" --port $(PORT) --backend-port $(BACKEND_PORT) \
		$${IMAGES:+--images "$$IMAGES"} $${LABELS:+--labels "$$LABELS"}

serve: $(PACKAGES) ## start the server alone, for a Label Studio of your own: ENGINE= BACKEND_PORT=
	@$(if $(FETCHED),$(BIN)/maskloom fetch --take missing "$(ENGINE)")
	@exec $(BIN)/maskloom serve --port $(BACKEND_PORT)

test: test-fast test-slow ## run the fast tests, then those that are slow or need a real Label Studio and a browser

test-fast: .venv/for-development ## run the tests that need no network, no Label Studio and no browser, on all cores
	$(BIN)/python -m pytest -n auto --dist loadfile -m "$(FAST)"

test-slow: .venv/for-development ## run the other tests: full-size models, several processes, a real Label Studio, a browser
	$(BIN)/python tests/labelstudio/prepare.py
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "(slow or studio) and not long"

test-lowest: .venv/for-development ## run the tests of the web part with the lowest versions of it that the package allows
	$(BIN)/python -m pip install --quiet --upgrade --target .lowest $$($(BIN)/python tests/lowest.py)
	PYTHONPATH=.lowest $(BIN)/python -m pytest -q -W ignore::DeprecationWarning -m "$(FAST)" tests/backend/test_app.py tests/backend/test_door.py \
		tests/backend/test_jobs_api.py tests/backend/serving tests/backend/images tests/backend/values/test_settings.py

sbom: .venv/for-run ## write what the package consists of, with versions and licences (CycloneDX), to sbom.json
	@$(BIN)/python -m pip install --quiet cyclonedx-bom
	$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json $(BIN)/python

test-long: .venv/for-development ## what takes minutes: every preset from a hub to an answer, killed bulk runs, training (half an hour)
	$(BIN)/python tests/labelstudio/prepare.py
	$(BIN)/python -m pytest -m long

test-search: .venv/for-development ## look for inputs that break a property: new ones each time, a thousand of each
	$(BIN)/python -m pytest -n auto -m "$(FAST)" --hypothesis-profile search $$(grep -rl hypothesis tests --include 'test_*.py')

coverage: .venv/for-development ## which lines the fast tests run
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "$(FAST)" --cov=prompts --cov=backend --cov-report=term:skip-covered

test-bulk: .venv/for-development ## a bulk run of 2,000 tasks in a real Label Studio, killed three times (a quarter of an hour)
	$(BIN)/python tests/labelstudio/prepare.py
	$(BIN)/python -m pytest -s tests/labelstudio/test_bulk_live.py -k killed --tasks 2000

check: .venv/for-development ## style, types, import rules, size of the code, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m bench.house --strict
	$(BIN)/python -m pytest -q tests/docs tests/docker tests/test_makefile.py

house: .venv/for-development ## count files, lines and import levels, and walk a click
	$(BIN)/python -m bench.house

fix: .venv/for-development ## repair style where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/for-run ## write the reference pages anew from the code
	$(BIN)/python -m docs.generate

bench: .venv/for-development ## measure speed: run lengths, decoders of full size, SEEM (half an hour)
	$(BIN)/python -m bench.rle
	$(BIN)/python -m bench.engines edgetam sam2-tiny
	$(BIN)/python -m bench.seem focal-t

bench-quality: .venv/for-development ## measure quality: DATA=folder
	@test -n "$(DATA)" || { echo "say where the data lies: make bench-quality DATA=folder"; exit 2; }
	$(BIN)/python -m bench.quality --data "$(DATA)" --out runs/quality

train: .venv/for-development ## train the embedded checkpoint: DATA=folder
	@test -n "$(DATA)" || { echo "say where the data lies: make train DATA=folder"; exit 2; }
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train]'
	$(BIN)/python -m train --data "$(DATA)" --out runs/train

clean: ## remove environments and caches; the data of Label Studio stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .lowest sbom.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Label Studio and its data stay in $(STATE); delete that folder to be rid of them."

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Maskloom needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/for-run: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Maskloom into .venv ..."
	@$(BIN)/python -m pip install --constraint constraints.txt --editable '.[demo]'
	@touch $@

.venv/for-engines: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Maskloom and what the engines of published models need into .venv ..."
	@$(BIN)/python -m pip install --constraint constraints.txt --editable '.[demo,engines]'
	@touch $@ .venv/for-run

.venv/for-development: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing Maskloom and its tools into .venv ..."
	@$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/for-run .venv/for-engines
