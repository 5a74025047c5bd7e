# `make help` lists the targets. A fresh machine needs Python >= 3.11, a Rust toolchain, a C compiler and make.
SHELL := /bin/bash
UV ?= $(shell command -v uv || echo $(HOME)/.local/bin/uv)
CORPUS ?= ../shared/corpus/visible

.PHONY: help setup
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1|/' | column -t -s '|'

setup: ## Install all dependencies and the release build into .venv
	@command -v $(UV) >/dev/null || python3 -m pip install --user --quiet uv || python3 -m pip install --user --quiet --break-system-packages uv
	$(UV) sync --quiet --locked --all-extras --no-install-project
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) run --no-sync maturin develop --release --uv
