# One way to run each thing, the same for a person and for a machine.
#
#   make demo                  the main job on data the package makes itself; pictures go to out/
#   make demo WORKSPACE=path   fit that workspace instead
#   make test                  lint, then the tests, without those marked slow
#   make test-slow             only the tests marked slow
#   make test-newest           the tests on the newest Python found and the newest dependencies
#   make fuzz                  random input for ten minutes; ARGS="--seconds 60 --seed 7"
#   make lint / make format    check / apply the house style
#   make bench                 the benchmarks; ARGS="--help" shows what they can do
#   make clean                 remove everything that these targets made
#
# PYTHON=path-to-python chooses the interpreter of .venv; PYTEST_ARGS adds options to pytest, for example
# PYTEST_ARGS=--jaxtyping-packages= to run without the checks of annotations. WORKERS is the number of processes that
# tests run in: as many as cores by default, 0 for none but the one.

PYTHON ?= python3
PYTHON_NEWEST ?=
WORKSPACE ?=
ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= auto
# Tests of one file stay together, since they share compiled functions.
PYTEST := -m pytest --numprocesses $(WORKERS) --dist loadfile

VENV := .venv
NEWEST := .venv-newest
OLDEST_PYTHON := 3, 11
REQUIRE_PYTHON := import sys; sys.exit(sys.version_info < ($(OLDEST_PYTHON)))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-newest fuzz lint format bench clean

help:
	@sed -n 's/^#   //p' Makefile

# Prints a command that runs the newest Python on this machine. A shim of a version manager may stand on the PATH without
# working, so each candidate has to run; pyenv's own versions are asked for one by one.
define FIND_NEWEST
found=""; best=0; \
consider() { \
  v=$$("$$@" -c 'import sys; print(sys.version_info[0] * 100 + sys.version_info[1])' 2>/dev/null) || return 0; \
  if [ "$$v" -gt "$$best" ]; then best=$$v; found=$$("$$@" -c 'import sys; print(sys.executable)'); fi; \
}; \
for name in $(PYTHON_NEWEST); do consider $$name; done; \
if [ -z "$(PYTHON_NEWEST)" ]; then \
  for name in $(PYTHON) python3.14 python3.13 python3.12 python3.11; do consider $$name; done; \
  if command -v pyenv >/dev/null 2>&1; then \
    for version in $$(pyenv versions --bare 2>/dev/null | grep -E '^3\.[0-9]+\.[0-9]+$$'); do \
      consider env PYENV_VERSION=$$version python; \
    done; \
  fi; \
fi
endef

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c '$(REQUIRE_PYTHON)' 2>/dev/null || { \
	  echo "nextstat-jax needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(NEWEST)/.stamp: pyproject.toml
	@$(FIND_NEWEST); \
	[ "$$best" -ge 311 ] || { echo "no Python 3.11 or newer found; name one: make test-newest PYTHON_NEWEST=..." >&2; exit 1; }; \
	echo "newest Python: $$($$found --version)"; \
	"$$found" -m venv --clear $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --constraint $(NEWEST)/torch.txt \
	  --editable '.[test,test-doors]'
	@touch $@

demo: $(VENV)/.stamp
	$(VENV)/bin/python -m nextstat_jax.demo $(WORKSPACE)

fuzz: $(VENV)/.stamp
	NEXTSTAT_JAX_CACHE=off $(VENV)/bin/python -m tests.fuzz $(ARGS)

lint: $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Most of the time of the tests is compilation, of programs that run for milliseconds.
test: export XLA_FLAGS += --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
test: lint
	$(VENV)/bin/python $(PYTEST) --durations=15 $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp
	$(VENV)/bin/python $(PYTEST) -m slow $(PYTEST_ARGS)

test-newest: $(NEWEST)/.stamp
	$(NEWEST)/bin/python -m pip list --format=freeze | grep -E '^(jax|jaxlib|numpy|equinox|flax|pyhf)=='
	$(NEWEST)/bin/python $(PYTEST) $(PYTEST_ARGS)

bench: $(VENV)/.stamp
	$(VENV)/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(NEWEST) out build dist .pytest_cache .ruff_cache .hypothesis .jax_cache
	find nextstat_jax tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
