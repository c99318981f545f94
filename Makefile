# Each target sets up what it needs; nothing outside this folder is changed where that can be avoided.

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
TOOLS := $(TARGET)/tools
export PATH := $(TOOLS)/bin:$(PATH)

.NOTPARALLEL:
.PHONY: demo test torture bench format lint docs dependencies tests servers

## The whole thing on this machine, on http://127.0.0.1:8080 until Ctrl-C. DEMO_ARGS="--port 8081" goes to the API.
demo:
	cargo build --locked --release --package howdah --package photo-api --features howdah/cli --bins
	@tools/demo $(TARGET)/release $(DEMO_ARGS)

## Everything that CI checks, the quickest first; it stops at the first failure.
test: format lint docs dependencies tests

format:
	cargo fmt --all --check

# Every feature has to compile alone. The tests always have `local` (the library is a dev-dependency of
# itself), so they are left out but for the last run, which has everything.
FEATURES := $(shell sed -n '/^\[features\]/,/^$$/s/^\([a-z_-]*\) = .*/\1/p' Cargo.toml)

lint:
	@set -e; for feature in $(FEATURES); do \
	  echo "cargo clippy --lib --bins --no-default-features --features $$feature"; \
	  cargo clippy --quiet --locked --lib --bins --no-default-features --features $$feature -- -D warnings; \
	done
	cargo clippy --quiet --locked --workspace --all-targets --all-features -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --all-features --package howdah --package photo-api

dependencies:
	@tools/cargo-tool cargo-deny $(TOOLS)/bin
	cargo deny --workspace --log-level error check licenses bans sources

# One selection of packages and features for all tests, so that nothing is built twice.
TESTED := --locked --package howdah --package photo-api --all-features

tests: servers
	cargo nextest run $(TESTED)
	cargo test --quiet --doc $(TESTED)

# The tests bring a version of PostgreSQL that is missing by themselves; what keeps them from it is said here, once.
servers: $(TARGET)/CACHEDIR.TAG
	@tools/cargo-tool cargo-nextest $(TOOLS)/bin
	@tools/postgres 15 $(TARGET)/postgres/15
	@tools/postgres 18 $(TARGET)/postgres/18
	@tools/pgbouncer $(TARGET)/pgbouncer

# By this file, which cargo leaves in a folder of its own making, tests know the build folder.
$(TARGET)/CACHEDIR.TAG:
	@mkdir -p $(@D)
	@echo "Signature: 8a477f597d28d172789f06886806bc55" > $@

# The tests whose faults are drawn from a seed: `test` takes a few of them, `torture` takes all.
FAULTS := clock_chaos move_crash move_cut move_kill move_model move_signals transfer_kills

## The long fault runs: whoever takes part dies, or is cut off, at every step. SEED=7 repeats what failed.
torture: SEED := $(or $(SEED),$(shell date +%s))
torture: servers
	@echo "make torture SEED=$(SEED)"
	HOWDAH_TORTURE=1 HOWDAH_SEED=$(SEED) cargo nextest run --profile torture $(TESTED) $(FAULTS:%=--test %)

## Every benchmark against its rivals; rewrites docs/benchmarks.md. QUICK=1 takes fewer pairs.
bench:
	cargo bench --locked --package howdah-benches
	tools/bench-report $(TARGET)/bench benches > $(TARGET)/benchmarks.md
	mv $(TARGET)/benchmarks.md docs/benchmarks.md
