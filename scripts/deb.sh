#!/bin/sh
# `make deb`: a Debian package of the binary in target/, with units for systemd.
set -eu
cd "$(dirname "$0")/.."
. scripts/cargo.sh
. scripts/terroir.sh
# A binary that is there already may be packed instead: TERROIR_BINARY.
BINARY=${TERROIR_BINARY:-$TERROIR}
[ -n "${TERROIR_BINARY:-}" ] || cargo build --quiet --locked --profile "$PROFILE" -p terroir
OUTPUT=${1:-$TARGET}
VERSION=$("$BINARY" --version | cut -d' ' -f2)
ARCHITECTURE=$(dpkg --print-architecture)

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
install -D -m 755 "$BINARY" "$stage/usr/bin/terroir"
strip "$stage/usr/bin/terroir"
for unit in packaging/systemd/*.service packaging/systemd/*.target; do
    install -D -m 644 "$unit" "$stage/usr/lib/systemd/system/$(basename "$unit")"
done
install -D -m 644 packaging/systemd/terroir.sysusers "$stage/usr/lib/sysusers.d/terroir.conf"
install -D -m 644 packaging/debian/default "$stage/etc/default/terroir"
install -D -m 644 LICENSE "$stage/usr/share/doc/terroir/copyright"
for page in README.md CHANGELOG.md docs/*.md docs/operations/*.md; do
    install -D -m 644 "$page" "$stage/usr/share/doc/terroir/$page"
done
mkdir "$stage/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "packaging/debian/$script" "$stage/DEBIAN/$script"
done
echo /etc/default/terroir > "$stage/DEBIAN/conffiles"
# The C library that the binary was linked with must be there.
libc=$(objdump -T "$stage/usr/bin/terroir" | sed -n 's/.*GLIBC_\([0-9.]*\)).*/\1/p' | sort -V | tail -n 1)
cat > "$stage/DEBIAN/control" << CONTROL
Package: terroir
Version: $VERSION
Architecture: $ARCHITECTURE
Maintainer: The Terroir developers <terroir@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, systemd (>= 248), qemu-system-x86, qemu-utils, nftables, iproute2, e2fsprogs, grub-common, dpkg, openssh-client
Recommends: ca-certificates
Suggests: mmdebstrap, etcd-server
Section: admin
Priority: optional
Description: sovereign cloud that speaks the AWS APIs
 Turns a server into a cloud that unmodified AWS tools drive: instances in QEMU,
 networks, volumes, S3, IAM and KMS. Start it with
 \`systemctl enable --now terroir.target\`; \`terroir env\` points the tools at it.
CONTROL
mkdir -p "$OUTPUT"
dpkg-deb --root-owner-group --build "$stage" "$OUTPUT/terroir_${VERSION}_$ARCHITECTURE.deb" > /dev/null
echo "$OUTPUT/terroir_${VERSION}_$ARCHITECTURE.deb"
