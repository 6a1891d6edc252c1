#!/bin/sh
# `make bench`: builds what is measured and measures it. BENCH_QUICK=1 takes eight minutes instead of 35;
# BENCH_ONLY=starts|guests|objects|large-objects|many-objects|simulated measures one part. Garage, if it is to stand
# beside it, is $GARAGE or the one in PATH.
set -eu
cd "$(dirname "$0")/.."
. scripts/cargo.sh
. scripts/terroir.sh
cargo build --quiet --locked --profile "$PROFILE" -p terroir -p terroir-bench
as_root env "TERROIR=$TERROIR" "BENCH_QUICK=${BENCH_QUICK:-0}" "BENCH_ONLY=${BENCH_ONLY:-}" \
    "GARAGE=${GARAGE:-}" "$(dirname "$TERROIR")/terroir-bench"
