# `make help` lists the targets. You need Python 3.11 or newer, git and make; `make install` installs the rest.
PYTHON ?= python3
REGISTRY = var/registry/docker-registry
COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url
# Not --all-extras: Ray is only in ray.lock.
EXTRAS = --extra s3 --extra gcs --extra onnx
# Use more processes than cores, and keep this order: the first files mostly wait for their services.
PYTEST = .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
# One process: the nodes of a cluster use all cores.
PYTEST_RAY = .venv-ray/bin/python -m pytest tests/ray

export UV_HTTP_TIMEOUT ?= 300
# Empty means unset: Label Studio's thousands of modules are compiled once, not at each start.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help install up down status secrets digests backup restore test ray-test coverage browser chromium registry compose-test docker-answers check format pages fuzz chaos bench bench-ray lock

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed .venv-label-studio/.installed  ## install our packages and Label Studio's from the lock files

up: install  ## start everything and show its state (Ctrl-C stops it); DETACH=1 leaves it running
	@.venv/bin/python -m scripts.up

down: .venv/.installed  ## stop everything, but keep labels, models and settings
	@.venv/bin/python -m scripts.up down

status: .venv/.installed  ## show the project, its version, labels, queue and running job
	@.venv/bin/python -m scripts.status

secrets:  ## for docker compose: create secrets in .env, and report problems
	@$(PYTHON) -m scripts.env_file

digests:  ## for docker compose: pin third-party images in .env, or update the pins
	@$(PYTHON) -m scripts.digests

backup:  ## for docker compose: save labels, models and secrets to one file in backups/
	@$(PYTHON) -m scripts.backup

restore:  ## for docker compose: fill an empty stack from a backup: make restore FROM=backups/….tar
	@test -n "$(FROM)" || { echo "no backup is named: run make restore FROM=backups/….tar"; exit 1; }
	@$(PYTHON) -m scripts.backup --restore "$(FROM)"

test: install .venv-ray/.installed  ## run all tests, with real services; of those on Ray, the short ones
	$(PYTEST_RAY) -m short
	$(PYTEST)

ray-test: .venv-ray/.installed  ## run all tests on Ray, with two nodes on this machine
	$(PYTEST_RAY)

coverage: install .venv-ray/.installed  ## run all tests, and list the lines that they do not reach
	$(PYTEST) --cov --cov-report=
	$(PYTEST_RAY) --cov --cov-append --cov-report=term

browser: install  ## run only the browser tests; they save screenshots in var/browser/
	.venv/bin/python -m pytest tests/browser -v

chromium:  ## use apt to install Chromium for the browser tests, unless a browser is installed
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation; }

# The package is unpacked, not installed, because installing it would start a service on port 5000.
registry: $(REGISTRY)  ## download an image registry (a Debian package) for the Docker tests

$(REGISTRY):
	@mkdir -p $(dir $@)
	@cd $(dir $@) && { apt-get download -qq docker-registry \
	  || { apt-get update -qq && apt-get download -qq docker-registry; }; }
	@cd $(dir $@) && dpkg --fsys-tarfile docker-registry_*.deb \
	  | tar -x --strip-components=3 ./usr/bin/docker-registry && rm docker-registry_*.deb

compose-test: docker-answers .venv/.installed  ## test the compose stack; needs Docker
	.venv/bin/python -m pytest tests/compose -v --timeout 900

docker-answers:
	@$(PYTHON) -c 'from scripts.compose.docker import docker; docker("version")'

check: .venv/.installed  ## run ruff, mypy, and the test that checks imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q tests/unit/test_floors.py

format: .venv/.installed  ## format the code with ruff
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

pages: .venv/.installed  ## write the tables in docs/status.md and docs/settings.md from the code
	.venv/bin/python -m scripts.pages

fuzz: install  ## send 10,000 hostile requests to a temporary stack; takes a few minutes
	.venv/bin/python -m scripts.research.fuzz

chaos: install  ## break a temporary stack 100 times while people label; takes about an hour
	.venv/bin/python -m scripts.research.chaos

bench: install  ## measure speed and memory, and write var/bench.json
	.venv/bin/python -m scripts.research.bench

bench-ray: .venv-ray/.installed  ## measure embedding on a Ray cluster of this machine; takes half an hour
	.venv-ray/bin/python -m scripts.research.bench_ray

lock: .venv/.installed  ## rewrite the four lock files from pyproject.toml and label-studio.in
	$(COMPILE) pyproject.toml $(EXTRAS) --group local --group dev -o requirements.lock
	$(COMPILE) pyproject.toml $(EXTRAS) -c requirements.lock -o backend.lock
	$(COMPILE) pyproject.toml $(EXTRAS) --extra ray -c requirements.lock -o ray.lock
	$(COMPILE) label-studio.in -o label-studio.lock

.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: use make PYTHON=python3.11 …")'
	@echo "installing our packages into .venv (the first time takes several minutes: torch with CUDA is 5 GB)"
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	.venv/bin/uv pip sync --python .venv/bin/python requirements.lock
	@touch $@

# All of .venv, and Ray; uv links the files of both, so that the disk holds them once.
.venv-ray/.installed: requirements.lock ray.lock | .venv/.installed
	@echo "installing our packages and Ray into .venv-ray (0.3 GB more)"
	test -x .venv-ray/bin/python || $(PYTHON) -m venv --without-pip .venv-ray
	.venv/bin/uv pip sync --python .venv-ray/bin/python requirements.lock ray.lock
	@touch $@

.venv-label-studio/.installed: label-studio.lock | .venv/.installed
	@echo "installing Label Studio into .venv-label-studio"
	test -x .venv-label-studio/bin/python || $(PYTHON) -m venv --without-pip .venv-label-studio
	.venv/bin/uv pip sync --python .venv-label-studio/bin/python label-studio.lock
	@touch $@
