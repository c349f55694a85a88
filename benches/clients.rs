//! What the clients that programs have cost over a thousand endpoints, and what they lose to a dead one,
//! beside what they would use today.
//!
//! `cargo bench --bench clients --features tonic,reqwest,tls`; with `-- --test` a tiny round. Memory is
//! what is still allocated once every endpoint has its client, and before any connection; the time is
//! that of making them, and the longest time for which it held the runtime's one thread.

#![allow(clippy::print_stdout, reason = "it is there to be read")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench may")]

#[allow(unreachable_pub, dead_code, reason = "as it is generated")]
#[path = "../examples/tonic/shop.rs"]
mod shop;

use std::{
    cell::Cell,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use allocation_counter::measure;
use bytes::Bytes;
use evenkeel::{
    Balance, Builder, Endpoint,
    client::{Http, Tls},
    discovery::StaticList,
    pool::Status,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::runtime;
use tonic::{body::Body, transport::Channel};
use tower::ServiceExt;

use self::shop::{
    Item, ListRequest, Total,
    cart_client::CartClient,
    cart_server::{Cart, CartServer},
};

fn main() {
    let tiny = std::env::args().any(|argument| argument == "--test");
    let _ = rustls::crypto::ring::default_provider().install_default();
    costs(if tiny { 20 } else { 1_000 });
    losses(if tiny { 100 } else { 10_000 });
}

// --- memory and time of creation ---

fn costs(endpoints: usize) {
    println!("{endpoints} endpoints, none connected: for each endpoint");
    println!("{:<44} {:>9} {:>9} {:>14}", "", "bytes", "us", "longest hold");
    let row = |name: &str, cost: Cost| {
        let each = endpoints as f64;
        println!(
            "{name:<44} {:>9.0} {:>9.2} {:>14}",
            cost.bytes as f64 / each,
            cost.time.as_secs_f64() * 1e6 / each,
            cost.hold.map_or_else(
                || "-".to_owned(),
                |hold| format!("{:.2} ms", hold.as_secs_f64() * 1e3)
            ),
        );
    };
    let client = reqwest::Client::new();
    row(
        "evenkeel, http",
        balanced(endpoints, |builder| {
            let balance = builder.http().unwrap();
            (balance.handle(), balance)
        }),
    );
    row(
        "evenkeel, http with TLS",
        balanced(endpoints, |builder| {
            let http = Http::default().tls(Tls::webpki().server_name("users.shop")).unwrap();
            let balance = builder.make(http).unwrap();
            (balance.handle(), balance)
        }),
    );
    row(
        "evenkeel, reqwest",
        balanced(endpoints, |builder| {
            let users = builder.reqwest(client.clone()).unwrap();
            (users.handle(), users)
        }),
    );
    row(
        "evenkeel, tonic",
        balanced(endpoints, |builder| {
            let channel = builder.tonic().unwrap();
            (channel.handle(), channel)
        }),
    );
    row(
        "a tonic Channel for each (connect_lazy)",
        each(endpoints, |address| {
            Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
        }),
    );
    row("a reqwest client for each", each(endpoints, |_| reqwest::Client::new()));
    println!();
}

struct Cost {
    bytes: i64,
    time: Duration,
    hold: Option<Duration>,
}

fn addresses(count: usize) -> impl Iterator<Item = SocketAddr> {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 1));
    (first..).take(count).map(|ip| SocketAddr::from((Ipv4Addr::from(ip), 80)))
}

/// A balancer over so many endpoints, until it knows them all.
fn balanced<B>(
    count: usize,
    make: impl FnOnce(Builder<StaticList>) -> (evenkeel::Handle, B),
) -> Cost {
    let list = StaticList::new(addresses(count).map(Endpoint::from)).unwrap();
    cost(|| async {
        let (handle, balance) = make(Balance::builder(list).keep_connected(0));
        let known = |status: Status| status.endpoints.len();
        while known(handle.status()) < count {
            // Off the worker's time, since looking itself takes some.
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
        }
        (handle, balance)
    })
}

fn each<C>(count: usize, make: impl Fn(SocketAddr) -> C) -> Cost {
    let mut cost = cost(|| async { addresses(count).map(make).collect::<Vec<_>>() });
    cost.hold = None;
    cost
}

/// All on one thread, so that all is seen: what stays allocated, and for how long others had to wait.
fn cost<T, F: Future<Output = T>>(run: impl FnOnce() -> F) -> Cost {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut kept, mut time) = (None, Duration::ZERO);
    let hold = Rc::new(Cell::new(Duration::ZERO));
    let allocated = measure(|| {
        runtime.block_on(async {
            let begin = Instant::now();
            let seen = Rc::clone(&hold);
            let watch = async move {
                let mut last = Instant::now();
                loop {
                    tokio::task::yield_now().await;
                    let now = Instant::now();
                    seen.set(seen.get().max(now - last));
                    last = now;
                }
            };
            tokio::select! {
                made = run() => kept = Some(made),
                () = watch => {}
            }
            time = begin.elapsed();
        });
    });
    drop(kept);
    Cost { bytes: allocated.bytes_current, time, hold: Some(hold.get()) }
}

// --- one that lives and one that refuses ---

fn losses(calls: usize) {
    let server = serve();
    let nobody = "127.0.0.1:1";
    println!(
        "{calls} calls, one after another, over one server that lives and a port that refuses:"
    );
    println!("{:<44} {:>9} {:>9}", "", "failed", "us a call");
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let row = |name: &str, (failed, time): (usize, Duration)| {
        let share = failed as f64 * 100.0 / calls as f64;
        println!("{name:<44} {share:>7.1} % {:>9.1}", time.as_secs_f64() * 1e6 / calls as f64);
    };
    let target = format!("static://{server},{nobody}");
    row(
        "tonic, Channel::balance_list",
        runtime.block_on(async {
            let endpoints = [server.to_string(), nobody.to_owned()]
                .map(|address| Channel::from_shared(format!("http://{address}")).unwrap());
            grpc(CartClient::new(Channel::balance_list(endpoints.into_iter())), calls).await
        }),
    );
    row(
        "evenkeel, tonic",
        runtime.block_on(async {
            grpc(CartClient::new(Balance::to(&target).unwrap().tonic().unwrap()), calls).await
        }),
    );
    row(
        "tonic, one Channel to the live one",
        runtime.block_on(async {
            let channel = Channel::from_shared(format!("http://{server}")).unwrap().connect_lazy();
            grpc(CartClient::new(channel), calls).await
        }),
    );
    let target = format!("static://{},{nobody}", web());
    row(
        "evenkeel, http",
        runtime.block_on(async {
            let balance = Balance::to(&target).unwrap().http().unwrap();
            counted(calls, || async {
                let request = Request::get("http://users/").body(Full::<Bytes>::default()).unwrap();
                let answer = balance.clone().oneshot(request).await.ok()?;
                answer.into_body().collect().await.ok().map(drop)
            })
            .await
        }),
    );
    row(
        "evenkeel, reqwest",
        runtime.block_on(async {
            let users = Balance::to(&target).unwrap().reqwest(reqwest::Client::new()).unwrap();
            counted(calls, || async {
                users.get("http://users/").send().await.ok()?.bytes().await.ok().map(drop)
            })
            .await
        }),
    );
}

async fn counted<F: Future<Output = Option<()>>>(
    calls: usize,
    mut call: impl FnMut() -> F,
) -> (usize, Duration) {
    let begin = Instant::now();
    let mut failed = 0;
    for _ in 0..calls {
        failed += usize::from(call().await.is_none());
    }
    (failed, begin.elapsed())
}

async fn grpc<T>(cart: CartClient<T>, calls: usize) -> (usize, Duration)
where
    T: tonic::client::GrpcService<Body> + Clone,
    T::Error: Into<evenkeel::BoxError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<evenkeel::BoxError> + Send,
{
    counted(calls, || {
        let mut cart = cart.clone();
        async move { cart.add(Item::default()).await.ok().map(drop) }
    })
    .await
}

/// Runs a server on threads of its own for as long as the process lives.
fn apart<F: Future<Output = ()>>(
    serve: impl FnOnce(std::sync::mpsc::Sender<SocketAddr>) -> F + Send + 'static,
) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(tell));
    });
    told.recv().unwrap()
}

fn serve() -> SocketAddr {
    apart(|tell| async move {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let incoming = tonic::transport::server::TcpIncoming::bind(address).unwrap();
        tell.send(incoming.local_addr().unwrap()).unwrap();
        let router = tonic::transport::Server::builder().add_service(CartServer::new(Shop));
        router.serve_with_incoming(incoming).await.unwrap();
    })
}

fn web() -> SocketAddr {
    apart(|tell| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
        axum::serve(listener, app).await.unwrap();
    })
}

struct Shop;

#[tonic::async_trait]
impl Cart for Shop {
    async fn add(&self, _: tonic::Request<Item>) -> Result<tonic::Response<Total>, tonic::Status> {
        Ok(tonic::Response::new(Total::default()))
    }

    async fn add_all(
        &self,
        _: tonic::Request<tonic::Streaming<Item>>,
    ) -> Result<tonic::Response<Total>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for"))
    }

    type ListStream = tokio_stream::Empty<Result<Item, tonic::Status>>;

    async fn list(
        &self,
        _: tonic::Request<ListRequest>,
    ) -> Result<tonic::Response<Self::ListStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for"))
    }

    type FollowStream = tokio_stream::Empty<Result<Total, tonic::Status>>;

    async fn follow(
        &self,
        _: tonic::Request<tonic::Streaming<Item>>,
    ) -> Result<tonic::Response<Self::FollowStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for"))
    }
}
