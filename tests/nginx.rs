//! A foreign server: nginx as a back end of HTTP/1.1 and HTTP/2, with limits on its connections. The
//! tests need `nginx` in the path, as `apt-get install nginx-light` puts it there, and are skipped with
//! one line where it is not.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "support/skip.rs"]
mod skip;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Balance, Endpoint, Error,
    client::{Http, HttpService},
    discovery::StaticList,
    node::Clock,
    policy::RoundRobin,
};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// How long anything may take before a test is taken to hang.
const HANG: Duration = Duration::from_secs(60);

/// A running nginx: one server of HTTP/1.1 and one of HTTP/2 by prior knowledge.
struct Nginx {
    http1: SocketAddr,
    http2: SocketAddr,
    folder: PathBuf,
    master: Child,
}

impl Nginx {
    /// Nginx, which answers with the protocol, the host and the number of the request on its connection,
    /// and ends that after so many; `None` where there is none.
    async fn start(name: &str, keepalive_requests: usize) -> Option<Self> {
        let installed = Command::new("nginx").arg("-v").stderr(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            skip::skipped("nginx is not installed");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("evenkeel-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // Free now; the system does not give them out again so soon.
        let [http1, http2] = [(); 2].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        });
        let path = folder.display();
        let configuration = format!(
            r#"
            pid {path}/pid;
            error_log {path}/error.log;
            worker_processes 2;
            daemon off;
            events {{ worker_connections 512; }}
            http {{
                access_log off;
                client_body_temp_path {path}/body;
                proxy_temp_path {path}/proxy;
                fastcgi_temp_path {path}/fastcgi;
                uwsgi_temp_path {path}/uwsgi;
                scgi_temp_path {path}/scgi;
                client_max_body_size 0;
                keepalive_requests {keepalive_requests};
                keepalive_timeout 1s;
                http2_max_concurrent_streams 4;
                server {{
                    listen {http1};
                    location / {{ return 200 "$server_protocol $host $connection_requests"; }}
                }}
                server {{
                    listen {http2} http2;
                    location / {{ return 200 "$server_protocol $host $connection_requests"; }}
                }}
            }}
            "#
        );
        std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let master = Self::command(&folder).spawn().unwrap();
        let nginx = Self { http1, http2, folder, master };
        let up = async {
            for address in [http1, http2] {
                // Another process, which does not say when it listens.
                while tokio::net::TcpStream::connect(address).await.is_err() {
                    Clock::default().sleep(Duration::from_millis(5)).await;
                }
            }
        };
        if tokio::time::timeout(HANG, up).await.is_err() {
            panic!("nginx does not start: {}", nginx.log());
        }
        Some(nginx)
    }

    fn command(folder: &std::path::Path) -> Command {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
        command.arg("-e").arg(folder.join("error.log")).stderr(Stdio::null());
        command
    }

    /// New workers take over, and the old ones end once their connections have.
    fn reload(&self) {
        let reloaded = Self::command(&self.folder).args(["-s", "reload"]).status().unwrap();
        assert!(reloaded.success());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Self::command(&self.folder).args(["-s", "stop"]).status();
        let _ = self.master.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn balance(addresses: impl IntoIterator<Item = SocketAddr>, http: Http) -> Balance<HttpService> {
    let endpoints =
        addresses.into_iter().map(|address| Endpoint::new(address).with_server_name("users.shop"));
    let list = StaticList::new(endpoints).unwrap();
    Balance::builder(list).policy(RoundRobin::new()).make(http).unwrap()
}

async fn call(balance: Balance<HttpService>, method: Method, body: Bytes) -> Result<String, Error> {
    let request = Request::builder().method(method).uri("/").body(Full::new(body)).unwrap();
    let response = balance.oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// So many requests of `method`, 40 at a time; what was answered, and the errors.
async fn load(
    balance: &Balance<HttpService>,
    requests: usize,
    method: Method,
    body: &'static [u8],
) -> (Vec<String>, Vec<Error>) {
    let (mut answers, mut errors) = (Vec::new(), Vec::new());
    let mut calls = JoinSet::new();
    for number in 0..requests + 40 {
        if number < requests {
            calls.spawn(call(balance.clone(), method.clone(), Bytes::from_static(body)));
        }
        if number >= 40 {
            let answered = tokio::time::timeout(HANG, calls.join_next()).await.expect("it hangs");
            match answered.unwrap().unwrap() {
                Ok(answer) => answers.push(answer),
                Err(error) => errors.push(error),
            }
        }
    }
    (answers, errors)
}

/// R14, T14: every seventh request is the last of its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_the_keep_alive_limit_of_nginx_costs_no_request() {
    let Some(nginx) = Nginx::start("http1", 7).await else { return };
    let balance = balance([nginx.http1], Http::default());
    for (method, body) in [(Method::GET, &b""[..]), (Method::POST, b"paid"), (Method::PUT, b"put")]
    {
        let (answers, errors) = load(&balance, 1_000, method.clone(), body).await;
        assert!(errors.is_empty(), "{method}: {} errors, {:?}", errors.len(), errors.first());
        assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 users.shop ")));
        // R20, and connections are used for as long as they may be.
        assert!(answers.iter().any(|answer| answer.ends_with(" 7")), "{method}");
    }
}

/// R21: GOAWAY with every seventh request, and four streams a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r21_the_limits_of_nginx_over_http2_cost_no_request() {
    let Some(nginx) = Nginx::start("http2", 7).await else { return };
    let balance = balance([nginx.http2], Http::default().http2_prior_knowledge());
    for (method, body) in [(Method::GET, &b""[..]), (Method::POST, b"paid")] {
        let (answers, errors) = load(&balance, 1_000, method.clone(), body).await;
        assert!(errors.is_empty(), "{method}: {} errors, {:?}", errors.len(), errors.first());
        assert!(answers.iter().all(|answer| answer.starts_with("HTTP/2.0 users.shop ")));
    }
}

/// Nginx answers before it has read a body that it does not want, and then wants no more of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nginx_does_not_wait_for_is_no_error() {
    static BODY: [u8; 3_000_000] = [7; 3_000_000];
    let Some(nginx) = Nginx::start("body", 1_000).await else { return };
    let balance = balance([nginx.http2], Http::default().http2_prior_knowledge());
    let (answers, errors) = load(&balance, 50, Method::POST, &BODY).await;
    assert!(errors.is_empty(), "{} errors, {:?}", errors.len(), errors.first());
    assert_eq!(answers.len(), 50);
}

/// R14: workers are replaced under load, as after every change of a configuration, of one nginx after
/// the other. Workers that end accept connections and close them at once, over HTTP/2 some without a
/// GOAWAY, so the requests are idempotent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_a_reload_of_nginx_costs_no_request() {
    let Some(one) = Nginx::start("reload-one", 50).await else { return };
    let Some(two) = Nginx::start("reload-two", 50).await else { return };
    let http1 = balance([one.http1, two.http1], Http::default());
    let http2 = balance([one.http2, two.http2], Http::default().http2_prior_knowledge());
    for (round, nginx) in [&one, &two, &one, &two].into_iter().enumerate() {
        nginx.reload();
        let (first, second) = tokio::join!(
            load(&http1, 1_000, Method::GET, b""),
            load(&http2, 1_000, Method::PUT, b"put"),
        );
        for (_, errors) in [first, second] {
            assert!(errors.is_empty(), "round {round}: {} errors, {:?}", errors.len(), errors[0]);
        }
    }
}
