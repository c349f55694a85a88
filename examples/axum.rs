//! A web service whose handler calls a balanced upstream.
//!
//! `cargo run --release --example axum` starts two upstream servers and a front that balances
//! over them, sends a few requests through the front, and ends.

#![allow(clippy::print_stdout, reason = "it is there to be read")]

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{Request, Response, StatusCode},
    routing::get,
};
use evenkeel::{Balance, BoxError, client::HttpService, policy::RoundRobin};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tower::ServiceExt;

/// What handlers share. A balancer is cheap to clone and needs no lock.
#[derive(Clone)]
struct App {
    users: Balance<HttpService>,
}

/// Passes the upstream's response on as it comes, body and all.
async fn user(
    State(app): State<App>,
    Path(id): Path<u32>,
) -> Result<Response<Body>, (StatusCode, String)> {
    let failed = |error: &dyn Error| (StatusCode::BAD_GATEWAY, error.to_string());
    let request = Request::get(format!("http://users/v1/{id}"))
        .body(Body::empty())
        .map_err(|error| failed(&error))?;
    let response = app.users.oneshot(request).await.map_err(|error| failed(&error))?;
    Ok(response.map(Body::new))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let upstreams = [upstream("one").await?, upstream("two").await?];

    let users = Balance::to(&format!("static://{},{}", upstreams[0], upstreams[1]))?
        .policy(RoundRobin::new())
        .attempt_timeout(Duration::from_secs(2))
        // Round robin does not need it; `status()` shows it.
        .measure_latency(true)
        .http()?;
    // Do not take traffic before there is somebody to pass it on to.
    users.ready().await?;
    let front = serve(
        Router::new().route("/user/{id}", get(user)).with_state(App { users: users.clone() }),
    )
    .await?;

    let client = Balance::to(&format!("static://{front}"))?.http()?;
    for id in 1..=6 {
        let request = Request::get(format!("http://front/user/{id}")).body(Body::empty())?;
        let response = client.clone().oneshot(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!("GET /user/{id} -> {status}: {}", String::from_utf8_lossy(&body));
    }
    println!("\n{}", users.status());
    Ok(())
}

async fn upstream(name: &'static str) -> Result<SocketAddr, BoxError> {
    let answer =
        move |Path(id): Path<u32>| async move { format!("user {id}, says upstream {name}") };
    serve(Router::new().route("/v1/{id}", get(answer))).await
}

async fn serve(app: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}
