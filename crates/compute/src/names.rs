//! Names of instances in DNS.

use std::net::IpAddr;

/// `ip-10-0-0-5.REGION.compute.internal`
pub fn private(region: &str, address: IpAddr) -> String {
    format!("ip-{}.{region}.compute.internal", address.to_string().replace(['.', ':'], "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_the_address() {
        let address: IpAddr = "10.0.0.5".parse().unwrap();
        assert_eq!(private("eu-local-1", address), "ip-10-0-0-5.eu-local-1.compute.internal");
    }
}
