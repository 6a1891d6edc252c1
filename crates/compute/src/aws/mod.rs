//! EC2's actions on instances, key pairs and instance types, and those on volumes that touch instances or hosts.
