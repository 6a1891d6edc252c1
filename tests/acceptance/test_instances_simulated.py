"""The life of instances and volumes on a simulated host: states, tokens, pages, filters, tags."""

import pytest
from errors import refused
from waiting import until


@pytest.fixture(scope="module")
def ec2(shared_cloud):
    return shared_cloud.client("ec2")


def launch(ec2, image, count=1, **options):
    answer = ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=count, MaxCount=count, **options)
    return [instance["InstanceId"] for instance in answer["Instances"]]


def instances(ec2, **options):
    pages = ec2.get_paginator("describe_instances").paginate(**options)
    return [instance for page in pages for group in page["Reservations"] for instance in group["Instances"]]


def wait_for(ec2, ids, state):
    def reached():
        return all(instance["State"]["Name"] == state for instance in instances(ec2, InstanceIds=ids))

    until(f"{ids} are {state}", reached, 60)


def test_a_life_through_the_command_line(shared_cloud, image):
    """run, wait, describe, stop, start, reboot, terminate, with the waiters of the CLI itself."""
    aws = shared_cloud.aws
    run = ["ec2", "run-instances", "--image-id", image, "--instance-type", "t3.micro"]
    instance = shared_cloud.aws_json(*run)["Instances"][0]
    assert instance["State"]["Name"] == "pending"
    identity = ["--instance-ids", instance["InstanceId"]]
    state = ["ec2", "describe-instances", *identity, "--query", "Reservations[0].Instances[0].State.Name"]
    aws("ec2", "wait", "instance-running", *identity)
    address = shared_cloud.aws_json("ec2", "describe-instances", *identity)["Reservations"][0]["Instances"][0]
    assert address["PrivateIpAddress"].startswith("172.31.") and address["PublicIpAddress"]
    assert address["Placement"]["AvailabilityZone"].startswith(shared_cloud.environment()["AWS_DEFAULT_REGION"])
    stopping = shared_cloud.aws_json("ec2", "stop-instances", *identity)["StoppingInstances"][0]
    assert (stopping["PreviousState"]["Name"], stopping["CurrentState"]["Name"]) == ("running", "stopping")
    aws("ec2", "wait", "instance-stopped", *identity)
    aws("ec2", "start-instances", *identity)
    aws("ec2", "wait", "instance-running", *identity)
    after = shared_cloud.aws_json("ec2", "describe-instances", *identity)["Reservations"][0]["Instances"][0]
    assert after["PrivateIpAddress"] == address["PrivateIpAddress"]
    aws("ec2", "reboot-instances", *identity)
    aws("ec2", "wait", "instance-status-ok", *identity)
    aws("ec2", "terminate-instances", *identity)
    aws("ec2", "wait", "instance-terminated", *identity)
    assert shared_cloud.aws_json(*state) == "terminated"


def test_client_tokens_make_a_launch_happen_once(ec2, image):
    token = {"ClientToken": "once-and-only-once"}
    first = launch(ec2, image, 2, **token)
    assert launch(ec2, image, 2, **token) == first
    refused("IdempotentParameterMismatch", launch, ec2, image, 3, **token)
    wait_for(ec2, first, "running")
    ec2.terminate_instances(InstanceIds=first)
    assert launch(ec2, image, 2, **token) == first, "the token lives as long as the instance is seen"


def test_pages_are_stable_while_instances_come(ec2, image):
    mine = [{"Name": "tag:page", "Values": ["yes"]}]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "page", "Value": "yes"}]}]
    known = [launch(ec2, image, TagSpecifications=tags)[0] for _ in range(12)]
    page = ec2.describe_instances(Filters=mine, MaxResults=5)
    seen = [instance["InstanceId"] for group in page["Reservations"] for instance in group["Instances"]]
    assert len(seen) == 5 and page["NextToken"]
    # Another account or another filter has no use for the token, nor has one who changed it.
    refused("InvalidNextToken", ec2.describe_instances, MaxResults=5, NextToken=page["NextToken"])
    changed = page["NextToken"][:-2] + "AA"
    refused("InvalidNextToken", ec2.describe_instances, Filters=mine, MaxResults=5, NextToken=changed)
    launch(ec2, image, TagSpecifications=tags)
    while page.get("NextToken"):
        page = ec2.describe_instances(Filters=mine, MaxResults=5, NextToken=page["NextToken"])
        seen += [instance["InstanceId"] for group in page["Reservations"] for instance in group["Instances"]]
    assert len(seen) == len(set(seen)), "none twice"
    assert set(known) <= set(seen), "none left out"
    ec2.terminate_instances(InstanceIds=seen)


def test_filters_select(ec2, image):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "filtered"}, {"Key": "a*b", "Value": "1"}]}]
    [one] = launch(ec2, image, TagSpecifications=tags)
    [other] = launch(ec2, image)
    wait_for(ec2, [one, other], "running")
    ec2.stop_instances(InstanceIds=[other])
    wait_for(ec2, [other], "stopped")
    subnet = instances(ec2, InstanceIds=[one])[0]["SubnetId"]
    both = {one, other}
    for name, values, expected in [
        ("tag:Name", ["filtered"], {one}),
        ("tag:Name", ["filt*"], {one}),
        ("tag:Name", ["filtere?"], {one}),
        ("tag:Name", ["other", "filtered"], {one}),
        ("tag-key", ["Name"], {one}),
        ("instance-state-name", ["stopped"], {other}),
        ("instance-state-name", ["running", "stopped"], both),
        ("subnet-id", [subnet], both),
        ("instance-type", ["t3.nano"], both),
        ("instance-type", ["t3.large"], set()),
        ("image-id", [image], both),
    ]:
        found = {instance["InstanceId"] for instance in instances(ec2, Filters=[{"Name": name, "Values": values}])}
        assert found & both == expected, (name, values)
    ec2.terminate_instances(InstanceIds=[one, other])


def test_what_a_terminated_instance_was_in_can_be_deleted_at_once(ec2, image):
    """`terminated` is said when nothing of the instance is left, its network interface included."""
    vpc = ec2.create_vpc(CidrBlock="10.61.0.0/16")["Vpc"]["VpcId"]
    for turn in range(10):
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.61.0.0/28")["Subnet"]["SubnetId"]
        group = ec2.create_security_group(VpcId=vpc, GroupName="brief", Description="brief")["GroupId"]
        made = launch(ec2, image, 3, SubnetId=subnet, SecurityGroupIds=[group])
        # Every other time before they run.
        if turn % 2 == 0:
            wait_for(ec2, made, "running")
        refused("DependencyViolation", ec2.delete_subnet, SubnetId=subnet)
        refused("DependencyViolation", ec2.delete_security_group, GroupId=group)
        ec2.terminate_instances(InstanceIds=made)

        def terminated(made=made):
            return {found["State"]["Name"] for found in instances(ec2, InstanceIds=made)} == {"terminated"}

        until(f"{made} are terminated", terminated, every=0.01)
        ec2.delete_subnet(SubnetId=subnet)
        ec2.delete_security_group(GroupId=group)
    ec2.delete_vpc(VpcId=vpc)


def test_protection_and_wrong_states(ec2, image):
    [protected] = launch(ec2, image, DisableApiTermination=True)
    wait_for(ec2, [protected], "running")
    refused("OperationNotPermitted", ec2.terminate_instances, InstanceIds=[protected])
    ec2.modify_instance_attribute(InstanceId=protected, DisableApiTermination={"Value": False})
    change = {"InstanceId": protected, "InstanceType": {"Value": "t3.micro"}}
    refused("IncorrectInstanceState", ec2.modify_instance_attribute, **change)
    ec2.stop_instances(InstanceIds=[protected])
    wait_for(ec2, [protected], "stopped")
    ec2.modify_instance_attribute(**change)
    assert instances(ec2, InstanceIds=[protected])[0]["InstanceType"] == "t3.micro"
    ec2.terminate_instances(InstanceIds=[protected])
    wait_for(ec2, [protected], "terminated")
    refused("IncorrectInstanceState", ec2.start_instances, InstanceIds=[protected])


def test_volumes_are_held_by_one(ec2, image):
    one, other = launch(ec2, image, 2)
    wait_for(ec2, [one, other], "running")
    zone = instances(ec2, InstanceIds=[one])[0]["Placement"]["AvailabilityZone"]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=1, VolumeType="gp3")
    assert volume["MultiAttachEnabled"] is False
    volume = volume["VolumeId"]

    def state():
        [found] = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        return found["State"], [attachment["State"] for attachment in found["Attachments"]]

    until("the volume is there", lambda: state()[0] == "available")
    ec2.attach_volume(VolumeId=volume, InstanceId=one, Device="/dev/sdf")
    until("it is attached", lambda: state() == ("in-use", ["attached"]))
    refused("VolumeInUse", ec2.attach_volume, VolumeId=volume, InstanceId=other, Device="/dev/sdf")
    refused("VolumeInUse", ec2.delete_volume, VolumeId=volume)
    second = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    until("available", lambda: ec2.describe_volumes(VolumeIds=[second])["Volumes"][0]["State"] == "available")
    taken = {"VolumeId": second, "InstanceId": one, "Device": "/dev/sdf"}
    refused("InvalidParameterValue", ec2.attach_volume, **taken)
    ec2.detach_volume(VolumeId=volume)
    until("it is free again", lambda: state() == ("available", []))
    ec2.attach_volume(VolumeId=volume, InstanceId=other, Device="/dev/sdf")
    until("the other has it", lambda: state() == ("in-use", ["attached"]))
    ec2.terminate_instances(InstanceIds=[one, other])
    until("the end of its instance frees it", lambda: state() == ("available", []))
    for each in (volume, second):
        ec2.delete_volume(VolumeId=each)
