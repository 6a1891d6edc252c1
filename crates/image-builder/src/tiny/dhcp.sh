#!/bin/sh
# What udhcpc calls when a lease begins, is renewed or ends.
case $1 in
bound | renew)
    current=$(ip -4 -o addr show dev "$interface" | sed -n 's/.* inet \([0-9./]*\).*/\1/p' | head -n 1)
    if [ "$current" != "$ip/$mask" ]; then
        [ -n "$current" ] && ip addr del "$current" dev "$interface"
        ip addr add "$ip/$mask" broadcast + dev "$interface"
    fi
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    # The first interface leads out; others reach their own subnet.
    if [ "$interface" = eth0 ]; then
        for address in $router; do
            ip route replace default via "$address" dev "$interface"
            break
        done
        {
            [ -n "$domain" ] && echo "search $domain"
            for address in $dns; do echo "nameserver $address"; done
        } > /etc/resolv.conf.new
        mv /etc/resolv.conf.new /etc/resolv.conf
    fi
    [ "$1" = bound ] && echo "tiny: $interface has $ip/$mask" > /dev/console
    echo "$1 $(cut -d' ' -f1 /proc/uptime)" >> "/run/dhcp.$interface.log"
    ;;
deconfig)
    ip addr flush dev "$interface"
    ;;
esac
exit 0
