#!/bin/sh
# Called with a device's name at start, and by `uevent` with the kernel's variables later.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ -n "$1" ]; then
    ACTION=add SUBSYSTEM=net INTERFACE=$1
fi
case $SUBSYSTEM.$ACTION in
net.add)
    [ "$INTERFACE" = lo ] && exit
    ip link set "$INTERFACE" up
    # In the foreground until the first answer or 3 tries, then on and on in the background.
    udhcpc -i "$INTERFACE" -p "/run/udhcpc.$INTERFACE.pid" -t 3 -T 1 -A 1 -b \
        -O mtu -s /usr/share/udhcpc/default.script > /dev/null 2>&1
    ;;
net.remove)
    read -r pid < "/run/udhcpc.$INTERFACE.pid" && kill "$pid"
    ;;
block.add)
    serial=$(cat "/sys/class/block/$DEVNAME/serial" 2> /dev/null)
    if [ -n "$serial" ]; then
        mkdir -p /dev/disk/by-id
        ln -sf "../../$DEVNAME" "/dev/disk/by-id/virtio-$serial"
    fi
    ;;
block.remove)
    for link in /dev/disk/by-id/*; do
        [ "$(readlink "$link")" = "../../$DEVNAME" ] && rm -f "$link"
    done
    ;;
esac
exit 0
