//! `cargo xtask dependencies`: what `deny.toml` says about licences, sources and bans, checked without `cargo-deny`.
//!
//! `cargo-deny` knows more and is used where it is installed; building it takes longer than building Terroir, so
//! everybody else gets this check over `cargo metadata`, from the same file.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

struct Rules {
    licences: BTreeSet<String>,
    exceptions: Vec<(String, BTreeSet<String>)>,
    banned: BTreeSet<String>,
}

pub fn run(args: &[String]) -> Result<(), String> {
    if let Some(unknown) = args.first() {
        return Err(format!("dependencies takes no argument, `{unknown}` was given"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    let rules = fs::read_to_string(root.join("deny.toml")).map_err(|error| format!("deny.toml: {error}"))?;
    let rules = read_rules(&rules)?;
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let findings: Vec<String> = packages.iter().filter_map(|package| judge(package, &rules)).collect();
    if findings.is_empty() {
        println!("{} packages, all with licences and sources that deny.toml allows", packages.len());
        return Ok(());
    }
    Err(findings.join("\n"))
}

fn read_rules(text: &str) -> Result<Rules, String> {
    let table: toml::Table = text.parse().map_err(|error| format!("deny.toml: {error}"))?;
    let list = |section: &str, key: &str| {
        table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array).cloned()
    };
    let strings = |values: Vec<toml::Value>| -> BTreeSet<String> {
        values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let licences = strings(list("licenses", "allow").ok_or("deny.toml has no licenses.allow")?);
    let name_of = |value: &toml::Value| Some(value.get("crate")?.as_str()?.to_owned());
    let exceptions = list("licenses", "exceptions").unwrap_or_default();
    let exceptions = exceptions
        .iter()
        .filter_map(|value| Some((name_of(value)?, strings(value.get("allow")?.as_array()?.clone()))))
        .collect();
    let banned = list("bans", "deny").unwrap_or_default().iter().filter_map(name_of).collect();
    Ok(Rules { licences, exceptions, banned })
}

/// What is wrong with a package of `cargo metadata`, if anything.
fn judge(package: &Value, rules: &Rules) -> Option<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let version = package["version"].as_str().unwrap_or_default();
    if rules.banned.contains(name) {
        return Some(format!("{name} {version} is banned by deny.toml"));
    }
    // Without a source it is a crate of this workspace.
    if let Some(source) = package["source"].as_str()
        && source != REGISTRY
    {
        return Some(format!("{name} {version} comes from {source}"));
    }
    let licence = package["license"].as_str().unwrap_or_default();
    let excepted = rules.exceptions.iter().find(|(known, _)| known == name).map(|(_, allowed)| allowed);
    let is_allowed = |id: &str| rules.licences.contains(id) || excepted.is_some_and(|allowed| allowed.contains(id));
    if satisfied(licence, &is_allowed) {
        return None;
    }
    Some(format!("{name} {version} has the licence `{licence}`, which deny.toml does not allow"))
}

/// Whether an SPDX expression can be fulfilled with allowed licences: one branch of every OR, all of every AND.
fn satisfied(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    let result = any_of(&tokens, &mut position, is_allowed);
    result && position == tokens.len()
}

fn any_of(tokens: &[&str], position: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut result = all_of(tokens, position, is_allowed);
    while tokens.get(*position) == Some(&"OR") {
        *position += 1;
        result |= all_of(tokens, position, is_allowed);
    }
    result
}

fn all_of(tokens: &[&str], position: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut result = one(tokens, position, is_allowed);
    while tokens.get(*position) == Some(&"AND") {
        *position += 1;
        result &= one(tokens, position, is_allowed);
    }
    result
}

fn one(tokens: &[&str], position: &mut usize, is_allowed: &dyn Fn(&str) -> bool) -> bool {
    let Some(token) = tokens.get(*position) else { return false };
    *position += 1;
    if *token == "(" {
        let result = any_of(tokens, position, is_allowed);
        *position += 1;
        return result;
    }
    if tokens.get(*position) == Some(&"WITH") {
        let with = format!("{token} WITH {}", tokens.get(*position + 1).unwrap_or(&""));
        *position += 2;
        return is_allowed(&with) || is_allowed(token);
    }
    // `MPL-2.0+` is satisfied by MPL-2.0.
    is_allowed(token.trim_end_matches('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_as_spdx_means_them() {
        let allowed = |id: &str| ["MIT", "Apache-2.0"].contains(&id);
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0 OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-3.0", false),
            ("MIT AND (GPL-3.0 OR Apache-2.0)", true),
            ("(MIT AND GPL-3.0) OR Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("MIT Apache-2.0", false),
            ("Apache-2.0+", true),
        ] {
            assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn packages_are_judged_by_name_source_and_licence() {
        let rules = read_rules(
            "[licenses]\nallow = ['MIT']\nexceptions = [{ crate = 'odd', allow = ['MPL-2.0'] }]\n\
             [bans]\ndeny = [{ crate = 'openssl' }]\n",
        )
        .unwrap();
        for (name, licence, source, expected) in [
            ("fine", "MIT", Some(REGISTRY), None),
            ("own", "MIT", None, None),
            ("odd", "MPL-2.0", Some(REGISTRY), None),
            ("other", "MPL-2.0", Some(REGISTRY), Some("licence")),
            ("openssl", "MIT", Some(REGISTRY), Some("banned")),
            ("fork", "MIT", Some("git+https://example.org/fork"), Some("comes from")),
        ] {
            let package = serde_json::json!({ "name": name, "version": "1", "license": licence, "source": source });
            let finding = judge(&package, &rules);
            match expected {
                None => assert_eq!(finding, None, "{name}"),
                Some(part) => assert!(finding.is_some_and(|it| it.contains(part)), "{name}"),
            }
        }
    }
}
