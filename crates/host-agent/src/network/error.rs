use terroir_types::VpcId;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No round has set this VPC up yet.
    #[error("{0} has no network on this host yet")]
    UnknownVpc(VpcId),
    /// Somebody still holds the tap's descriptor.
    #[error("tap {0} is in use by another process")]
    TapBusy(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{what}: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
    /// nft's own words.
    #[error("nft refused the rules of {place}: {detail}")]
    Nft { place: String, detail: String },
    /// The spec says something that cannot be built.
    #[error("{0}")]
    Spec(String),
}

impl NetworkError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io { what, source: errno.into() }
    }

    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }
}
