# Every target works alone on a fresh machine: it sets up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install soak fuzz audit demo test lint bench browser tools eval docs constraints capacity clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## a .venv with everything for demo, tests and reports

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shardpress needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q --no-deps torchvision==0.28.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[report,serve,dev]'
	touch $@

demo: install ## recompress the sample photos to demo/archive, restore them to demo/restored, print a table
	rm -rf demo
	$(BIN)/python -m jobs.recompress --config configs/recompress/demo.yaml
	$(BIN)/python -m jobs.restore --archive demo/archive --out demo/restored

test: install ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install ## style, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

browser: ## Chromium, zsh and fish for the tests that open them; they skip without
	@for program in chromium zsh fish; do command -v $$program >/dev/null || missing=1; done; [ -z "$$missing" ] \
	  || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver zsh fish; } >/dev/null \
	  || echo "no Chromium, zsh or fish: tests that open them will skip"

tools: ## promtool, which checks alert rules; their test skips without it
	@command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null \
	  || echo "no promtool: the test of alert rules will skip"

eval: install ## codecs x qualities over the sample photos, ending in results/photos/report.html
	$(BIN)/python -m jobs.evaluate --config configs/evaluate/photos.yaml

# Every module is named: pdoc leaves out what a package's __all__ does not hold. Its warnings are about Pillow's types.
MODULES = import pkgutil, pipeline; print(*(m.name for m in pkgutil.walk_packages(pipeline.__path__, "pipeline.")))
docs: install ## API reference from docstrings, in build/docs
	PYTHONWARNINGS=ignore $(BIN)/pdoc pipeline $$($(BIN)/python -c '$(MODULES)') '!pipeline.training.__main__' \
	  jobs '!jobs.__main__' -o build/docs
	@echo "API reference: build/docs/index.html"

constraints: install ## constraints.txt: the versions that the tests passed with
	$(BIN)/pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==' | sed -E 's/\+cpu$$//' | LC_ALL=C sort -f > constraints.txt

soak: install ## kills and store faults for MINUTES (60), then a table of what was injected and found
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60)

fuzz: install ## every reader of bytes for SECONDS (600) each, then a table
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600)

# pip-audit asks such a page about each package. Mirrors of PyPI may lack them, and it then says that a package is unknown.
ADVISORIES := https://pypi.org/pypi/pip/25.0/json
audit: install ## known vulnerabilities of the pinned dependencies
	@$(BIN)/python -c 'import requests; requests.get("$(ADVISORIES)", timeout=20).json()["vulnerabilities"]' 2>/dev/null \
	  || { echo "audit: nothing was audited: $(ADVISORIES) does not answer; run it where PyPI itself can be reached" >&2; exit 1; }
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

bench: install ## pipeline efficiency, memory and start-up, as ratios
	$(BIN)/python -m tests.benchmarks.pipeline

capacity: install ## what images, parts and plans cost here, into infra/costs.json and infra/CAPACITY.md; takes a while
	$(BIN)/python -m tests.benchmarks.costs --out infra/costs.json
	$(BIN)/python -m infra.capacity --write

clean: ## remove what the targets made
	rm -rf $(VENV) demo results build dist *.egg-info
