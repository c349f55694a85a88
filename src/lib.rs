//! Client-side load balancing for Rust services, as tower middleware.
//!
//! Discovery sources produce sets of endpoints; pluggable policies pick among them; any client sits
//! behind it as a tower service. There is no proxy and no buffer in between.
//!
//! ```text
//!  ENDPOINT PATH  (rare, one task per balancer)
//!  Discover ──Update──▶ driver ──diff──▶ nodes ──▶ tiers ──▶ Policy::build ──▶ snapshot ──┐ one swap,
//!  static · registry    keeps nodes      counts, latency,    one picker                   │ and a wake
//!  any stream           across updates   connection          a tier                       ▼
//!  REQUEST PATH  (hot, lock-free, any number of tasks)
//!  Balance::call ──load──▶ snapshot ──pick──▶ node ──Lease──▶ its service ──▶ response body
//!       ▲  key from request           │ reads live counts   │ in flight +1  │ unsent? pick again
//!       └── response, error ◀─────────┴── Outcome ◀─────────┴── drop: -1, latency, outcome
//! ```
//!
//! # An HTTP client
//!
//! ```
//! # #[cfg(feature = "http")] mod with_http {
//! use std::time::Duration;
//!
//! use evenkeel::{Balance, BoxError};
//! use http::Request;
//! use http_body_util::Full;
//! use tower::ServiceExt;
//!
//! async fn call() -> Result<(), BoxError> {
//!     let users = Balance::to("static://10.0.0.1:8080,10.0.0.2:8080")?
//!         .attempt_timeout(Duration::from_secs(2))
//!         .http()?;
//!     let request = Request::get("http://users/v1/42").body(Full::<bytes::Bytes>::default())?;
//!     let response = users.clone().oneshot(request).await?;
//!     println!("{} from {}", response.status(), response.body().endpoint());
//!     println!("{}", users.status());
//!     Ok(())
//! }
//! # }
//! ```
//!
//! [`Balance::to`] and [`Balance::builder`] begin a [`Builder`]; its settings can be changed while it
//! runs ([`pool::Settings`], [`Handle::update`]), and [`pool::Status`] says how the endpoints do.
//!
//! # Any service
//!
//! One service for each endpoint, made by a closure:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use evenkeel::{Balance, Endpoint, policy::RoundRobin};
//! use tower::{ServiceExt, service_fn};
//!
//! let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
//!     .policy(RoundRobin::new())
//!     .complete_at_response()
//!     .make(|endpoint: &Endpoint| {
//!         let name = endpoint.to_string();
//!         service_fn(move |_: ()| std::future::ready(Ok::<_, std::io::Error>(name.clone())))
//!     })?;
//! let (first, second) = (balance.clone().oneshot(()).await?, balance.clone().oneshot(()).await?);
//! assert_ne!(first, second);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `http` | yes | [`client`]: a plain HTTP/1.1 and HTTP/2 transport, `Builder::http()` |
//! | `dns` | no | [`discovery::Dns`](discovery): names in DNS, A, AAAA and SRV; Rust 1.88 |
//! | `kubernetes` | no | `discovery::kubernetes`: the endpoints of a Service, watched |
//! | `tls` | no | `client::Tls`: the transport over rustls, `Builder::https()` |
//! | `tonic` | no | `client::TonicChannel` where a tonic `Channel` went, `Builder::tonic()`; with `tls`, `Builder::tonic_tls()` |
//! | `reqwest` | no | `client::ReqwestClient`: reqwest's requests and responses, `Builder::reqwest()` |
//! | `cookies` | no | `client::Cookies`: cookies for requests of reqwest's |
//! | `metrics` | no | `Builder::metrics()`: gauges of discovery by the `metrics` facade |
//! | `full` | no | all of the above |
//!
//! # Where things are
//!
//! [`discovery`] finds endpoints, [`policy`] picks among them, [`pool`] keeps them between, [`node`]
//! is an endpoint inside the pool, [`health`] says what counts as a failure.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod balance;
#[cfg(any(feature = "dns", feature = "http"))]
mod blocking;
#[cfg(feature = "http")]
pub mod client;
pub mod discovery;
mod endpoint;
mod error;
pub mod health;
pub mod node;
#[cfg(feature = "metrics")]
mod observe;
pub mod policy;
pub mod pool;
mod sync;

/// The snippets of the README, so that they stay true: `cargo test --all-features --doc`.
#[cfg(all(doctest, feature = "tls", feature = "tonic", feature = "reqwest"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// Those of the guides.
#[cfg(doctest)]
#[doc = include_str!("../docs/hashing.md")]
pub struct HashingGuide;

pub use self::{
    balance::{
        Addressed, AddressedFuture, AtBodyEnd, AtResponse, Balance, BalanceLayer, BalancedBody,
        Builder, Complete, Handle, LayerError, ResponseFuture, Unset,
    },
    endpoint::{Address, Endpoint, Hints, Locality, Metadata, Priority, Protocol, Weight},
    error::{
        BoxError, BuildError, Census, DiscoverError, Error, ListError, ListErrorReason,
        TargetError, TargetErrorReason, Unsent,
    },
};
