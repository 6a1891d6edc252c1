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
    /// Forget a host that is cordoned and has nothing
    Remove { id: String },
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
    fn decimals_are_thousandths() {
        for (text, value) in [("1", Some(1000)), ("1.2", Some(1200)), ("1.255", Some(1255)), ("01.0", Some(1000))] {
            assert_eq!(thousandths(text).ok(), value, "{text}");
        }
        for text in ["", ".5", "1.2345", "-1", "1e3", "99999999999"] {
            assert!(thousandths(text).is_err(), "{text}");
        }
    }
}
