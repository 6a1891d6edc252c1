//! Rust source that gives the types of one service their JSON form by botocore's names, for the differential test.

use super::Service;
use super::emit::header;
use super::model::Selection;
use std::fmt::Write as _;

pub fn service(service: &Service, selection: &Selection, botocore: &str) -> String {
    let mut out = header(botocore);
    let name = &service.module;
    let _ = writeln!(
        out,
        "use crate::differential::{{Case, json_structures}};\nuse crate::{name}::*;\n\npub const CASES: &[Case] = &["
    );
    for operation in &selection.operations {
        let _ = writeln!(out, "Case::of::<ops::{}>(),", operation.name);
    }
    out.push_str("];\n\njson_structures! {\n");
    for (name, structure) in &selection.structures {
        let fields: Vec<String> =
            structure.members.iter().map(|member| format!("    {:?} => {},\n", member.name, member.field)).collect();
        let _ = writeln!(out, "{name} {{\n{}}}", fields.concat());
    }
    out.push_str("}\n");
    out
}
