use std::borrow::Cow;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is. Each protocol turns it into its own HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request is wrong, whatever the state.
    Invalid,
    /// What the request names does not exist for this caller.
    NotFound,
    /// The state forbids it: in use, wrong state, already there.
    Conflict,
    /// A quota or limit of the account.
    Limit,
    /// Who is asking could not be established.
    Unauthenticated,
    /// Known caller without the permission.
    Denied,
    /// Would have been done but for `DryRun`.
    DryRun,
    /// Too many requests.
    Throttled,
    /// No host, address or disk space left.
    Capacity,
    /// Known to AWS's API but not built here.
    Unsupported,
    /// A passing condition; the same request may succeed later.
    Unavailable,
    /// Our fault.
    Internal,
}

/// The one error that domain code returns: AWS's code, a message for the caller, and what only the operator may read.
#[derive(Debug, Clone)]
pub struct Error {
    class: ErrorClass,
    code: Cow<'static, str>,
    message: String,
    internal: Option<String>,
}

impl Error {
    pub fn new(class: ErrorClass, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), message: message.into(), internal: None }
    }

    pub fn invalid(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Invalid, code, message)
    }

    pub fn not_found(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::NotFound, code, message)
    }

    pub fn conflict(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Conflict, code, message)
    }

    pub fn limit(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Limit, code, message)
    }

    /// `internal` is logged and never sent to the caller.
    pub fn internal(internal: impl fmt::Display) -> Self {
        Self::new(ErrorClass::Internal, "InternalError", "An internal error has occurred")
            .with_internal(internal.to_string())
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Unavailable, "Unavailable", message)
    }

    #[must_use]
    pub fn with_internal(mut self, internal: impl Into<String>) -> Self {
        self.internal = Some(internal.into());
        self
    }

    pub const fn class(&self) -> ErrorClass {
        self.class
    }

    /// AWS's code, for example `InvalidInstanceID.NotFound`.
    pub fn code(&self) -> &str {
        &self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn internal_detail(&self) -> Option<&str> {
        self.internal.as_deref()
    }

    /// Whether the same request may succeed if it is sent again unchanged.
    pub const fn retryable(&self) -> bool {
        match self.class {
            ErrorClass::Throttled | ErrorClass::Capacity | ErrorClass::Unavailable | ErrorClass::Internal => true,
            ErrorClass::Invalid
            | ErrorClass::NotFound
            | ErrorClass::Conflict
            | ErrorClass::Limit
            | ErrorClass::Unauthenticated
            | ErrorClass::Denied
            | ErrorClass::DryRun
            | ErrorClass::Unsupported => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}
