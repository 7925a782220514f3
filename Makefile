# The menu: `make help`. Needs Python 3.11 or newer, git and make; everything else is installed here.
PYTHON ?= python3
COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url

export UV_HTTP_TIMEOUT ?= 300

.DEFAULT_GOAL := help
.PHONY: help install up down status test check format bench lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed .venv-label-studio/.installed  ## our packages and Label Studio's, as locked

up: install  ## start everything, then watch it (Ctrl-C stops it); DETACH=1 leaves it running
	@.venv/bin/python -m scripts.up

down: .venv/.installed  ## stop everything; labels, models and settings stay
	@.venv/bin/python -m scripts.up down

status: .venv/.installed  ## project, version, labels, queue, running job
	@.venv/bin/python -m scripts.status

test: install  ## all tests, with real services
	.venv/bin/python -m pytest --cov --cov-report=term

check: .venv/.installed  ## ruff, mypy, and the floors of the architecture
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/unit/test_floors.py

format: .venv/.installed  ## let ruff put the code in order
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: install  ## measure, print ratios, write var/bench.json
	.venv/bin/python -m scripts.bench

lock: .venv/.installed  ## rewrite both locks from pyproject.toml and label-studio.in
	$(COMPILE) pyproject.toml --group local --group dev -o requirements.lock
	$(COMPILE) label-studio.in -o label-studio.lock

.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	@echo "installing our packages into .venv (torch with CUDA is 5 GB: minutes at first)"
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	.venv/bin/uv pip sync --python .venv/bin/python requirements.lock
	@touch $@

.venv-label-studio/.installed: label-studio.lock | .venv/.installed
	@echo "installing Label Studio into .venv-label-studio"
	test -x .venv-label-studio/bin/python || $(PYTHON) -m venv --without-pip .venv-label-studio
	.venv/bin/uv pip sync --python .venv-label-studio/bin/python label-studio.lock
	@touch $@
