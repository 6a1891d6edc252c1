#!/bin/sh
# System start: brings up the network and hands over to `metadata` in the background.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=0,mode=620 pts /dev/pts
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 shm /dev/shm
acpid
uevent /etc/init.d/hotplug > /dev/null 2>&1 &
ip link set lo up
for path in /sys/class/net/*; do
    name=${path##*/}
    [ "$name" = lo ] || /etc/init.d/hotplug "$name"
done
/etc/init.d/metadata &
