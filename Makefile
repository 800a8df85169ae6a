# One command per habit; `make help` lists them.
#
# demo and test are for a newcomer and install what they need. Everything else is for those who work here.

SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
PART ?= all
FUZZ_SECONDS ?= 20
MIRI_EXTENT ?= short
SEED ?= 1
CHAOS_SECONDS ?= 120

# A test program that hangs is ended, and the others still run. The longest takes minutes.
LIMITED := --config 'target."cfg(unix)".runner = ["timeout", "--foreground", "--verbose", "--kill-after=10", "1500"]'

.PHONY: help all-kernels clients client-suites kafka demo test test-full soak chaos bench lint loom miri fuzz docs device-check programs build clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## Run an unmodified CUDA program through the whole system on the software GPU
	@tests/demo.sh

build: ## Build every crate
	$(CARGO) build --workspace

programs: ## Fetch the CUDA toolchain (test-time download) and build the test programs
	@tests/programs/build.sh

clients: ## Fetch Python programs that use CUDA (test-time download)
	@tests/clients/fetch.sh || [ $$? -eq 4 ]

kafka: ## Fetch Apache Kafka, which the audit log is sent to in tests (test-time download)
	@tests/kafka/fetch.sh || [ $$? -eq 4 ]

client-suites: programs clients build ## The tests that those programs ship, both ways; CLIENT_SUITES chooses
	$(CARGO) test -p e2e --test client_suites -- --ignored --nocapture

test: programs clients kafka build ## Run the tests
	$(CARGO) test $(LIMITED) --workspace --no-fail-fast
	$(CARGO) test -p cuda-abi -p vgpu-core --no-default-features
	@echo "make test: all tests passed"

all-kernels:
	@tests/programs/build.sh all-kernels

test-full: lint programs clients kafka all-kernels build ## All tests, both builds, loom, Miri, fuzzing, however long, the suites that clients ship among them
	$(CARGO) test --workspace --no-fail-fast -- --include-ignored
	$(CARGO) test -p cuda-abi -p vgpu-core --no-default-features
	@tests/without-handshake.sh
	$(MAKE) loom
	$(MAKE) miri MIRI_EXTENT=full
	$(MAKE) fuzz FUZZ_SECONDS=120
	@echo "make test-full: all tests passed"

soak: programs build ## Hours of use in minutes: order between threads, eight clients, 1,000 attaches, 500 kills
	$(CARGO) test -p e2e -- --ignored soak_

chaos: build ## Whatever can go wrong, at random, for CHAOS_SECONDS; SEED=n chooses what
	SEED=$(SEED) CHAOS_SECONDS=$(CHAOS_SECONDS) $(CARGO) test -p e2e --test chaos -- --ignored --nocapture

bench: ## Measure against the goals; writes docs/results and target/bench.json
	$(CARGO) build --release --workspace
	@$(MAKE) --no-print-directory --silent -C tests/programs bench
	$(CARGO) run --release -p bench

lint: ## Formatting, clippy, generated files, licences
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p cuda-abi -p vgpu-core --no-default-features -- -D warnings
	$(CARGO) xtask codegen --check
	$(CARGO) xtask coverage --check
	$(CARGO) xtask softgpu --check
	@.ci/licences

loom: ## Model-check the ring and its waits
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom $(CARGO) test -p idm-protocol --release --test loom

miri: ## Run the unsafe code on heap memory under Miri
	@MIRI_EXTENT=$(MIRI_EXTENT) .ci/miri

fuzz: ## Fuzz the decoders, FUZZ_SECONDS each
	@FUZZ_SECONDS=$(FUZZ_SECONDS) .ci/fuzz

docs: ## API documentation and the generated coverage table
	$(CARGO) xtask coverage
	$(CARGO) xtask softgpu
	$(CARGO) doc --workspace --no-deps

device-check: ## On a machine with a GPU: programs on the driver and through the proxy, side by side (PART=n for one part)
	@PART=$(PART) tests/device-check/run.sh

clean: ## Remove everything that was built or fetched
	$(CARGO) clean
	rm -rf fuzz/target
