"""What must be refused, in AWS's words, through boto3 with its own checks turned off."""

import base64

import pytest
from errors import refused

NO_SUCH = "0123456789abcdef0"


@pytest.fixture(scope="module")
def ec2(shared_cloud):
    return shared_cloud.client("ec2")


@pytest.fixture(scope="module")
def default_vpc(ec2):
    [vpc] = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return vpc


def run(**options):
    return {"MinCount": 1, "MaxCount": 1, "InstanceType": "t3.nano"} | options


CALLS = [
    # Malformed ids and ids of nothing.
    ("describe_instances", {"InstanceIds": ["i-xyz"]}, "InvalidInstanceID.Malformed"),
    ("describe_instances", {"InstanceIds": [f"i-{NO_SUCH}"]}, "InvalidInstanceID.NotFound"),
    ("terminate_instances", {"InstanceIds": [f"i-{NO_SUCH}"]}, "InvalidInstanceID.NotFound"),
    ("terminate_instances", {}, "MissingParameter"),
    ("describe_vpcs", {"VpcIds": [f"vpc-{NO_SUCH}"]}, "InvalidVpcID.NotFound"),
    ("describe_subnets", {"SubnetIds": [f"subnet-{NO_SUCH}"]}, "InvalidSubnetID.NotFound"),
    ("describe_security_groups", {"GroupIds": [f"sg-{NO_SUCH}"]}, "InvalidGroup.NotFound"),
    ("describe_volumes", {"VolumeIds": [f"vol-{NO_SUCH}"]}, "InvalidVolume.NotFound"),
    ("delete_volume", {"VolumeId": f"vol-{NO_SUCH}"}, "InvalidVolume.NotFound"),
    ("describe_images", {"ImageIds": [f"ami-{NO_SUCH}"]}, "InvalidAMIID.NotFound"),
    ("describe_images", {"ImageIds": ["ami-zz"]}, "InvalidAMIID.Malformed"),
    ("describe_key_pairs", {"KeyNames": ["absent"]}, "InvalidKeyPair.NotFound"),
    ("describe_snapshots", {"SnapshotIds": [f"snap-{NO_SUCH}"]}, "InvalidSnapshot.NotFound"),
    ("release_address", {"AllocationId": f"eipalloc-{NO_SUCH}"}, "InvalidAllocationID.NotFound"),
    ("delete_internet_gateway", {"InternetGatewayId": f"igw-{NO_SUCH}"}, "InvalidInternetGatewayID.NotFound"),
    ("delete_route_table", {"RouteTableId": f"rtb-{NO_SUCH}"}, "InvalidRouteTableID.NotFound"),
    ("create_tags", {"Resources": [f"i-{NO_SUCH}"], "Tags": [{"Key": "a", "Value": "b"}]}, "InvalidInstanceID.NotFound"),
    # Values out of bounds.
    ("create_vpc", {"CidrBlock": "10.0.0.0/8"}, "InvalidVpc.Range"),
    ("create_vpc", {"CidrBlock": "no cidr"}, "InvalidParameterValue"),
    ("create_vpc", {}, "MissingParameter"),
    ("create_volume", {"AvailabilityZone": "nowhere", "Size": 1}, "InvalidZone.NotFound"),
    ("run_instances", run(ImageId=f"ami-{NO_SUCH}"), "InvalidAMIID.NotFound"),
    ("run_instances", run(ImageId="tiny"), "InvalidAMIID.Malformed"),
    ("run_instances", run(), "MissingParameter"),
    ("describe_instances", {"Filters": [{"Name": "no-such-filter", "Values": ["x"]}]}, "InvalidParameterValue"),
    ("describe_instances", {"NextToken": "forged"}, "InvalidNextToken"),
    ("describe_instances", {"MaxResults": 2}, "InvalidParameterValue"),
    ("import_key_pair", {"KeyName": "k", "PublicKeyMaterial": b"no key"}, "InvalidKey.Format"),
    ("create_key_pair", {"KeyName": ""}, "MissingParameter"),
]


@pytest.mark.parametrize(("call", "arguments", "code"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_calls_on_nothing_and_nonsense(ec2, call, arguments, code):
    alternatives = {"MissingParameter": ("InvalidParameterValue",)} if call == "create_key_pair" else {}
    try:
        getattr(ec2, call)(**arguments)
    except ec2.exceptions.ClientError as error:
        got = error.response["Error"]["Code"]
        assert got in (code, *alternatives.get(code, ())), error
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error
        assert error.response["ResponseMetadata"]["RequestId"]
    else:
        pytest.fail(f"{call} was not refused")


def test_launches_that_cannot_be(ec2, image):
    rows = [
        ("InvalidInstanceType", {"InstanceType": "t3.imaginary"}, ""),
        ("InvalidKeyPair.NotFound", {"KeyName": "absent"}, "absent"),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": [f"sg-{NO_SUCH}"]}, ""),
        ("InvalidSubnetID.NotFound", {"SubnetId": f"subnet-{NO_SUCH}"}, ""),
        ("InvalidParameterValue", {"MinCount": 0}, ""),
        ("InvalidParameterCombination", {"MinCount": 3, "MaxCount": 2}, ""),
        ("InvalidParameterValue", {"UserData": base64.b64encode(bytes(17 << 10)).decode()}, ""),
    ]
    for code, options, contains in rows:
        arguments = run(ImageId=image) | options
        refused(code, ec2.run_instances, contains=contains, **arguments)
    assert ec2.describe_instances()["Reservations"] == []


def test_what_is_in_use_is_not_deleted(ec2, image):
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="used", Description="used", VpcId=vpc)["GroupId"]
    launch = run(ImageId=image, SubnetId=subnet, SecurityGroupIds=[group])
    instance = ec2.run_instances(**launch)["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    refused("DependencyViolation", ec2.delete_vpc, VpcId=vpc)
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=subnet)
    refused("DependencyViolation", ec2.delete_security_group, GroupId=group)
    [volume] = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])["Volumes"]
    refused("VolumeInUse", ec2.delete_volume, VolumeId=volume["VolumeId"])
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    ec2.delete_security_group(GroupId=group)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)
    refused("InvalidVpcID.NotFound", ec2.delete_vpc, VpcId=vpc)


def test_networks_that_contradict(ec2, default_vpc):
    vpc = ec2.create_vpc(CidrBlock="10.30.0.0/16")["Vpc"]["VpcId"]
    same = ec2.create_vpc(CidrBlock="10.30.0.0/16")["Vpc"]["VpcId"]
    assert same != vpc, "two VPCs may have the same CIDR"
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.30.0.0/24")
    refused("InvalidSubnet.Conflict", ec2.create_subnet, VpcId=vpc, CidrBlock="10.30.0.128/25")
    refused("InvalidSubnet.Range", ec2.create_subnet, VpcId=vpc, CidrBlock="10.31.0.0/24")
    group = ec2.create_security_group(GroupName="rules", Description="rules", VpcId=vpc)["GroupId"]
    refused(
        "InvalidGroup.Duplicate", ec2.create_security_group, GroupName="rules", Description="again", VpcId=vpc
    )
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    refused("InvalidPermission.Duplicate", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[rule])
    upside_down = rule | {"FromPort": 30}
    refused("InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[upside_down])
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    refused("Resource.AlreadyAssociated", ec2.attach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)
    refused("DependencyViolation", ec2.delete_internet_gateway, InternetGatewayId=gateway)
    [default] = ec2.describe_security_groups(
        Filters=[{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": ["default"]}]
    )["SecurityGroups"]
    refused("CannotDelete", ec2.delete_security_group, GroupId=default["GroupId"])
    assert default_vpc["CidrBlock"] == "172.31.0.0/16"


def test_actions_that_are_not_there(shared_cloud, ec2):
    """Known to AWS but not to us; and known to nobody."""
    refused("UnsupportedOperation", ec2.describe_fleets)
    answer = shared_cloud.aws("ec2", "describe-fleets", check=False)
    assert answer.returncode != 0 and "UnsupportedOperation" in answer.stderr


def test_names_are_unique_and_idempotent(ec2):
    ec2.create_key_pair(KeyName="twice")
    refused("InvalidKeyPair.Duplicate", ec2.create_key_pair, KeyName="twice")
    ec2.delete_key_pair(KeyName="twice")
    ec2.delete_key_pair(KeyName="twice")
