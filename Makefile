# What a newcomer needs: `make demo`, `make test`. `make` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help demo test lint image

IMAGE ?= segue

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Build Segue and watch it move a service, on embedded parts
	cargo build --release --locked
	target/release/segue demo

test: ## Install what the tests need, run every test, stop what was started
	scripts/test

lint: ## Formatting, clippy, licences, scripts
	scripts/lint

image: ## Build the container image, named `segue` unless IMAGE=… says otherwise
	scripts/build-static
	docker build --target prebuilt --file docker/Dockerfile --tag $(IMAGE) .
