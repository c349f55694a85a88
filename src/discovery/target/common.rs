//! The options that the targets of every scheme take.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{
    super::{Endpoints, OnEmpty, Update, any_source::Updates},
    uri::Uri,
};
use crate::{
    endpoint::{Endpoint, Protocol},
    error::{TargetError, TargetErrorReason},
};

/// What a target says beside its source.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    pub(super) on_empty: Option<OnEmpty>,
    server_name: Option<Arc<str>>,
    protocol: Option<Protocol>,
}

/// Updates whose endpoints have the name and the protocol that the target says.
struct Changed {
    updates: Updates,
    common: Common,
}

// === impl Common ===

impl Common {
    pub(super) fn take(uri: &mut Uri<'_>) -> Result<Self, TargetError> {
        let on_empty = match uri.take("on_empty") {
            None => None,
            Some(value) if value.text == "clear" => Some(OnEmpty::Clear),
            Some(value) if value.text == "keep" => Some(OnEmpty::Keep),
            Some(value) => {
                let expected = "`clear`, `keep` or time such as `30s`";
                Some(OnEmpty::KeepFor(uri.duration(value, expected)?))
            }
        };
        let server_name = uri.take("server_name").map(|value| value.text.into());
        let protocol = match uri.take("protocol") {
            None => None,
            Some(value) if value.text == "http1" => Some(Protocol::Http1),
            Some(value) if value.text == "http2" => Some(Protocol::Http2),
            Some(value) => {
                let reason = TargetErrorReason::Expected("protocol: `http1` or `http2`");
                return Err(uri.wrong(value, reason));
            }
        };
        Ok(Self { on_empty, server_name, protocol })
    }

    pub(super) fn over(self, updates: Updates) -> Updates {
        if self.server_name.is_none() && self.protocol.is_none() {
            return updates;
        }
        Box::pin(Changed { updates, common: self })
    }

    fn change(&self, endpoints: Endpoints) -> Endpoints {
        let change = |mut endpoint: Endpoint| {
            if let Some(name) = &self.server_name {
                endpoint = endpoint.with_server_name(Arc::clone(name));
            }
            if let Some(protocol) = self.protocol {
                endpoint = endpoint.with_protocol(protocol);
            }
            endpoint
        };
        endpoints.into_iter().map(change).collect()
    }
}

// === impl Changed ===

impl Stream for Changed {
    type Item = Update;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        let update = self.updates.as_mut().poll_next(cx);
        update.map(|update| {
            Some(match update? {
                Update::Set(endpoints) => Update::Set(self.common.change(endpoints)),
                Update::Partial(endpoints, error) => {
                    Update::Partial(self.common.change(endpoints), error)
                }
                other => other,
            })
        })
    }
}
