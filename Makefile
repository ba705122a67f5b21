# What a person types. `make` alone explains itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help venv tools engine images demo demo-scale demo-status demo-down test unit lint sanity molecule bench-deploy interruptions bench-serve bench-workers build docs lock clean

help: ## List what can be made
	@printf 'usage: make TARGET\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done

demo: venv engine ## Bring up a fleet of local containers, run site.yml on it, say where it answers
	@scripts/images.sh new
	@scripts/demo.sh up

demo-scale: venv engine ## Add an app host to the demo
	@scripts/images.sh new
	@scripts/demo.sh scale

demo-status: venv engine ## Say where the demo answers
	@scripts/demo.sh status

demo-down: venv engine ## Remove the demo
	@scripts/demo.sh down

test: venv tools engine images ## Run every test: unit, policy, lint, and each Molecule scenario on real services
	@.venv/bin/python -m pytest -v tests/unit tests/policy tests/templates tests/properties tests/lint tests/molecule $(PYTEST)

unit: venv tools ## Run the tests that need no host
	@.venv/bin/python -m pytest tests/unit tests/policy $(PYTEST)

lint: venv ## Run the linters of the field
	@.venv/bin/python -m pytest tests/lint $(PYTEST)

molecule: venv tools engine images ## Run one scenario: make molecule SCENARIO=nginx
	@PATH="$$PWD/.venv/bin:$$PATH" molecule test -s "$${SCENARIO:?say which one: make molecule SCENARIO=nginx}"

bench-deploy: venv engine images ## Count lost requests and the longest wait for each thing done to a fleet
	@scripts/bench_deploy.sh

interruptions: venv engine images ## Interrupt deploys in every way, at every step
	@scripts/bench_deploy.sh interruptions

bench-serve: venv engine images ## Compare worker models with what people set up by hand (half an hour)
	@scripts/bench_serve.sh $(BENCH)

bench-workers: venv engine images ## Try worker and thread counts on one host, and say which to choose
	@scripts/bench_workers.sh $(TUNE)

docs: venv ## Write the variable tables of the READMEs from the argument specs
	@.venv/bin/python scripts/docs.py

build: venv ## Build the archive of the collection
	@.venv/bin/ansible-galaxy collection build --force

lock: venv ## Pin the newest versions of the development requirements
	@cd requirements && UV_NATIVE_TLS=1 ../.venv/bin/uv pip compile --quiet --universal --upgrade --no-emit-index-url --python-version 3.11 dev.in -o dev.txt

clean: ## Remove the demo, the hosts of the tests, the images, and the virtual environment
	@scripts/clean.sh

venv:
	@scripts/venv.sh

# What tests run: zstd packs builds, h2load and slowhttptest ask load balancers.
tools:
	@. scripts/common.sh; command -v zstd h2load slowhttptest | awk 'END { exit NR != 3 }' || apt_install zstd nghttp2-client slowhttptest

engine:
	@scripts/engine.sh

images: engine
	@scripts/images.sh
