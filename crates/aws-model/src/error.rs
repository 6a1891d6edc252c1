use crate::{Protocol, Service};
use std::fmt;

/// Why a request could not be read. Each kind has AWS's own code, see [`DecodeError::code`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The form itself is broken: bad percent escape, not UTF-8, too many parameters, a name that is too long; or the
    /// JSON is.
    Malformed { detail: String },
    /// A required parameter is absent.
    Missing { name: String },
    /// A parameter is given more than once.
    Duplicate { name: String },
    /// A parameter's text is not of its type. `value` is shortened, and empty where it might be a secret.
    Invalid { name: String, value: String, expected: &'static str },
    /// No member of the request takes this parameter. Only EC2 refuses these.
    Unknown { name: String },
}

impl DecodeError {
    /// EC2's code, or the one that the services of another protocol use for the same mistake.
    pub const fn code(&self, service: Service) -> &'static str {
        match (self, service.protocol()) {
            (Self::Missing { .. }, Protocol::Json { .. }) => "ValidationException",
            (_, Protocol::Json { .. }) => "SerializationException",
            (Self::Malformed { .. }, _) => "MalformedQueryString",
            (Self::Missing { .. }, Protocol::Ec2) => "MissingParameter",
            (Self::Missing { .. } | Self::Invalid { .. }, Protocol::Query) => "ValidationError",
            (Self::Duplicate { .. }, _) => "InvalidParameterCombination",
            (Self::Invalid { .. }, Protocol::Ec2) => "InvalidParameterValue",
            (Self::Unknown { .. }, _) => "UnknownParameter",
        }
    }

    /// As an error of the whole request, with the code of `service`.
    pub fn into_error(self, service: Service) -> terroir_types::Error {
        let message = match &self {
            Self::Missing { name } if service.speaks_json() => {
                let name = name[..1].to_ascii_lowercase() + &name[1..];
                format!(
                    "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
                )
            }
            other => other.to_string(),
        };
        terroir_types::Error::invalid(self.code(service), message)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { detail } => write!(f, "The request cannot be read: {detail}"),
            Self::Missing { name } => write!(f, "The request must contain the parameter {name}"),
            Self::Duplicate { name } => write!(f, "The parameter {name} may be given only once"),
            Self::Invalid { name, value, expected } if value.is_empty() => {
                write!(f, "Invalid value for parameter {name}: expected {expected}")
            }
            Self::Invalid { name, value, expected } => {
                write!(f, "Value ({value}) for parameter {name} is invalid: expected {expected}")
            }
            Self::Unknown { name } => write!(f, "The parameter {name} is not recognized"),
        }
    }
}

impl std::error::Error for DecodeError {}
