#!/bin/sh
# `make fuzz`: has LLVM's libFuzzer look for inputs at which a parser fails. `fuzz.sh SECONDS [TARGET...]`: all targets that
# are named at once, or all there are, two at a time. What it learns is kept in target/fuzz/corpus, what fails in
# target/fuzz/failures; the exit status is 1 if anything failed.
set -eu
cd "$(dirname "$0")/.."
SECONDS_EACH=${1:-600}
[ $# = 0 ] || shift
. scripts/cargo.sh

TARGET_DIR=${CARGO_TARGET_DIR:-target}/fuzz
TRIPLE=x86_64-unknown-linux-gnu
# As cargo-fuzz does it, without what needs a nightly compiler: this is safe code, which panics where it is wrong.
FLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4"
FLAGS="$FLAGS -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
FLAGS="$FLAGS -Cllvm-args=-sanitizer-coverage-trace-compares"
CARGO_TARGET_DIR=$TARGET_DIR RUSTFLAGS=$FLAGS cargo build --quiet --locked --target $TRIPLE -p terroir-fuzz --features libfuzzer
BINARY=$TARGET_DIR/$TRIPLE/debug/terroir-fuzz

[ $# != 0 ] || set -- fuzz/corpus/*
mkdir -p "$TARGET_DIR/failures"
failed=0

# start TARGET: in the background.
start() {
    mkdir -p "$TARGET_DIR/corpus/$1"
    TERROIR_FUZZ=$1 "$BINARY" -max_total_time="$SECONDS_EACH" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$TARGET_DIR/failures/$1-" -print_final_stats=1 \
        "$TARGET_DIR/corpus/$1" "fuzz/corpus/$1" > "$TARGET_DIR/$1.log" 2>&1 &
}

# finish PID TARGET
finish() {
    if wait "$1"; then
        echo "fuzz: $2: $(sed -n 's/^stat::number_of_executed_units: *//p' "$TARGET_DIR/$2.log") inputs, no failure"
    else
        failed=1
        tail -n 30 "$TARGET_DIR/$2.log"
        echo "fuzz: $2 FAILED: the input is in $TARGET_DIR/failures, the output in $TARGET_DIR/$2.log" >&2
    fi
}

while [ $# != 0 ]; do
    first=$(basename "$1") second=
    shift
    start "$first"
    first_pid=$!
    if [ $# != 0 ]; then
        second=$(basename "$1")
        shift
        start "$second"
        second_pid=$!
    fi
    finish "$first_pid" "$first"
    [ -z "$second" ] || finish "$second_pid" "$second"
done
exit $failed
