#!/bin/sh
# `make down`: stops the cloud and its instances. Disks, objects and state stay in the data folder.
set -eu
cd "$(dirname "$0")/.."
. scripts/terroir.sh
if [ ! -x "$TERROIR" ]; then
    echo "down: there is no $TERROIR: nothing was started from here"
    exit 0
fi
as_root "$TERROIR" down
