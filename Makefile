# Each target sets up what it needs, and nothing outside this folder is changed.

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
TOOLS := $(TARGET)/tools/bin
export PATH := $(TOOLS):$(PATH)

.NOTPARALLEL:
.PHONY: test format lint docs dependencies tests

## Everything that CI checks, the quickest first; it stops at the first failure.
test: format lint docs dependencies tests

format:
	cargo fmt --all --check

# Every feature has to compile alone. The tests enable `local` (the library is a dev-dependency of
# itself), so they are left out but for the last run, which has everything.
FEATURES := $(shell sed -n '/^\[features\]/,/^$$/s/^\([a-z_-]*\) = .*/\1/p' Cargo.toml)

lint:
	@set -e; for feature in $(FEATURES); do \
	  echo "cargo clippy --lib --bins --features $$feature"; \
	  cargo clippy --quiet --locked --lib --bins --no-default-features --features $$feature -- -D warnings; \
	done
	cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --all-features --package howdah --package photo-api

dependencies:
	@tools/cargo-tool cargo-deny $(TOOLS)
	cargo deny --workspace --log-level error check licenses bans sources

# One selection of packages and features for all tests, so that nothing is built twice.
TESTED := --package howdah --package photo-api --all-features

tests:
	@tools/cargo-tool cargo-nextest $(TOOLS)
	cargo nextest run $(TESTED)
	cargo test --quiet --doc $(TESTED)
