# The two commands of the README, and what contributors need besides.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check

help:
	@echo "make demo    watch three hosts level themselves (KEEP=1 leaves them running)"
	@echo "make test    format, lints, licences, unit, property, simulation and real-machine tests"
	@echo "make check   what of that needs no hypervisor"

# Setup's status 3 says that no hypervisor can be had here: the demo is then built without libvirt.
demo:
	@scripts/setup; case $$? in \
	    0) features= ;; \
	    3) features=--no-default-features ;; \
	    *) exit 1 ;; \
	esac; \
	cargo build --quiet --release --locked -p evenkeel $$features && \
	"$${CARGO_TARGET_DIR:-target}"/release/evenkeel demo $(if $(KEEP),--keep)

test:
	@scripts/setup
	@scripts/test

check:
	@scripts/test --quick
