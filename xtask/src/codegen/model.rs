//! The part of a service model that the chosen actions reach, with every name resolved.

use super::{Result, names};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A `service-2.json`, as far as it is read.
#[derive(Deserialize)]
pub struct Model {
    metadata: Metadata,
    operations: BTreeMap<String, ModelOperation>,
    shapes: BTreeMap<String, Shape>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub api_version: String,
    pub protocol: String,
    #[serde(default)]
    pub xml_namespace: String,
    #[serde(default)]
    pub json_version: String,
    #[serde(default)]
    pub target_prefix: String,
    #[serde(default)]
    signing_name: Option<String>,
    #[serde(default)]
    endpoint_prefix: String,
}

impl Metadata {
    /// The service's name in a SigV4 credential scope.
    pub fn signing_name(&self) -> &str {
        self.signing_name.as_deref().unwrap_or(&self.endpoint_prefix)
    }

    pub fn is_json(&self) -> bool {
        self.protocol == "json"
    }
}

#[derive(Deserialize)]
struct ModelOperation {
    input: Option<Target>,
    output: Option<Target>,
}

/// A use of a shape. Its traits override those of the shape itself.
#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
struct Target {
    shape: String,
    location_name: Option<String>,
    query_name: Option<String>,
    result_wrapper: Option<String>,
    flattened: bool,
    idempotency_token: bool,
    timestamp_format: Option<String>,
    xml_attribute: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Shape {
    #[serde(rename = "type")]
    kind: String,
    members: BTreeMap<String, Target>,
    required: BTreeSet<String>,
    member: Option<Target>,
    key: Option<Target>,
    value: Option<Target>,
    location_name: Option<String>,
    flattened: bool,
    sensitive: bool,
    timestamp_format: Option<String>,
}

/// What is generated for one service.
pub struct Selection {
    pub metadata: Metadata,
    pub operations: Vec<Operation>,
    pub unimplemented: Vec<String>,
    pub structures: BTreeMap<String, Structure>,
}

pub struct Operation {
    pub name: String,
    pub request: String,
    /// `None`: the action answers nothing but success.
    pub response: Option<String>,
}

/// A structure; the key in [`Selection::structures`] is its Rust name.
#[derive(Default)]
pub struct Structure {
    pub members: Vec<Member>,
    /// It is an action's input, not a part of one.
    pub is_request: bool,
    pub decoded: bool,
    pub encoded: bool,
}

pub struct Member {
    /// The model's (and botocore's) name.
    pub name: String,
    pub field: String,
    pub kind: Kind,
    /// Required, in a request at top level.
    pub required: bool,
    pub name_in_request: String,
    pub name_in_response: String,
    pub idempotency_token: bool,
    pub secret: bool,
}

pub enum Kind {
    /// A Rust scalar type.
    Scalar(&'static str),
    /// The Rust name of a structure.
    Structure(String),
    List {
        /// Rust type.
        element: String,
        /// `None`: elements follow the list's own name.
        item_in_request: Option<String>,
        item_in_response: String,
    },
    /// From text to a Rust scalar type; in requests only of JSON protocols.
    Map(&'static str),
}

/// Members that hold secrets although the model does not say so.
const ALSO_SECRET: [&str; 2] = ["KeyMaterial", "SessionToken"];

impl Selection {
    /// Names that members with secrets have on the wire, in order.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let members = self.structures.values().flat_map(|structure| &structure.members).filter(|member| member.secret);
        members.flat_map(|member| [&*member.name_in_request, &*member.name_in_response]).collect()
    }

    pub fn new(model: &Model, actions: &[String]) -> Result<Self> {
        let metadata = model.metadata.clone();
        if !["ec2", "query", "json"].contains(&metadata.protocol.as_str()) {
            return Err(format!("protocol {} is not generated", metadata.protocol));
        }
        let mut selection = Self { metadata, operations: vec![], unimplemented: vec![], structures: BTreeMap::new() };
        for name in actions {
            let operation = model.operations.get(name).ok_or_else(|| format!("{name} is not in the model"))?;
            selection.add_operation(model, name, operation).map_err(|error| format!("{name}: {error}"))?;
        }
        let rest = model.operations.keys().filter(|name| actions.binary_search(name).is_err());
        selection.unimplemented = rest.cloned().collect();
        Ok(selection)
    }

    fn add_operation(&mut self, model: &Model, name: &str, operation: &ModelOperation) -> Result<()> {
        let request = match &operation.input {
            Some(input) => names::type_name(&input.shape),
            None => format!("{name}Request"),
        };
        if self.structures.contains_key(&request) {
            return Err(format!("{request} serves more than one purpose, which is not generated"));
        }
        match &operation.input {
            Some(input) => self.add_structure(model, &input.shape, Direction::Request, &mut vec![])?,
            None => {
                self.structures.insert(request.clone(), Structure { decoded: true, ..Structure::default() });
            }
        }
        let structure = self.structures.get_mut(&request).ok_or("its input is not a structure")?;
        structure.is_request = true;
        if let Some(input) = &operation.input {
            let required = &model.shapes[&input.shape].required;
            structure.members.iter_mut().for_each(|member| member.required = required.contains(&member.name));
        }
        if let Some(output) = &operation.output {
            if self.metadata.protocol == "query" && output.result_wrapper != Some(format!("{name}Result")) {
                return Err(format!("its result wrapper is {:?}, which is not generated", output.result_wrapper));
            }
            self.add_structure(model, &output.shape, Direction::Response, &mut vec![])?;
        }
        let response = operation.output.as_ref().map(|output| names::type_name(&output.shape));
        self.operations.push(Operation { name: name.to_owned(), request, response });
        Ok(())
    }

    /// Adds a structure and everything below it, for one direction. `above` are the shapes on the way here.
    fn add_structure(&mut self, model: &Model, shape: &str, way: Direction, above: &mut Vec<String>) -> Result<()> {
        if above.iter().any(|seen| seen == shape) {
            return Err(format!("{shape} contains itself, which is not generated"));
        }
        let name = names::type_name(shape);
        if self.structures.get(&name).is_some_and(|known| known.has(way)) {
            return Ok(());
        }
        let definition = model.shapes.get(shape).ok_or_else(|| format!("{shape} is not in the model"))?;
        above.push(shape.to_owned());
        let mut members = Vec::new();
        for (member, target) in &definition.members {
            let below = |error| format!("{shape}.{member}: {error}");
            let made = self.member(model, member, target).map_err(below)?;
            if matches!(made.kind, Kind::Map(_)) && matches!(way, Direction::Request) && !self.metadata.is_json() {
                return Err(below("a map in the form of a request is not generated".to_owned()));
            }
            members.push(made);
            for nested in structures_in(model, target) {
                self.add_structure(model, &nested, way, above)?;
            }
        }
        above.pop();
        let fields: BTreeSet<&String> = members.iter().map(|member| &member.field).collect();
        if fields.len() != members.len() {
            return Err(format!("{shape} has members that differ only in capitals"));
        }
        let structure = self.structures.entry(name).or_default();
        structure.members = members;
        match way {
            Direction::Request => structure.decoded = true,
            Direction::Response => structure.encoded = true,
        }
        Ok(())
    }

    fn member(&self, model: &Model, name: &str, target: &Target) -> Result<Member> {
        let shape = resolve(model, target)?;
        if target.xml_attribute {
            return Err("XML attributes are not generated".to_owned());
        }
        let (kind, scalar) = match shape.kind.as_str() {
            "structure" => (Kind::Structure(names::type_name(&target.shape)), None),
            "list" => self.list(model, target, shape)?,
            "map" => (self.map(model, target, shape)?, None),
            _ => (Kind::Scalar(self.scalar(shape, target)?), Some(shape)),
        };
        let location = target.location_name.as_ref().or(shape.location_name.as_ref());
        let name_in_request = match (&target.query_name, location) {
            (Some(query), _) if self.is_ec2() => query.clone(),
            (_, Some(location)) if self.is_ec2() => names::capitalised(location),
            (_, Some(location)) => location.clone(),
            (_, None) => name.to_owned(),
        };
        Ok(Member {
            name: name.to_owned(),
            field: names::field(name),
            kind,
            required: false,
            name_in_request,
            name_in_response: location.map_or(name, String::as_str).to_owned(),
            idempotency_token: target.idempotency_token,
            secret: scalar.is_some_and(|scalar| scalar.sensitive) || ALSO_SECRET.contains(&name),
        })
    }

    fn list<'m>(&self, model: &'m Model, target: &Target, list: &'m Shape) -> Result<(Kind, Option<&'m Shape>)> {
        let member = list.member.as_ref().ok_or("a list without a member")?;
        let element = resolve(model, member)?;
        let (rust, scalar) = match element.kind.as_str() {
            "structure" => (names::type_name(&member.shape), None),
            "list" => return Err("a list of lists is not generated".to_owned()),
            _ => (self.scalar(element, member)?.to_owned(), Some(element)),
        };
        if list.flattened || target.flattened {
            return Err("flattened lists are not generated".to_owned());
        }
        let location = member.location_name.as_ref().or(element.location_name.as_ref()).cloned();
        let default = if self.is_ec2() { "item" } else { "member" };
        let item = location.unwrap_or_else(|| default.to_owned());
        let item_in_request = if self.metadata.protocol == "query" { Some(item.clone()) } else { None };
        Ok((Kind::List { element: rust, item_in_request, item_in_response: item }, scalar))
    }

    fn map(&self, model: &Model, target: &Target, map: &Shape) -> Result<Kind> {
        let (key, value) = map.key.as_ref().zip(map.value.as_ref()).ok_or("a map without key or value")?;
        let renamed = key.location_name.is_some() || value.location_name.is_some();
        if resolve(model, key)?.kind != "string" || renamed || map.flattened || target.flattened {
            return Err("such a map is not generated".to_owned());
        }
        Ok(Kind::Map(self.scalar(resolve(model, value)?, value)?))
    }

    fn scalar(&self, shape: &Shape, target: &Target) -> Result<&'static str> {
        let format = target.timestamp_format.as_ref().or(shape.timestamp_format.as_ref());
        let usual = if self.metadata.is_json() { "unixTimestamp" } else { "iso8601" };
        match (shape.kind.as_str(), format) {
            ("string", _) => Ok("String"),
            ("boolean", _) => Ok("bool"),
            ("integer", _) => Ok("i32"),
            ("long", _) => Ok("i64"),
            ("float" | "double", _) => Ok("f64"),
            ("timestamp", None) => Ok("Timestamp"),
            ("timestamp", Some(format)) if format == usual => Ok("Timestamp"),
            ("timestamp", Some(other)) => Err(format!("times as {other} are not generated")),
            ("blob", _) => Ok("Vec<u8>"),
            (other, _) => Err(format!("{other} is not generated")),
        }
    }

    pub fn is_ec2(&self) -> bool {
        self.metadata.protocol == "ec2"
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Request,
    Response,
}

impl Structure {
    const fn has(&self, way: Direction) -> bool {
        match way {
            Direction::Request => self.decoded,
            Direction::Response => self.encoded,
        }
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    pub fn has_secrets(&self) -> bool {
        self.members.iter().any(|member| member.secret)
    }
}

fn resolve<'m>(model: &'m Model, target: &Target) -> Result<&'m Shape> {
    model.shapes.get(&target.shape).ok_or_else(|| format!("{} is not in the model", target.shape))
}

/// The structures that a member leads to directly, or through a list.
fn structures_in(model: &Model, target: &Target) -> Vec<String> {
    match model.shapes.get(&target.shape) {
        Some(shape) if shape.kind == "structure" => vec![target.shape.clone()],
        Some(Shape { member: Some(member), .. }) => structures_in(model, member),
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn select(protocol: &str, members: serde_json::Value) -> Result<Selection> {
        let model = json!({
            "metadata": {"apiVersion": "1", "protocol": protocol, "xmlNamespace": "ns"},
            "operations": {"Do": {"input": {"shape": "DoRequest"}}, "Other": {}},
            "shapes": {
                "DoRequest": {"type": "structure", "required": ["Name"], "members": members},
                "Self": {"type": "structure", "members": {"Again": {"shape": "Selves"}}},
                "Selves": {"type": "list", "member": {"shape": "Self"}},
                "Map": {"type": "map", "key": {"shape": "Text"}, "value": {"shape": "Text"}},
                "Text": {"type": "string"},
                "Secret": {"type": "string", "sensitive": true},
                "Texts": {"type": "list", "member": {"shape": "Text", "locationName": "item"}},
                "Lists": {"type": "list", "member": {"shape": "Texts"}},
            },
        });
        Selection::new(&serde_json::from_value(model).map_err(|error| error.to_string())?, &["Do".to_owned()])
    }

    #[test]
    fn names_on_the_wire() {
        let members = json!({
            "Name": {"shape": "Secret", "locationName": "name"},
            "Ids": {"shape": "Texts", "locationName": "idSet", "queryName": "Id"},
        });
        for (protocol, expected) in [
            ("ec2", [("Ids", "Id", "idSet", false, false), ("Name", "Name", "name", true, true)]),
            ("json", [("Ids", "idSet", "idSet", false, false), ("Name", "name", "name", true, true)]),
            ("query", [("Ids", "idSet", "idSet", false, false), ("Name", "name", "name", true, true)]),
        ] {
            let selection = select(protocol, members.clone()).unwrap();
            let members = &selection.structures["DoRequest"].members;
            let read = members.iter().map(|member| {
                let (request, response) = (member.name_in_request.as_str(), member.name_in_response.as_str());
                (member.name.as_str(), request, response, member.required, member.secret)
            });
            assert_eq!(read.collect::<Vec<_>>(), expected, "{protocol}");
            assert_eq!(selection.unimplemented, ["Other"]);
        }
    }

    #[test]
    fn what_is_not_generated_is_refused() {
        for (member, expected) in [
            (json!({"shape": "Self"}), "Do: Self contains itself, which is not generated"),
            (json!({"shape": "Map"}), "Do: DoRequest.X: a map in the form of a request is not generated"),
            (json!({"shape": "Lists"}), "Do: DoRequest.X: a list of lists is not generated"),
            (json!({"shape": "Texts", "flattened": true}), "Do: DoRequest.X: flattened lists are not generated"),
            (json!({"shape": "Gone"}), "Do: DoRequest.X: Gone is not in the model"),
        ] {
            let refused = select("query", json!({"X": member})).err();
            assert_eq!(refused.as_deref(), Some(expected));
        }
        assert!(select("json", json!({"X": {"shape": "Map"}})).is_ok());
        assert_eq!(select("rest-xml", json!({})).err().as_deref(), Some("protocol rest-xml is not generated"));
    }
}
