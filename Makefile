# `make help` lists the targets. A fresh machine needs Python >= 3.11, a Rust toolchain, a C compiler and make.
SHELL := /bin/bash
CORPUS ?= ../shared/corpus/visible
TARGET ?= decode
SECONDS ?= 60
MINUTES ?= 30
CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
# Everything that can be compiled, tested and linted.
ALL_FEATURES := probe/root-tests,probe/shared-table

export PATH := $(HOME)/.local/bin:$(CURDIR)/.tools/bin:$(PATH)
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
RUN := uv run --no-sync
# The tests of tests/system take whole interfaces and disks, and come one by one.
PYTHON_TESTS := $(RUN) pytest -q -n 2 --dist worksteal tests/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check corpus bench fuzz fuzz-campaign gen gen-check bless audit check-monitoring system-packages

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 16

setup: ## Install all dependencies and the release build into .venv
	@command -v uv >/dev/null || python3 -m pip install --user --quiet uv 2>/dev/null || python3 -m pip install --user --quiet --break-system-packages uv 2>/dev/null || python3 -m pip install --quiet uv
	uv sync --quiet --locked --all-extras --no-install-project
	VIRTUAL_ENV=$(CURDIR)/.venv $(RUN) maturin develop --release --uv --quiet

demo: setup ## Show the whole path on recorded traffic: probe, Core, receipts, database, a flipped bit
	.venv/bin/dpi-probe demo

test: setup ## Run all tests that need no privileges
	cargo test --workspace --quiet
	$(PYTHON_TESTS)

test-all: setup system-packages ## Run all tests, also those that need root, namespaces and further programs
	cargo test --workspace --quiet --features $(ALL_FEATURES)
	$(PYTHON_TESTS)
	$(RUN) pytest -q tests/system

system-packages:
	@command -v ip >/dev/null && command -v tcpdump >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iproute2 tcpdump; }

check: setup .tools/bin/cargo-deny gen-check ## Check format, lint, types, licences and generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features $(ALL_FEATURES) --quiet -- -D warnings
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	@# Nothing is linked, so that no C++ compiler is needed for libFuzzer.
	CUSTOM_LIBFUZZER_PATH=/not/linked/libfuzzer.a CARGO_TARGET_DIR=$(CURDIR)/target cargo check --manifest-path fuzz/Cargo.toml --locked --quiet
	$(RUN) python -m mypy.stubtest dpi_probe._native
	cargo deny --log-level error check licenses bans sources
	$(RUN) python tools/licences.py

.tools/bin/cargo-deny:
	cargo install --quiet --locked --root .tools cargo-deny@$(CARGO_DENY_VERSION)

.tools/bin/cargo-fuzz:
	cargo install --quiet --locked --root .tools cargo-fuzz@$(CARGO_FUZZ_VERSION)

check-monitoring: ## Check alert rules and scrape configuration with promtool (apt-get install prometheus)
	promtool check config deploy/prometheus/prometheus.yml

audit: .tools/bin/cargo-deny ## Check the Rust dependencies against the RustSec database (needs the network)
	cargo deny check advisories

corpus: setup ## Score over the captures below CORPUS (default ../shared/corpus/visible), check their books, and compare 200 with the reference
	$(RUN) python tools/corpus.py --corpus $(CORPUS)
	$(RUN) python tools/agreement.py --corpus $(CORPUS)

bench: ## Run the micro-benches
	cargo bench -p probe --bench offline --bench allocations

fuzz: .tools/bin/cargo-fuzz ## Fuzz one TARGET for SECONDS (targets: fuzz/fuzz_targets)
	RUSTC_BOOTSTRAP=1 cargo fuzz run $(TARGET) -- -max_total_time=$(SECONDS)

fuzz-campaign: setup .tools/bin/cargo-fuzz ## Fuzz every target until it has had MINUTES of CPU time, beginning with captures
	$(RUN) python tools/fuzz.py --minutes $(MINUTES) $(if $(wildcard $(CORPUS)),--corpus $(CORPUS))

gen: setup ## Rewrite the generated reference pages
	$(RUN) python -m dpi_probe._generate

gen-check: setup
	$(RUN) python -m dpi_probe._generate --check

bless: setup ## Rewrite the golden files of tests/corpus; review the diff
	$(RUN) python -m tests.bless
