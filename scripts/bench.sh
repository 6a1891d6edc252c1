#!/bin/sh
# `make bench`: builds what is measured and measures it. BENCH_QUICK=1 takes three minutes instead of twelve;
# BENCH_ONLY=starts|guests|objects|simulated measures one part.
set -eu
cd "$(dirname "$0")/.."
. scripts/cargo.sh
. scripts/terroir.sh
cargo build --quiet --locked --profile "$PROFILE" -p terroir -p terroir-bench
as_root env "TERROIR=$TERROIR" "BENCH_QUICK=${BENCH_QUICK:-0}" "BENCH_ONLY=${BENCH_ONLY:-}" \
    "$(dirname "$TERROIR")/terroir-bench"
