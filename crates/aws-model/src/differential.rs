//! A JSON form of every generated type by botocore's member names, so that botocore can judge the codecs.
//!
//! Only with the feature `differential`, and only for tests. Times are RFC 3339 strings, blobs are base64; absent members
//! have no key, lists always have one.

use crate::generated::CASES;
use crate::{Decode, Operation, Params, Service, encode_error, encode_response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use terroir_types::Timestamp;

type Result<T, E = String> = std::result::Result<T, E>;

/// One action, with its types hidden behind JSON.
#[derive(Debug)]
pub struct Case {
    pub service: Service,
    pub name: &'static str,
    decode: fn(&Params) -> Result<Value>,
    encode: fn(&Value) -> Result<String>,
}

impl Case {
    pub(crate) const fn of<O: Operation>() -> Self
    where
        O::Request: Json,
        O::Response: Json,
    {
        Self { service: O::SERVICE, name: O::NAME, decode: decode::<O>, encode: encode::<O> }
    }
}

fn decode<O: Operation<Request: Json>>(params: &Params) -> Result<Value> {
    let request = O::Request::decode(params).map_err(|error| format!("{}: {error}", error.code(O::SERVICE)))?;
    let page = request.page();
    Ok(json!({
        "request": request.to_json(),
        "client_token": request.client_token(),
        "dry_run": request.dry_run(),
        "page": [page.max_results, page.next_token],
    }))
}

fn encode<O: Operation<Response: Json>>(response: &Value) -> Result<String> {
    Ok(encode_response::<O>(&O::Response::from_json(response)?, "req-1"))
}

/// All generated actions.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().copied().flatten()
}

/// Answers one question. `{"service", "action", "body"}` decodes a body, `{"service", "action", "response"}` encodes
/// a response, `{"service", "code", "message"}` an error. If that does not work the answer is `{"error"}`.
pub fn answer(question: &str) -> Value {
    try_answer(question).unwrap_or_else(|error| json!({ "error": error }))
}

fn try_answer(question: &str) -> Result<Value> {
    let question: Value = serde_json::from_str(question).map_err(|error| error.to_string())?;
    let text = |key: &str| question[key].as_str().unwrap_or_default();
    let service = Service::from_signing_name(text("service")).ok_or("no such service")?;
    if question.get("code").is_some() {
        return Ok(json!({ "body": encode_error(service, text("code"), text("message"), "req-1") }));
    }
    let case = cases().find(|case| case.service == service && case.name == text("action")).ok_or("no such action")?;
    match question.get("response") {
        Some(response) => Ok(json!({ "body": (case.encode)(response)? })),
        None => {
            let body = text("body").as_bytes();
            let params =
                if service.speaks_json() { Params::parse_json(text("action"), body) } else { Params::parse("", body) };
            (case.decode)(&params.map_err(|error| error.to_string())?)
        }
    }
}

/// A value that has a JSON form.
pub trait Json: Sized {
    fn to_json(&self) -> Value;
    /// # Errors
    /// A value of another type, or an unknown member.
    fn from_json(value: &Value) -> Result<Self>;
}

/// A member of a structure: knows what its absence means.
pub trait Field: Sized {
    fn put(&self, key: &str, map: &mut Map<String, Value>);
    fn take(key: &str, map: &Map<String, Value>) -> Result<Self>;
}

impl<T: Json> Field for Option<T> {
    fn put(&self, key: &str, map: &mut Map<String, Value>) {
        if let Some(value) = self {
            map.insert(key.to_owned(), value.to_json());
        }
    }

    fn take(key: &str, map: &Map<String, Value>) -> Result<Self> {
        map.get(key).map(T::from_json).transpose()
    }
}

impl<T: Json> Field for Vec<T> {
    fn put(&self, key: &str, map: &mut Map<String, Value>) {
        map.insert(key.to_owned(), self.iter().map(Json::to_json).collect());
    }

    fn take(key: &str, map: &Map<String, Value>) -> Result<Self> {
        match map.get(key) {
            None => Ok(vec![]),
            Some(value) => value.as_array().ok_or("not a list")?.iter().map(T::from_json).collect(),
        }
    }
}

impl<T: Json> Json for BTreeMap<String, T> {
    fn to_json(&self) -> Value {
        self.iter().map(|(key, value)| (key.clone(), value.to_json())).collect::<Map<_, _>>().into()
    }

    fn from_json(value: &Value) -> Result<Self> {
        let map = value.as_object().ok_or("not a map")?;
        map.iter().map(|(key, value)| Ok((key.clone(), T::from_json(value)?))).collect()
    }
}

macro_rules! scalar {
    ($($type:ty: |$value:ident| $to:expr, |$json:ident| $from:expr;)*) => {$(
        impl Json for $type {
            fn to_json(&self) -> Value {
                let $value = self;
                json!($to)
            }

            fn from_json($json: &Value) -> Result<Self> {
                $from.ok_or_else(|| format!("{} is not a {}", $json, stringify!($type)))
            }
        }

        impl Field for $type {
            fn put(&self, key: &str, map: &mut Map<String, Value>) {
                map.insert(key.to_owned(), self.to_json());
            }

            fn take(key: &str, map: &Map<String, Value>) -> Result<Self> {
                map.get(key).ok_or_else(|| format!("{key} is missing")).and_then(Self::from_json)
            }
        }
    )*};
}

scalar! {
    String: |text| text, |json| json.as_str().map(str::to_owned);
    bool: |flag| flag, |json| json.as_bool();
    i32: |number| number, |json| json.as_i64().and_then(|number| number.try_into().ok());
    i64: |number| number, |json| json.as_i64();
    f64: |number| number, |json| json.as_f64();
    Timestamp: |time| time.to_rfc3339(), |json| json.as_str().and_then(Timestamp::parse_rfc3339);
    Vec<u8>: |bytes| STANDARD.encode(bytes), |json| json.as_str().and_then(|text| STANDARD.decode(text).ok());
}

impl Json for crate::Empty {
    fn to_json(&self) -> Value {
        json!({})
    }

    fn from_json(value: &Value) -> Result<Self> {
        refuse_others(value, &[]).map(|_| Self)
    }
}

/// The members of a structure, all of which must be among `known`.
pub(crate) fn refuse_others<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>> {
    let map = value.as_object().ok_or("not a structure")?;
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(other) => Err(format!("unknown member {other}")),
        None => Ok(map),
    }
}

macro_rules! json_structures {
    ($($name:ident { $($key:literal => $field:ident,)* })*) => {$(
        impl $crate::differential::Json for $name {
            #[allow(unused_mut)]
            fn to_json(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $($crate::differential::Field::put(&self.$field, $key, &mut map);)*
                serde_json::Value::Object(map)
            }

            fn from_json(value: &serde_json::Value) -> Result<Self, String> {
                let _map = $crate::differential::refuse_others(value, &[$($key),*])?;
                Ok(Self { $($field: $crate::differential::Field::take($key, _map)?,)* })
            }
        }
    )*};
}
pub(crate) use json_structures;
