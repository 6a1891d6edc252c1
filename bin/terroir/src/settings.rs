//! Configuration: flags > environment > DIR/terroir.toml > default.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::cli::{Engine, Hypervisor, SettingsArgs};
use crate::layout::{Layout, describe};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Files in PEM: the certificate that the APIs are served with, those that it is signed with after it, and its key;
    /// empty: no TLS, and loopback addresses only.
    pub tls_cert: String,
    pub tls_key: String,
    /// File of who signed it, for clients on this machine; empty: somebody whom every machine knows.
    pub tls_ca: String,
    /// Where hosts that join dial; none: no host joins. It always speaks TLS, with certificates of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts_listen: Option<SocketAddr>,
    /// `ADDRESS:PORT` by which hosts reach the servers of this region, the first one first; empty: `hosts_listen`.
    pub hosts_addresses: Vec<String>,
    /// Seconds that a host's certificate counts for; it is renewed when half of them are over.
    pub host_certificate_secs: u32,
    pub hypervisor: HypervisorSetting,
    pub region: String,
    /// Who runs this machine: the id of this cloud's operator, for example `hoster.example`. It is the name of its key.
    pub operator: String,
    /// Where this machine stands: two letters of ISO 3166. Counts at the first start; `terroir site set` changes it.
    pub country: String,
    /// Letter of this site's availability zone, after the region's name.
    pub zone_suffix: String,
    pub public_pool: String,
    pub edge_pool: String,
    /// MTU in guests, bytes.
    pub guest_mtu: u16,
    /// Resolvers for names outside the cloud; empty means the machine's own, `["none"]` none at all.
    pub dns_upstreams: Vec<String>,
    /// Networks that guests may not reach, besides this machine's own addresses.
    pub egress_deny: Vec<String>,
    /// Names that S3 clients put a bucket in front of, for example `s3.example.org`.
    pub s3_domains: Vec<String>,
    /// Names that a bucket is put in front of to show its website, for example `website.example.org`.
    pub s3_website_domains: Vec<String>,
    /// Whether new buckets take no access control lists and block public access until their owner unblocks it.
    pub s3_block_public_access: bool,
    /// Actions that one account may make a second, for longer than a moment: of all kinds, of these those that change
    /// something, and RunInstances.
    pub api_requests_per_second: u32,
    pub api_changes_per_second: u32,
    pub api_launches_per_second: u32,
    /// Object requests that one account may make a second, for longer than a moment.
    pub s3_requests_per_second: u32,
    /// Bytes of objects that are read again each second to find what the disk has spoilt; 0: none.
    pub scrub_bytes_per_sec: u64,
    /// Seconds of a day of lifecycle rules; anything but 86,400 is for trying rules out.
    pub lifecycle_day_secs: u32,
    /// How many virtual CPUs are promised for each thread of the processor.
    pub vcpu_overcommit: u32,
    /// Bytes of disk that volumes and objects leave free for the state.
    pub disk_reserve_bytes: u64,
    /// The instance types' catalogue; empty means the built-in one.
    pub instance_types: String,
    /// File of the authorities that vouch for proxies of external key stores; empty means the machine's.
    pub xks_authorities: String,
    /// File of the certificate that such a proxy is shown, with its key; empty means none.
    pub xks_client_certificate: String,
    /// Networks, besides public addresses, in which such a proxy may be.
    pub xks_networks: Vec<String>,
    /// Lease time that guests get by DHCP, seconds.
    pub dhcp_lease_secs: u32,
    /// Where the state is kept.
    pub store: StoreSetting,
    /// Members of etcd, the nearest first. Certificates, or this machine's own addresses.
    pub etcd_endpoints: Vec<String>,
    /// What this cell's keys in etcd begin with.
    pub etcd_prefix: String,
    /// Files in PEM: who signed the members' certificates, and what this machine shows them; empty: nothing.
    pub etcd_ca: String,
    pub etcd_cert: String,
    pub etcd_key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreSetting {
    /// A file in the data folder.
    Embedded,
    Etcd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HypervisorSetting {
    Qemu,
    Simulated,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_ca: String::new(),
            hosts_listen: None,
            hosts_addresses: Vec::new(),
            host_certificate_secs: 30 * 24 * 60 * 60,
            hypervisor: HypervisorSetting::Qemu,
            region: "eu-local-1".to_owned(),
            operator: "local".to_owned(),
            // No country: not stated.
            country: "ZZ".to_owned(),
            zone_suffix: "a".to_owned(),
            public_pool: "100.96.0.0/20".to_owned(),
            edge_pool: "100.127.0.0/17".to_owned(),
            guest_mtu: 1370,
            dns_upstreams: Vec::new(),
            egress_deny: Vec::new(),
            s3_domains: vec!["localhost".to_owned(), "s3.localhost".to_owned()],
            s3_website_domains: vec!["website.localhost".to_owned()],
            s3_block_public_access: false,
            api_requests_per_second: 2_000,
            api_changes_per_second: 1_000,
            api_launches_per_second: 200,
            s3_requests_per_second: 10_000,
            scrub_bytes_per_sec: 8 << 20,
            lifecycle_day_secs: 24 * 60 * 60,
            vcpu_overcommit: 4,
            disk_reserve_bytes: 1 << 30,
            instance_types: String::new(),
            xks_authorities: String::new(),
            xks_client_certificate: String::new(),
            xks_networks: Vec::new(),
            dhcp_lease_secs: 3600,
            store: StoreSetting::Embedded,
            etcd_endpoints: Vec::new(),
            etcd_prefix: "terroir".to_owned(),
            etcd_ca: String::new(),
            etcd_cert: String::new(),
            etcd_key: String::new(),
        }
    }
}

impl Settings {
    pub fn has_tls(&self) -> bool {
        !self.tls_cert.is_empty()
    }

    pub fn zone(&self) -> String {
        format!("{}{}", self.region, self.zone_suffix)
    }

    /// What the file says, or the defaults. Errors name the file and the line.
    pub fn read(layout: &Layout) -> Result<Self, String> {
        Self::read_unchecked(layout)?.check()
    }

    /// For a command that mends what a check complains about.
    pub fn read_unchecked(layout: &Layout) -> Result<Self, String> {
        let path = layout.settings_file();
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(describe(&error, "cannot read", &path).to_string()),
        }
    }

    /// The file's settings with the flags' and the environment's over them.
    pub fn read_with(layout: &Layout, args: &SettingsArgs) -> Result<Self, String> {
        let mut settings = Self::read_unchecked(layout)?;
        if let Some(listen) = args.listen {
            settings.listen = listen;
        }
        if args.hosts_listen.is_some() {
            settings.hosts_listen = args.hosts_listen;
        }
        if let Some(hypervisor) = args.hypervisor {
            settings.hypervisor = match hypervisor {
                Hypervisor::Qemu => HypervisorSetting::Qemu,
                Hypervisor::Simulated => HypervisorSetting::Simulated,
            };
        }
        if let Some(store) = args.store {
            settings.store = match store {
                Engine::Embedded => StoreSetting::Embedded,
                Engine::Etcd => StoreSetting::Etcd,
            };
        }
        if let Some(endpoints) = &args.etcd_endpoints {
            settings.etcd_endpoints.clone_from(endpoints);
        }
        for (value, place) in [
            (&args.region, &mut settings.region),
            (&args.public_pool, &mut settings.public_pool),
            (&args.edge_pool, &mut settings.edge_pool),
            (&args.etcd_prefix, &mut settings.etcd_prefix),
        ] {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        settings.check()
    }

    pub fn check(self) -> Result<Self, String> {
        if self.tls_cert.is_empty() != self.tls_key.is_empty() {
            return Err("tls_cert and tls_key: name both or none".to_owned());
        }
        if !self.listen.ip().is_loopback() && !self.has_tls() {
            return Err(format!(
                "refusing to listen on {} without TLS: `terroir tls init --name NAME` makes a certificate, or name the \
                 files of one with tls_cert and tls_key in terroir.toml; without TLS only loopback addresses are allowed",
                self.listen
            ));
        }
        if self.host_certificate_secs < 2 {
            return Err("host_certificate_secs: at least 2".to_owned());
        }
        let valid_region = (1..=32).contains(&self.region.len())
            && self.region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid_region {
            return Err(format!("'{}' is not a region name: up to 32 of a-z, 0-9 and '-'", self.region));
        }
        for (name, rate) in [
            ("api_requests_per_second", self.api_requests_per_second),
            ("api_changes_per_second", self.api_changes_per_second),
            ("api_launches_per_second", self.api_launches_per_second),
            ("s3_requests_per_second", self.s3_requests_per_second),
        ] {
            if rate == 0 {
                return Err(format!("{name} is 0: nobody could ask for anything"));
            }
        }
        if !terroir_policy::is_operator_id(&self.operator) {
            let form = "up to 63 of a-z, 0-9, '.' and '-'";
            return Err(format!("operator: '{}' is not an operator's id: {form}", self.operator));
        }
        self.public_pool_net()?;
        self.edge_pool_net()?;
        self.egress_deny_nets()?;
        self.xks_nets()?;
        self.upstreams()?;
        self.check_etcd()?;
        Ok(self)
    }

    fn check_etcd(&self) -> Result<(), String> {
        if self.store == StoreSetting::Etcd && self.etcd_endpoints.is_empty() {
            return Err("store = 'etcd' needs etcd_endpoints: the addresses of etcd's members".to_owned());
        }
        for endpoint in &self.etcd_endpoints {
            let uri: http::Uri = endpoint.parse().map_err(|_| format!("etcd_endpoints: '{endpoint}' is no address"))?;
            let host = uri.host().unwrap_or_default();
            let here =
                host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
            match uri.scheme_str() {
                Some("https") if self.etcd_ca.is_empty() => {
                    return Err(format!("etcd_ca: name the file of who signed the certificate of {endpoint}"));
                }
                Some("https") => {}
                Some("http") if !self.etcd_ca.is_empty() => {
                    return Err(format!("etcd_endpoints: '{endpoint}' must begin with https://, as etcd_ca is set"));
                }
                Some("http") if here => {}
                Some("http") => {
                    return Err(format!(
                        "refusing to speak to {endpoint} without TLS: only loopback addresses may be http://"
                    ));
                }
                _ => return Err(format!("etcd_endpoints: '{endpoint}' must begin with https:// or http://")),
            }
        }
        if self.etcd_cert.is_empty() != self.etcd_key.is_empty() {
            return Err("etcd_cert and etcd_key: name both or none".to_owned());
        }
        if !self.etcd_cert.is_empty() && self.etcd_ca.is_empty() {
            return Err("etcd_ca: a certificate is shown only to members that have one, too".to_owned());
        }
        if self.etcd_prefix.is_empty() || self.etcd_prefix.starts_with('/') || self.etcd_prefix.ends_with('/') {
            return Err("etcd_prefix: at least one character, and no slash at either end".to_owned());
        }
        Ok(())
    }

    pub fn public_pool_net(&self) -> Result<ipnet::Ipv4Net, String> {
        network(&self.public_pool, "public_pool")
    }

    pub fn edge_pool_net(&self) -> Result<ipnet::Ipv4Net, String> {
        network(&self.edge_pool, "edge_pool")
    }

    pub fn egress_deny_nets(&self) -> Result<Vec<ipnet::IpNet>, String> {
        self.egress_deny
            .iter()
            .map(|text| text.parse().map_err(|_| format!("egress_deny: '{text}' is not a network like 10.0.0.0/8")))
            .collect()
    }

    pub fn xks_nets(&self) -> Result<Vec<ipnet::IpNet>, String> {
        self.xks_networks
            .iter()
            .map(|text| text.parse().map_err(|_| format!("xks_networks: '{text}' is not a network like 10.0.0.0/8")))
            .collect()
    }

    pub fn upstreams(&self) -> Result<Vec<IpAddr>, String> {
        if self.dns_upstreams == ["none"] {
            return Ok(Vec::new());
        }
        if self.dns_upstreams.is_empty() {
            return Ok(machine_resolvers());
        }
        self.dns_upstreams
            .iter()
            .map(|text| text.parse().map_err(|_| format!("dns_upstreams: '{text}' is not an IP address")))
            .collect()
    }

    /// Keeps the settings for the next start and for the other processes.
    pub fn write(&self, layout: &Layout) -> Result<(), String> {
        let path = layout.settings_file();
        let text = toml::to_string(self).map_err(|error| error.to_string())?;
        let fresh = path.with_extension("toml.new");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|error| describe(&error, "cannot write", &path).to_string())
    }
}

fn network(text: &str, name: &str) -> Result<ipnet::Ipv4Net, String> {
    text.parse::<ipnet::Ipv4Net>()
        .map(|net| net.trunc())
        .map_err(|_| format!("{name}: '{text}' is not an IPv4 network like 100.96.0.0/20"))
}

fn machine_resolvers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        for (toml, complaint) in [
            ("listen = '0.0.0.0:9000'", "terroir tls init"),
            ("tls_cert = '/c.pem'", "both or none"),
            ("host_certificate_secs = 1", "at least 2"),
            ("region = 'EU WEST'", "region name"),
            ("public_pool = 'everything'", "public_pool"),
            ("operator = 'A Hoster'", "operator"),
            ("egress_deny = ['10.0.0.0/99']", "egress_deny"),
            ("dns_upstreams = ['dns.example']", "dns_upstreams"),
            ("store = 'etcd'", "needs etcd_endpoints"),
            ("etcd_endpoints = ['10.0.0.1:2379']", "https://"),
            ("etcd_endpoints = ['http://10.0.0.1:2379']", "without TLS"),
            ("etcd_endpoints = ['https://10.0.0.1:2379']", "etcd_ca"),
            ("etcd_endpoints = ['http://127.0.0.1:2379']\netcd_ca = '/ca.pem'", "https://"),
            ("etcd_ca = '/ca.pem'\netcd_cert = '/c.pem'", "both or none"),
            ("etcd_prefix = 'cell/'", "etcd_prefix"),
            ("api_changes_per_second = 0", "api_changes_per_second"),
        ] {
            let settings: Settings = toml::from_str(toml).unwrap();
            assert!(settings.check().unwrap_err().contains(complaint), "{toml}");
        }
        assert!(toml::from_str::<Settings>("unknown = 1").is_err());
        let encrypted =
            "listen = '0.0.0.0:9000'\ntls_cert = '/c.pem'\ntls_key = '/k.pem'\nhosts_listen = '0.0.0.0:9002'";
        let encrypted: Settings = toml::from_str(encrypted).unwrap();
        assert_eq!(toml::from_str::<Settings>(&toml::to_string(&encrypted).unwrap()).unwrap(), encrypted);
        assert!(encrypted.check().is_ok());
        assert!(Settings::default().check().is_ok());
    }
}
