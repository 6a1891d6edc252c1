//! Names of kernel objects. Everything in the host's namespace carries the tag; inside a VPC's namespace there is only
//! us, so names there do not.

use terroir_types::InterfaceId;

use super::NetworkError;

/// The link to the host, inside a VPC's namespace.
pub const EXT: &str = "ext";
/// The one table inside a VPC's namespace (families inet and arp).
pub const VPC_TABLE: &str = "terroir";

const BASE32: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// `t` and the interface's 68 bits in base 32 (RFC 4648's extended hex alphabet): 15 characters, as many as the kernel takes.
pub fn tap_name(interface: InterfaceId) -> String {
    let digit = |place: u32| char::from(BASE32[((interface.number() >> (5 * place)) & 31) as usize]);
    std::iter::once('t').chain((0..14).rev().map(digit)).collect()
}

/// Whether a link inside a VPC's namespace is one of our taps.
pub fn is_tap_name(name: &str) -> bool {
    let digits = name.strip_prefix('t').unwrap_or_default();
    digits.len() == 14 && digits.bytes().all(|b| BASE32.contains(&b))
}

/// Names in the host's namespace for one tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    tag: String,
}

impl Names {
    pub fn new(tag: &str) -> Result<Self, NetworkError> {
        let well_formed = tag.len() == 8 && tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if well_formed {
            Ok(Self { tag: tag.to_owned() })
        } else {
            Err(NetworkError::Spec(format!("the tag of kernel objects is eight hexadecimal digits, not {tag:?}")))
        }
    }

    /// `t<tag>-v<index>`, under /run/netns.
    pub fn namespace(&self, vpc_index: u32) -> String {
        format!("t{}-v{vpc_index}", self.tag)
    }

    /// The VPC index of a namespace of this tag.
    pub fn namespace_index(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix('t')?.strip_prefix(&*self.tag)?.strip_prefix("-v")?;
        digits.parse().ok().filter(|index: &u32| index.to_string() == digits)
    }

    /// The host's end of a VPC's link: `t<tag>e` and the index in base 32 (15 characters at most, so below 2^25).
    pub fn edge(&self, vpc_index: u32) -> Result<String, NetworkError> {
        if vpc_index >= 1 << 25 {
            return Err(NetworkError::Spec(format!("VPC index {vpc_index} is beyond {}", (1 << 25) - 1)));
        }
        let digits: String = (0..5).rev().map(|p| char::from(BASE32[((vpc_index >> (5 * p)) & 31) as usize])).collect();
        Ok(format!("t{}e{digits}", self.tag))
    }

    /// What the names of all edges begin with.
    pub fn edge_prefix(&self) -> String {
        format!("t{}e", self.tag)
    }

    /// The table (family inet) in the host's namespace.
    pub fn host_table(&self) -> String {
        format!("terroir_{}", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_stay_apart() {
        let names = Names::new("0a1b2c3d").unwrap();
        let first: InterfaceId = "eni-00000000000000001".parse().unwrap();
        let last: InterfaceId = "eni-fffffffffffffffff".parse().unwrap();
        assert_eq!(tap_name(first), "t00000000000001");
        assert_eq!(tap_name(last), "t7vvvvvvvvvvvvv");
        assert!(is_tap_name(&tap_name(first)) && is_tap_name(&tap_name(last)));
        assert!(!is_tap_name("ext") && !is_tap_name("t0000000000000w"));
        assert_eq!(names.edge(33).unwrap(), "t0a1b2c3de00011");
        assert!(names.edge((1 << 25) - 1).unwrap().len() <= 15);
        assert!(names.edge(1 << 25).is_err());
        assert_eq!(names.namespace_index("t0a1b2c3d-v77"), Some(77));
        for foreign in ["t0a1b2c3d-v", "t0a1b2c3d-v01", "t0a1b2c3d-vx", "t0a1b2c3e-v1", "cni-1", "t0a1b2c3d"] {
            assert_eq!(names.namespace_index(foreign), None, "{foreign}");
        }
        assert!(Names::new("XYZ").is_err());
    }
}
