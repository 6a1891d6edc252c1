#!/bin/sh
# `make bench`: builds what is measured and measures it.
set -eu
cd "$(dirname "$0")/.."
. scripts/cargo.sh
. scripts/terroir.sh
cargo build --quiet --locked --profile "$PROFILE" -p terroir
as_root env TERROIR="$TERROIR" .venv/bin/python benches/run.py
