# What a newcomer needs: `make demo`, `make test`. `make` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help demo test lint image optimised bench bench-quick bench-growth instructions

IMAGE ?= segue

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

optimised: ## Build target/optimised/release/segue, which takes the least CPU time, in half an hour
	scripts/prepare-bench
	scripts/build-optimised

bench: optimised ## Compare that with other proxies, for two hours, on a machine that has nothing else to do
	SEGUE_BIN=target/optimised/release/segue cargo bench --locked --bench peers

bench-quick: ## The same within a minute: it shows that everything works, not who is faster
	scripts/prepare-bench
	cargo build --release --locked
	cargo bench --locked --bench peers -- --quick

bench-growth: ## Draw what a request costs as connections, bodies, routes and the tee grow, for six minutes
	scripts/prepare-bench
	cargo build --release --locked
	cargo bench --locked --bench peers -- --growth

instructions: ## Count the instructions of a request, and hold them against their bound
	cargo build --release --locked
	scripts/count-instructions
