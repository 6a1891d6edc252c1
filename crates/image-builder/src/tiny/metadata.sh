#!/bin/sh
# Makes this machine the instance that the metadata service (IMDSv2) says it is: keys, host name,
# SSH host key, full size of the root file system, and user data, once per instance.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
STATE=/var/lib/tiny
HOST=169.254.169.254
KEY=/etc/dropbear/ed25519

say() { echo "tiny: $*" > /dev/console; }
now() { cut -d. -f1 /proc/uptime; }

# busybox' wget cannot PUT.
new_token() {
    printf 'PUT /latest/api/token HTTP/1.1\r\nHost: %s\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' $HOST |
        nc -w 3 $HOST 80 2> /dev/null | tr -d '\r' |
        sed -n '1{/ 200/!q}; 1,/^$/d; p'
}
get() { timeout 10 wget -q -O - --header "X-aws-ec2-metadata-token: $TOKEN" "http://$HOST/latest/$1" 2> /dev/null; }

wait_for_token() {
    end=$(($(now) + 300))
    while TOKEN=$(new_token) && [ -z "$TOKEN" ]; do
        if [ "$(now)" -ge $end ]; then
            say "the metadata service does not answer: no keys, no user data"
            return 1
        fi
        usleep 200000
    done
    until ID=$(get meta-data/instance-id) && [ -n "$ID" ]; do
        [ "$(now)" -ge $end ] && return 1
        usleep 200000
    done
}

install_keys() {
    for entry in $(get meta-data/public-keys/); do
        get "meta-data/public-keys/${entry%%=*}/openssh-key"
        echo
    done | sed '/^$/d' > /run/authorized_keys
    [ -s /run/authorized_keys ] || return
    for home in /root /home/ec2-user; do
        cp /run/authorized_keys "$home/.ssh/authorized_keys"
        chmod 600 "$home/.ssh/authorized_keys"
    done
    chown 1000:1000 /home/ec2-user/.ssh/authorized_keys
}

# A host key belongs to one instance: a copy of the disk gets a new one.
host_key() {
    [ -s $KEY ] && [ "$(cat $KEY.instance 2> /dev/null)" = "$ID" ] && return
    rm -f $KEY
    dropbearkey -t ed25519 -f $KEY > /dev/null 2>&1
    echo "$ID" > $KEY.instance
    sync
}

run_user_data() {
    get user-data > $STATE/user-data || return
    read -r first < $STATE/user-data
    case $first in
    '#!'*)
        chmod 700 $STATE/user-data
        say "running user data"
        $STATE/user-data > /var/log/user-data.log 2>&1
        status=$?
        sed 's/^/user-data: /' /var/log/user-data.log > /dev/console
        say "user data ended with status $status"
        ;;
    '') ;;
    *) say "user data is not a script that begins with #!: not run" ;;
    esac
}

wait_for_token
OLD_ID=$(cat $STATE/instance-id 2> /dev/null)
: "${ID:=$OLD_ID}"
install_keys
NAME=$(get meta-data/local-hostname)
if [ -n "$NAME" ]; then
    hostname "$NAME"
    echo "$NAME" > /etc/hostname
else
    hostname -F /etc/hostname
fi
host_key
dropbear -r $KEY -s
say "$ID ssh ready $(cut -d' ' -f1 /proc/uptime)"
{
    echo "-----BEGIN SSH HOST KEY FINGERPRINTS-----"
    dropbearkey -y -f $KEY | sed -n 's/^Fingerprint: //p; s/^\(ssh-ed25519 .*\)/\1/p'
    echo "-----END SSH HOST KEY FINGERPRINTS-----"
} > /dev/console
# Disks that were there at start: `hotplug` sees only later ones.
for path in /sys/block/vd*; do
    ACTION=add SUBSYSTEM=block DEVNAME=${path##*/} /etc/init.d/hotplug
done
resize2fs "$(sed -n 's/^\(\/dev\/[a-z0-9]*\) \/ .*/\1/p' /proc/mounts)" > /run/resize.log 2>&1 ||
    sed 's/^/tiny: /' /run/resize.log > /dev/console
if [ -n "$ID" ] && [ "$ID" != "$OLD_ID" ]; then
    echo "$ID" > $STATE/instance-id
    sync
    run_user_data
fi
say "up"
