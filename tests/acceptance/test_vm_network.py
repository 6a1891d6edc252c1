"""Who reaches whom: security groups, VPCs with the same CIDR, forged sources, the host, the metadata service."""

import re
import socket
import threading

import pytest
from cloud import run
from guest import permission
from waiting import until

pytestmark = pytest.mark.vm

# Answers a connection on a port with its own host name, again and again.
LISTEN = "nc -ll -p {port} -e hostname > /dev/null 2>&1 &"


@pytest.fixture(scope="module")
def pair(tenant):
    """Two instances in the default VPC: `a`, and `b` in a group of its own that lets in nothing but SSH."""
    inner = tenant.make_group("inner", [("tcp", 22, "0.0.0.0/0")])
    a = tenant.launch()
    b = tenant.launch(SecurityGroupIds=[inner])
    for guest in (a, b):
        guest.wait_for("running").wait_for_ssh()
    b.group = inner
    for port in (8080, 8081):
        b.ssh(LISTEN.format(port=port))
    return a, b


@pytest.fixture(scope="module")
def stranger(tenant, pair):
    """An instance in another VPC with the same CIDR, at the very address of `b`, open to everybody."""
    ec2 = tenant.ec2
    _, b = pair
    subnet_id = b.describe()["SubnetId"]
    [subnet] = ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"]
    vpc = ec2.create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
    twin = ec2.create_subnet(VpcId=vpc, CidrBlock=subnet["CidrBlock"])["Subnet"]["SubnetId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    [table] = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    group = tenant.make_group("open", [("-1", None, "0.0.0.0/0")], vpc=vpc)
    interface = {
        "DeviceIndex": 0,
        "SubnetId": twin,
        "Groups": [group],
        "PrivateIpAddress": b.private_ip,
        "AssociatePublicIpAddress": True,
    }
    guest = tenant.launch_and_wait(NetworkInterfaces=[interface])
    guest.ssh(LISTEN.format(port=9090))
    return guest


def answers(guest, address, port):
    """What `guest` gets from a TCP port, or None."""
    done = guest.ssh(f"timeout 6 nc -w 3 {address} {port} < /dev/null", check=False, seconds=30)
    return done.stdout.strip() or None


def pings(guest, address, options=""):
    return guest.ssh(f"ping -c 1 -W 2 {options} {address}", check=False, seconds=30).returncode == 0


def echo_requests(guest):
    """How many the guest's kernel has received."""
    names, values = (line.split() for line in guest.ssh("grep ^Icmp: /proc/net/snmp").splitlines())
    return int(values[names.index("InEchos")])


def test_groups_allow_what_they_say_and_nothing_else(tenant, pair):
    a, b = pair
    name = b.ssh("hostname")
    assert not pings(a, b.private_ip)
    assert answers(a, b.private_ip, 8080) is None
    tenant.allow(b.group, "icmp", None, f"{a.private_ip}/32")
    until("ping is let in", lambda: pings(a, b.private_ip), 20)
    assert answers(a, b.private_ip, 8080) is None
    # By reference: whoever is in the group of `a`.
    tenant.allow(b.group, "tcp", 8080, tenant.group)
    until("port 8080 is let in", lambda: answers(a, b.private_ip, 8080) == name, 20)
    assert answers(a, b.private_ip, 8081) is None, "the other port stays shut"
    assert not pings(b, a.private_ip), "answers come back, but nothing starts from there"
    tenant.forbid(b.group, "tcp", 8080, tenant.group)
    tenant.forbid(b.group, "icmp", None, f"{a.private_ip}/32")
    until("both are shut again", lambda: not pings(a, b.private_ip) and not answers(a, b.private_ip, 8080), 30)


def test_a_change_of_groups_reaches_a_running_instance(tenant, pair):
    a, b = pair
    wide = tenant.make_group("wide", [("icmp", None, "0.0.0.0/0")])
    tenant.ec2.modify_instance_attribute(InstanceId=b.id, Groups=[b.group, wide])
    until("the new group lets in", lambda: pings(a, b.private_ip), 20)
    tenant.ec2.modify_instance_attribute(InstanceId=b.id, Groups=[b.group])
    until("it is shut again", lambda: not pings(a, b.private_ip), 20)


def test_egress_rules_hold(tenant, pair):
    a, b = pair
    tenant.allow(b.group, "icmp", None, "0.0.0.0/0")
    until("ping is let in", lambda: pings(a, b.private_ip), 20)
    everything = [permission("-1", None, "0.0.0.0/0")]
    tenant.ec2.revoke_security_group_egress(GroupId=tenant.group, IpPermissions=everything)
    until("nothing leaves", lambda: not pings(a, b.private_ip), 20)
    assert a.ssh("echo still here") == "still here", "answers to what came in still leave"
    tenant.ec2.authorize_security_group_egress(GroupId=tenant.group, IpPermissions=everything)
    until("it leaves again", lambda: pings(a, b.private_ip), 20)
    tenant.forbid(b.group, "icmp", None, "0.0.0.0/0")


def test_vpcs_with_the_same_cidr_never_meet(tenant, pair, stranger):
    a, b = pair
    assert stranger.private_ip == b.private_ip
    for guest in (a, b):
        assert answers(guest, stranger.private_ip, 9090) is None
    everyone = ("icmp", None, "0.0.0.0/0")
    tenant.allow(tenant.group, *everyone)
    tenant.allow(b.group, *everyone)
    until("b reaches a", lambda: pings(b, a.private_ip), 20)
    before = echo_requests(stranger), echo_requests(a)
    assert not pings(stranger, a.private_ip), "the same address, but in another VPC"
    assert pings(a, b.private_ip)
    assert (echo_requests(stranger), echo_requests(a)) == before
    # Over their public addresses they are strangers like any others.
    assert answers(a, stranger.public_ip, 9090) == stranger.ssh("hostname")
    tenant.forbid(tenant.group, *everyone)
    tenant.forbid(b.group, *everyone)


def test_a_forged_source_reaches_nobody(tenant, pair, stranger):
    a, b = pair
    everyone = ("icmp", None, "0.0.0.0/0")
    tenant.allow(b.group, *everyone)
    until("the true source gets through", lambda: pings(a, b.private_ip), 20)
    before = echo_requests(b), echo_requests(stranger)
    forged = re.sub(r"\d+$", "250", a.private_ip)
    for source in (forged, b.private_ip, "10.1.2.3", "127.0.0.2"):
        a.ssh(f"ip addr add {source}/32 dev eth0")
        # A guest that took the target's address talks to itself and sends nothing.
        for target in {b.private_ip, stranger.public_ip, "169.254.169.254"} - {source}:
            assert not pings(a, target, f"-I {source}"), f"{source} → {target}"
        a.ssh(f"ip addr del {source}/32 dev eth0")
    # The hardware address of another.
    mac = b.ssh("cat /sys/class/net/eth0/address")
    own = a.ssh("cat /sys/class/net/eth0/address")
    a.ssh(
        f"(ip link set eth0 address {mac}; ping -c 3 -W 1 {b.private_ip}; ip link set eth0 address {own}) "
        "> /dev/null 2>&1 & sleep 6",
        check=False,
    )
    until("a is itself again", lambda: a.ssh("true", check=False).returncode == 0, 30)
    assert (echo_requests(b), echo_requests(stranger)) == before
    assert pings(a, b.private_ip), "and the true source still gets through"
    tenant.forbid(b.group, *everyone)


def test_a_guest_reaches_no_port_of_the_host(tenant, pair):
    a, _ = pair
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        reached = []

        def accept():
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                with connection:
                    reached.append(peer[0])
                    connection.sendall(b"host\n")

        threading.Thread(target=accept, daemon=True).start()
        lines = run(["ip", "-4", "-o", "addr"]).stdout
        addresses = set(re.findall(r" inet ([0-9.]+)", lines)) - {"127.0.0.1"}
        gateway = a.ssh("ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            assert connection.recv(5) == b"host\n"
        reached.clear()
        for address in sorted(addresses | {gateway}):
            assert answers(a, address, port) is None, address
            assert answers(a, address, tenant.cloud.port) is None, address
        assert reached == []
        listener.shutdown(socket.SHUT_RDWR)


METADATA = "http://169.254.169.254/latest/meta-data"
# The pause keeps the sending side open until the answer is there.
TOKEN = (
    "T=$({ printf 'PUT /latest/api/token HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\n"
    "X-aws-ec2-metadata-token-ttl-seconds: 60\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1; } | "
    "nc -w 3 169.254.169.254 80 | tr -d '\\r' | sed '1,/^$/d'); "
)


def test_metadata_version_2_only(tenant, pair):
    a, _ = pair
    with_token = f"{TOKEN} wget -q -O - --header \"X-aws-ec2-metadata-token: $T\" {METADATA}/instance-id"
    without = f"wget -O - {METADATA}/instance-id"
    assert a.ssh(with_token) == a.id

    def set_tokens(value):
        tenant.ec2.modify_instance_metadata_options(InstanceId=a.id, HttpTokens=value, HttpEndpoint="enabled")

    set_tokens("optional")
    until("version 1 answers", lambda: a.ssh(without, check=False).stdout.strip() == a.id, 20)
    set_tokens("required")
    until("version 1 is refused", lambda: "401" in a.ssh(without, check=False).stderr, 20)
    assert a.ssh(with_token) == a.id
    forged = f"wget -O - --header 'X-aws-ec2-metadata-token: AAAA' {METADATA}/instance-id"
    assert "401" in a.ssh(forged, check=False).stderr


def test_names_resolve(pair):
    a, b = pair
    name = b.describe()["PrivateDnsName"]
    assert b.private_ip in a.ssh(f"nslookup {name}")
