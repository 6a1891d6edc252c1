//! The command line about operators, sites, hosts and what accounts demand of them.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Take over what another operator has signed about itself (`operator export` there)
    Add {
        /// Its statement; `-`: from standard input
        statement: PathBuf,
    },
    /// Say what this cloud's own operator is; what is not named stays as it is
    Set(OperatorAttributes),
    /// All operators
    List {
        #[arg(long)]
        json: bool,
    },
    /// Print an operator's signed statement
    Export {
        /// [default: this cloud's own]
        id: Option<String>,
    },
    /// Print the operators' public keys, one a line, for `terroir verify`
    Keys,
}

#[derive(Debug, Args)]
pub struct OperatorAttributes {
    /// Legal name
    #[arg(long)]
    pub name: Option<String>,
    /// Country of its seat: two letters of ISO 3166
    #[arg(long, value_name = "COUNTRY")]
    pub seat: Option<String>,
    /// Name of its ultimate parent; its own name without one
    #[arg(long)]
    pub parent: Option<String>,
    /// Country of its ultimate parent; that of its seat without one
    #[arg(long, value_name = "COUNTRY")]
    pub parent_country: Option<String>,
    /// Whose courts and authorities can compel it besides; several times, or `none`
    #[arg(long = "jurisdiction", value_name = "COUNTRY")]
    pub jurisdictions: Vec<String>,
    /// What it is certified for; several times, or `none`
    #[arg(long = "certification", value_name = "NAME")]
    pub certifications: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Make a site of this cloud's own operator, or take over one that another operator has signed
    Add {
        /// Name of the availability zone, for example eu-local-1b
        #[arg(required_unless_present = "statement", conflicts_with = "statement")]
        id: Option<String>,
        /// Another operator's statement (`site export` there); `-`: from standard input
        #[arg(long, value_name = "FILE")]
        statement: Option<PathBuf>,
        #[command(flatten)]
        attributes: SiteAttributes,
    },
    /// Say what a site of this cloud's own operator is; what is not named stays as it is
    Set {
        id: String,
        #[command(flatten)]
        attributes: SiteAttributes,
    },
    /// All sites
    List {
        #[arg(long)]
        json: bool,
    },
    /// Print a site's signed statement
    Export { id: String },
}

#[derive(Debug, Args)]
pub struct SiteAttributes {
    /// Two letters of ISO 3166
    #[arg(long)]
    pub country: Option<String>,
    #[arg(long)]
    pub city: Option<String>,
    /// What burns down together; several times, or `none`. Operators in one building give the same name
    #[arg(long = "fire-zone", value_name = "NAME")]
    pub fire_zones: Vec<String>,
    /// Of the electricity grid
    #[arg(long)]
    pub grid_zone: Option<String>,
    /// Power usage effectiveness, for example 1.25
    #[arg(long, value_parser = thousandths)]
    pub pue: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// All hosts
    List {
        #[arg(long)]
        json: bool,
    },
    /// Make a token with which one machine may join, once
    Token(TokenArgs),
    /// Make this machine a host: to be run on it, with a token
    Join(crate::cli::JoinArgs),
    /// Put nothing new on a host; what is there goes on
    Cordon { id: String },
    /// Use a host again
    Uncordon { id: String },
    /// Say in which of its site's fire zones a host stands
    Set {
        id: String,
        #[arg(long, value_name = "NAME")]
        fire_zone: String,
    },
    /// Cordon a host and name what is still on it
    Drain {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Go on without a host that never comes back, nor what was on its disks
    DeclareLost {
        id: String,
        /// Without it nothing is done
        #[arg(long)]
        yes: bool,
    },
    /// Forget a host that is cordoned and has nothing; it is refused from then on
    Remove { id: String },
    /// Let the host of the control plane's own machine come back after it was removed
    Readmit { id: String },
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Where the machine stands [default: this machine's site]
    #[arg(long)]
    pub site: Option<String>,
    /// In which of the site's fire zones
    #[arg(long, value_name = "NAME")]
    pub fire_zone: Option<String>,
    /// Only for this host, which has joined before and whose certificate has ended or was lost
    #[arg(long, value_name = "ID")]
    pub host: Option<String>,
    /// How long it counts: s, m, h or d
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub ttl: std::time::Duration,
    /// Where the machine dials: ADDRESS:PORT or NAME:PORT; may be given again [default: hosts_addresses]
    #[arg(long = "server", value_name = "ADDRESS:PORT")]
    pub servers: Vec<String>,
    #[arg(long)]
    pub json: bool,
}

/// A number of seconds, or with a unit.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("", 1)];
    let found = units.into_iter().find_map(|(unit, secs)| Some((text.strip_suffix(unit)?.parse::<u64>().ok()?, secs)));
    let (number, secs) = found.ok_or("give a number and s, m, h or d, for example 1h")?;
    number.checked_mul(secs).map(std::time::Duration::from_secs).ok_or_else(|| "too long".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Set what holds for everything of an account, or with --name for what carries the tag terroir:policy=NAME
    Set {
        /// Number of the account
        #[arg(long)]
        account: String,
        #[arg(long)]
        name: Option<String>,
        /// JSON, see docs/sovereignty.md; `-`: from standard input
        document: PathBuf,
    },
    /// What holds, as JSON
    Show {
        /// Number of the account
        #[arg(long)]
        account: String,
    },
    /// Forget a named policy
    Remove {
        /// Number of the account
        #[arg(long)]
        account: String,
        #[arg(long)]
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct ReceiptArgs {
    /// Its id, for example i-0123456789abcdef0
    pub resource: String,
    /// Number of the account that it is of
    #[arg(long)]
    pub account: String,
    /// Show how the log goes on from the checkpoint of this earlier receipt
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
    /// [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The receipt
    pub file: PathBuf,
    /// Public keys of the region's operators, one a line (`terroir operator keys`)
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// How many of the operators must have signed for the log [default: more than half]
    #[arg(long)]
    pub quorum: Option<usize>,
    /// An earlier receipt: the log must go on from its checkpoint
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum WitnessCommand {
    /// Print what another operator is asked to cosign
    Request {
        /// Id of the operator that is asked
        operator: String,
    },
    /// Cosign another operator's log, if it only grew since it was seen last; print the signature
    Cosign {
        /// What `witness request` printed there; `-`: from standard input
        request: PathBuf,
    },
    /// Take over another operator's signature; from then on it is in receipts
    Accept {
        /// Id of the operator that was asked
        operator: String,
        /// What `witness cosign` printed there; `-`: from standard input
        signature: PathBuf,
    },
}

/// `1.25` as 1250.
fn thousandths(text: &str) -> Result<u32, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 3 || !digits(whole) || !digits(part) {
        return Err("give a number like 1.25, with up to three decimals".to_owned());
    }
    format!("{whole}{part:0<3}").parse().map_err(|_| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, secs) in
            [("90", Some(90)), ("90s", Some(90)), ("5m", Some(300)), ("1h", Some(3600)), ("2d", Some(172_800))]
        {
            assert_eq!(duration(text).ok().map(|it| it.as_secs()), secs, "{text}");
        }
        for text in ["", "h", "-1h", "1.5h", "1w", "99999999999999999999d", "999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_are_thousandths() {
        for (text, value) in [("1", Some(1000)), ("1.2", Some(1200)), ("1.255", Some(1255)), ("01.0", Some(1000))] {
            assert_eq!(thousandths(text).ok(), value, "{text}");
        }
        for text in ["", ".5", "1.2345", "-1", "1e3", "99999999999"] {
            assert!(thousandths(text).is_err(), "{text}");
        }
    }
}
