# The verbs. `make demo` and `make test` do all of their own set-up.
.PHONY: help demo up test lint cuda-check helm-check bench bench-curation bench-gateway bench-quality bench-continual bench-train bench-infer bench-recovery bench-metrics bench-suite bench-gate bench-gpu clean
.DEFAULT_GOAL := help
SHELL := /bin/bash

export TIDEGATE_CACHE ?= $(HOME)/.cache/tidegate
export CARGO_TARGET_DIR ?= $(TIDEGATE_CACHE)/target
CARGO := cargo
BIN := $(CARGO_TARGET_DIR)/debug/tidegate

help: ## Show the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

build: ## Build the binary
	@setup/system.sh build
	$(CARGO) build --locked --package tidegate

demo: ## Run the main job on real e-mail, end to end, with a report (one to two minutes, after the build)
	@setup/system.sh demo
	@setup/data.sh
	$(CARGO) build --locked --package tidegate
	$(BIN) demo --corpus $(TIDEGATE_CACHE)/data/spam-assassin --report demo-report

up: build ## Run every service in one process, on loopback
	$(BIN) up

test: ## Lint, then every test, against the real parts
	@setup/system.sh test
	@setup/data.sh
	@setup/encoder.sh
	@setup/tools.sh
	$(MAKE) --no-print-directory lint helm-check
	$(CARGO) test --locked --workspace --no-fail-fast

# A target folder of its own: an editor that lints does not hold up a build.
LINT := --target-dir $(CARGO_TARGET_DIR)/lint

lint: ## rustfmt, clippy (CUDA included, so that it always compiles), cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features cuda $(LINT) -- --deny warnings
	$(TIDEGATE_CACHE)/clients/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources

cuda-check: ## What compiles for a GPU, on a machine without one
	$(CARGO) check --locked --workspace --features cuda $(LINT)

helm-check: ## Lint and render the chart with the real helm
	@setup/tools.sh
	helm/check.sh

bench: bench-curation bench-gateway bench-quality bench-continual bench-train bench-infer bench-recovery bench-metrics bench-suite bench-gate ## Ours beside named peers

bench-curation: build ## Curation records/s beside a plain Python loop
	benchmarks/curation/run.sh

bench-gateway: build ## Latency the gateway adds to the bare forward
	benchmarks/gateway/run.sh

bench-quality: build ## Prequential accuracy beside scikit-learn and River on the same streams
	benchmarks/quality/run.sh

bench-continual: build ## What is kept and forgotten over a sequence of tasks, by method
	benchmarks/continual/run.sh

bench-train: build ## Training steps of a mixture of experts beside PyTorch
	benchmarks/train_step/run.sh

bench-infer: build ## Latency of one text beside PyTorch and ONNX Runtime
	benchmarks/infer/run.sh

bench-recovery: build ## From a kill to the next step, from a promotion to its first answer
	benchmarks/recovery/run.sh

bench-metrics: build ## Metrics and bootstrap intervals beside scikit-learn and fairlearn
	benchmarks/metrics/run.sh

bench-suite: build ## Seconds of a whole verdict on 4,000 mails, and how late the load generator comes
	benchmarks/suite/run.sh

bench-gate: build ## A hundred bad twins of a model, each bad in one way, before the gate (under two hours)
	benchmarks/gate/run.sh

bench-gpu: ## Check an NVIDIA GPU against the CPU, and time it beside PyTorch (not part of `bench`)
	benchmarks/gpu/run.sh

clean: ## Remove what was built
	rm -rf $(CARGO_TARGET_DIR) demo-report
