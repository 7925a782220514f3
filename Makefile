# The menu: `make help`. Needs Python 3.11 or newer, git and make; everything else is installed here.
PYTHON ?= python3
REGISTRY = var/registry/docker-registry
COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url

export UV_HTTP_TIMEOUT ?= 300

.DEFAULT_GOAL := help
.PHONY: help install up down status secrets digests backup restore test browser chromium registry compose-test docker-answers check format status-page fuzz bench lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed .venv-label-studio/.installed  ## our packages and Label Studio's, as locked

up: install  ## start everything, then watch it (Ctrl-C stops it); DETACH=1 leaves it running
	@.venv/bin/python -m scripts.up

down: .venv/.installed  ## stop everything; labels, models and settings stay
	@.venv/bin/python -m scripts.up down

status: .venv/.installed  ## project, version, labels, queue, running job
	@.venv/bin/python -m scripts.status

secrets:  ## for docker compose: make .env's secrets, and say what would be in its way
	@$(PYTHON) -m scripts.env_file

digests:  ## for docker compose: pin the images of others in .env, or move the pins
	@$(PYTHON) -m scripts.digests

backup:  ## a compose stack's labels, models and secrets in one file below backups/
	@$(PYTHON) -m scripts.backup

restore:  ## such a file into an empty compose stack: make restore FROM=backups/….tar
	@test -n "$(FROM)" || { echo "say which: make restore FROM=backups/….tar"; exit 1; }
	@$(PYTHON) -m scripts.backup --restore "$(FROM)"

# More processes than cores, in this order: much of the time the first files wait for their services.
test: install  ## all tests, with real services
	.venv/bin/python -m pytest -n 4 --dist loadgroup --no-loadscope-reorder --cov --cov-report=term

browser: install  ## the tests in a real browser alone; pictures of what was seen: var/browser/
	.venv/bin/python -m pytest tests/browser -v

chromium:  ## the browser for them, by apt, where none is there (a package of Debian's)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation; }

# Unpacked and not installed: as a package it would start a service on port 5000.
registry: $(REGISTRY)  ## a registry of images for those that need Docker, from a package of Debian's

$(REGISTRY):
	@mkdir -p $(dir $@)
	@cd $(dir $@) && { apt-get download -qq docker-registry \
	  || { apt-get update -qq && apt-get download -qq docker-registry; }; }
	@cd $(dir $@) && dpkg --fsys-tarfile docker-registry_*.deb \
	  | tar -x --strip-components=3 ./usr/bin/docker-registry && rm docker-registry_*.deb

compose-test: docker-answers .venv/.installed  ## the tests of the compose stack, which need Docker
	.venv/bin/python -m pytest tests/compose -v --timeout 900

docker-answers:
	@$(PYTHON) -c 'from scripts.compose.docker import docker; docker("version")'

check: .venv/.installed  ## ruff, mypy, and the floors of the architecture
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/unit/test_floors.py

format: .venv/.installed  ## let ruff put the code in order
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

status-page: .venv/.installed  ## write the tables of docs/status.md from backend/web/status_model.py
	.venv/bin/python -m scripts.status_page

fuzz: install  ## 10,000 hostile requests to a whole stack of its own, in a few minutes
	.venv/bin/python -m scripts.research.fuzz

bench: install  ## measure, print ratios, write var/bench.json
	.venv/bin/python -m scripts.research.bench

lock: .venv/.installed  ## rewrite the three locks from pyproject.toml and label-studio.in
	$(COMPILE) pyproject.toml --group local --group dev -o requirements.lock
	$(COMPILE) pyproject.toml -c requirements.lock -o backend.lock
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
