# Every target does its own set-up: a virtual environment in .venv with the versions of
# constraints.txt, made once and brought up to date when pyproject.toml or constraints.txt change.
# Written for GNU make 3.81, which macOS ships.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo lab test quick lint types coverage docs clean

# The first of these that is new enough and can make virtual environments is taken. 3.11 leads
# because environment.yml uses it too. Another: make demo PYTHON=/path/to/python3
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3.10 python3 python)
RUN := .venv/bin/python
USE_STAMP := .venv/installed
TEST_STAMP := .venv/installed-test
DOCS_STAMP := .venv/installed-docs
PACKAGE := $(shell find actor_lens -name '*.py')
EXECUTED := $(patsubst %,build/%,$(wildcard notebooks/*.ipynb))
# A worker takes the tests of a module as long as it can: what a module has trained is made once.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
# A kernel warns of a line that is not encrypted; not every build of pyzmq can encrypt.
ENCRYPTION = $$($(RUN) -c 'import zmq; print("auto" if zmq.has("curve") else "disabled")')
OUT := demo

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(USE_STAMP) ## Find the layer of the bundled model, train it, show what changed (OUT=folder, ARGS=options)
	$(RUN) -m actor_lens demo --out "$(OUT)" --overwrite $(ARGS)

lab: $(USE_STAMP) ## Open the notebooks in JupyterLab
	$(RUN) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_quickstart.ipynb $(ARGS)

# The browser tests come last and alone: they measure how long a page takes to answer. 5: pytest's code
# for no tests, where ARGS names others.
test: lint types ## Lint, check types, run all tests (ARGS=options for pytest)
	$(RUN) -m pytest $(PARALLEL) --durations 25 -m "not browser" $(ARGS)
	$(RUN) -m pytest --durations 25 -m browser $(ARGS) || [ $$? -eq 5 ]

quick: $(TEST_STAMP) ## The tests of one room after another, without what takes long: for the work at hand
	$(RUN) -m pytest $(PARALLEL) -m "not acceptance and not browser and not notebooks" $(ARGS)

lint: $(TEST_STAMP) ## Check style and format with ruff
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

# numpy's and pandas' last releases for Python 3.10 describe their types otherwise.
types: $(TEST_STAMP) ## Check types with mypy (Python 3.11 or newer)
	@if $(RUN) -c 'import sys; sys.exit(sys.version_info >= (3, 11))'; then \
	  echo "Types are not checked on Python 3.10."; \
	else echo "$(RUN) -m mypy"; $(RUN) -m mypy; fi

coverage: $(TEST_STAMP) ## Say which lines the tests reach, browser and notebooks left out (build/coverage)
	$(RUN) -m pytest $(PARALLEL) -m "not browser and not notebooks" \
	  --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(ARGS)

docs: $(DOCS_STAMP) $(EXECUTED) ## Build the site into build/site, with the notebooks run; it opens offline
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "Open build/site/index.html"

# Run again whenever the package has changed, in folders of their own: some write results beside themselves.
build/notebooks/%.ipynb: notebooks/%.ipynb $(PACKAGE) $(DOCS_STAMP)
	@rm -rf build/running/$* && mkdir -p build/running/$* && cp $< build/running/$*
	$(RUN) -m nbconvert --log-level WARN --KernelManager.transport_encryption=$(ENCRYPTION) --execute --to notebook --output-dir build/notebooks build/running/$*/$*.ipynb

clean: ## Remove caches and build products (the environment .venv stays)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find actor_lens tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- Set-up ----

define find_python
	old=; bare=; found=; \
	for python in $(CANDIDATES); do \
	  version=$$("$$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue; \
	  if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
	    old="$$old $$python ($$version)"; \
	  elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    bare="$$bare $$python"; \
	  else found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  set -- $$bare; \
	  echo "Set-up failed: $$1 cannot make virtual environments (its venv module is missing)." >&2; \
	  echo "  Debian/Ubuntu: sudo apt install python3-venv   (or $$(basename "$$1")-venv), then run make again." >&2; \
	  exit 1; \
	fi; \
	if [ -z "$$found" ]; then \
	  echo "Set-up failed: Actor Lens needs Python 3.10 or newer; found:$${old:- none}." >&2; \
	  echo "  Debian/Ubuntu: sudo apt install python3 python3-venv      macOS: brew install python@3.13" >&2; \
	  echo "  A Python elsewhere: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi
endef

# $(call install,WHAT): WHAT as pip names it, "." or ".[test]". An environment whose Python is gone
# or broken is made anew; one that works is kept.
define install
	@if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  $(find_python); \
	  echo "Setting up .venv with $$found ($$version): once, for some minutes."; \
	  "$$found" -m venv --clear .venv || { \
	    echo "Set-up failed: '$$found -m venv .venv' did not work; the lines above say why." >&2; exit 1; }; \
	fi
	@$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e '$(1)' || { \
	  echo "Set-up failed while installing. The last line above that starts with ERROR names the cause:" >&2; \
	  echo "  Connection errors or time-outs: pip needs the package index; behind a proxy set HTTPS_PROXY." >&2; \
	  echo "  No space left: the environment needs about 3 GB, and 8 GB with CUDA (Linux)." >&2; \
	  echo "  No matching distribution: $$($(RUN) -V) on $$(uname -sm) has no such package. Tried are Python 3.10 to 3.13;" >&2; \
	  echo "  torch runs on 64-bit Linux (glibc 2.28 or newer) and on macOS 14 or newer with Apple silicon." >&2; \
	  echo "  Then run make again: it goes on from here." >&2; \
	  exit 1; }
endef

$(USE_STAMP): pyproject.toml constraints.txt
	$(call install,.)
	@touch $@

$(TEST_STAMP): pyproject.toml constraints.txt
	$(call install,.[test])
	@touch $(USE_STAMP) $@

$(DOCS_STAMP): pyproject.toml constraints.txt
	$(call install,.[docs])
	@touch $(USE_STAMP) $@
