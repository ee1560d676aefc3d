# make demo | make test | make lint | make bench: each is enough on a fresh machine with Python >= 3.11, make and git.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
RUN    := mixtral-8x7b-64xh100
PLAN   := mixtral-8x7b-quick

.PHONY: help demo test lint bench gallery clean
help:
	@echo "make demo   simulate $(RUN), answer the plan $(PLAN), and write both reports"
	@echo "make test   run the test suite"
	@echo "make lint   check style and types"
	@echo "make bench  time the simulator"
	@echo "make gallery write the reports of all shipped runs, plans and studies to reports/gallery"
	@echo "make clean  remove the virtual environment and caches"

demo: $(VENV)/installed
	$(BIN)/moesim run workloads/runs/$(RUN).yaml --out reports/$(RUN)
	$(BIN)/moesim plan workloads/plans/$(PLAN).yaml --out reports/$(PLAN)
	@echo
	@echo "Open $(CURDIR)/reports/$(RUN)/report.html and reports/$(PLAN)/report.html in a browser."

test: $(VENV)/installed-dev browser
	$(BIN)/python -m pytest -q

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict simulator

bench: $(VENV)/installed
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/serving.py

gallery: $(VENV)/installed
	for run in workloads/runs/*.yaml; do \
	  $(BIN)/moesim run $$run --out reports/gallery/$$(basename $$run .yaml) || exit 1; \
	done
	$(BIN)/moesim run deepseek-v3-2048xh800 --engine events --out reports/gallery/deepseek-v3-2048xh800-events
	scratch=$$(mktemp -d) && for sweep in oversubscription nvl72-domain; do \
	  $(BIN)/moesim sweep $$sweep --out $$scratch/$$sweep || exit 1; \
	  mkdir -p reports/gallery/$$sweep && cp $$scratch/$$sweep/report.html $$scratch/$$sweep/sweep.csv reports/gallery/$$sweep || exit 1; \
	done && rm -r $$scratch
	$(BIN)/moesim compare reports/gallery/deepseek-v3-256xgb200-nvl72/result.json \
	  reports/gallery/deepseek-v3-256xgb200-boards-of-8/result.json --out reports/gallery/nvl72-domain/compare.html
	scratch=$$(mktemp -d) && for plan in workloads/plans/*.yaml; do \
	  name=$$(basename $$plan .yaml); \
	  $(BIN)/moesim plan $$plan --out $$scratch/$$name || exit 1; \
	  mkdir -p reports/gallery/$$name && cp $$scratch/$$name/report.html $$scratch/$$name/best.yaml reports/gallery/$$name || exit 1; \
	done && rm -r $$scratch
	for growth in workloads/growth/*.yaml; do \
	  $(BIN)/moesim grow $$growth --out reports/gallery/$$(basename $$growth .yaml) || exit 1; \
	done
	$(BIN)/moesim claims --out reports/gallery/claims
	$(BIN)/moesim compare reports/gallery/gpt3-175b-10240xv100/result.json \
	  reports/gallery/glam-64b-64e-1024xtpuv4/result.json --out reports/gallery/glam-against-gpt3/report.html

# What a user gets: the lower bounds of pyproject.toml decide, nothing is pinned.
$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q -e .
	touch $@

# What the tests run with: pinned. PyTorch first and alone, so that no other package draws in another build of it.
$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moesim needs Python 3.11 or later; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

# The report tests drive a real browser.
.PHONY: browser
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -n)
browser:
	@command -v chromedriver >/dev/null || { \
	  command -v apt-get >/dev/null && $(SUDO) apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends chromium chromium-driver; \
	} || echo "No chromedriver here and none could be installed: the browser tests will fail." >&2

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find simulator tests -name __pycache__ -type d -prune -exec rm -rf {} +
