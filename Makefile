# `make demo` and `make test` do all the set-up they need; `make` alone lists the targets.

CARGO ?= cargo
# Seconds that `make fuzz` runs for.
FUZZ_SECONDS ?= 600
# The first case that `make simulate` plays, and how many: make simulate SEED=7 CASES=1
SEED ?= 1
CASES ?= 1000000
# More arguments for `moorline demo` and `moorline bench`: make bench-node ARGS="--workload small"
ARGS ?=
# More arguments for the comparison: make bench BENCH_ARGS="--workloads small --plot small.svg"
BENCH_ARGS ?=

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
MOORLINE := $(TARGET_DIR)/release/moorline
COMPARE := $(TARGET_DIR)/release/compare

.PHONY: help deps release install demo test loom seeds bench bench-node bench-micro simulate sessions soak asan \
	miri fuzz clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

deps: ## find what the build needs, and install it where apt-get exists
	@sh scripts/deps.sh

release: deps
	@echo "==> moorline, release build (the first one takes a few minutes)"
	@$(CARGO) build --release --locked --bin moorline

install: deps ## put the command moorline into ~/.cargo/bin
	@$(CARGO) install --path . --locked

demo: release ## run three supervised nodes on loopback and check all they do
	@echo "==> demo"
	@$(MOORLINE) demo $(ARGS)

test: deps ## formatting, lints, documentation and every test
	@echo "==> formatting"
	@$(CARGO) fmt --all --check
	@$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	@$(CARGO) fmt --manifest-path loom/Cargo.toml --check
	@echo "==> clippy"
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@$(CARGO) clippy --workspace --bench micro --features moorline/internals --locked -- -D warnings
	@echo "==> documentation"
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --features moorline/testing
	@echo "==> documentation tests"
	@$(CARGO) test --doc --workspace --locked
	@echo "==> tests"
	@$(CARGO) test --workspace --locked --no-fail-fast --lib --bins --tests --examples -- --test-threads=2
	@$(MAKE) --no-print-directory loom seeds
	@echo "==> beside ractor_cluster"
	@$(CARGO) test --locked --features cluster,async-trait --test cluster
	@$(CARGO) check --locked --lib --features ractor/cluster 2>&1 | grep -m 1 "error" \
		| grep -q "moorline needs its own feature" || { \
		echo "cluster: without the feature the first error does not say what to do"; exit 1; }
	@echo "==> all good"

# A workspace of its own, without C: the library's files over loom's types.
loom: ## play the orders of flags and wake-ups: watches, room of a lane, readers
	@echo "==> orders of steps, by loom"
	@CARGO_TARGET_DIR="$(TARGET_DIR)/loom" $(CARGO) test --manifest-path loom/Cargo.toml --locked

# A workspace of its own as well. Without the fuzzer, so that its C++ is not built.
seeds: ## check what is fuzzed, and play the inputs that are kept
	@echo "==> what is fuzzed"
	@CARGO_TARGET_DIR="$(TARGET_DIR)/fuzz" $(CARGO) test --manifest-path fuzz/Cargo.toml --locked \
		--no-default-features
	@CARGO_TARGET_DIR="$(TARGET_DIR)/fuzz" $(CARGO) check --manifest-path fuzz/Cargo.toml --locked \
		--no-default-features --features targets --bins

bench: deps ## compare with quinn, s2n-quic, msquic-async, TCP: 15 minutes; BENCH_ARGS="--quick": 2
	@echo "==> compare, release build (the first one takes a few minutes)"
	@$(CARGO) build --release --locked --workspace --bins --features moorline/testing,moorline-bench/s2n,moorline-bench/tonic
	@echo "==> bench"
	@$(COMPARE) --moorline $(MOORLINE) $(BENCH_ARGS)

bench-node: release ## measure moorline alone: make bench-node ARGS="--workload small"
	@echo "==> bench-node"
	@$(MOORLINE) bench $(ARGS)

bench-micro: deps ## measure single parts without a network: make bench-micro ARGS=lane
	@echo "==> bench-micro, release build"
	@$(CARGO) bench --locked --features internals --bench micro -- $(ARGS)

simulate: deps ## play CASES (1000000) cases of two connections, from SEED (1) on
	@echo "==> simulating $(CASES) cases from $(SEED) on, release build"
	@SIMULATE_SEED=$(SEED) SIMULATE_CASES=$(CASES) $(CARGO) test --release --locked --lib \
		whatever_happens_between -- --nocapture

sessions: deps ## play CASES (1000000) cases of sessions over links that break, of each kind
	@echo "==> playing $(CASES) cases of two nodes and of three, release build"
	@PROPTEST_CASES=$(CASES) $(CARGO) test --release --locked --lib session::tests::joined

soak: deps ## let members talk while everything breaks: make soak ARGS="--minutes 60 --seed 7"
	@echo "==> soak, release build"
	@$(CARGO) run --release --locked --features testing --bin moorline -- soak $(ARGS)

# What measures its own memory cannot run in it: it would measure the sanitizer's.
ASAN_TESTS := cancelled chaos credentials dial_sockets events faults handles lanes listen_ports \
	loopback messages names outcomes progress redial refusals shutdown streams strangers subscribers \
	supervision
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

asan: deps ## run the tests under AddressSanitizer, MsQuic built with it too: 12 minutes
	@echo "==> tests under AddressSanitizer"
	@RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CFLAGS="-fsanitize=address" \
		CXXFLAGS="-fsanitize=address" CARGO_TARGET_DIR="$(TARGET_DIR)/asan" SIMULATE_CASES=300 \
		ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 $(CARGO) test --locked --target $(HOST) \
		--no-fail-fast --lib $(addprefix --test ,$(ASAN_TESTS)) -- --test-threads=2

# What runs without C. miri is far slower than a processor: random cases are few.
MIRI_TESTS := frame:: session:: transport::lane:: transport::link::
MIRI_CASES ?= 4

miri: ## run the pure parts in miri, for whoever has it
	@$(CARGO) +nightly miri --version >/dev/null 2>&1 || { \
		echo "miri: it is missing; run: rustup toolchain install nightly --component miri"; exit 1; }
	@echo "==> pure parts in miri"
	@MIRIFLAGS="-Zmiri-disable-isolation" PROPTEST_CASES=$(MIRI_CASES) \
		CARGO_TARGET_DIR="$(TARGET_DIR)/miri" $(CARGO) +nightly miri test --locked --lib \
		--no-default-features -- $(MIRI_TESTS)

# libFuzzer needs options that only an unstable compiler takes; RUSTC_BOOTSTRAP lets a stable one
# take them. The malloc limit is below the largest lengths a frame may announce, so a decoder
# that allocates by announced length is caught.
fuzz: ## fuzz the decoders for FUZZ_SECONDS (600) each
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { \
		echo "fuzz: cargo-fuzz is missing; run: cargo install --locked cargo-fuzz"; exit 1; }
	@for target in frame_decoder session_messages session_intake certificates credentials; do \
		echo "==> fuzzing $$target for $(FUZZ_SECONDS) s"; \
		mkdir -p fuzz/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) -malloc_limit_mb=12 || exit 1; \
	done

clean: ## remove what was built (crash inputs in fuzz/artifacts stay)
	@echo "==> clean"
	@$(CARGO) clean
	@rm -rf fuzz/target
