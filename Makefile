# The two commands of the README, and what contributors need besides.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check

help:
	@echo "make demo    watch three hosts level themselves (KEEP=1 leaves them running)"
	@echo "make test    format, lints, licences, unit, property, simulation and real-machine tests"
	@echo "make check   what of that needs no hypervisor"

# Setup's status 3 says that no hypervisor can be had here; the demo then runs without.
demo:
	@scripts/setup || [ $$? -eq 3 ]
	@cargo build --quiet --release --locked -p evenkeel
	@$${CARGO_TARGET_DIR:-target}/release/evenkeel demo $(if $(KEEP),--keep)

test:
	@scripts/setup
	@scripts/test

check:
	@scripts/test --quick
