#!/bin/sh
# Everything that can be said about the sources without running them. Debian's cargo-web brings neither rustfmt nor
# clippy: what is missing is said, not passed over.
set -eu
cd "$(dirname "$0")/.."
. scripts/cargo.sh
[ -n "$CARGO_VERSION" ] || {
    echo "lint: no cargo of at least $(wanted_rust)" >&2
    exit 1
}

step() { echo "lint: $*"; }

if cargo fmt --version > /dev/null 2>&1; then
    step "formatting"
    cargo fmt --all --check
    step "generated code"
    cargo xtask codegen --check
else
    echo "lint: SKIPPED formatting and generated code: rustfmt is not installed"
fi
step "tidiness"
cargo xtask tidy
step "dependencies"
if cargo deny --version > /dev/null 2>&1; then
    cargo deny --log-level error check bans licenses sources
fi
cargo xtask dependencies
step "shell scripts"
for script in scripts/*.sh .ci/run crates/image-builder/src/tiny/*.sh; do
    sh -n "$script"
done
if cargo clippy --version > /dev/null 2>&1; then
    step "clippy"
    cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
else
    echo "lint: SKIPPED clippy: it is not installed"
fi
