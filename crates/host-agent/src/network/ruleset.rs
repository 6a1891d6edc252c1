//! One nftables table as plain data, and the scripts that bring the kernel to it: a replacement (atomic, whatever was
//! there) or a change from a known table, which touches only what differs: a new group member is one `add element`.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Elements per statement; nft reads a statement as a whole.
const ELEMENTS_PER_STATEMENT: usize = 512;

/// nft's family and, in it, the parts of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table's name, the same in every family.
    pub table: String,
    pub families: BTreeMap<&'static str, Table>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// `set` or `map`.
    kind: &'static str,
    /// For example `type ipv4_addr; flags interval;`.
    definition: String,
    /// Key, and the value in a map.
    elements: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type filter hook input priority 0; policy drop;` of a base chain.
    pub hook: Option<String>,
    pub rules: Vec<String>,
}

impl Table {
    pub fn set(&mut self, name: impl Into<String>, definition: &str) -> &mut Set {
        self.add(name.into(), "set", definition)
    }

    pub fn map(&mut self, name: impl Into<String>, definition: &str) -> &mut Set {
        self.add(name.into(), "map", definition)
    }

    fn add(&mut self, name: String, kind: &'static str, definition: &str) -> &mut Set {
        let fresh = || Set { kind, definition: definition.to_owned(), elements: BTreeMap::new() };
        self.sets.entry(name).or_insert_with(fresh)
    }

    pub fn base_chain(&mut self, name: &str, hook: &str, rules: impl IntoIterator<Item = impl Into<String>>) {
        let rules = rules.into_iter().map(Into::into).collect();
        self.chains.insert(name.to_owned(), Chain { hook: Some(hook.to_owned()), rules });
    }

    pub fn chain(&mut self, name: impl Into<String>, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { hook: None, rules });
    }
}

impl Set {
    pub fn insert(&mut self, key: impl ToString) {
        self.elements.insert(key.to_string(), None);
    }

    pub fn map_to(&mut self, key: impl ToString, value: impl ToString) {
        self.elements.insert(key.to_string(), Some(value.to_string()));
    }
}

impl Ruleset {
    pub fn new(table: impl Into<String>) -> Self {
        Self { table: table.into(), families: BTreeMap::new() }
    }

    pub fn family(&mut self, family: &'static str) -> &mut Table {
        self.families.entry(family).or_default()
    }

    /// Puts this table in the place of whatever has its name, in one transaction.
    pub fn replacement(&self) -> String {
        let mut script = String::new();
        for (family, table) in &self.families {
            let place = format!("{family} {}", self.table);
            line(&mut script, format_args!("add table {place}"));
            line(&mut script, format_args!("delete table {place}"));
            line(&mut script, format_args!("add table {place}"));
            table_change(&mut script, &place, &Table::default(), table);
        }
        script
    }

    /// From a table that is known to be exactly `from`; empty if it is this one already.
    pub fn change_from(&self, from: &Self) -> String {
        let same_frame = self.table == from.table && self.families.keys().eq(from.families.keys());
        let same_definitions = || {
            self.families
                .iter()
                .all(|(family, table)| from.families.get(family).is_some_and(|old| compatible(old, table)))
        };
        if !same_frame || !same_definitions() {
            return self.replacement();
        }
        let mut script = String::new();
        for (family, table) in &self.families {
            if let Some(old) = from.families.get(family) {
                table_change(&mut script, &format!("{family} {}", self.table), old, table);
            }
        }
        script
    }
}

/// Whether sets and base chains that stay keep their definition; nft cannot change it in place.
fn compatible(old: &Table, new: &Table) -> bool {
    let sets = new.sets.iter().all(|(name, set)| {
        old.sets.get(name).is_none_or(|was| was.kind == set.kind && was.definition == set.definition)
    });
    sets && new.chains.iter().all(|(name, chain)| old.chains.get(name).is_none_or(|was| was.hook == chain.hook))
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}

/// In an order that never refers to what is not there: new sets and chains, old elements out, rules, new elements in,
/// and last what nothing refers to any more.
fn table_change(script: &mut String, place: &str, old: &Table, new: &Table) {
    for (name, set) in &new.sets {
        if !old.sets.contains_key(name) {
            line(script, format_args!("add {} {place} {name} {{ {} }}", set.kind, set.definition));
        }
    }
    for (name, chain) in &new.chains {
        if !old.chains.contains_key(name) {
            match &chain.hook {
                Some(hook) => line(script, format_args!("add chain {place} {name} {{ {hook} }}")),
                None => line(script, format_args!("add chain {place} {name}")),
            }
        }
    }
    let empty = BTreeMap::new();
    for (name, was) in &old.sets {
        if let Some(set) = new.sets.get(name) {
            let gone = was.elements.iter().filter(|(key, value)| set.elements.get(*key) != Some(value));
            elements(script, "delete", place, name, gone.map(|(key, _)| (key, &None)));
        }
    }
    for (name, chain) in &new.chains {
        let was = old.chains.get(name);
        if was.is_some_and(|was| was.rules == chain.rules) {
            continue;
        }
        if was.is_some_and(|was| !was.rules.is_empty()) {
            line(script, format_args!("flush chain {place} {name}"));
        }
        for rule in &chain.rules {
            line(script, format_args!("add rule {place} {name} {rule}"));
        }
    }
    for (name, set) in &new.sets {
        let had = old.sets.get(name).map_or(&empty, |was| &was.elements);
        let fresh = set.elements.iter().filter(|(key, value)| had.get(*key) != Some(value));
        elements(script, "add", place, name, fresh);
    }
    let gone: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    for verb in ["flush", "delete"] {
        for name in &gone {
            line(script, format_args!("{verb} chain {place} {name}"));
        }
    }
    for (name, was) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
        line(script, format_args!("delete {} {place} {name}", was.kind));
    }
}

fn elements<'a>(
    script: &mut String,
    verb: &str,
    place: &str,
    set: &str,
    elements: impl Iterator<Item = (&'a String, &'a Option<String>)>,
) {
    let texts: Vec<String> = elements
        .map(|(key, value)| match value {
            Some(value) => format!("{key} : {value}"),
            None => key.clone(),
        })
        .collect();
    for chunk in texts.chunks(ELEMENTS_PER_STATEMENT) {
        line(script, format_args!("{verb} element {place} {set} {{ {} }}", chunk.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ruleset {
        let mut rules = Ruleset::new("t");
        let inet = rules.family("inet");
        inet.set("members", "type ipv4_addr;").insert("10.0.0.1");
        inet.map("ingress", "type ifname : verdict;").map_to("\"a\"", "goto i_a");
        inet.base_chain("input", "type filter hook input priority 0; policy drop;", ["ct state established accept"]);
        inet.chain("i_a", vec!["drop".to_owned()]);
        rules
    }

    #[test]
    fn a_change_touches_what_differs_and_nothing_else() {
        type Edit = fn(&mut Table);
        let rows: [(Edit, &str); 6] = [
            (|_| {}, ""),
            (|t| t.set("members", "").insert("10.0.0.2"), "add element inet t members { 10.0.0.2 }\n"),
            (
                |t| t.map("ingress", "").map_to("\"a\"", "drop"),
                "delete element inet t ingress { \"a\" }\nadd element inet t ingress { \"a\" : drop }\n",
            ),
            (|t| t.chain("i_a", vec!["accept".to_owned()]), "flush chain inet t i_a\nadd rule inet t i_a accept\n"),
            (
                |t| {
                    t.chains.remove("i_a");
                    t.sets.remove("ingress");
                },
                "flush chain inet t i_a\ndelete chain inet t i_a\ndelete map inet t ingress\n",
            ),
            (
                |t| {
                    t.chain("i_b", vec!["ip saddr @more accept".to_owned()]);
                    t.set("more", "type ipv4_addr;").insert("1.2.3.4");
                },
                "add set inet t more { type ipv4_addr; }\nadd chain inet t i_b\n\
                 add rule inet t i_b ip saddr @more accept\nadd element inet t more { 1.2.3.4 }\n",
            ),
        ];
        for (edit, script) in rows {
            let mut to = sample();
            edit(to.family("inet"));
            assert_eq!(to.change_from(&sample()), script);
        }
    }

    #[test]
    fn what_nft_cannot_change_in_place_is_replaced() {
        let mut to = sample();
        to.family("inet").sets.remove("members");
        to.family("inet").set("members", "type ipv4_addr; flags interval;");
        let script = to.change_from(&sample());
        assert_eq!(script, to.replacement());
        assert!(script.starts_with("add table inet t\ndelete table inet t\nadd table inet t\nadd map inet t ingress"));
    }
}
