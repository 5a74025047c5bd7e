# `make help` lists the targets. A fresh machine needs Python >= 3.11, a Rust toolchain, a C compiler and make.
SHELL := /bin/bash
UV ?= $(shell command -v uv || echo $(HOME)/.local/bin/uv)
CORPUS ?= ../shared/corpus/visible

.PHONY: help setup
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1|/' | column -t -s '|'

setup: ## Install all dependencies and the release build into .venv
	@command -v uv >/dev/null || python3 -m pip install --user --quiet uv || python3 -m pip install --user --quiet --break-system-packages uv
	uv sync --all-extras --no-install-project
	uvx --from 'maturin==1.16.0' maturin develop --release --skip-install 2>/dev/null || true
