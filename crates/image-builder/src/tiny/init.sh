#!/bin/busybox sh
# First process, in the initial RAM disk: loads drivers, grows the root partition to the size of
# its disk (nothing uses it yet, so the kernel takes the new table), and starts the real system.
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
while read -r module; do
    $B insmod "/modules/$module.ko" || echo "tiny: module $module does not load" > /dev/console
done < /modules/order

root=/dev/vda1
read -r line < /proc/cmdline
for word in $line; do
    case $word in root=*) root=${word#root=} ;; esac
done
tries=0
while [ ! -b "$root" ] && [ $tries -lt 200 ]; do
    $B usleep 50000
    tries=$((tries + 1))
done

name=${root#/dev/}
disk=${name%1}
if [ -e "/sys/block/$disk/$name/start" ]; then
    read -r sectors < "/sys/block/$disk/size"
    read -r start < "/sys/block/$disk/$name/start"
    read -r size < "/sys/block/$disk/$name/size"
    wanted=$((sectors - start))
    # A DOS partition table cannot say more.
    [ $wanted -gt 4294967295 ] && wanted=4294967295
    if [ $wanted -gt "$size" ]; then
        # Number of sectors of the first entry, little endian.
        hex=$(printf '%08x' $wanted)
        bytes="\\x${hex#??????}"
        rest=${hex%??}; bytes="$bytes\\x${rest#????}"
        rest=${rest%??}; bytes="$bytes\\x${rest#??}"
        rest=${rest%??}; bytes="$bytes\\x$rest"
        printf "$bytes" | $B dd of="/dev/$disk" bs=1 seek=458 conv=notrunc 2> /dev/null
        $B blockdev --rereadpt "/dev/$disk"
    fi
fi

if ! $B mount -t ext4 -o rw "$root" /root; then
    echo "tiny: cannot mount $root; powering off" > /dev/console
    $B poweroff -f
fi
$B mount --move /dev /root/dev
$B mount --move /proc /root/proc
$B mount --move /sys /root/sys
exec $B switch_root /root /sbin/init
