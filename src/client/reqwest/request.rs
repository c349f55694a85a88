//! reqwest's request builder, ending in a balancer.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use http_body::Body as HttpBodyTrait;
use reqwest::{Body, Client, Request, RequestBuilder, multipart::Form};
use serde::Serialize;
use tower_service::Service;

use super::{ReqwestClient, Sending};
use crate::{
    balance::Balance,
    client::{HttpService, Sent},
    error::{BoxError, SendError},
};

/// A [`reqwest::RequestBuilder`] whose [`send`](Self::send) goes through a balancer.
///
/// Its methods are reqwest's own, and their documentation is there. One that is missing here is had
/// by [`map`](Self::map).
#[must_use = "a request does nothing until it is sent"]
pub struct BalancedRequest<S = Sent<Balance<HttpService>>> {
    builder: RequestBuilder,
    client: ReqwestClient<S>,
}

/// Sends any request that reqwest built through a balancer.
///
/// ```
/// use evenkeel::client::{ReqwestClient, SendError, SendWith};
///
/// async fn user(client: &reqwest::Client, users: &ReqwestClient) -> Result<u16, SendError> {
///     let answer = client.get("http://users/v1/42").bearer_auth("x").send_with(users).await?;
///     Ok(answer.status().as_u16())
/// }
/// # let _ = user;
/// ```
pub trait SendWith {
    /// Sends it, and answers once the response's head has come.
    fn send_with<S, B>(self, client: &ReqwestClient<S>) -> Sending
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBodyTrait<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>;
}

// === impl BalancedRequest ===

macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident $(<$($generic:ident: $bound:path),+>)? ($($arg:ident: $type:ty),*);)+) => {
        $(
            $(#[$doc])*
            pub fn $name $(<$($generic: $bound),+>)? (self, $($arg: $type),*) -> Self {
                self.map(|builder| builder.$name($($arg),*))
            }
        )+
    };
}

impl<S> BalancedRequest<S> {
    pub(super) fn new(builder: RequestBuilder, client: ReqwestClient<S>) -> Self {
        Self { builder, client }
    }

    /// Changes the request by any method of [`reqwest::RequestBuilder`].
    pub fn map(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        Self { builder: change(self.builder), client: self.client }
    }

    /// See [`reqwest::RequestBuilder::header`].
    pub fn header<K, V>(self, key: K, value: V) -> Self
    where
        HeaderName: TryFrom<K>,
        <HeaderName as TryFrom<K>>::Error: Into<http::Error>,
        HeaderValue: TryFrom<V>,
        <HeaderValue as TryFrom<V>>::Error: Into<http::Error>,
    {
        self.map(|builder| builder.header(key, value))
    }

    forward! {
        /// See [`reqwest::RequestBuilder::headers`].
        headers(headers: HeaderMap);
        /// See [`reqwest::RequestBuilder::basic_auth`].
        basic_auth<U: fmt::Display, P: fmt::Display>(username: U, password: Option<P>);
        /// See [`reqwest::RequestBuilder::bearer_auth`].
        bearer_auth<T: fmt::Display>(token: T);
        /// See [`reqwest::RequestBuilder::body`].
        body<T: Into<Body>>(body: T);
        /// See [`reqwest::RequestBuilder::timeout`]: from the start to the end of the response's body,
        /// the wait for an endpoint included.
        timeout(timeout: Duration);
        /// See [`reqwest::RequestBuilder::multipart`].
        multipart(form: Form);
        /// See [`reqwest::RequestBuilder::version`]. Without effect: the connection has its protocol
        /// already.
        version(version: Version);
    }

    /// See [`reqwest::RequestBuilder::query`].
    pub fn query<T: Serialize + ?Sized>(self, query: &T) -> Self {
        self.map(|builder| builder.query(query))
    }

    /// See [`reqwest::RequestBuilder::form`].
    pub fn form<T: Serialize + ?Sized>(self, form: &T) -> Self {
        self.map(|builder| builder.form(form))
    }

    /// See [`reqwest::RequestBuilder::json`].
    pub fn json<T: Serialize + ?Sized>(self, json: &T) -> Self {
        self.map(|builder| builder.json(json))
    }

    /// See [`reqwest::RequestBuilder::build`].
    ///
    /// # Errors
    /// What does not parse: the URL, a header, a body that does not serialize.
    pub fn build(self) -> reqwest::Result<Request> {
        self.builder.build()
    }

    /// See [`reqwest::RequestBuilder::build_split`].
    pub fn build_split(self) -> (Client, reqwest::Result<Request>) {
        self.builder.build_split()
    }

    /// See [`reqwest::RequestBuilder::try_clone`]: `None` if the body is a stream.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self>
    where
        S: Clone,
    {
        Some(Self { builder: self.builder.try_clone()?, client: self.client.clone() })
    }
}

impl<S, B> BalancedRequest<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBodyTrait<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends it, and answers once the response's head has come.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(self) -> Sending {
        self.builder.send_with(&self.client)
    }
}

impl<S> fmt::Debug for BalancedRequest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BalancedRequest").field(&self.builder).finish()
    }
}

// === impl SendWith ===

impl SendWith for RequestBuilder {
    fn send_with<S, B>(self, client: &ReqwestClient<S>) -> Sending
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: HttpBodyTrait<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match self.build() {
            Ok(request) => client.execute(request),
            Err(error) => Sending::failed(SendError::Request(error)),
        }
    }
}
