//! TLS to servers that are dialled by their addresses.
//!
//! `cargo run --release --example tls --features tls` makes a certificate authority, starts two servers
//! of two names with certificates of it, and a third that pretends to be the first.

#![allow(clippy::print_stdout, reason = "it is there to be read")]

use std::{error::Error as StdError, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Balance, BoxError, Endpoint,
    client::{Http, HttpService, Tls},
    discovery::StaticList,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Signs certificates.
struct Authority(Issuer<'static, KeyPair>);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The program chooses its cryptography, once; the library never does.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let (authority, roots) = Authority::new()?;
    let (stranger, _) = Authority::new()?;
    let users = serve(authority.server("users.shop", &["h2", "http/1.1"])?).await?;
    let carts = serve(authority.server("carts.shop", &["http/1.1"])?).await?;
    let false_users = serve(stranger.server("users.shop", &["h2"])?).await?;

    println!("one name for all servers, whose addresses discovery knows:");
    let trusting = Tls::roots(roots);
    let http = Http::default().tls(trusting.clone().server_name("users.shop"))?;
    let balance = Balance::to(&format!("static://{users}"))?.make(http)?;
    println!("  {}", get(&balance, "https://users.shop/v1/42").await?);

    println!("\neach server by a name of its own:");
    let endpoints = [
        Endpoint::new(users).with_server_name("users.shop"),
        Endpoint::new(carts).with_server_name("carts.shop"),
    ];
    for endpoint in endpoints {
        let http = Http::default().tls(trusting.clone())?;
        let balance = Balance::builder(StaticList::new([endpoint])?).make(http)?;
        println!("  {}", get(&balance, "/v1/42").await?);
    }

    println!("\nwhat is refused:");
    let http = Http::default().tls(trusting.server_name("users.shop"))?;
    for (what, server, uri) in [
        ("a server of another name", carts, "https://users.shop/"),
        ("a server of an unknown authority", false_users, "https://users.shop/"),
        ("a request in the open", users, "http://users.shop/"),
    ] {
        let balance = Balance::to(&format!("static://{server}"))?
            .wait_for_endpoints(Duration::from_secs(1))
            .make(http.clone())?;
        if let Err(error) = get(&balance, uri).await {
            println!("  {what}:");
            let mut cause: Option<&dyn StdError> = Some(&*error);
            while let Some(error) = cause {
                println!("    {error}");
                cause = error.source();
            }
        }
    }
    Ok(())
}

async fn get(balance: &Balance<HttpService>, uri: &str) -> Result<String, BoxError> {
    let request = Request::get(uri).body(Empty::<Bytes>::new())?;
    let response = balance.clone().oneshot(request).await?;
    let endpoint = response.body().endpoint();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(format!("{endpoint}: {}", String::from_utf8_lossy(&body)))
}

impl Authority {
    fn new() -> Result<(Self, RootCertStore), BoxError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key)?.der().clone())?;
        Ok((Self(Issuer::new(params, key)), roots))
    }

    fn server(&self, name: &str, protocols: &[&str]) -> Result<ServerConfig, BoxError> {
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.0)?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(
            vec![own.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der())?,
        )?;
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

async fn serve(config: ServerConfig) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(acceptor.clone(), stream));
        }
    });
    Ok(address)
}

/// Says which name was asked for in the handshake, and which in the request.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream) -> Result<(), BoxError> {
    let stream = acceptor.accept(stream).await?;
    let tls = stream.get_ref().1;
    let asked = tls.server_name().unwrap_or("nobody").to_owned();
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let answer = service_fn(move |request: Request<Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string);
        let host = request.headers().get("host").and_then(|host| host.to_str().ok());
        let host = authority.as_deref().or(host).unwrap_or("nobody");
        let version = request.version();
        let body = format!("asked for {asked}, Host is {host}, over {version:?}");
        async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(body)))) }
    });
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), answer).await?;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(TokioIo::new(stream), answer).await?;
    }
    Ok(())
}
