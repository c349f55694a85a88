//! reqwest's requests and responses over a balancer.
//!
//! `cargo run --release --example reqwest --features cookies` starts two servers on loopback, lists a
//! third port where nobody listens, and sends requests both ways there are.

#![allow(clippy::print_stdout, reason = "it is there to be read")]

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use evenkeel::{
    Balance, BoxError, Endpoint,
    client::{Cookies, SendWith},
    policy::RoundRobin,
};
use tokio::net::TcpListener;
use tower_http::{decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // reqwest asks for a cryptography even where none is used; a program chooses it once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let servers = [serve("one").await?, serve("two").await?];

    let client = reqwest::Client::new();
    let target = format!("static://{},{},127.0.0.1:1", servers[0], servers[1]);
    let users = Balance::to(&target)?
        .policy(RoundRobin::new())
        .measure_latency(true)
        .reqwest(client.clone())?;
    users.ready().await?;

    println!("requests that the balancer begins, and one that any reqwest client began:");
    for id in 1..=3 {
        let answer = users.get(format!("http://users/v1/{id}")).send().await?;
        println!("  {} -> {} from {}", answer.url(), answer.status(), endpoint(&answer));
    }
    let answer = client.get("http://users/v1/4").bearer_auth("secret").send_with(&users).await?;
    let url = answer.url().clone();
    println!("  {url} -> {}", answer.text().await?);

    println!("\na body that streams:");
    let parts = ["any ", "body ", "will do"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(parts));
    let answer = users.post("http://users/count").body(body).send().await?;
    println!("  {}", answer.text().await?);

    println!("\nwhat a reqwest client does above its requests, by layers and options:");
    let browser = users
        .clone()
        .timeout(Duration::from_secs(5))
        .layer(Cookies::default())
        .layer(DecompressionLayer::new())
        .layer(FollowRedirectLayer::new());
    let answer = browser.get("http://users/login").send().await?;
    let url = answer.url().clone();
    println!("  http://users/login -> {url}: {}", answer.text().await?);
    let answer = browser.get("http://users/zipped").send().await?;
    println!("  http://users/zipped, unzipped: {}", answer.text().await?);

    println!("\nwhat errors say:");
    let late = users.get("http://users/hangs").timeout(Duration::from_millis(200)).send().await;
    if let Err(error) = late {
        println!("  {error}");
    }
    if let Err(error) = users.get("https://users/v1/1").send().await {
        println!(
            "  {error}: {}",
            std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
        );
    }
    println!("\n{}", users.status());
    Ok(())
}

fn endpoint(answer: &reqwest::Response) -> String {
    answer.extensions().get::<Endpoint>().map_or_else(String::new, ToString::to_string)
}

async fn serve(name: &'static str) -> Result<SocketAddr, BoxError> {
    let user = move |Path(id): Path<u32>| async move { format!("user {id}, says server {name}") };
    let home = move |headers: HeaderMap| async move {
        let cookie = headers.get(header::COOKIE).and_then(|cookie| cookie.to_str().ok());
        format!("server {name} sees the cookie {}", cookie.unwrap_or("of nobody"))
    };
    let login = || async {
        let headers = [(header::SET_COOKIE, "session=7"), (header::LOCATION, "/home")];
        (StatusCode::SEE_OTHER, headers).into_response()
    };
    // `printf 'both sides save bytes' | gzip -n9`
    let zipped: &[u8] = &[
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0x4b, 0xca, 0x2f, 0xc9, 0x50, 0x28, 0xce, 0x4c, 0x49,
        0x2d, 0x56, 0x28, 0x4e, 0x2c, 0x4b, 0x55, 0x48, 0xaa, 0x2c, 0x49, 0x2d, 6, 0, 0x96, 0xd5,
        0x2a, 0xde, 0x15, 0, 0, 0,
    ];
    let zipped = ([(header::CONTENT_ENCODING, "gzip")], zipped);
    let app = Router::new()
        .route("/v1/{id}", get(user))
        .route("/count", post(|body: Bytes| async move { format!("{} bytes", body.len()) }))
        .route("/login", get(login))
        .route("/home", get(home))
        .route("/zipped", get(move || async move { zipped }))
        .route("/hangs", get(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}
