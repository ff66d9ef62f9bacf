# `make help` lists the targets. The first one that needs the virtual environment builds it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PORT ?= 8000
STAMP := $(VENV)/.installed
CLUSTER ?= local
IMAGE_TAG ?= 0.1.0
KIND_CLUSTER := penstock
# Tests that do nothing but compute, in Triton's interpreter for the most part. Others wait for much of their time: beside
# those, at the lowest priority, these cost none.
COMPUTING := $(addprefix tests/,kernels attention layers worker/gpu models)

.DEFAULT_GOAL := help
.PHONY: help setup run demo-pd test test-kernels test-faults test-cluster image kind-up lint format bench generate verify clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## Make .venv, install Penstock into it, build the CPU kernels
	@$(BIN)/python -m penstock_kernels.cpu.build

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: $(PYTHON) was not found"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[operator,nixl,dev]'
	@touch $(STAMP)

run: setup ## Serve the embedded model; flags: make run ARGS='--port 8123'
	@exec $(BIN)/penstock serve $(ARGS)

demo-pd: setup ## Router, one prefill and two decode pods on this machine: make demo-pd PORT=8000
	@exec $(BIN)/penstock demo --port $(PORT) $(ARGS)

test: setup ## Everything a machine without GPU and cluster can prove
ifeq ($(ARGS),)
	@log=$$(mktemp); nice -n 19 $(BIN)/python -m pytest -p no:cacheprovider $(COMPUTING) >$$log 2>&1 & beside=$$!; \
	  trap "kill $$beside 2>/dev/null; rm -f $$log" EXIT; \
	  $(BIN)/python -m pytest $(COMPUTING:%=--ignore=%); code=$$?; \
	  wait $$beside || code=$$?; cat $$log; exit $$code
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-kernels: setup ## The GPU kernels: on a GPU where there is one, else in Triton's interpreter
	$(BIN)/python -m pytest tests/kernels -k gpu $(ARGS)

test-faults: setup ## Kill, stop and cut off real processes, for minutes
	$(BIN)/python -m pytest tests/faults --faults $(ARGS)

test-cluster: setup ## In pods of a real Kubernetes: make test-cluster CLUSTER=local|kind|kubeconfig
	$(BIN)/python -m pytest tests/cluster --cluster=$(CLUSTER) $(ARGS)

image: ## Images of CPU runtime and operator, with docker, podman or buildah: make image IMAGE_TAG=0.1.0
	packaging/build_image runtime-cpu penstock-runtime-cpu:$(IMAGE_TAG)
	packaging/build_image operator penstock-operator:$(IMAGE_TAG)

kind-up: image ## A cluster of kind with the operator in it; needs Docker, kind, kubectl and helm
	@kind get clusters | grep -qx $(KIND_CLUSTER) || kind create cluster --name $(KIND_CLUSTER)
	kind load docker-image --name $(KIND_CLUSTER) penstock-runtime-cpu:$(IMAGE_TAG) penstock-operator:$(IMAGE_TAG)
	kubectl config use-context kind-$(KIND_CLUSTER)
	helm upgrade --install penstock-crds charts/penstock-crds
	helm upgrade --install penstock charts/penstock --namespace penstock-system --create-namespace --wait \
	  --set-string image.tag=$(IMAGE_TAG) --set-string runtime.image.tag=$(IMAGE_TAG)
	@# The image may be new although its tag is not.
	kubectl --namespace penstock-system rollout restart deployment/penstock
	kubectl --namespace penstock-system rollout status deployment/penstock --timeout 120s

lint: setup ## Format check, lint, types, import laws
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## All benchmarks that this machine can run; JSON into bench/results
	$(BIN)/python bench/run_all.py $(ARGS)

generate: setup ## Write the generated files anew: docs of settings and API, CRDs
	$(BIN)/python -m penstock.settings_page docs/settings.md
	$(BIN)/python -m penstock_operator.api.generate

verify: generate ## Fail if a generated file is not up to date
	@git diff --exit-code -- docs/settings.md docs/api-reference.md crds charts/penstock-crds

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) dist build kernels/penstock_kernels/cpu/*.so
