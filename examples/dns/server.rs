//! A DNS server on loopback, over UDP and TCP, that says what it is told to, also what no server
//! should: any response code, late, never, cut short, with any TTL.
#![allow(dead_code, reason = "the example and the tests use different parts of it")]

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    proto::{
        op::{Header, HeaderCounts, Metadata, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            rdata::{A, AAAA, CNAME, SRV},
        },
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};

/// A running server; it ends when it is dropped.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _server: Server<Handler>,
}

/// What the server says to one question.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    /// Before it answers.
    pub(crate) delay: Duration,
    /// It does not answer at all.
    pub(crate) silent: bool,
    /// Over UDP it says that there is more, and gives nothing.
    pub(crate) cut: bool,
}

/// A question that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    pub(crate) tcp: bool,
}

#[derive(Default)]
struct Zone {
    replies: HashMap<(String, RecordType), Reply>,
    asked: Vec<Asked>,
}

struct Handler(Arc<Mutex<Zone>>);

/// For how long an idle TCP connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Answers that wait on one TCP connection.
const BUFFER: usize = 64;

// === impl DnsServer ===

impl DnsServer {
    /// On a port of 127.0.0.1 that is free for both protocols.
    pub(crate) async fn start() -> io::Result<Self> {
        for _ in 0..16 {
            let udp = UdpSocket::bind("127.0.0.1:0").await?;
            let address = udp.local_addr()?;
            if let Ok(tcp) = TcpListener::bind(address).await {
                return Ok(Self::over(udp, tcp, address));
            }
        }
        Err(io::Error::other("no port is free for UDP and TCP"))
    }

    pub(crate) async fn start_at(address: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(address).await?;
        Ok(Self::over(udp, tcp, address))
    }

    fn over(udp: UdpSocket, tcp: TcpListener, address: SocketAddr) -> Self {
        let zone = Arc::<Mutex<Zone>>::default();
        let mut server = Server::new(Handler(Arc::clone(&zone)));
        server.register_socket(udp);
        server.register_listener(tcp, IDLE, BUFFER);
        Self { address, zone, _server: server }
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it says from now on to the question for `kind` of `name`.
    pub(crate) fn reply(&self, name: &str, kind: RecordType, reply: Reply) {
        self.zone().replies.insert((key(name), kind), reply);
    }

    /// Forgets the name: NXDOMAIN.
    pub(crate) fn forget(&self, name: &str) {
        let name = key(name);
        self.zone().replies.retain(|(other, _), _| *other != name);
    }

    /// The addresses of `name`, and no other: those of a family that is missing are none.
    pub(crate) fn addresses<I>(&self, name: &str, ttl: u32, addresses: I)
    where
        I: IntoIterator<Item = IpAddr>,
    {
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        for (kind, addresses) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
            let records = addresses.into_iter().map(|address| address_record(name, ttl, address));
            self.reply(name, kind, Reply::records(records));
        }
    }

    /// The SRV records of `name`: priority, weight, port and target of each.
    pub(crate) fn services(&self, name: &str, ttl: u32, records: &[(u16, u16, u16, &str)]) {
        let records = records.iter().map(|record| service_record(name, ttl, record));
        self.reply(name, RecordType::SRV, Reply::records(records));
    }

    /// Whether so many questions came since [`asked`](Self::asked) was called last.
    pub(crate) fn is_asked(&self, times: usize) -> bool {
        self.zone().asked.len() >= times
    }

    /// The questions since this was called last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.zone().asked)
    }
}

pub(crate) fn address_record(name: &str, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(parsed(name), ttl, data)
}

pub(crate) fn alias_record(name: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(parsed(name), ttl, RData::CNAME(CNAME(parsed(target))))
}

/// Of priority, weight, port and target.
pub(crate) fn service_record(name: &str, ttl: u32, record: &(u16, u16, u16, &str)) -> Record {
    let (priority, weight, port, target) = *record;
    let srv = SRV::new(priority, weight, port, parsed(target));
    Record::from_rdata(parsed(name), ttl, RData::SRV(srv))
}

fn parsed(name: &str) -> Name {
    let mut name = Name::from_str_relaxed(name).expect("the names of examples and tests are names");
    name.set_fqdn(true);
    name
}

fn key(name: &str) -> String {
    parsed(name).to_ascii().to_ascii_lowercase()
}

// === impl Reply ===

impl Reply {
    pub(crate) fn records(records: impl IntoIterator<Item = Record>) -> Self {
        Self { answers: records.into_iter().collect(), ..Self::code(ResponseCode::NoError) }
    }

    pub(crate) fn code(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            additionals: Vec::new(),
            delay: Duration::ZERO,
            silent: false,
            cut: false,
        }
    }

    pub(crate) fn silence() -> Self {
        Self { silent: true, ..Self::code(ResponseCode::NoError) }
    }
}

// === impl Handler ===

impl Handler {
    fn hear(&self, name: String, kind: RecordType, tcp: bool) -> Reply {
        let mut zone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = zone.replies.get(&(name.clone(), kind)).cloned();
        let exists = zone.replies.keys().any(|(other, _)| *other == name);
        zone.asked.push(Asked { name, kind, tcp });
        let nothing = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        reply.unwrap_or_else(|| Reply::code(nothing))
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let told = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Ok(info) = request.request_info() else { return told };
        let (name, kind) = (info.query.name().to_string(), info.query.query_type());
        let tcp = info.protocol != Protocol::Udp;
        let reply = self.hear(key(&name), kind, tcp);
        tokio::time::sleep(reply.delay).await;
        if reply.silent {
            return told;
        }
        metadata.response_code = reply.code;
        metadata.recursion_available = true;
        let builder = MessageResponseBuilder::from_message_request(request);
        let sent = if reply.cut && !tcp {
            metadata.truncation = true;
            response.send_response(builder.build_no_records(metadata)).await
        } else {
            let message = builder.build(metadata, &reply.answers, [], [], &reply.additionals);
            response.send_response(message).await
        };
        sent.unwrap_or(told)
    }
}
