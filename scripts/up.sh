#!/bin/sh
# `make up`: from a fresh checkout to a running cloud with a first instance. Again: a few seconds.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh run
. scripts/cargo.sh
. scripts/terroir.sh

# By whoever called, never by root on an ordinary user's behalf.
if [ ! -x "$TERROIR" ]; then
    echo "building Terroir (some minutes the first time)"
fi
cargo build --quiet --locked --profile "$PROFILE" -p terroir

as_root "$TERROIR" up --detach
if ! as_root "$TERROIR" image list --json | grep -q '"name": *"tiny"'; then
    as_root "$TERROIR" image build tiny
fi
as_root "$TERROIR" demo
