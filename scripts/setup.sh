#!/bin/sh
# Installs what is missing. `setup.sh run`: to build and run a cloud. `setup.sh test`: to test one, too.
# `setup.sh test-ceph`: over a Ceph, too. `setup.sh fuzz`: for libFuzzer.
# Says nothing and takes a moment when all is there. Uses sudo only for packages.
set -eu
cd "$(dirname "$0")/.."
PURPOSE=${1:-run}

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

# QEMU comes first and alone: beside newer qemu-utils from backports, apt would not find a way to have both.
QEMU_PACKAGE=qemu-system-x86
RUN_PACKAGES="gcc libc6-dev make git ca-certificates qemu-utils nftables iproute2 e2fsprogs grub-common dpkg openssh-client"
TEST_PACKAGES="python3 python3-venv mmdebstrap rclone restic s3cmd etcd-server systemd"
CEPH_PACKAGES="ceph-mon ceph-mgr ceph-osd radosgw ceph-common"

check_machine() {
    [ "${TERROIR_SKIP_CHECKS:-0}" = 1 ] && return
    [ "$(uname -s)" = Linux ] || fail "Terroir runs on Linux, this is $(uname -s)"
    [ "$(uname -m)" = x86_64 ] || fail "Terroir runs on x86_64 so far, this is $(uname -m)"
    memory_mib=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024))
    # A machine sold with 4 GiB shows somewhat less.
    [ "$memory_mib" -ge 3700 ] ||
        fail "this machine has $memory_mib MiB of memory; building and running want 4096 (TERROIR_SKIP_CHECKS=1 tries anyway)"
    for folder in . "${TERROIR_DATA_DIR:-/var/lib}"; do
        while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
        # What a build and a cloud of earlier have taken is free to be used again.
        [ -d target ] && [ "$folder" = . ] && continue
        [ -e /var/lib/terroir ] && [ "$folder" = /var/lib ] && continue
        free_gib=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1048576))
        [ "$free_gib" -ge 20 ] ||
            fail "only $free_gib GiB are free in $folder; 20 are wanted (TERROIR_SKIP_CHECKS=1 tries anyway)"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail "packages are missing and there is no sudo; as root run: apt-get install -y $missing"
    fi
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

# apt_install PACKAGE...
apt_install() {
    missing=
    for package in "$@"; do
        is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get > /dev/null || fail "please install these with your distribution's tools:$missing"
    say "installing$missing"
    if [ -z "${LISTS_FRESH:-}" ]; then
        as_root apt-get -qq update || fail "apt-get update failed; is the network there?"
        LISTS_FRESH=1
    fi
    # shellcheck disable=SC2086
    if ! output=$(as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends $missing 2>&1); then
        echo "$output" >&2
        fail "apt-get could not install:$missing"
    fi
}

rust() {
    . scripts/cargo.sh
    [ -z "$CARGO_VERSION" ] || return 0
    wanted=$(wanted_rust)
    candidate=$(apt-cache policy cargo-web 2> /dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
    if [ -n "$candidate" ] && version_at_least "$candidate" "$wanted"; then
        apt_install cargo-web rustc-web
    else
        fail "Rust $wanted or newer is needed; install it with: curl -sSf https://sh.rustup.rs | sh -s -- -y"
    fi
}

# tiny is made from packages that apt must know, not only from those that are installed.
package_lists() {
    apt-cache show busybox-static dropbear-bin > /dev/null 2>&1 || as_root apt-get -qq update
}

python_environment() {
    stamp=.venv/requirements.sha256
    wanted=$(sha256sum tests/requirements.txt | cut -d' ' -f1)
    [ "$(cat $stamp 2> /dev/null)" = "$wanted" ] && [ -x .venv/bin/python ] && return
    say "making the Python environment of the tests in .venv"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt ||
        fail "pip could not install tests/requirements.txt; is the network there?"
    echo "$wanted" > $stamp
}

check_machine
apt_install $QEMU_PACKAGE
# shellcheck disable=SC2086
apt_install $RUN_PACKAGES
rust
package_lists
if [ "$PURPOSE" = fuzz ]; then
    apt_install g++
elif [ "$PURPOSE" != run ]; then
    # shellcheck disable=SC2086
    apt_install $TEST_PACKAGES
    python_environment
fi
if [ "$PURPOSE" = test-ceph ]; then
    # shellcheck disable=SC2086
    apt_install $CEPH_PACKAGES
fi
