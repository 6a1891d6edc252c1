//! From AWS's names to Rust's.

const KEYWORDS: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "union",
];

/// `Ipv6CidrBlock` becomes `ipv6_cidr_block`, `VCpuInfo` becomes `vcpu_info`, `Type` becomes `type_`.
pub fn field(member: &str) -> String {
    // Units and words whose capitals are not those of separate words.
    let member = member.replace("VCpu", "Vcpu").replace("MBps", "Mbps").replace("GBps", "Gbps");
    let letters: Vec<char> = member.chars().collect();
    let mut name = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let next_is_lower = letters.get(at + 1).is_some_and(char::is_ascii_lowercase);
        let starts_word = letter.is_ascii_uppercase()
            && before.is_some_and(|before| before != '_' && (!before.is_ascii_uppercase() || next_is_lower));
        if starts_word {
            name.push('_');
        }
        name.push(if *letter == '-' { '_' } else { letter.to_ascii_lowercase() });
    }
    if KEYWORDS.contains(&name.as_str()) {
        name.push('_');
    }
    name
}

/// The shape's name, with a capital first letter.
pub fn type_name(shape: &str) -> String {
    capitalised(shape)
}

pub fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields() {
        for (member, expected) in [
            ("ImageId", "image_id"),
            ("Type", "type_"),
            ("arn", "arn"),
            ("Ipv6CidrBlock", "ipv6_cidr_block"),
            ("EnableResourceNameDnsAAAARecord", "enable_resource_name_dns_aaaa_record"),
            ("EnableResourceNameDnsARecord", "enable_resource_name_dns_a_record"),
            ("VCpuInfo", "vcpu_info"),
            ("TotalSizeInGB", "total_size_in_gb"),
            ("BaselineThroughputInMBps", "baseline_throughput_in_mbps"),
            ("S3Bucket", "s3_bucket"),
        ] {
            assert_eq!(super::field(member), expected, "{member}");
        }
    }
}
