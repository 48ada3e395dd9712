# The two commands of the README, and what contributors need besides.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check bench package

help:
	@echo "make demo    watch three hosts level themselves (KEEP=1 leaves them running)"
	@echo "make test    format, lints, licences, unit, property, simulation and real-machine tests"
	@echo "make bench   plans against bounds and peers; SEEDS=20 PEER_SECONDS=120 INPUTS='uniform-50x500' SNAPSHOTS=DIR"
	@echo "make package a .deb, an .rpm and SHA256SUMS in target/package"
	@echo "make check   what of that needs no hypervisor"

# Setup's status 3 says that no hypervisor can be had here: the demo then runs hosts in memory.
demo:
	@scripts/setup; case $$? in 0|3) ;; *) exit 1 ;; esac; \
	cargo build --quiet --release --locked -p evenkeel && \
	"$${CARGO_TARGET_DIR:-target}"/release/evenkeel demo $(if $(KEEP),--keep)

test:
	@scripts/setup
	@scripts/test

package:
	@scripts/package

check:
	@scripts/test --quick

# INPUTS replaces the usual ones: files, directories, or such as uniform-1000x10000.
bench:
	@nice cargo bench --quiet --locked -p evenkeel-sim --bench balance -- $(INPUTS)
