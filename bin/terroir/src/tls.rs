//! `terroir tls`: an authority and a certificate of this cloud's own; and the certificate that the settings name.

use nix::unistd::{Gid, Uid};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use terroir_api_server::CertificateFiles;
use terroir_pki::{Authority, Issued, Validity};
use terroir_types::{Clock, OsRandom, Secret, SystemClock, Timestamp};

use crate::cli::TlsCommand;
use crate::layout::{Layout, SERVER_UID, describe};
use crate::settings::Settings;
use crate::supervisor::SupervisorRecord;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// Browsers take no longer ones.
const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(397);
/// Clocks of clients may be behind by so much.
const BEFORE: Duration = Duration::from_secs(60 * 60);
/// So long before its end the operator is reminded.
const REMIND: Duration = DAY.saturating_mul(30);
/// Where machines have the authorities that everybody knows.
const PUBLIC_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

struct Files {
    folder: PathBuf,
}

impl Files {
    fn of(layout: &Layout) -> Self {
        Self { folder: layout.tls() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whole or not at all, owned by `owner` if root writes it.
    fn write(&self, name: &str, text: &str, mode: u32, owner: u32) -> Result<(), String> {
        let (path, fresh) = (self.path(name), self.path(&format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            if Uid::effective().is_root() {
                nix::unistd::fchown(&file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
            }
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| describe(&error, "cannot write", &path).to_string())
    }

    fn read(&self, name: &str) -> Result<String, String> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|error| describe(&error, "cannot read", &path).to_string())
    }

    /// The key first: a server that looks between the two keeps what it has.
    fn write_certificate(&self, issued: &Issued) -> Result<(), String> {
        self.write("server.key", issued.key_pem.expose(), 0o600, SERVER_UID)?;
        self.write("server.pem", &issued.certificate_pem, 0o644, SERVER_UID)
    }
}

pub fn run(layout: &Layout, command: TlsCommand) -> Result<(), String> {
    match command {
        TlsCommand::Init { names } => init(layout, names),
        TlsCommand::Renew { names } => renew(layout, names),
    }
}

fn life(length: Duration) -> Validity {
    let now = SystemClock.now();
    Validity { from: now.minus(BEFORE), until: now.plus(length) }
}

fn init(layout: &Layout, names: Vec<String>) -> Result<(), String> {
    let settings = Settings::read_unchecked(layout)?;
    let files = Files::of(layout);
    if settings.has_tls() || files.path("ca.key").exists() {
        let there = if settings.has_tls() { settings.tls_cert } else { files.folder.display().to_string() };
        return Err(format!(
            "there is a certificate already ({there}): `terroir tls renew` makes a new one with the same authority; to \
             begin anew, take tls_cert, tls_key and tls_ca out of terroir.toml and move the folder {} away",
            files.folder.display()
        ));
    }
    layout.create().map_err(|error| error.to_string())?;
    fs::create_dir_all(&files.folder)
        .and_then(|()| fs::set_permissions(&files.folder, fs::Permissions::from_mode(0o711)))
        .map_err(|error| describe(&error, "cannot create", &files.folder).to_string())?;
    let names = with_own(names, &settings);
    let title = format!("Terroir {} {}", settings.operator, settings.region);
    let (authority, key) =
        Authority::create(&title, life(AUTHORITY_LIFE), &OsRandom).map_err(|error| error.to_string())?;
    let issued =
        authority.issue_server(&names, life(CERTIFICATE_LIFE), &OsRandom).map_err(|error| error.to_string())?;
    files.write("ca.pem", authority.certificate_pem(), 0o644, 0)?;
    files.write_certificate(&issued)?;
    // Last: it is what says that there is an authority.
    files.write("ca.key", key.expose(), 0o600, 0)?;
    let path = |name: &str| files.path(name).display().to_string();
    let settings =
        Settings { tls_cert: path("server.pem"), tls_key: path("server.key"), tls_ca: path("ca.pem"), ..settings };
    settings.check()?.write(layout)?;
    println!("the certificate counts for {}", names.join(", "));
    println!("clients on other machines trust it with {}, SHA-256 {}", path("ca.pem"), authority.fingerprint());
    let command = layout.command_line();
    if SupervisorRecord::read(layout).supervisor_is_alive() {
        println!("it is used after `{command} down --keep-instances && {command} up --detach`");
    }
    println!("to be reached from other machines: `{command} up --listen 0.0.0.0:9000`");
    Ok(())
}

fn renew(layout: &Layout, names: Vec<String>) -> Result<(), String> {
    let settings = Settings::read_unchecked(layout)?;
    let files = Files::of(layout);
    if Path::new(&settings.tls_cert) != files.path("server.pem") {
        return Err("this cloud has no certificate of its own to renew: `terroir tls init` makes one".to_owned());
    }
    let names = if names.is_empty() {
        terroir_pki::facts(&files.read("server.pem")?).map_err(|error| error.to_string())?.names
    } else {
        with_own(names, &settings)
    };
    let authority = Authority::open(&files.read("ca.pem")?, &Secret::new(files.read("ca.key")?))
        .map_err(|error| error.to_string())?;
    let issued =
        authority.issue_server(&names, life(CERTIFICATE_LIFE), &OsRandom).map_err(|error| error.to_string())?;
    files.write_certificate(&issued)?;
    println!("the certificate counts for {}", names.join(", "));
    Ok(())
}

/// The names that were given, and those by which this machine reaches itself.
fn with_own(mut names: Vec<String>, settings: &Settings) -> Vec<String> {
    let was_named = !names.is_empty();
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let listen = settings.listen.ip();
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    } else if !was_named {
        names.extend(own_addresses());
    }
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    names.extend(hostname.filter(|name| !name.is_empty()));
    names.extend(settings.s3_domains.iter().chain(&settings.s3_website_domains).map(|domain| format!("*.{domain}")));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// This machine's addresses that other machines may know.
fn own_addresses() -> Vec<String> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| interface.address);
    addresses
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| std::net::IpAddr::V4(v4.ip()));
            let v6 = address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
            v4.or(v6.filter(|v6| !v6.is_unicast_link_local()).map(std::net::IpAddr::V6))
        })
        .filter(|ip| !ip.is_loopback())
        .map(|ip| ip.to_string())
        .collect()
}

/// The certificate that the settings name; none: no TLS.
pub fn open(settings: &Settings) -> Result<Option<Arc<CertificateFiles>>, String> {
    if !settings.has_tls() {
        return Ok(None);
    }
    let files = CertificateFiles::open(Path::new(&settings.tls_cert), Path::new(&settings.tls_key));
    files.map(Some).map_err(|error| error.to_string())
}

/// What the operator should know of the certificate.
pub fn problem(files: &CertificateFiles, now: Timestamp) -> Option<String> {
    let until = files.facts().until;
    let soon = || {
        let when = until.to_rfc3339_seconds();
        format!("the certificate of the API ends at {when}: renew it (`terroir tls renew`, if it is this cloud's own)")
    };
    files.problem().or_else(|| (until < now.plus(REMIND)).then(soon))
}

/// For this machine's own calls of the API.
pub fn client_config(authorities: Option<&str>) -> Result<Arc<rustls::ClientConfig>, String> {
    let path = authorities.unwrap_or(PUBLIC_AUTHORITIES);
    let pem = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    terroir_pki::trusting_config(&pem).map_err(|error| error.to_string())
}
