# Everything a developer runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WHEEL_TOOLS := $(shell grep -E '^(auditwheel|build|wheel|ziglang)==' constraints.txt)
ZIG := $(abspath $(BIN))/python -m ziglang cc -target x86_64-linux-gnu.2.17

CLIENTS := .venv-clients

.PHONY: help install check format test test-slow clients-test gpu-check chaos cluster-test olmoe wheel test-wheel monitoring paper-table architectures image image-check demo clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv with everything in it, .venv/bin/expertpool too

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt deploy/install.sh $(wildcard consolidation/arithmetic/c/*.c) \
		$(wildcard serve_app/engine/device/native/c/*.[ch] serve_app/engine/device/native/c/*/*.h) \
		| $(BIN)/python
	deploy/install.sh $(BIN)/python --editable '.[dev]'
	@touch $@

check: install ## lint, format, types, import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## rewrite what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install ## the tests, without the slow ones, in as many processes as there are cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

test-slow: install ## every test that this machine can run, slow ones too
	$(BIN)/python -m pytest -m 'not gpu' --numprocesses auto --dist loadgroup

# Clients have an environment of their own: their versions are no business of ours.
clients-test: install ## real clients ask an endpoint; ONLY=name asks as one of them
	@if $(PYTHON) -m venv $(CLIENTS) && $(CLIENTS)/bin/python -m pip install --quiet \
			--constraint tests/clients/constraints.txt --requirement tests/clients/requirements.txt; \
	then $(BIN)/python -m tests.clients --python $(CLIENTS)/bin/python \
			$(if $(ONLY),--only "$(ONLY)"); \
	else echo 'skipped: the clients of tests/clients/constraints.txt cannot be installed here'; fi

gpu-check: install ## all that needs a GPU, in 8 minutes; DEVICE=cpu checks the script
	$(BIN)/python -m tests.gpu_check --device $(or $(DEVICE),cuda)

chaos: install ## each fault once under load, in half an hour; ONLY=name does one
	$(BIN)/python -m tests.chaos $(if $(ONLY),--only "$(ONLY)")

cluster-test: install ## an endpoint on nodes of Ray, in 20 minutes; ONLY=name does one row
	$(BIN)/python -m tests.cluster $(if $(ONLY),--only "$(ONLY)")

olmoe: install ## two checkpoints of 14 GB: made, consolidated, served, compared; needs 60 GB
	$(BIN)/python -m tests.real_size $(if $(LAYERS),--layers $(LAYERS))

# The wheel is built from the sdist, so both are complete, and holds nothing of this machine.
wheel: | $(BIN)/python ## dist/: one wheel for every Python from 3.11 on, and the sdist
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(WHEEL_TOOLS)
	rm -rf build dist
	CC='$(ZIG)' LDSHARED='$(ZIG) -shared -s' $(BIN)/python -m build --quiet --outdir build
	$(BIN)/python -m wheel tags --remove --python-tag py3 --abi-tag none build/*.whl
	$(BIN)/python -m auditwheel repair --patcher none --plat manylinux_2_17_x86_64 \
		--wheel-dir dist build/*.whl
	mv build/*.tar.gz dist

test-wheel: install wheel ## install what is in dist/ where there is no compiler, and use it
	$(BIN)/python -m pytest -m slow tests/install

monitoring: install ## docs/metrics.md, dashboards and alerts, from the table of metrics
	$(BIN)/expertpool monitoring serve_app/k8s/manifests/components/monitoring/data
	$(BIN)/python -c "from serve_app.monitoring.metrics_page import metrics_page as p; print(p(), end='')" > docs/metrics.md

paper-table: install ## the paper's table again, with Switch Transformers trained on the spot
	$(BIN)/python -m tests.paper_table

architectures: install ## docs/architectures.md: which mixtures of experts of transformers are served
	$(BIN)/python -m tests.architectures

TARGET := cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE = expertpool:$(VERSION)-$(TARGET)
GIVE_BASE := give the digest of the base that deploy/Dockerfile names, sha256:…

# Nobody here can vouch for a base, so its digest has no default.
image: ## build an image; TARGET=cpu or gpu, BASE_DIGEST=sha256:…, IMAGE=name:tag
	@[[ "$(BASE_DIGEST)" =~ ^sha256:[0-9a-f]{64}$$ ]] || \
		{ echo 'BASE_DIGEST is "$(BASE_DIGEST)": $(GIVE_BASE)' >&2; exit 2; }
	@[[ "$(TARGET)" =~ ^(cpu|gpu)$$ ]] || \
		{ echo 'TARGET is "$(TARGET)": give cpu or gpu' >&2; exit 2; }
	docker build --file deploy/Dockerfile --target $(TARGET) --build-arg BASE_DIGEST=$(BASE_DIGEST) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) --tag $(IMAGE) .

# Buildah and a base of Debian's packages stand in for docker and the official base.
image-check: install ## build deploy/Dockerfile in a chroot and go through its contract; TARGET=cpu or gpu
	$(BIN)/python -m tests.image_check --target $(TARGET)

demo: install ## the main job on a small family made on the spot; ONCE=1 ends after the table
	$(BIN)/expertpool demo $(if $(filter 1,$(ONCE)),--once)

clean: ## forget both environments, what was built and caches of tools
	rm -rf $(VENV) $(CLIENTS) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
