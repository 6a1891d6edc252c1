//! The command line (DESIGN §7).

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "terroir", version, about = "A sovereign cloud that speaks the AWS APIs", propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where everything of this cloud is kept [default: /var/lib/terroir as root, else ~/.local/share/terroir]
    #[arg(long, global = true, env = "TERROIR_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine
    Up(UpArgs),
    /// Make the data folder and its settings and start nothing: the units of systemd start the parts
    Init(InitArgs),
    /// Stop what `up` started
    Down(DownArgs),
    /// What runs, and how well
    Status(StatusArgs),
    /// Print the environment that points AWS clients at this cloud
    Env,
    /// What is wrong with this machine, and how to mend it
    Doctor(DoctorArgs),
    /// The certificate that the AWS APIs are served with
    #[command(subcommand)]
    Tls(TlsCommand),
    /// Tenants
    #[command(subcommand)]
    Account(AccountCommand),
    /// Who runs the machines, as each of them signed it
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Where the machines are; a site is an availability zone
    #[command(subcommand)]
    Site(SiteCommand),
    /// The machines
    #[command(subcommand)]
    Host(HostCommand),
    /// Write the proof of where a resource was, and from when to when
    Receipt(ReceiptArgs),
    /// Check a receipt, offline, with nothing but the operators' public keys
    Verify(VerifyArgs),
    /// Have other operators see that the log of receipts only grows
    #[command(subcommand)]
    Witness(WitnessCommand),
    /// Public keys of issuers of identity tokens (OpenID Connect)
    #[command(subcommand)]
    Issuer(IssuerCommand),
    /// Images for everybody in the region
    #[command(subcommand)]
    Image(ImageCommand),
    /// What S3 stores: how much, whether it is whole, and how much it may be
    #[command(subcommand)]
    Objects(ObjectsCommand),
    /// The control plane's state: back it up, restore it, move it to etcd and back
    #[command(subcommand)]
    Store(StoreCommand),
    /// The log of every call
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Launch a first instance and say how to reach it
    Demo(DemoArgs),
    /// Run only the control plane
    Server,
    /// Run only this host's agent; with --join, make this machine a host and run what belongs to one
    Agent(AgentArgs),
    /// Run only the guests' DHCP, DNS and metadata service
    GuestServices,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hypervisor {
    Qemu,
    Simulated,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Read the whole log: whether anything was changed, or is missing of what was acknowledged
    Verify {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Write the control plane to one sealed file, also while it runs; objects and volumes are not part of it
    Backup(BackupArgs),
    /// Make a data folder from a backup; it must be empty or missing
    Restore(RestoreArgs),
    /// Move the state to etcd or back, while the cloud is stopped
    Migrate(MigrateArgs),
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The backup; it must not be there yet
    pub file: PathBuf,
    /// The key to seal it with; made if it is not there
    #[arg(long, value_name = "KEY")]
    pub key_file: PathBuf,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// The key that it was sealed with
    #[arg(long, value_name = "KEY")]
    pub key_file: PathBuf,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where to
    #[arg(long, value_enum)]
    pub to: Engine,
    #[command(flatten)]
    pub settings: SettingsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// A file in the data folder
    Embedded,
    Etcd,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Go to the background once the cloud is ready
    #[arg(long)]
    pub detach: bool,
}

/// Settings that are remembered in DIR/terroir.toml when the cloud is first started.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Where the AWS APIs answer [default: 127.0.0.1:9000]
    #[arg(long, env = "TERROIR_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where other machines join and report; no default: none does
    #[arg(long, env = "TERROIR_HOSTS_LISTEN", value_name = "ADDRESS:PORT")]
    pub hosts_listen: Option<SocketAddr>,
    /// `simulated` makes instances that change state but run nothing [default: qemu]
    #[arg(long, env = "TERROIR_HYPERVISOR", value_enum)]
    pub hypervisor: Option<Hypervisor>,
    /// Name of the region [default: eu-local-1]
    #[arg(long, env = "TERROIR_REGION", value_name = "NAME")]
    pub region: Option<String>,
    /// Pool of the instances' public addresses, reachable from this machine [default: 100.96.0.0/20]
    #[arg(long, env = "TERROIR_PUBLIC_POOL", value_name = "CIDR")]
    pub public_pool: Option<String>,
    /// Link addresses between this machine and its VPCs [default: 100.127.0.0/17]
    #[arg(long, env = "TERROIR_EDGE_POOL", value_name = "CIDR")]
    pub edge_pool: Option<String>,
    /// Where the state is kept [default: embedded]
    #[arg(long, env = "TERROIR_STORE", value_enum)]
    pub store: Option<Engine>,
    /// Members of etcd, the nearest first, for example https://10.0.0.1:2379,https://10.0.0.2:2379
    #[arg(long, env = "TERROIR_ETCD_ENDPOINTS", value_name = "URLS", value_delimiter = ',')]
    pub etcd_endpoints: Option<Vec<String>>,
    /// What this cell's keys in etcd begin with [default: terroir]
    #[arg(long, env = "TERROIR_ETCD_PREFIX", value_name = "PREFIX")]
    pub etcd_prefix: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Make an authority and a certificate of this cloud's own, and use them from the next start on
    Init {
        /// A name or an address by which clients reach this machine; may be given again
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make a new certificate with the same authority; a running cloud takes it over within seconds
    Renew {
        /// As for `init` [default: the names of the certificate that there is]
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// As `terroir host join TOKEN`
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
    /// Go to the background once the control plane answers
    #[arg(long, requires = "join")]
    pub detach: bool,
    #[command(flatten)]
    pub settings: HostSettingsArgs,
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// From `terroir host token` on a machine that runs the control plane; `-`: from standard input
    #[arg(env = "TERROIR_JOIN_TOKEN", hide_env_values = true)]
    pub token: String,
    /// Go to the background once the control plane answers
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub settings: HostSettingsArgs,
}

/// Settings of a host, which are remembered in DIR/terroir.toml.
#[derive(Debug, Clone, Default, Args)]
pub struct HostSettingsArgs {
    /// `simulated` makes instances that change state but run nothing [default: qemu]
    #[arg(long, env = "TERROIR_HYPERVISOR", value_enum)]
    pub hypervisor: Option<Hypervisor>,
    /// Link addresses between this machine and its VPCs [default: 100.127.0.0/17]
    #[arg(long, env = "TERROIR_EDGE_POOL", value_name = "CIDR")]
    pub edge_pool: Option<String>,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// Leave the instances and their network running; the next `up` takes them over
    #[arg(long)]
    pub keep_instances: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Make a tenant; its credentials are printed once
    Add {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// All tenants
    List {
        #[arg(long)]
        json: bool,
    },
    /// Where a tenant's data and machines may be
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Debug, Subcommand)]
pub enum ObjectsCommand {
    #[command(flatten)]
    Integrity(IntegrityCommand),
    /// How much accounts and buckets may hold
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Places outside that tenants may send events to, by ARN
    #[command(subcommand)]
    Target(TargetCommand),
    /// Where the bytes of larger objects go from now on; without arguments, where they go and what is where
    Engine(EngineArgs),
}

#[derive(Debug, Subcommand)]
pub enum IntegrityCommand {
    /// How much there is, and what is known of its health
    Stats {
        #[arg(long)]
        json: bool,
    },
    /// Read everything and compare it with its checksums and the index; mends nothing
    Verify {
        #[arg(long)]
        json: bool,
    },
    /// Verify, and mend what follows from the rest; removes nothing that somebody has stored
    Repair {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Limit an account, or one of its buckets; without numbers nothing is limited any more
    Set {
        /// Number of the account
        #[arg(long)]
        account: String,
        /// Only this bucket
        #[arg(long)]
        bucket: Option<String>,
        /// Bytes of all versions and of parts of uploads, for example 10GiB
        #[arg(long, value_parser = bytes)]
        max_bytes: Option<u64>,
        /// Versions of objects
        #[arg(long)]
        max_objects: Option<u64>,
    },
    /// What an account and its buckets hold and may hold
    Show {
        /// Number of the account
        #[arg(long)]
        account: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// Name an endpoint that is told of events, or a foreign S3
    Add(Box<TargetArgs>),
    /// All targets, their ARNs, and what waits for them
    List {
        #[arg(long)]
        json: bool,
    },
    /// Forget a target
    Remove {
        name: String,
        /// Even if something waits for it, which is dropped
        #[arg(long)]
        force: bool,
    },
    /// Send something to a target and say what came of it
    Test { name: String },
}

#[derive(Debug, Args)]
pub struct EngineArgs {
    /// To the one bucket of this target
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    pub target: Option<String>,
    /// The site where the target is, as its operator has signed it; without one, no account with a policy may write there
    #[arg(long, value_name = "SITE", requires = "target")]
    pub site: Option<String>,
    /// To this machine's disk
    #[arg(long)]
    pub local: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("place").required(true).args(["webhook", "s3"])))]
pub struct TargetArgs {
    /// As its ARN will name it: a-z, 0-9 and '-'
    pub name: String,
    /// Where events are sent to by POST
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Endpoint of a foreign S3, for example https://s3.example.org
    #[arg(long, value_name = "URL", requires_all = ["access_key_id", "secret_file", "bucket_place"])]
    pub s3: Option<String>,
    /// Region that requests to the foreign S3 are signed for
    #[arg(long, default_value = "us-east-1", requires = "s3")]
    pub s3_region: String,
    #[arg(long, requires = "s3", value_name = "ID")]
    pub access_key_id: Option<String>,
    /// File with the secret: of the access key, or the one that signs events; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// The one bucket there that takes everything
    #[arg(long, requires = "s3", group = "bucket_place")]
    pub bucket: Option<String>,
    /// What buckets there are called before the name that they have here
    #[arg(long, requires = "s3", group = "bucket_place", value_name = "PREFIX")]
    pub bucket_prefix: Option<String>,
    /// Only for this account; may be given again
    #[arg(long = "account", value_name = "NUMBER")]
    pub accounts: Vec<String>,
    /// Messages that may wait for it; more are dropped and counted [default: 100000]
    #[arg(long, value_name = "N")]
    pub max_queued: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum IssuerCommand {
    /// Set the keys with which an issuer signs its tokens
    Set {
        /// As tokens name it, with https://
        url: String,
        /// A JSON Web Key Set
        #[arg(long, value_name = "FILE")]
        jwks: PathBuf,
    },
    /// Forget an issuer's keys
    Remove { url: String },
    /// All issuers whose keys are known
    List {
        #[arg(long)]
        json: bool,
    },
}

pub use crate::cli_sovereignty::{
    HostCommand, OperatorCommand, PolicyCommand, ReceiptArgs, SiteCommand, VerifyArgs, WitnessCommand,
};

/// A number of bytes, perhaps with a unit.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50), ("B", 0), ("", 0)];
    let (number, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), shift)))
        .ok_or("not a number of bytes")?;
    let number: u64 = number.parse().map_err(|_| "give bytes, or a unit such as GiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too many bytes".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuiltIn {
    Tiny,
    #[value(name = "debian-12")]
    Debian12,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image from Debian packages and offer it to everybody
    Build {
        what: BuiltIn,
        /// Only build the files into this folder, without a running cloud
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Debian archive to install debian-12 from; a machine with Debian 12 uses its own
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
    },
    /// Take over a disk image (raw, qcow2 or VMDK) from a file or an http(s) address
    Import {
        source: String,
        /// Name of the image [default: the file's name]
        #[arg(long)]
        name: Option<String>,
        /// Refuse the image unless this is its SHA-256
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
    },
    /// The images that everybody sees
    List {
        #[arg(long)]
        json: bool,
    },
    /// Write an image's disk to a file
    Export { image: String, file: PathBuf },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Instance type
    #[arg(long, default_value = "tr1.pico")]
    pub instance_type: String,
}
