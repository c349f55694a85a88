//! What the clients that programs have cost over a thousand endpoints, and what they lose to a dead one,
//! beside what they would use today.
//!
//! `cargo bench --bench clients --features tonic,reqwest,tls`; with `-- --test` a tiny round, and with
//! `-- costs` or `-- calls` that part alone, and `-- calls only=tonic` those with that in their name.
//! Figures of making are medians of five runs. Memory is what is still allocated once every endpoint has
//! its client, and before any connection; the time is that of making them. The runtime of that part has
//! one thread: "by make()" is how long the caller held it, and "longest hold" the longest time for which
//! a task that is always ready had no turn after that, and of
//! that the time that the processor worked for this thread and for no other process.

#![allow(clippy::print_stdout, reason = "it is there to be read")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench may")]

#[allow(unreachable_pub, dead_code, reason = "as it is generated")]
#[path = "../examples/tonic/shop.rs"]
mod shop;

use std::{
    alloc::System,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::serve::ListenerExt;
use bytes::Bytes;
use cpu_time::ThreadTime;
use evenkeel::{
    Balance, Builder, Endpoint,
    client::{Http, Tls},
    discovery::StaticList,
    pool::Status,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::{self, Runtime};
use tonic::{body::Body, transport::Channel};
use tower::ServiceExt;

use self::shop::{
    Item, ListRequest, Total,
    cart_client::CartClient,
    cart_server::{Cart, CartServer},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let tiny = asked("--test");
    let _ = rustls::crypto::ring::default_provider().install_default();
    if !asked("calls") {
        for endpoints in if tiny { [20, 40] } else { [1_000, 10_000] } {
            costs(endpoints);
        }
    }
    if !asked("costs") {
        calls(if tiny { 200 } else { 10_000 });
    }
}

// --- memory and time of creation ---

fn costs(endpoints: usize) {
    println!("{endpoints} endpoints, none connected: for each endpoint");
    println!(
        "{:<44} {:>9} {:>9} {:>12} {:>14} {:>14}",
        "", "bytes", "us", "by make()", "longest hold", "of it, work"
    );
    let row = |name: &str, run: &dyn Fn() -> Cost| {
        let cost = Cost::median_of((0..RUNS).map(|_| run()));
        let each = endpoints as f64;
        let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        println!(
            "{name:<44} {:>9.0} {:>9.2} {:>12} {:>14} {:>14}",
            cost.bytes as f64 / each,
            cost.time.as_secs_f64() * 1e6 / each,
            millis(cost.make),
            cost.hold.map_or_else(|| "-".to_owned(), millis),
            cost.work.map_or_else(|| "-".to_owned(), millis),
        );
    };
    let text: Vec<_> = addresses(endpoints).map(|address| address.to_string()).collect();
    let text = format!("static://{}", text.join(","));
    row("evenkeel, http, from a text", &|| {
        {
            balanced(endpoints, || {
                let balance = Balance::to(&text).unwrap().keep_connected(0).http().unwrap();
                (balance.handle(), balance)
            })
        }
    });
    let client = reqwest::Client::new();
    row("evenkeel, http", &|| {
        balanced(
            endpoints,
            over(endpoints, |builder| {
                let balance = builder.http().unwrap();
                (balance.handle(), balance)
            }),
        )
    });
    row("evenkeel, http with TLS", &|| {
        balanced(
            endpoints,
            over(endpoints, |builder| {
                let http = Http::default().tls(Tls::webpki().server_name("users.shop")).unwrap();
                let balance = builder.make(http).unwrap();
                (balance.handle(), balance)
            }),
        )
    });
    // The first of a process reads what the platform trusts.
    let begin = Instant::now();
    if Http::default().tls(Tls::platform()).is_ok() {
        println!(
            "{:<74} {:>9.2} ms",
            "what the platform trusts",
            begin.elapsed().as_secs_f64() * 1e3
        );
        row("evenkeel, https()", &|| {
            balanced(
                endpoints,
                over(endpoints, |builder| {
                    let balance = builder.https().unwrap();
                    (balance.handle(), balance)
                }),
            )
        });
    }
    row("evenkeel, reqwest", &|| {
        balanced(
            endpoints,
            over(endpoints, |builder| {
                let users = builder.reqwest(client.clone()).unwrap();
                (users.handle(), users)
            }),
        )
    });
    row("evenkeel, tonic", &|| {
        balanced(
            endpoints,
            over(endpoints, |builder| {
                let channel = builder.tonic().unwrap();
                (channel.handle(), channel)
            }),
        )
    });
    row("a tonic Channel for each (connect_lazy)", &|| {
        each(endpoints, |address| {
            Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
        })
    });
    if endpoints <= 1_000 {
        row("a reqwest client for each", &|| each(endpoints, |_| reqwest::Client::new()));
    }
    println!();
}

const RUNS: usize = 5;

impl Cost {
    /// Each figure by itself.
    fn median_of(costs: impl Iterator<Item = Self>) -> Self {
        let costs: Vec<_> = costs.collect();
        fn of<T: Ord + Copy>(costs: &[Cost], figure: impl Fn(&Cost) -> T) -> T {
            let mut figures: Vec<_> = costs.iter().map(figure).collect();
            figures.sort_unstable();
            figures[figures.len() / 2]
        }
        Self {
            bytes: of(&costs, |cost| cost.bytes),
            time: of(&costs, |cost| cost.time),
            make: of(&costs, |cost| cost.make),
            hold: of(&costs, |cost| cost.hold),
            work: of(&costs, |cost| cost.work),
        }
    }
}

struct Cost {
    bytes: usize,
    time: Duration,
    make: Duration,
    hold: Option<Duration>,
    /// As the hold, in time of the processor: without what other processes had of it.
    work: Option<Duration>,
}

fn addresses(count: usize) -> impl Iterator<Item = SocketAddr> {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 1));
    (first..).take(count).map(|ip| SocketAddr::from((Ipv4Addr::from(ip), 80)))
}

/// Makes a balancer over so many endpoints, from a list that is there.
fn over<B>(
    count: usize,
    make: impl FnOnce(Builder<StaticList>) -> (evenkeel::Handle, B),
) -> impl FnOnce() -> (evenkeel::Handle, B) {
    let list = StaticList::new(addresses(count).map(Endpoint::from)).unwrap();
    move || make(Balance::builder(list).keep_connected(0))
}

fn single_thread() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A balancer over so many endpoints, until it knows them all.
fn balanced<B>(count: usize, make: impl FnOnce() -> (evenkeel::Handle, B)) -> Cost {
    let runtime = single_thread();
    let mut cost = None;
    let kept = runtime.block_on(async {
        let region = Region::new(ALLOCATOR);
        let begin = Instant::now();
        let (handle, balance) = make();
        let make = begin.elapsed();
        let (mut hold, mut last) = (Duration::ZERO, Instant::now());
        let mut work = Duration::ZERO;
        let known = |status: Status| status.endpoints.len();
        while known(handle.status()) < count {
            // Looking takes time itself, which is not the balancer's.
            last = Instant::now();
            let mut worked = ThreadTime::now();
            for _ in 0..20 {
                tokio::task::yield_now().await;
                hold = hold.max(last.elapsed());
                work = work.max(worked.elapsed());
                (last, worked) = (Instant::now(), ThreadTime::now());
            }
        }
        let time = last - begin;
        // What is let go of on another thread.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let stats = region.change();
        let bytes = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
        cost = Some(Cost { bytes, time, make, hold: Some(hold), work: Some(work) });
        (handle, balance)
    });
    runtime.block_on(async { drop(kept) });
    cost.unwrap()
}

fn each<C>(count: usize, make: impl Fn(SocketAddr) -> C) -> Cost {
    single_thread().block_on(async {
        let region = Region::new(ALLOCATOR);
        let begin = Instant::now();
        let kept: Vec<_> = addresses(count).map(make).collect();
        let time = begin.elapsed();
        let stats = region.change();
        let bytes = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
        drop(kept);
        Cost { bytes, time, make: time, hold: None, work: None }
    })
}

// --- one that lives and one that refuses ---

type Call = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A way to call, and whether it went well.
struct Client {
    name: &'static str,
    call: Arc<dyn Fn() -> Call + Send + Sync>,
}

/// What rounds of calls took, in microseconds a call, and how many of those one after another failed.
#[derive(Default)]
struct Rounds {
    failed: usize,
    calls: usize,
    alone: Vec<f64>,
    in_a_task: Vec<f64>,
    together: Vec<f64>,
}

const ROUNDS: usize = 20;
const TOGETHER: usize = 64;

fn calls(calls: usize) {
    println!(
        "{calls} calls over one server that lives and a port that refuses, medians of {ROUNDS} rounds in turn:"
    );
    println!(
        "{:<44} {:>9} {:>13} {:>13} {:>13}",
        "", "failed", "us, block_on", "us, in a task", "us, 64 at once"
    );
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let only =
        std::env::args().find_map(|argument| Some(argument.strip_prefix("only=")?.to_owned()));
    let mut clients = runtime.block_on(async { clients() });
    clients.retain(|client| only.as_ref().is_none_or(|only| client.name.contains(only)));
    let mut rounds: Vec<_> = clients.iter().map(|_| Rounds::default()).collect();
    for round in 0..=ROUNDS {
        for (client, rounds) in clients.iter().zip(&mut rounds) {
            // The first connects.
            rounds.add(&runtime, client, calls / ROUNDS, round > 0);
        }
    }
    for (client, rounds) in clients.iter().zip(rounds) {
        let share = rounds.failed as f64 * 100.0 / rounds.calls as f64;
        println!(
            "{:<44} {share:>7.1} % {:>13.1} {:>13.1} {:>13.2}",
            client.name,
            median(rounds.alone),
            median(rounds.in_a_task),
            median(rounds.together),
        );
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

impl Rounds {
    fn add(&mut self, runtime: &Runtime, client: &Client, calls: usize, counts: bool) {
        let (failed, alone) = runtime.block_on(some(Arc::clone(&client.call), calls));
        self.failed += failed;
        let task = runtime.spawn(some(Arc::clone(&client.call), calls));
        let (failed, in_a_task) = runtime.block_on(task).unwrap();
        self.failed += failed;
        let begin = Instant::now();
        let each = calls.div_ceil(TOGETHER) * 4;
        let tasks: Vec<_> =
            (0..TOGETHER).map(|_| runtime.spawn(some(Arc::clone(&client.call), each))).collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        let together = begin.elapsed();
        self.calls += 2 * calls;
        if counts {
            let micros = |time: Duration, calls: usize| time.as_secs_f64() * 1e6 / calls as f64;
            self.alone.push(micros(alone, calls));
            self.in_a_task.push(micros(in_a_task, calls));
            self.together.push(micros(together, each * TOGETHER));
        }
    }
}

async fn some(call: Arc<dyn Fn() -> Call + Send + Sync>, calls: usize) -> (usize, Duration) {
    let begin = Instant::now();
    let mut failed = 0;
    for _ in 0..calls {
        failed += usize::from(!call().await);
    }
    (failed, begin.elapsed())
}

fn clients() -> Vec<Client> {
    let server = serve();
    let nobody = "127.0.0.1:1";
    let target = format!("static://{server},{nobody}");
    let endpoints = [server.to_string(), nobody.to_owned()]
        .map(|address| Channel::from_shared(format!("http://{address}")).unwrap());
    let listed = Channel::balance_list(endpoints.into_iter());
    let single = Channel::from_shared(format!("http://{server}")).unwrap().connect_lazy();
    let web = web();
    let target_of_web = format!("static://{web},{nobody}");
    let http = Balance::to(&target_of_web).unwrap().http().unwrap();
    let http2 = Http::default().http2_prior_knowledge();
    let http2 = Balance::to(&target_of_web).unwrap().make(http2).unwrap();
    let users = Balance::to(&target_of_web).unwrap().reqwest(reqwest::Client::new()).unwrap();
    let one = reqwest::Client::new();
    macro_rules! web {
        ($name:expr, $balance:expr) => {{
            let balance = $balance;
            client($name, move || {
                let balance = balance.clone();
                async move {
                    let request =
                        Request::get("http://users/").body(Full::<Bytes>::default()).unwrap();
                    let answer = balance.oneshot(request).await.ok()?;
                    answer.into_body().collect().await.ok().map(drop)
                }
            })
        }};
    }
    vec![
        grpc("tonic, Channel::balance_list", CartClient::new(listed)),
        grpc("tonic, one Channel to the live one", CartClient::new(single)),
        grpc("evenkeel, tonic", CartClient::new(Balance::to(&target).unwrap().tonic().unwrap())),
        web!("evenkeel, http over HTTP/2", http2),
        web!("evenkeel, http", http),
        client("evenkeel, reqwest", move || {
            let users = users.clone();
            async move { users.get("http://users/").send().await.ok()?.bytes().await.ok().map(drop) }
        }),
        client("reqwest, to the live one", move || {
            let (one, url) = (one.clone(), format!("http://{web}/"));
            async move { one.get(url).send().await.ok()?.bytes().await.ok().map(drop) }
        }),
    ]
}

fn client<F>(name: &'static str, call: impl Fn() -> F + Send + Sync + 'static) -> Client
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let call = move || {
        let call = call();
        Box::pin(async move { call.await.is_some() }) as Call
    };
    Client { name, call: Arc::new(call) }
}

fn grpc<T>(name: &'static str, cart: CartClient<T>) -> Client
where
    T: tonic::client::GrpcService<Body> + Clone + Send + Sync + 'static,
    T::Future: Send,
    T::Error: Into<evenkeel::BoxError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<evenkeel::BoxError> + Send,
{
    client(name, move || {
        let mut cart = cart.clone();
        async move { cart.add(Item::default()).await.ok().map(drop) }
    })
}

/// Runs a server on threads of its own for as long as the process lives. Its sockets send at once, as
/// those of `Server::serve` do: else the last responses of a round wait for the 40 ms after which the
/// client's system acknowledges the ones before, since no request goes out that would carry that.
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
        let incoming = incoming.with_nodelay(Some(true));
        tell.send(incoming.local_addr().unwrap()).unwrap();
        let router = tonic::transport::Server::builder().add_service(CartServer::new(Shop));
        router.serve_with_incoming(incoming).await.unwrap();
    })
}

fn web() -> SocketAddr {
    apart(|tell| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
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
