//! A text that names a source, such as a flag or a line of configuration holds.

use std::{fmt, str::FromStr, sync::Arc};

use futures_core::Stream;

use super::{Discover, OnEmpty, RefreshRequests, StaticList, Update};
use crate::error::BuildError;

/// A source that a text names: `scheme://...`.
///
/// | target | source |
/// |---|---|
/// | `static://10.0.0.1:80,[::1]:80;weight=2` | [`StaticList`] |
///
/// ```
/// use evenkeel::{BuildError, discovery::Target};
///
/// let target: Target = "static://10.0.0.1:80,10.0.0.2:80".parse()?;
/// assert_eq!(target.to_string(), "static://10.0.0.1:80,10.0.0.2:80");
/// assert!(matches!("gopher://x".parse::<Target>(), Err(BuildError::UnknownScheme { .. })));
/// # Ok::<(), BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    text: Arc<str>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Static(StaticList),
}

// === impl Target ===

impl Target {
    /// Takes the text for a target. Nothing is looked up yet.
    ///
    /// # Errors
    ///
    /// If it is no `scheme://...`, if no source of this build serves the scheme, or if the source
    /// does not understand the rest.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let target = || text.to_owned();
        let (scheme, rest) = text
            .trim()
            .split_once("://")
            .filter(|(scheme, _)| is_scheme(scheme))
            .ok_or_else(|| BuildError::Target { target: target() })?;
        // Schemes know no case (RFC 3986 3.1).
        let source = match scheme.to_ascii_lowercase().as_str() {
            "static" => Source::Static(StaticList::parse(rest)?),
            "dns" | "srv" => {
                return Err(BuildError::MissingFeature { target: target(), feature: "dns" });
            }
            "k8s" => {
                return Err(BuildError::MissingFeature { target: target(), feature: "kubernetes" });
            }
            _ => {
                let scheme = scheme.to_owned();
                return Err(BuildError::UnknownScheme { scheme, target: target() });
            }
        };
        Ok(Self { text: text.into(), source })
    }
}

/// RFC 3986 3.1: a letter, then letters, digits, `+`, `-` and `.`.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

impl Discover for Target {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        match self.source {
            Source::Static(list) => list.watch(refresh),
        }
    }

    fn on_empty(&self) -> OnEmpty {
        match &self.source {
            Source::Static(list) => list.on_empty(),
        }
    }

    fn target(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

impl FromStr for Target {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        Self::parse(text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::{discovery::refresh, error::ListErrorReason};

    #[test]
    fn a_static_target_is_its_list() {
        for text in ["static://10.0.0.1:80,10.0.0.2:80", " STATIC://10.0.0.1:80 , 10.0.0.2:80\n"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(&*Discover::target(&target), text);
            assert_eq!(target.on_empty(), OnEmpty::Clear);
            let (_handle, requests) = refresh::channel();
            let mut updates = std::pin::pin!(target.watch(requests));
            let update = updates.next().now_or_never().unwrap();
            assert!(matches!(update, Some(Update::Set(set)) if set.len() == 2));
        }
    }

    #[test]
    fn what_is_no_target_is_told_apart() {
        for text in ["", "  ", "10.0.0.1:80", "static:10.0.0.1:80", "://x", "1s://x", "a b://x"] {
            let error = Target::parse(text).unwrap_err();
            assert!(matches!(&error, BuildError::Target { target } if target == text), "{error}");
        }
        for (text, needed) in [
            ("dns://a:80", "dns"),
            ("srv://_http._tcp.a", "dns"),
            ("k8s://shop/cart", "kubernetes"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(
                matches!(&error, BuildError::MissingFeature { target, feature }
                    if target == text && *feature == needed),
                "{error}"
            );
        }
        let error = Target::parse("http://10.0.0.1:80").unwrap_err();
        assert!(
            matches!(&error, BuildError::UnknownScheme { scheme, .. } if scheme == "http"),
            "{error}"
        );
        let error = Target::parse("static://").unwrap_err();
        assert!(
            matches!(&error, BuildError::List(list) if list.reason == ListErrorReason::EmptyList),
            "{error}"
        );
    }
}
