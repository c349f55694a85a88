//! Why a balancer cannot be built, or a setting not be taken.

use super::BoxError;

/// Why a balancer could not be built, or a changed setting not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A target that is no `scheme://rest`, or is empty.
    #[error("`{target}` is no target: expected `scheme://...`, such as `static://10.0.0.1:80`")]
    Target {
        /// The text as given.
        target: String,
    },
    /// A scheme that no source serves.
    #[error(
        "no source serves the scheme `{scheme}` of the target `{target}`: there are `static`, `dns`, `srv` and `k8s`"
    )]
    UnknownScheme {
        /// The scheme as given.
        scheme: String,
        /// The whole target.
        target: String,
    },
    /// A scheme whose source is not in this build.
    #[error(
        "the target `{target}` needs the feature `{feature}` of evenkeel, which this build does not have"
    )]
    MissingFeature {
        /// The whole target.
        target: String,
        /// The feature that serves the scheme.
        feature: &'static str,
    },
    /// A target whose scheme is served, but not what follows it.
    #[error(transparent)]
    InTarget(#[from] TargetError),
    /// A target that the program's own scheme refused.
    #[error("the scheme `{scheme}` does not take the target `{target}`")]
    OwnScheme {
        /// The scheme as it was registered.
        scheme: String,
        /// The whole target.
        target: String,
        /// What the scheme says.
        source: BoxError,
    },
    /// An environment variable that names no target.
    #[error("the environment variable `{name}` names no target")]
    Variable {
        /// The variable's name.
        name: String,
        /// That it is not set or not Unicode, or what is wrong with the target that it holds.
        source: BoxError,
    },
    /// A list of endpoints that does not parse.
    #[error(transparent)]
    List(#[from] ListError),
    /// There is no tokio runtime here to run the balancer's one task.
    #[error(
        "a balancer needs a tokio runtime: build it inside one, or enter one with `Runtime::enter`"
    )]
    NoRuntime,
    /// The tokio runtime here has no timers.
    #[error(
        "a balancer needs timers: enable those of the tokio runtime by its builder's `enable_time` or `enable_all`"
    )]
    NoTimers,
    /// A setting that makes no sense.
    #[error("the setting `{setting}` is out of range: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What was wrong with it.
        reason: &'static str,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {problem}")]
    Tls {
        /// What is missing, or of no use.
        problem: &'static str,
        /// What rustls or the platform said.
        source: Option<BoxError>,
    },
    /// A request key that can never match, such as an invalid header name.
    #[error("`{key}` is no valid {what} for a request key")]
    Key {
        /// What kind of key it is.
        what: &'static str,
        /// The key as given.
        key: String,
    },
}

/// Where and why a textual list of endpoints does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint list, byte {position}: `{entry}` {reason}")]
#[non_exhaustive]
pub struct ListError {
    /// The byte offset of the offending part in what was given: the list, or the target that holds
    /// it. A list that was given as endpoints has the offsets of the text that would say the same.
    pub position: usize,
    /// The offending part.
    pub entry: String,
    /// What is wrong with it.
    pub reason: ListErrorReason,
}

/// What is wrong with an entry of a textual list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListErrorReason {
    /// There is no endpoint at all.
    #[error("lists no endpoint")]
    EmptyList,
    /// Nothing stands between two commas.
    #[error("is an empty entry")]
    EmptyEntry,
    /// Neither an address nor anything like one.
    #[error("is no `ip:port`, `[ipv6]:port` or `unix:/path`")]
    Address,
    /// A name stands where an address is needed.
    #[error("is a name where an IP address is needed (names are looked up by `dns://name:port`)")]
    Name,
    /// An IPv6 address without brackets, of which nobody can tell where its port begins.
    #[error("is an IPv6 address without brackets: write `[ipv6]:port`")]
    Brackets,
    /// The port is missing.
    #[error("lacks a port")]
    NoPort,
    /// The port is no number up to 65535.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    /// Port 0 cannot be dialled.
    #[error("has port 0, which cannot be dialled")]
    PortZero,
    /// The same endpoint again.
    #[error("stands in the list twice")]
    Duplicate,
    /// An option that does not exist.
    #[error(
        "is no option; there are `weight=N`, `priority=N`, `zone=NAME`, `region=NAME` and `name=NAME`"
    )]
    Option,
    /// An option's value that does not parse.
    #[error("has a value that is no whole number from 0 to 4294967295")]
    Number,
    /// An option without a value.
    #[error("has an empty value")]
    EmptyValue,
    /// An option that the entry has already.
    #[error("sets an option again that the same entry has set")]
    Repeated,
}

/// Where and why a target does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("target `{target}`, byte {position}: `{part}` {reason}")]
#[non_exhaustive]
pub struct TargetError {
    /// The whole target. Of what was given as values it is the text that would say the same.
    pub target: String,
    /// The byte offset of the offending part in the target.
    pub position: usize,
    /// The offending part.
    pub part: String,
    /// What is wrong with it.
    pub reason: TargetErrorReason,
}

/// What is wrong with a part of a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetErrorReason {
    /// Something else is needed here.
    #[error("is no {0}")]
    Expected(&'static str),
    /// A name or value that is too long, or otherwise not what a name may be.
    #[error("is no name: {0}")]
    Name(String),
    /// The port is missing.
    #[error("lacks a port")]
    NoPort,
    /// The port is no number from 1 to 65535.
    #[error("is no port: a number from 1 to 65535")]
    Port,
    /// A path where the scheme has none.
    #[error("is a path, which this scheme does not take")]
    Path,
    /// An option that the scheme does not have.
    #[error("is no option of this scheme, which has {0}")]
    Option(String),
    /// An option without a value.
    #[error("has an empty value")]
    EmptyValue,
    /// An option that the target has set already.
    #[error("sets an option again that the target has set")]
    Repeated,
    /// Options that exclude each other.
    #[error("does not go with {0}")]
    Conflict(&'static str),
}
