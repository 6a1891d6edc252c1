//! Names of instances in DNS.

use std::net::IpAddr;

/// `ip-10-0-0-5.REGION.compute.internal`
pub fn private(region: &str, address: IpAddr) -> String {
    format!("ip-{}.{region}.compute.internal", dashed(address))
}

/// `ec2-100-96-0-5.REGION.compute.terroir.internal`
pub fn public(region: &str, address: IpAddr) -> String {
    format!("ec2-{}.{region}.compute.terroir.internal", dashed(address))
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_the_address() {
        let address: IpAddr = "10.0.0.5".parse().unwrap();
        assert_eq!(private("eu-local-1", address), "ip-10-0-0-5.eu-local-1.compute.internal");
        assert_eq!(public("eu-local-1", address), "ec2-10-0-0-5.eu-local-1.compute.terroir.internal");
    }
}
