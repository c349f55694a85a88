//! T14: a deadline that passes says that it is safe to send again only where no server may have
//! processed the request, whatever layers do with it meanwhile.

use std::future::{Pending, pending};

use evenkeel::{
    Error,
    client::{SendError, Sent, TonicChannel},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{
    ServiceExt,
    layer::layer_fn,
    limit::ConcurrencyLimitLayer,
    retry::{Policy, RetryLayer},
    service_fn,
};
use tower_http::follow_redirect::FollowRedirectLayer;

use crate::peer::{LIMIT, LONG, Served, serving, silent};

type Request = http::Request<reqwest::Body>;

/// In backoff for ever.
#[derive(Clone)]
struct Backoff;

impl<A, B> Policy<Request, A, B> for Backoff {
    type Future = Pending<()>;

    fn retry(&mut self, _: &mut Request, answer: &mut Result<A, B>) -> Option<Pending<()>> {
        answer.is_err().then(pending)
    }

    fn clone_request(&mut self, _: &Request) -> Option<Request> {
        Some(Request::default())
    }
}

fn assert_late(error: &SendError, unprocessed: bool) {
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.is_unprocessed(), unprocessed, "{error}");
    let endpoint = (!unprocessed).then(serving);
    assert_eq!(error.endpoint(), endpoint.as_ref(), "{error}");
}

/// A retry that waits, after a POST of which nobody knows whether it was processed.
#[tokio::test(start_paused = true)]
async fn t14_a_retry_in_backoff_after_an_ambiguous_post_is_ambiguous() {
    let served = Served::new(false);
    let users = served.client().layer(RetryLayer::new(Backoff));
    let error = users.post("http://users/dies").body("x").send().await.unwrap_err();
    assert_late(&error, false);
    assert_eq!(served.asked.all(), ["users/dies"]);
}

/// The same for a client of tonic's.
#[tokio::test(start_paused = true)]
async fn t14_a_call_of_tonics_that_waits_after_an_ambiguous_attempt_is_ambiguous() {
    let served = Served::new(true);
    let channel = TonicChannel::over(served.balance.clone()).layer(layer_fn(|inner| {
        service_fn(move |request: http::Request<tonic::body::Body>| {
            let attempt = Sent::clone(&inner).oneshot(request);
            async move {
                match attempt.await {
                    Ok(response) => Ok::<_, Error>(response),
                    Err(_) => pending().await,
                }
            }
        })
    }));
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(LIMIT);
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let error = std::error::Error::source(&status).unwrap().downcast_ref::<Error>().unwrap();
    assert!(error.is_ambiguous(), "{error}");
    assert_eq!(error.endpoint(), Some(&serving()));
    assert_eq!(served.asked.all().len(), 1);
}

/// A redirect whose second hop finds no endpoint: the first was processed.
#[tokio::test(start_paused = true)]
async fn t14_a_redirect_that_waits_for_an_endpoint_is_ambiguous() {
    let served = Served::new(false);
    let users = served.client().layer(FollowRedirectLayer::new());
    let error = users.post("http://users/last?/there").body("x").send().await.unwrap_err();
    assert_late(&error, false);
    assert_eq!(served.asked.all(), ["users/last"]);
}

/// An idempotent request that a connection died with looks for another endpoint.
#[tokio::test(start_paused = true)]
async fn t14_an_idempotent_request_that_waits_after_a_death_is_ambiguous() {
    let served = Served::new(false);
    let users = served.client();
    let _never_up = served.registry.register(silent()).unwrap();
    users.ready().await.unwrap();
    let error = users.put("http://users/dies").body("x").send().await.unwrap_err();
    assert_late(&error, false);
    assert!(!served.asked.all().is_empty());
}

/// A layer that sends from another task: what became of it there is not known here.
#[tokio::test(start_paused = true)]
async fn t14_what_a_layer_does_out_of_sight_is_ambiguous() {
    let served = Served::new(false);
    let users = served.client().layer(layer_fn(|inner| {
        service_fn(move |request: Request| {
            let sending = tokio::spawn(Sent::clone(&inner).oneshot(request));
            async move { sending.await.unwrap() }
        })
    }));
    let error = users.post("http://users/hangs").body("x").send().await.unwrap_err();
    assert!(error.is_timeout() && !error.is_unprocessed(), "{error}");
    assert_eq!(served.asked.all(), ["users/hangs"]);
}

/// The other side: what no server has seen is safe to send again, and says so.
#[tokio::test(start_paused = true)]
async fn t14_what_waits_before_any_server_is_unprocessed() {
    // For an endpoint.
    let served = Served::new(false);
    served.client().get("http://users/last?x").send().await.unwrap();
    let users = served.client();
    assert_late(&users.post("http://users/there").body("x").send().await.unwrap_err(), true);

    // For a layer over the balancer.
    let served = Served::new(false);
    let users = served.client().layer(ConcurrencyLimitLayer::new(1));
    let _busy = tokio::spawn(users.get("http://users/hangs").timeout(LONG).send());
    tokio::task::yield_now().await;
    assert_late(&users.post("http://users/there").body("x").send().await.unwrap_err(), true);
    assert_eq!(served.asked.all(), ["users/hangs"]);

    // The calls that a layer makes of another balancer, on the way, are no part of this one.
    let (served, other) = (Served::new(false), Served::new(false));
    let (no_more, helper) = (served.client(), other.client().timeout(LONG));
    no_more.get("http://users/last?x").send().await.unwrap();
    let asking = layer_fn(move |inner| {
        let helper = helper.clone();
        service_fn(move |request: Request| {
            let (inner, helper) = (Sent::clone(&inner), helper.clone());
            async move {
                helper.get("http://tokens/there").send().await.unwrap();
                inner.oneshot(request).await
            }
        })
    });
    let users = no_more.layer(asking);
    assert_late(&users.post("http://users/there").body("x").send().await.unwrap_err(), true);
    assert_eq!(other.asked.all(), ["tokens/there"]);
}
