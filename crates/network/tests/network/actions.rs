//! Every action with good and bad input; expected codes are AWS's.

use crate::world::World;

async fn check(script: &str) {
    World::new().await.run(script).await;
}

#[tokio::test]
async fn vpcs() {
    check(
        "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId ~<cidrBlock>10.0.0.0/16< ~<isDefault>false< ~<state>available<
        # VPCs with equal CIDRs are legal; host bits are cut off
        CreateVpc CidrBlock=10.0.0.7/16 TagSpecification.1.ResourceType=vpc TagSpecification.1.Tag.1.Key=Name TagSpecification.1.Tag.1.Value=two -> two=vpcId ~<cidrBlock>10.0.0.0/16< ~<key>Name<
        CreateVpc CidrBlock=10.0.0.0/28
        CreateVpc CidrBlock=10.0.0.0/15 -> !InvalidVpc.Range
        CreateVpc CidrBlock=10.0.0.0/29 -> !InvalidVpc.Range
        CreateVpc CidrBlock=127.0.0.0/16 -> !InvalidVpc.Range
        CreateVpc CidrBlock=169.254.0.0/16 -> !InvalidVpc.Range
        CreateVpc CidrBlock=224.1.0.0/16 -> !InvalidVpc.Range
        CreateVpc CidrBlock=fd00::/56 -> !InvalidVpc.Range
        CreateVpc CidrBlock=10.0.0/16 -> !InvalidParameterValue
        CreateVpc CidrBlock=rubbish -> !InvalidParameterValue
        CreateVpc -> !MissingParameter
        CreateVpc CidrBlock=10.0.0.0/16 AmazonProvidedIpv6CidrBlock=true -> !UnsupportedOperation
        CreateVpc CidrBlock=10.0.0.0/16 InstanceTenancy=dedicated -> !UnsupportedOperation
        CreateVpc CidrBlock=10.0.0.0/16 InstanceTenancy=sometimes -> !InvalidParameterValue
        CreateVpc CidrBlock=10.0.0.0/16 TagSpecification.1.ResourceType=instance TagSpecification.1.Tag.1.Key=a -> !InvalidParameterValue
        CreateVpc CidrBlock=10.0.0.0/16 TagSpecification.1.ResourceType=vpc TagSpecification.1.Tag.1.Key=aws:x -> !InvalidParameterValue
        CreateVpc CidrBlock=10.0.0.0/16 TagSpecification.1.ResourceType=vpc TagSpecification.1.Tag.1.Key=a TagSpecification.1.Tag.2.Key=a -> !InvalidParameterValue

        DescribeVpcs -> ~$vpc ~$two
        DescribeVpcs VpcId.1=$two -> ~$two ^$vpc
        DescribeVpcs VpcId.1=vpc-0123456789abcdef0 -> !InvalidVpcID.NotFound
        DescribeVpcs VpcId.1=subnet-1 -> !InvalidVpcID.Malformed
        @bob DescribeVpcs VpcId.1=$vpc -> !InvalidVpcID.NotFound
        @bob DescribeVpcs -> ^$vpc
        DescribeVpcs Filter.1.Name=tag:Name Filter.1.Value.1=t* -> ~$two ^$vpc
        DescribeVpcs Filter.1.Name=cidr Filter.1.Value.1=10.0.0.0/16 Filter.2.Name=is-default Filter.2.Value.1=false -> ~$vpc ~$two
        DescribeVpcs Filter.1.Name=vpc-id Filter.1.Value.1=$vpc Filter.1.Value.2=nothing -> ~$vpc ^$two
        DescribeVpcs Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        DescribeVpcs Filter.1.Name=state -> !InvalidParameterValue
        DescribeVpcs MaxResults=1 -> !InvalidParameterValue
        DescribeVpcs MaxResults=5 NextToken=forged -> !InvalidNextToken

        DescribeVpcAttribute VpcId=$vpc Attribute=enableDnsSupport -> ~<value>true<
        DescribeVpcAttribute VpcId=$vpc Attribute=enableDnsHostnames -> ~<value>false<
        DescribeVpcAttribute VpcId=$vpc Attribute=enableTelepathy -> !InvalidParameterValue
        DescribeVpcAttribute VpcId=vpc-0123456789abcdef0 Attribute=enableDnsSupport -> !InvalidVpcID.NotFound
        ModifyVpcAttribute VpcId=$vpc EnableDnsHostnames.Value=true
        DescribeVpcAttribute VpcId=$vpc Attribute=enableDnsHostnames -> ~<value>true<
        ModifyVpcAttribute VpcId=$vpc EnableDnsHostnames.Value=false EnableDnsSupport.Value=false -> !InvalidParameterCombination
        ModifyVpcAttribute VpcId=$vpc EnableDnsHostnames.Value=false
        ModifyVpcAttribute VpcId=$vpc EnableDnsSupport.Value=false
        ModifyVpcAttribute VpcId=$vpc EnableDnsHostnames.Value=true -> !InvalidParameterCombination
        ModifyVpcAttribute VpcId=$vpc -> !MissingParameter

        @bob DeleteVpc VpcId=$vpc -> !InvalidVpcID.NotFound
        DeleteVpc VpcId=rubbish -> !InvalidVpcID.Malformed
        CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/24 -> subnet=subnetId
        DeleteVpc VpcId=$vpc -> !DependencyViolation
        DeleteSubnet SubnetId=$subnet
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=web -> group=groupId
        DeleteVpc VpcId=$vpc -> !DependencyViolation
        DeleteSecurityGroup GroupId=$group
        CreateRouteTable VpcId=$vpc -> table=routeTableId
        DeleteVpc VpcId=$vpc -> !DependencyViolation
        DeleteRouteTable RouteTableId=$table
        CreateInternetGateway -> igw=internetGatewayId
        AttachInternetGateway InternetGatewayId=$igw VpcId=$vpc
        DeleteVpc VpcId=$vpc -> !DependencyViolation
        DetachInternetGateway InternetGatewayId=$igw VpcId=$vpc
        DeleteVpc VpcId=$vpc
        DeleteVpc VpcId=$vpc -> !InvalidVpcID.NotFound
        # its own group and table went with it
        DescribeSecurityGroups Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> ^<groupId>
        DescribeRouteTables Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> ^<routeTableId>
        DescribeTags Filter.1.Name=resource-id Filter.1.Value.1=$vpc -> ^<resourceId>
        ",
    )
    .await;
}

#[tokio::test]
async fn default_vpc() {
    check(
        "
        DescribeAccountAttributes AttributeName.1=default-vpc -> ~<attributeValue>none<
        CreateDefaultSubnet AvailabilityZone=eu-local-1a -> !DefaultVpcDoesNotExist
        CreateSecurityGroup GroupName=web GroupDescription=web -> !VPCIdNotSpecified
        CreateDefaultVpc -> vpc=vpcId ~<cidrBlock>172.31.0.0/16< ~<isDefault>true<
        CreateDefaultVpc -> !DefaultVpcAlreadyExists
        DescribeAccountAttributes AttributeName.1=default-vpc -> ~<attributeValue>$vpc<
        DescribeAccountAttributes -> ~vpc-max-elastic-ips ~supported-platforms
        DescribeAccountAttributes AttributeName.1=height -> !InvalidParameterValue
        DescribeVpcAttribute VpcId=$vpc Attribute=enableDnsHostnames -> ~<value>true<
        DescribeSubnets Filter.1.Name=default-for-az Filter.1.Value.1=true Filter.2.Name=availability-zone Filter.2.Value.1=eu-local-1a -> subnet=subnetId ~<availableIpAddressCount>4091< ~<mapPublicIpOnLaunch>true<
        DescribeSubnets Filter.1.Name=availability-zone-id Filter.1.Value.1=eul1-az2 -> ~172.31.16.0/20
        DescribeRouteTables Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> ~<destinationCidrBlock>0.0.0.0/0< ~<main>true< ~<gatewayId>local<
        DescribeInternetGateways Filter.1.Name=attachment.vpc-id Filter.1.Value.1=$vpc -> igw=internetGatewayId
        DescribeSecurityGroups Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> ~<groupName>default< group=groupId
        CreateDefaultSubnet AvailabilityZone=eu-local-1a -> !DefaultSubnetAlreadyExistsInAvailabilityZone
        CreateDefaultSubnet AvailabilityZone=eu-local-1z -> !InvalidParameterValue
        CreateDefaultSubnet -> !MissingParameter
        DeleteSubnet SubnetId=$subnet
        CreateDefaultSubnet AvailabilityZone=eu-local-1a -> ~172.31.0.0/20
        # without a VPC, the default one is meant
        CreateSecurityGroup GroupName=web GroupDescription=web -> web=groupId
        AuthorizeSecurityGroupIngress GroupName=web IpProtocol=tcp FromPort=80 ToPort=80 CidrIp=0.0.0.0/0
        # in a default VPC what was not there is only named
        RevokeSecurityGroupIngress GroupName=web IpProtocol=tcp FromPort=81 ToPort=81 CidrIp=0.0.0.0/0 -> ~<unknownIpPermissionSet> ~81
        RevokeSecurityGroupIngress GroupName=web IpProtocol=tcp FromPort=80 ToPort=80 CidrIp=0.0.0.0/0 -> ~<revokedSecurityGroupRuleSet>
        DeleteSecurityGroup GroupName=web
        DeleteSecurityGroup GroupName=web -> !InvalidGroup.NotFound
        DeleteSecurityGroup GroupId=$group -> !CannotDelete
        ",
    )
    .await;
}

#[tokio::test]
async fn subnets() {
    check(
        "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateSubnet VpcId=$vpc CidrBlock=10.0.1.0/24 AvailabilityZone=eu-local-1b -> a=subnetId ~<availableIpAddressCount>251< ~<availabilityZoneId>eul1-az2< ~<mapPublicIpOnLaunch>false<
        CreateSubnet VpcId=$vpc CidrBlock=10.0.1.0/24 -> !InvalidSubnet.Conflict
        CreateSubnet VpcId=$vpc CidrBlock=10.0.1.128/25 -> !InvalidSubnet.Conflict
        CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/16 -> !InvalidSubnet.Conflict
        CreateSubnet VpcId=$vpc CidrBlock=10.0.2.0/28 AvailabilityZoneId=eul1-az1 -> b=subnetId ~<availableIpAddressCount>11< ~<availabilityZone>eu-local-1a<
        CreateSubnet VpcId=$vpc CidrBlock=10.1.0.0/24 -> !InvalidSubnet.Range
        CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/15 -> !InvalidSubnet.Range
        CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0/29 -> !InvalidSubnet.Range
        CreateSubnet VpcId=$vpc CidrBlock=fd00::/64 -> !InvalidSubnet.Range
        CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0 -> !InvalidParameterValue
        CreateSubnet VpcId=$vpc -> !MissingParameter
        CreateSubnet CidrBlock=10.0.3.0/24 -> !MissingParameter
        CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0/24 Ipv6CidrBlock=fd00::/64 -> !UnsupportedOperation
        CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0/24 AvailabilityZone=mars-1a -> !InvalidParameterValue
        CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0/24 AvailabilityZone=eu-local-1a AvailabilityZoneId=eul1-az1 -> !InvalidParameterCombination
        CreateSubnet VpcId=vpc-0123456789abcdef0 CidrBlock=10.0.3.0/24 -> !InvalidVpcID.NotFound
        @bob CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0/24 -> !InvalidVpcID.NotFound
        CreateSubnet VpcId=$vpc CidrBlock=10.0.3.0/24 Colour=blue -> !UnknownParameter
        DescribeSubnets Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> ~$a ~$b
        DescribeSubnets Filter.1.Name=cidrBlock Filter.1.Value.1=10.0.1.* -> ~$a ^$b
        DescribeSubnets Filter.1.Name=available-ip-address-count Filter.1.Value.1=11 -> ~$b ^$a
        DescribeSubnets SubnetId.1=$a SubnetId.2=subnet-0123456789abcdef0 -> !InvalidSubnetID.NotFound
        DescribeSubnets SubnetId.1=rubbish -> !InvalidSubnetID.Malformed
        DescribeSubnets Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        ModifySubnetAttribute SubnetId=$a MapPublicIpOnLaunch.Value=true
        DescribeSubnets Filter.1.Name=map-public-ip-on-launch Filter.1.Value.1=true -> ~$a ^$b
        ModifySubnetAttribute SubnetId=$a EnableDns64.Value=true -> !UnsupportedOperation
        ModifySubnetAttribute SubnetId=subnet-0123456789abcdef0 MapPublicIpOnLaunch.Value=true -> !InvalidSubnetID.NotFound
        DeleteSubnet SubnetId=$a
        DeleteSubnet SubnetId=$a -> !InvalidSubnetID.NotFound
        CreateSubnet VpcId=$vpc CidrBlock=10.0.1.128/25
        ",
    )
    .await;
}

#[tokio::test]
async fn security_groups() {
    check(
        "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateVpc CidrBlock=10.0.0.0/16 -> other=vpcId
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=Web+servers TagSpecification.1.ResourceType=security-group TagSpecification.1.Tag.1.Key=team TagSpecification.1.Tag.1.Value=blue -> web=groupId ~<key>team<
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=again -> !InvalidGroup.Duplicate
        CreateSecurityGroup VpcId=$other GroupName=web GroupDescription=elsewhere -> far=groupId
        CreateSecurityGroup VpcId=$vpc GroupName=default GroupDescription=x -> !InvalidGroup.Reserved
        CreateSecurityGroup VpcId=$vpc GroupName=sg-x GroupDescription=x -> !InvalidParameterValue
        CreateSecurityGroup VpcId=$vpc GroupName=w%C3%A9b GroupDescription=x -> !InvalidParameterValue
        CreateSecurityGroup VpcId=$vpc GroupName= GroupDescription=x -> !InvalidParameterValue
        CreateSecurityGroup VpcId=$vpc GroupName=db -> !MissingParameter
        CreateSecurityGroup VpcId=$vpc GroupName=db GroupDescription=%3Cb%3E -> !InvalidParameterValue
        CreateSecurityGroup VpcId=vpc-0123456789abcdef0 GroupName=db GroupDescription=x -> !InvalidVpcID.NotFound
        CreateSecurityGroup VpcId=$vpc GroupName=db GroupDescription=x -> db=groupId
        DescribeSecurityGroups GroupId.1=$web -> ~<groupDescription>Web ~<cidrIp>0.0.0.0/0< ~<ipPermissionsEgress>
        DescribeSecurityGroups GroupId.1=sg-0123456789abcdef0 -> !InvalidGroup.NotFound
        DescribeSecurityGroups GroupId.1=rubbish -> !InvalidGroupId.Malformed
        DescribeSecurityGroups GroupName.1=web -> !InvalidGroup.NotFound
        DescribeSecurityGroups Filter.1.Name=group-name Filter.1.Value.1=web -> ~$web ~$far ^$db
        DescribeSecurityGroups Filter.1.Name=tag:team Filter.1.Value.1=blue -> ~$web ^$far
        DescribeSecurityGroups Filter.1.Name=ip-permission.colour Filter.1.Value.1=blue -> !InvalidParameterValue
        @bob DescribeSecurityGroups GroupId.1=$web -> !InvalidGroup.NotFound
        # references hold a group
        AuthorizeSecurityGroupIngress GroupId=$db IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=5432 IpPermissions.1.ToPort=5432 IpPermissions.1.Groups.1.GroupId=$web
        DescribeSecurityGroups Filter.1.Name=ip-permission.group-name Filter.1.Value.1=web -> ~$db ^$far
        DeleteSecurityGroup GroupId=$web -> !DependencyViolation
        AuthorizeSecurityGroupIngress GroupId=$db IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupId=$db
        DeleteSecurityGroup GroupId=$db
        DeleteSecurityGroup GroupId=$web
        DeleteSecurityGroup GroupId=$web -> !InvalidGroup.NotFound
        DeleteSecurityGroup -> !MissingParameter
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=again
        ",
    )
    .await;
}

#[tokio::test]
async fn rules() {
    check(
        "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateVpc CidrBlock=10.0.0.0/16 -> other=vpcId
        CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=x -> web=groupId
        CreateSecurityGroup VpcId=$vpc GroupName=db GroupDescription=x -> db=groupId
        CreateSecurityGroup VpcId=$other GroupName=far GroupDescription=x -> far=groupId
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=22 IpPermissions.1.ToPort=22 IpPermissions.1.IpRanges.1.CidrIp=192.0.2.5/24 IpPermissions.1.IpRanges.1.Description=office TagSpecification.1.ResourceType=security-group-rule TagSpecification.1.Tag.1.Key=k -> ssh=securityGroupRuleId ~<cidrIpv4>192.0.2.0/24< ~<description>office< ~<isEgress>false<
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=6 IpPermissions.1.FromPort=22 IpPermissions.1.ToPort=22 IpPermissions.1.IpRanges.1.CidrIp=192.0.2.0/24 -> !InvalidPermission.Duplicate
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=22 ToPort=22 CidrIp=192.0.2.0/24 -> !InvalidPermission.Duplicate
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=80 IpPermissions.1.ToPort=80 IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0 IpPermissions.1.IpRanges.2.CidrIp=1.2.3.4/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=tcp IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=90 ToPort=80 CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=80 ToPort=70000 CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=carrier-pigeon FromPort=1 ToPort=1 CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=256 CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=icmp FromPort=-1 ToPort=3 CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=icmp FromPort=300 ToPort=-1 CidrIp=0.0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=1 ToPort=1 CidrIp=0.0.0/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=1 ToPort=1 CidrIp=::/0 -> !InvalidParameterValue
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=1 ToPort=1 -> !MissingParameter
        AuthorizeSecurityGroupIngress GroupId=$web -> !MissingParameter
        AuthorizeSecurityGroupIngress IpProtocol=-1 CidrIp=0.0.0.0/0 -> !MissingParameter
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 -> !InvalidPermission.Malformed
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=-1 CidrIp=0.0.0.0/0 IpPermissions.1.IpProtocol=-1 -> !InvalidParameterCombination
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.PrefixListIds.1.PrefixListId=pl-1 -> !InvalidPrefixListID.NotFound
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupId=sg-0123456789abcdef0 -> !InvalidGroup.NotFound
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupId=$far -> !InvalidGroup.NotFound
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupId=$db IpPermissions.1.Groups.1.UserId=222222222222 -> !InvalidGroup.NotFound
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupName=nobody -> !InvalidGroup.NotFound
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.IpRanges.1.CidrIp=9.9.9.9/32 IpPermissions.1.IpRanges.1.Description=%3Cscript%3E -> !InvalidParameterValue
        @bob AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=-1 CidrIp=0.0.0.0/0 -> !InvalidGroup.NotFound
        # references: self, by id, by name; IPv6; ICMP
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.Groups.1.GroupId=$web -> self=securityGroupRuleId ~<referencedGroupInfo>
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=udp IpPermissions.1.FromPort=53 IpPermissions.1.ToPort=53 IpPermissions.1.Groups.1.GroupName=db
        AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=icmpv6 IpPermissions.1.FromPort=-1 IpPermissions.1.ToPort=-1 IpPermissions.1.Ipv6Ranges.1.CidrIpv6=2001:db8::/32
        AuthorizeSecurityGroupIngress GroupId=$web IpProtocol=icmp FromPort=8 ToPort=-1 CidrIp=0.0.0.0/0
        AuthorizeSecurityGroupEgress GroupId=$web IpPermissions.1.IpProtocol=47 IpPermissions.1.IpRanges.1.CidrIp=198.51.100.0/24 -> ~<isEgress>true< ~<ipProtocol>47<
        AuthorizeSecurityGroupEgress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0 -> !InvalidPermission.Duplicate
        DescribeSecurityGroups GroupId.1=$web -> ~<cidrIpv6>2001:db8::/32< ~<groupId>$db< ~<fromPort>53<
        DescribeSecurityGroupRules Filter.1.Name=group-id Filter.1.Value.1=$web -> ~$ssh ~$self ~<cidrIpv6>2001:db8::/32<
        DescribeSecurityGroupRules SecurityGroupRuleId.1=$ssh -> ~<key>k< ~<fromPort>22< ^$self
        DescribeSecurityGroupRules SecurityGroupRuleId.1=sgr-0123456789abcdef0 -> !InvalidSecurityGroupRuleId.NotFound
        DescribeSecurityGroupRules SecurityGroupRuleId.1=rubbish -> !InvalidSecurityGroupRuleId.Malformed
        DescribeSecurityGroupRules Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        DescribeSecurityGroupRules Filter.1.Name=tag:k Filter.1.Value.1=* -> ~$ssh ^$self
        # revoking
        RevokeSecurityGroupIngress GroupId=$web IpProtocol=tcp FromPort=23 ToPort=23 CidrIp=192.0.2.0/24 -> !InvalidPermission.NotFound
        RevokeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=22 IpPermissions.1.ToPort=22 IpPermissions.1.IpRanges.1.CidrIp=192.0.2.0/24 IpPermissions.1.IpRanges.2.CidrIp=192.0.3.0/24 -> !InvalidPermission.NotFound
        DescribeSecurityGroupRules SecurityGroupRuleId.1=$ssh
        RevokeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=tcp IpPermissions.1.FromPort=22 IpPermissions.1.ToPort=22 IpPermissions.1.IpRanges.1.CidrIp=192.0.2.0/24 -> ~<securityGroupRuleId>$ssh<
        RevokeSecurityGroupEgress GroupId=$web SecurityGroupRuleId.1=$self -> !InvalidSecurityGroupRuleId.NotFound
        RevokeSecurityGroupIngress GroupId=$web SecurityGroupRuleId.1=$self IpProtocol=-1 -> !InvalidParameterCombination
        RevokeSecurityGroupIngress GroupId=$web SecurityGroupRuleId.1=$self -> ~<referencedGroupId>$web<
        RevokeSecurityGroupIngress GroupId=$web SecurityGroupRuleId.1=$self -> !InvalidSecurityGroupRuleId.NotFound
        DescribeTags Filter.1.Name=resource-id Filter.1.Value.1=$ssh -> ^<resourceId>
        ",
    )
    .await;
}

#[tokio::test]
async fn rules_are_limited() {
    let mut world = World::new().await;
    world.run("CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId").await;
    world.run("CreateSecurityGroup VpcId=$vpc GroupName=web GroupDescription=x -> web=groupId").await;
    let many = |first: usize, count: usize| {
        let part = |n: usize| format!("IpPermissions.1.IpRanges.{}.CidrIp=198.51.100.{n}/32", n + 1);
        let ranges: Vec<String> = (first..first + count).map(part).collect();
        format!("AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 {}", ranges.join(" "))
    };
    world.run(&format!("{} -> !RulesPerSecurityGroupLimitExceeded", many(0, 61))).await;
    world.run(&many(0, 60)).await;
    world.run(&format!("{} -> !RulesPerSecurityGroupLimitExceeded", many(60, 1))).await;
    // The other family and the other direction are counted apart.
    world.run("AuthorizeSecurityGroupIngress GroupId=$web IpPermissions.1.IpProtocol=-1 IpPermissions.1.Ipv6Ranges.1.CidrIpv6=::/0").await;
    world.run("AuthorizeSecurityGroupEgress GroupId=$web IpProtocol=-1 CidrIp=198.51.100.0/24").await;
}

#[tokio::test]
async fn routes_and_gateways() {
    check(
        "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateVpc CidrBlock=10.0.0.0/16 -> other=vpcId
        CreateInternetGateway TagSpecification.1.ResourceType=internet-gateway TagSpecification.1.Tag.1.Key=k -> igw=internetGatewayId ~<key>k<
        CreateInternetGateway -> igw2=internetGatewayId
        AttachInternetGateway InternetGatewayId=$igw VpcId=$vpc
        AttachInternetGateway InternetGatewayId=$igw VpcId=$other -> !Resource.AlreadyAssociated
        AttachInternetGateway InternetGatewayId=$igw2 VpcId=$vpc -> !InvalidParameterValue
        AttachInternetGateway InternetGatewayId=igw-0123456789abcdef0 VpcId=$vpc -> !InvalidInternetGatewayID.NotFound
        AttachInternetGateway InternetGatewayId=rubbish VpcId=$vpc -> !InvalidInternetGatewayId.Malformed
        AttachInternetGateway InternetGatewayId=$igw2 VpcId=vpc-0123456789abcdef0 -> !InvalidVpcID.NotFound
        DetachInternetGateway InternetGatewayId=$igw2 VpcId=$vpc -> !Gateway.NotAttached
        DescribeInternetGateways Filter.1.Name=attachment.state Filter.1.Value.1=available -> ~$igw ^$igw2
        DescribeInternetGateways InternetGatewayId.1=$igw2 -> ~<attachmentSet></attachmentSet>
        DeleteInternetGateway InternetGatewayId=$igw -> !DependencyViolation

        CreateRouteTable VpcId=$vpc TagSpecification.1.ResourceType=route-table TagSpecification.1.Tag.1.Key=k -> table=routeTableId ~<gatewayId>local< ~<key>k<
        CreateRouteTable VpcId=vpc-0123456789abcdef0 -> !InvalidVpcID.NotFound
        DescribeRouteTables Filter.1.Name=association.main Filter.1.Value.1=true Filter.2.Name=vpc-id Filter.2.Value.1=$vpc -> main=routeTableId main_association=routeTableAssociationId ^$table
        CreateRoute RouteTableId=$table DestinationCidrBlock=0.0.0.0/0 GatewayId=$igw -> ~<return>true<
        CreateRoute RouteTableId=$table DestinationCidrBlock=0.0.0.0/0 GatewayId=$igw
        CreateRoute RouteTableId=$table DestinationCidrBlock=198.51.100.0/24 GatewayId=$igw2 -> !InvalidParameterValue
        CreateRoute RouteTableId=$table DestinationCidrBlock=10.0.0.0/16 GatewayId=$igw -> !RouteAlreadyExists
        CreateRoute RouteTableId=$table DestinationCidrBlock=10.0.1.0/24 GatewayId=$igw -> !InvalidParameterValue
        CreateRoute RouteTableId=$table DestinationIpv6CidrBlock=::/0 GatewayId=$igw
        CreateRoute RouteTableId=$table DestinationIpv6CidrBlock=0.0.0.0/0 GatewayId=$igw -> !InvalidParameterValue
        CreateRoute RouteTableId=$table DestinationCidrBlock=rubbish GatewayId=$igw -> !InvalidParameterValue
        CreateRoute RouteTableId=$table GatewayId=$igw -> !MissingParameter
        CreateRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 -> !MissingParameter
        CreateRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 GatewayId=$igw NatGatewayId=nat-1 -> !InvalidParameterCombination
        CreateRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 NatGatewayId=nat-0123456789abcdef0 -> !UnsupportedOperation
        CreateRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 GatewayId=local -> !InvalidParameterValue
        CreateRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 GatewayId=igw-0123456789abcdef0 -> !InvalidInternetGatewayID.NotFound
        CreateRoute RouteTableId=rtb-0123456789abcdef0 DestinationCidrBlock=192.0.2.0/24 GatewayId=$igw -> !InvalidRouteTableID.NotFound
        ReplaceRoute RouteTableId=$table DestinationCidrBlock=0.0.0.0/0 GatewayId=$igw
        ReplaceRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 GatewayId=$igw -> !InvalidParameterValue
        DescribeRouteTables Filter.1.Name=route.gateway-id Filter.1.Value.1=$igw -> ~$table ~<state>active< ^$main
        DeleteRoute RouteTableId=$table DestinationCidrBlock=10.0.0.0/16 -> !InvalidParameterValue
        DeleteRoute RouteTableId=$table DestinationCidrBlock=192.0.2.0/24 -> !InvalidRoute.NotFound
        DeleteRoute RouteTableId=$table DestinationIpv6CidrBlock=::/0
        DeleteRoute RouteTableId=$table DestinationIpv6CidrBlock=::/0 -> !InvalidRoute.NotFound

        CreateSubnet VpcId=$vpc CidrBlock=10.0.0.0/24 -> subnet=subnetId
        CreateSubnet VpcId=$other CidrBlock=10.0.0.0/24 -> far=subnetId
        AssociateRouteTable RouteTableId=$table SubnetId=$far -> !InvalidParameterValue
        AssociateRouteTable RouteTableId=$table -> !MissingParameter
        AssociateRouteTable RouteTableId=$table SubnetId=subnet-0123456789abcdef0 -> !InvalidSubnetID.NotFound
        AssociateRouteTable RouteTableId=$table SubnetId=$subnet -> association=associationId
        AssociateRouteTable RouteTableId=$table SubnetId=$subnet -> ~$association
        AssociateRouteTable RouteTableId=$main SubnetId=$subnet -> !Resource.AlreadyAssociated
        DeleteRouteTable RouteTableId=$table -> !DependencyViolation
        DescribeRouteTables Filter.1.Name=association.subnet-id Filter.1.Value.1=$subnet -> ~$table ^$main
        ReplaceRouteTableAssociation AssociationId=$association RouteTableId=$main -> moved=newAssociationId
        ReplaceRouteTableAssociation AssociationId=$association RouteTableId=$main -> !InvalidAssociationID.NotFound
        DisassociateRouteTable AssociationId=$association -> !InvalidAssociationID.NotFound
        DisassociateRouteTable AssociationId=rubbish -> !InvalidAssociationID.Malformed
        DisassociateRouteTable AssociationId=$main_association -> !InvalidParameterValue
        DisassociateRouteTable AssociationId=$moved
        DeleteRouteTable RouteTableId=$main -> !DependencyViolation
        ReplaceRouteTableAssociation AssociationId=$main_association RouteTableId=$table -> new_main=newAssociationId
        DescribeRouteTables RouteTableId.1=$table -> ~<main>true< ~$new_main
        DeleteRouteTable RouteTableId=$table -> !DependencyViolation
        DeleteRouteTable RouteTableId=$main
        DeleteRouteTable RouteTableId=$main -> !InvalidRouteTableID.NotFound

        # without its gateway, a route leads nowhere
        DetachInternetGateway InternetGatewayId=$igw VpcId=$vpc
        DescribeRouteTables RouteTableId.1=$table -> ~<state>blackhole<
        DeleteInternetGateway InternetGatewayId=$igw
        DeleteInternetGateway InternetGatewayId=$igw -> !InvalidInternetGatewayID.NotFound
        DescribeRouteTables Filter.1.Name=route.colour Filter.1.Value.1=blue -> !InvalidParameterValue
        ",
    )
    .await;
}

#[tokio::test]
async fn addresses() {
    check(
        "
        AllocateAddress Domain=vpc TagSpecification.1.ResourceType=elastic-ip TagSpecification.1.Tag.1.Key=k -> a=allocationId ip=publicIp ~100.96.0.
        AllocateAddress Address=$ip -> !InvalidAddress.InUse
        AllocateAddress Address=203.0.113.7 -> !InvalidParameterValue
        AllocateAddress Address=rubbish -> !InvalidParameterValue
        AllocateAddress Domain=standard -> !UnsupportedOperation
        AllocateAddress Domain=moon -> !InvalidParameterValue
        AllocateAddress NetworkBorderGroup=mars -> !InvalidParameterValue
        AllocateAddress NetworkBorderGroup=eu-local-1b -> !InsufficientAddressCapacity
        AllocateAddress PublicIpv4Pool=ipv4pool-ec2-1 -> !UnsupportedOperation
        AllocateAddress
        AllocateAddress
        AllocateAddress
        AllocateAddress
        AllocateAddress -> !AddressLimitExceeded
        DescribeAddresses AllocationId.1=$a -> ~<publicIp>$ip< ~<domain>vpc< ~<key>k<
        DescribeAddresses PublicIp.1=$ip -> ~$a
        DescribeAddresses PublicIp.1=100.96.0.99 -> !InvalidAddress.NotFound
        @bob DescribeAddresses PublicIp.1=$ip -> !InvalidAddress.NotFound
        @bob DescribeAddresses AllocationId.1=$a -> !InvalidAllocationID.NotFound
        DescribeAddresses AllocationId.1=rubbish -> !InvalidAllocationID.Malformed
        DescribeAddresses Filter.1.Name=public-ip Filter.1.Value.1=$ip -> ~$a
        DescribeAddresses Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        AssociateAddress AllocationId=$a -> !MissingParameter
        AssociateAddress AllocationId=$a InstanceId=i-0123456789abcdef0 -> !InvalidInstanceID.NotFound
        AssociateAddress AllocationId=$a NetworkInterfaceId=eni-0123456789abcdef0 -> !InvalidNetworkInterfaceID.NotFound
        AssociateAddress AllocationId=$a InstanceId=i-0123456789abcdef0 NetworkInterfaceId=eni-0123456789abcdef0 -> !InvalidParameterCombination
        DisassociateAddress -> !MissingParameter
        DisassociateAddress AssociationId=eipassoc-0123456789abcdef0 -> !InvalidAssociationID.NotFound
        DisassociateAddress PublicIp=$ip -> !InvalidAssociationID.NotFound
        @bob ReleaseAddress AllocationId=$a -> !InvalidAllocationID.NotFound
        @bob ReleaseAddress PublicIp=$ip -> !InvalidAddress.NotFound
        ReleaseAddress -> !MissingParameter
        ReleaseAddress AllocationId=$a
        ReleaseAddress AllocationId=$a -> !InvalidAllocationID.NotFound
        AllocateAddress Address=$ip -> ~$ip
        ",
    )
    .await;
}

#[tokio::test]
async fn tags_and_regions() {
    let mut world = World::new().await;
    world
        .run(
            "
        CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId
        CreateVpc CidrBlock=10.1.0.0/16 -> two=vpcId
        CreateTags ResourceId.1=$vpc ResourceId.2=$two Tag.0.Key=Name Tag.0.Value=one Tag.7.Key=empty
        DescribeVpcs VpcId.1=$vpc -> ~<key>Name< ~<key>empty<
        CreateTags ResourceId.1=$vpc Tag.1.Key=Name Tag.1.Value=new
        DescribeTags Filter.1.Name=key Filter.1.Value.1=Name -> ~<value>new< ~<value>one< ~<resourceType>vpc<
        DescribeTags Filter.1.Name=tag:Name Filter.1.Value.1=new -> ~$vpc ^$two
        DescribeTags Filter.1.Name=resource-type Filter.1.Value.1=subnet -> ^<resourceId>
        DescribeTags Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        @bob DescribeTags -> ^<resourceId>
        @bob CreateTags ResourceId.1=$vpc Tag.1.Key=a -> !InvalidVpcID.NotFound
        CreateTags ResourceId.1=vpc-0123456789abcdef0 Tag.1.Key=a -> !InvalidVpcID.NotFound
        CreateTags ResourceId.1=$vpc ResourceId.2=subnet-0123456789abcdef0 Tag.1.Key=a -> !InvalidSubnetID.NotFound
        CreateTags ResourceId.1=rubbish Tag.1.Key=a -> !InvalidID
        CreateTags ResourceId.1=vpc-xyz Tag.1.Key=a -> !InvalidVpcID.Malformed
        CreateTags ResourceId.1=$vpc -> !MissingParameter
        CreateTags Tag.1.Key=a -> !MissingParameter
        CreateTags ResourceId.1=$vpc Tag.1.Value=a -> !MissingParameter
        CreateTags ResourceId.1=$vpc Tag.1.Key= -> !InvalidParameterValue
        CreateTags ResourceId.1=$vpc Tag.1.Key=AWS:x -> !InvalidParameterValue
        CreateTags ResourceId.1=$vpc Tag.1.Key=a Tag.2.Key=a -> !InvalidParameterValue
        DescribeTags Filter.1.Name=key Filter.1.Value.1=a -> ^<resourceId>
        DeleteTags ResourceId.1=$vpc Tag.1.Key=Name Tag.1.Value=other
        DescribeTags Filter.1.Name=tag:Name Filter.1.Value.1=new -> ~$vpc
        DeleteTags ResourceId.1=$vpc Tag.1.Key=Name Tag.1.Value=new
        DescribeTags Filter.1.Name=tag:Name Filter.1.Value.1=new -> ^$vpc
        DeleteTags ResourceId.1=$two
        DescribeTags Filter.1.Name=resource-id Filter.1.Value.1=$two -> ^<resourceId>
        DeleteTags ResourceId.1=vpc-0123456789abcdef0 Tag.1.Key=a -> !InvalidVpcID.NotFound

        DescribeRegions -> ~<regionName>eu-local-1< ~<regionEndpoint>127.0.0.1:9000<
        DescribeRegions RegionName.1=eu-local-1 Filter.1.Name=region-name Filter.1.Value.1=eu-*
        DescribeRegions Filter.1.Name=region-name Filter.1.Value.1=us-* -> ^<regionName>
        DescribeRegions RegionName.1=us-east-1 -> !InvalidParameterValue
        DescribeRegions Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        DescribeAvailabilityZones -> ~<zoneName>eu-local-1a< ~<zoneId>eul1-az2< ~<zoneState>available<
        DescribeAvailabilityZones ZoneName.1=eu-local-1b -> ^eu-local-1a
        DescribeAvailabilityZones Filter.1.Name=zone-id Filter.1.Value.1=eul1-az1 -> ^eu-local-1b
        DescribeAvailabilityZones ZoneName.1=mars-1a -> !InvalidParameterValue
        DescribeAvailabilityZones Filter.1.Name=colour Filter.1.Value.1=blue -> !InvalidParameterValue
        ",
        )
        .await;
    let fifty_one: Vec<String> = (0..51).map(|n| format!("Tag.{n}.Key=k{n}")).collect();
    world.run(&format!("CreateTags ResourceId.1=$two {} -> !TagLimitExceeded", fifty_one.join(" "))).await;
    world.run(&format!("CreateTags ResourceId.1=$two {}", fifty_one[1..].join(" "))).await;
    world.run("CreateTags ResourceId.1=$two Tag.1.Key=one_more -> !TagLimitExceeded").await;
    let long = "x".repeat(128);
    world.run(&format!("CreateTags ResourceId.1=$vpc Tag.1.Key={long} Tag.1.Value={long}{long}")).await;
    world.run(&format!("CreateTags ResourceId.1=$vpc Tag.1.Key={long}x -> !InvalidParameterValue")).await;
    world
        .run(&format!("CreateTags ResourceId.1=$vpc Tag.1.Key=a Tag.1.Value={long}{long}x -> !InvalidParameterValue"))
        .await;
}

/// Pages cover everything once, whatever is added or removed in between, and a token serves nobody else.
#[tokio::test]
async fn pages() {
    let mut world = World::new().await;
    world.run("CreateVpc CidrBlock=10.0.0.0/16 -> vpc=vpcId").await;
    let mut ids = Vec::new();
    for n in 0..12 {
        world.run(&format!("CreateSubnet VpcId=$vpc CidrBlock=10.0.{n}.0/24 -> s=subnetId")).await;
        ids.push(world.names["s"].clone());
    }
    ids.sort();
    world.run("DescribeSubnets MaxResults=5 -> token=nextToken").await;
    let shown = |xml: &str| ids.iter().filter(|id| xml.contains(id.as_str())).cloned().collect::<Vec<_>>();
    world.run(&format!("DeleteSubnet SubnetId={}", ids[4])).await;
    world.run(&format!("DeleteSubnet SubnetId={}", ids[6])).await;
    let body = format!("MaxResults=5&NextToken={}", world.names["token"]);
    let second = world.call(crate::world::ALICE, "DescribeSubnets", &body).await.unwrap();
    let expected: Vec<String> = [5, 7, 8, 9, 10].map(|n: usize| ids[n].clone()).to_vec();
    assert_eq!(shown(&second), expected);
    world
        .run(
            "
        DescribeSubnets MaxResults=5 NextToken=$token Filter.1.Name=vpc-id Filter.1.Value.1=$vpc -> !InvalidNextToken
        @bob DescribeSubnets MaxResults=5 NextToken=$token -> !InvalidNextToken
        DescribeVpcs MaxResults=5 NextToken=$token -> !InvalidNextToken
        ",
        )
        .await;
}
