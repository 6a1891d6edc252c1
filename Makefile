# People start here; so do scripts. What each target does is in scripts/.

# dev or release; tests use dev, so that one build serves unit and acceptance tests.
PROFILE ?= release
# Of `make test-full`: one group instead of all; `python3 tests/run.py --list` names them.
GROUP ?=
# Of `make s3-tests`: a checkout of github.com/ceph/s3-tests.
S3_TESTS ?=
# Of `make fuzz`: seconds for each target, and which one; all without a name.
FUZZ_SECONDS ?= 600
FUZZ ?=

.PHONY: help up down test test-full s3-tests fuzz lint bench deb gen fmt

help:
	@echo "make up         install what is missing, build, start the cloud and a first instance"
	@echo "make down       stop the cloud and its instances; disks and objects stay"
	@echo "make test       all tests, small counts (25 minutes at most)"
	@echo "make test-full  the same with full counts and slow variants; GROUP=name for one part"
	@echo "make s3-tests   S3_TESTS=DIR: the reference suite ceph/s3-tests, from a checkout of it"
	@echo "make fuzz       FUZZ_SECONDS=60 [FUZZ=target]: looks for inputs at which a parser fails"
	@echo "make lint       formatting, clippy, dependencies, generated code, tidiness"
	@echo "make bench      measure"
	@echo "make deb        a Debian package with units for systemd, in target/"
	@echo "make gen        generate the wire types again"
	@echo "make fmt        format"

up:
	@PROFILE=$(PROFILE) scripts/up.sh

down:
	@PROFILE=$(PROFILE) scripts/down.sh

test:
	@scripts/setup.sh test
	@. scripts/cargo.sh && .venv/bin/python tests/run.py

test-full:
	@scripts/setup.sh test$(if $(filter ceph,$(or $(GROUP),ceph)),-ceph)
	@. scripts/cargo.sh && .venv/bin/python tests/run.py --full $(if $(GROUP),--group $(GROUP))

s3-tests:
	@[ -n "$(S3_TESTS)" ] || { echo "make s3-tests S3_TESTS=DIR, with a checkout of github.com/ceph/s3-tests" >&2; exit 1; }
	@scripts/setup.sh test
	@. scripts/cargo.sh && cargo build --locked -p terroir && .venv/bin/python tests/s3_tests/run.py "$(S3_TESTS)"

fuzz:
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS) $(FUZZ)

lint:
	@scripts/setup.sh test
	@scripts/lint.sh

bench:
	@scripts/setup.sh run
	@PROFILE=$(PROFILE) scripts/bench.sh

deb:
	@scripts/setup.sh run
	@PROFILE=$(PROFILE) scripts/deb.sh

gen:
	@scripts/setup.sh test
	@. scripts/cargo.sh && cargo xtask codegen

fmt:
	@. scripts/cargo.sh && cargo fmt --all
