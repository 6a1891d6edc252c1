//! Records and their stored form.
//!
//! ```text
//! format 1 byte | flags 1 byte | version u16 | [account u64] | [length of clear u32] | clear | [sealed tenant]
//! ```
//! Integers are little-endian; what is in brackets is there when its flag is set (the length of the clear part only
//! when a tenant part follows). Both parts are MessagePack with named fields, so a field that is added with
//! `#[serde(default)]` needs no new version. The tenant part is sealed under the account's metadata key and bound to
//! the record's key, account and version: moved to another key it does not open.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use terroir_types::AccountId;

use crate::key::OUTSIDE_VIEW;
use crate::{Key, KeyRing, StoreError};

/// A type that is kept in the store. Implement it with [`crate::record!`].
pub trait Record: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// The first segment of the keys of these records. Begins with `~` exactly if [`Self::IN_VIEW`] is false.
    const KIND: &'static str;
    /// Of the stored form; raised when the old form no longer decodes into the new type.
    const VERSION: u16;
    /// False for what is large or rarely read: it stays out of memory and is read with `get_direct` or a prefetch.
    const IN_VIEW: bool = true;
    /// What only the account's operators may read: names, tags, CIDRs, credentials. `()` if there is nothing.
    type Tenant: Serialize + DeserializeOwned + Default;

    /// Whose metadata key seals the tenant part; none: the cell's own.
    fn account(&self) -> Option<AccountId>;
    fn take_tenant(&mut self) -> Self::Tenant;
    fn put_tenant(&mut self, tenant: Self::Tenant);

    /// Turns an older stored form into this type; usually with [`decode_previous`].
    fn migrate(version: u16, clear: &[u8], tenant: &[u8]) -> Result<Self, StoreError> {
        let _ = (clear, tenant);
        Err(StoreError::UnknownVersion { kind: Self::KIND, found: version })
    }

    /// The form that is written while the cluster still has members that know only `cluster_version`; none: this one.
    fn encode_for(&self, cluster_version: u16) -> Result<Option<StoredForm>, StoreError> {
        let _ = cluster_version;
        Ok(None)
    }
}

/// The parts of a record as they are stored, before sealing. An empty tenant part means that there is none.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredForm {
    pub version: u16,
    pub clear: Vec<u8>,
    pub tenant: Vec<u8>,
}

impl StoredForm {
    pub fn of<T: Record>(record: &T) -> Result<Self, StoreError> {
        let mut record = record.clone();
        Self::split(&mut record)
    }

    fn split<T: Record>(record: &mut T) -> Result<Self, StoreError> {
        let tenant = record.take_tenant();
        let sealed_text = if has_tenant::<T>() { to_bytes(&tenant)? } else { Vec::new() };
        let clear = to_bytes(record)?;
        record.put_tenant(tenant);
        Ok(Self { version: T::VERSION, clear, tenant: sealed_text })
    }
}

const fn has_tenant<T: Record>() -> bool {
    size_of::<T::Tenant>() > 0
}

/// Decodes the stored form of `version` into `P`, the type that came before, which may migrate in its turn.
pub fn decode_previous<P: Record>(version: u16, clear: &[u8], tenant: &[u8]) -> Result<P, StoreError> {
    if version > P::VERSION {
        return Err(StoreError::NewerRecord { kind: P::KIND, found: version, supported: P::VERSION });
    }
    if version < P::VERSION {
        return P::migrate(version, clear, tenant);
    }
    let mut record: P = from_bytes(clear)?;
    if !tenant.is_empty() {
        record.put_tenant(from_bytes(tenant)?);
    }
    Ok(record)
}

fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(value).map_err(|error| StoreError::Codec(error.to_string()))
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    rmp_serde::from_slice(bytes).map_err(|error| StoreError::Codec(error.to_string()))
}

/// Whether name and place of a kind agree; checked at compile time by [`crate::record!`].
#[doc(hidden)]
pub const fn is_kind(kind: &str, in_view: bool) -> bool {
    let bytes = kind.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'/' || bytes[i] >= 0x7f || bytes[i] <= b' ' {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty() && (bytes[0] == OUTSIDE_VIEW as u8) != in_view
}

const FORMAT: u8 = 1;
const HAS_ACCOUNT: u8 = 1;
const HAS_TENANT: u8 = 2;

fn associated_data(key: &Key, version: u16, account: Option<AccountId>) -> Vec<u8> {
    let mut data = Vec::with_capacity(key.as_str().len() + 11);
    data.extend_from_slice(&version.to_le_bytes());
    data.extend_from_slice(&account.map_or(u64::MAX, AccountId::number).to_le_bytes());
    data.extend_from_slice(key.as_str().as_bytes());
    data
}

/// The stored bytes of `record` at `key`. The record is unchanged when the call returns.
pub(crate) fn encode<T: Record>(
    keys: &dyn KeyRing,
    cluster_version: u16,
    key: &Key,
    record: &mut T,
) -> Result<Bytes, StoreError> {
    let form = match record.encode_for(cluster_version)? {
        Some(older) => older,
        None => StoredForm::split(record)?,
    };
    let account = record.account();
    let has_tenant = !form.tenant.is_empty();
    let sealed = if has_tenant {
        keys.seal(account, &associated_data(key, form.version, account), &form.tenant)?
    } else {
        Vec::new()
    };
    let clear_length =
        u32::try_from(form.clear.len()).map_err(|_| StoreError::Codec("the clear part exceeds 4 GiB".into()))?;

    let mut out = Vec::with_capacity(16 + form.clear.len() + sealed.len());
    out.push(FORMAT);
    out.push(if account.is_some() { HAS_ACCOUNT } else { 0 } | if has_tenant { HAS_TENANT } else { 0 });
    out.extend_from_slice(&form.version.to_le_bytes());
    if let Some(account) = account {
        out.extend_from_slice(&account.number().to_le_bytes());
    }
    if has_tenant {
        out.extend_from_slice(&clear_length.to_le_bytes());
    }
    out.extend_from_slice(&form.clear);
    out.extend_from_slice(&sealed);
    Ok(out.into())
}

pub(crate) fn decode<T: Record>(keys: &dyn KeyRing, key: &Key, stored: &[u8]) -> Result<T, StoreError> {
    let parts = Parts::parse(stored).ok_or_else(|| StoreError::Corrupt(format!("the record at '{key}' is cut off")))?;
    if parts.format != FORMAT {
        return Err(StoreError::NewerFormat { found: parts.format.into(), supported: FORMAT.into() });
    }
    let tenant = match parts.sealed {
        Some(sealed) => keys.open(parts.account, &associated_data(key, parts.version, parts.account), sealed)?,
        None => Vec::new(),
    };
    decode_previous(parts.version, parts.clear, &tenant)
}

/// An entry of an outbox as it lies on an engine that is shared with others, sealed with the cell's own key.
pub(crate) fn seal_entry(keys: &dyn KeyRing, stream: &str, payload: &[u8]) -> Result<Bytes, StoreError> {
    keys.seal(None, format!("~outbox/{stream}").as_bytes(), payload).map(Bytes::from)
}

pub(crate) fn open_entry(keys: &dyn KeyRing, stream: &str, sealed: &[u8]) -> Result<Bytes, StoreError> {
    keys.open(None, format!("~outbox/{stream}").as_bytes(), sealed).map(Bytes::from)
}

struct Parts<'a> {
    format: u8,
    version: u16,
    account: Option<AccountId>,
    clear: &'a [u8],
    sealed: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn parse(stored: &'a [u8]) -> Option<Self> {
        let (&[format, flags, low, high], mut rest) = stored.split_first_chunk::<4>()?;
        let mut parts =
            Self { format, version: u16::from_le_bytes([low, high]), account: None, clear: &[], sealed: None };
        if format != FORMAT {
            return Some(parts);
        }
        if flags & HAS_ACCOUNT != 0 {
            let (number, behind) = rest.split_first_chunk::<8>()?;
            parts.account = Some(AccountId::from_number(u64::from_le_bytes(*number))?);
            rest = behind;
        }
        if flags & HAS_TENANT != 0 {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let (clear, sealed) = behind.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            parts.sealed = Some(sealed);
            rest = clear;
        }
        parts.clear = rest;
        Some(parts)
    }
}

/// Makes a type a [`Record`].
///
/// ```
/// # use serde::{Serialize, Deserialize};
/// # use terroir_types::AccountId;
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Vpc {
///     account: AccountId,
///     #[serde(skip, default)]
///     tenant: VpcTenant,
/// }
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct VpcTenant {
///     name: String,
/// }
/// terroir_store::record!(Vpc { kind: "vpc", version: 1, account: |r| Some(r.account), tenant: tenant: VpcTenant });
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct UserData {
///     text: String,
/// }
/// terroir_store::record!(UserData { kind: "~user-data", version: 1, in_view: false });
/// ```
///
/// `previous: OldVpc` migrates from the version before; it wants `From<OldVpc> for Vpc`.
#[macro_export]
macro_rules! record {
    (@ [$type:ty] [$kind:expr] [$version:expr] [$($view:tt)*] [$($account:tt)*] [$($tenant:tt)*] [$($previous:tt)*]
        in_view: $in_view:literal $(, $($rest:tt)*)?) => {
        $crate::record!(@ [$type] [$kind] [$version] [$in_view] [$($account)*] [$($tenant)*] [$($previous)*] $($($rest)*)?);
    };
    (@ [$type:ty] [$kind:expr] [$version:expr] [$($view:tt)*] [$($account:tt)*] [$($tenant:tt)*] [$($previous:tt)*]
        account: |$record:ident| $whose:expr $(, $($rest:tt)*)?) => {
        $crate::record!(@ [$type] [$kind] [$version] [$($view)*] [$record $whose] [$($tenant)*] [$($previous)*] $($($rest)*)?);
    };
    (@ [$type:ty] [$kind:expr] [$version:expr] [$($view:tt)*] [$($account:tt)*] [$($tenant:tt)*] [$($previous:tt)*]
        tenant: $field:ident : $part:ty $(, $($rest:tt)*)?) => {
        $crate::record!(@ [$type] [$kind] [$version] [$($view)*] [$($account)*] [$field $part] [$($previous)*] $($($rest)*)?);
    };
    (@ [$type:ty] [$kind:expr] [$version:expr] [$($view:tt)*] [$($account:tt)*] [$($tenant:tt)*] [$($previous:tt)*]
        previous: $before:ty $(, $($rest:tt)*)?) => {
        $crate::record!(@ [$type] [$kind] [$version] [$($view)*] [$($account)*] [$($tenant)*] [$before] $($($rest)*)?);
    };
    (@ [$type:ty] [$kind:expr] [$version:expr] [$view:literal] [$($account:tt)*] [$($tenant:tt)*] [$($previous:tt)*]) => {
        impl $crate::Record for $type {
            const KIND: &'static str = $kind;
            const VERSION: u16 = $version;
            const IN_VIEW: bool = $view;
            $crate::record!(@account [$($account)*]);
            $crate::record!(@tenant [$($tenant)*]);
            $crate::record!(@previous [$($previous)*]);
        }
        const _: () = assert!(
            $crate::is_kind(<$type as $crate::Record>::KIND, <$type as $crate::Record>::IN_VIEW),
            "a kind is printable ASCII without '/', and begins with '~' exactly if it is outside the view"
        );
    };
    (@account []) => {
        fn account(&self) -> Option<$crate::AccountId> {
            None
        }
    };
    (@account [$record:ident $whose:expr]) => {
        fn account(&self) -> Option<$crate::AccountId> {
            let $record = self;
            $whose
        }
    };
    (@tenant []) => {
        type Tenant = ();
        fn take_tenant(&mut self) {}
        fn put_tenant(&mut self, (): ()) {}
    };
    (@tenant [$field:ident $part:ty]) => {
        type Tenant = $part;
        fn take_tenant(&mut self) -> $part {
            ::std::mem::take(&mut self.$field)
        }
        fn put_tenant(&mut self, tenant: $part) {
            self.$field = tenant;
        }
    };
    (@previous []) => {};
    (@previous [$before:ty]) => {
        fn migrate(version: u16, clear: &[u8], tenant: &[u8]) -> Result<Self, $crate::StoreError> {
            $crate::decode_previous::<$before>(version, clear, tenant).map(Self::from)
        }
    };
    ($type:ty { kind: $kind:expr, version: $version:expr $(, $($rest:tt)*)? }) => {
        $crate::record!(@ [$type] [$kind] [$version] [true] [] [] [] $($($rest)*)?);
    };
}
