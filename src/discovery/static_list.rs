//! A fixed list of endpoints, from text or from the program.
//!
//! The text is what fits a flag or an environment variable, so it is checked to the letter: an
//! error says at which byte which part is wrong, and how.

use std::{
    collections::HashSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{
    Discover, Endpoints, RefreshRequests, Update,
    part::{Part, whole_number},
};
use crate::{
    endpoint::{Address, Endpoint, Identity, Locality, Priority, Weight},
    error::{ListError, ListErrorReason},
};

/// A fixed list of endpoints.
///
/// As text: entries between commas, each `ip:port`, `[ipv6]:port` or `unix:/path`, followed by any
/// of `;weight=N`, `;priority=N`, `;zone=NAME`, `;region=NAME` and `;name=SERVER_NAME`. White space
/// around the parts does not matter; a path or name cannot hold a comma or semicolon. Names are not
/// resolved: that is a source of its own.
///
/// ```
/// use evenkeel::{Endpoint, ListErrorReason, Weight, discovery::StaticList};
///
/// let list: StaticList = "10.0.0.1:80, [::1]:80;weight=3, unix:/run/app.sock".parse()?;
/// assert_eq!(list.endpoints()[1].weight(), Weight(3));
/// assert_eq!(list.to_string(), "10.0.0.1:80,[::1]:80;weight=3,unix:/run/app.sock");
///
/// let error = StaticList::parse("10.0.0.1:80, localhost:80").unwrap_err();
/// assert_eq!((error.position, error.entry.as_str()), (13, "localhost"));
/// assert_eq!(error.reason, ListErrorReason::Name);
///
/// let list = StaticList::new([Endpoint::new(([10, 0, 0, 1], 80)).with_server_name("a.example")])?;
/// assert_eq!(list.to_string(), "10.0.0.1:80;name=a.example");
/// # Ok::<(), evenkeel::ListError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticList(Arc<[Endpoint]>);

/// An endpoint as an entry of the text.
struct Entry<'a>(&'a Endpoint);

/// Says its update once, and nothing ever after.
pub(super) struct Once(pub(super) Option<Update>);

/// Refuses what a list may not hold, one endpoint after another.
#[derive(Default)]
struct Checker {
    seen: HashSet<Identity>,
    endpoints: Vec<Endpoint>,
}

// === impl StaticList ===

impl StaticList {
    /// A list of these endpoints. Their addresses may be names, if the client resolves them.
    ///
    /// # Errors
    ///
    /// If there is none, if one has port 0, or if two are the same (first address, server name and
    /// protocol). The error's position is that in the list's text.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Self, ListError> {
        let mut checker = Checker::default();
        let mut text = String::new();
        for endpoint in endpoints {
            if !text.is_empty() {
                text.push(',');
            }
            let position = text.len();
            let address = endpoint.to_string();
            text.push_str(&Entry(&endpoint).to_string());
            checker.add(endpoint, Part { text: &address, position })?;
        }
        checker.finish()
    }

    /// Takes the text for a list.
    ///
    /// # Errors
    ///
    /// If there is no endpoint in it, if a part is not as it should be, or if an endpoint has port
    /// 0 or stands there twice.
    pub fn parse(text: &str) -> Result<Self, ListError> {
        if text.trim().is_empty() {
            return Checker::default().finish();
        }
        let mut checker = Checker::default();
        for entry in (Part { text, position: 0 }).split(',') {
            let mut parts = entry.split(';').map(Part::trim);
            let address = parts.next().unwrap_or(entry);
            if entry.trim().text.is_empty() {
                return Err(entry.trim().error(ListErrorReason::EmptyEntry));
            }
            let endpoint = options(Endpoint::new(address.address()?), parts)?;
            checker.add(endpoint, address)?;
        }
        checker.finish()
    }

    /// The endpoints, in their order.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0
    }
}

impl Discover for StaticList {
    fn watch(self, _refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        Once(Some(Update::Set(self.0.iter().cloned().collect::<Endpoints>())))
    }

    fn target(&self) -> Arc<str> {
        format!("static://{self}").into()
    }
}

impl FromStr for StaticList {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Self, ListError> {
        Self::parse(text)
    }
}

/// The text that [`parse`](StaticList::parse) takes for this list, as far as a text can say it.
impl fmt::Display for StaticList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, endpoint) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            Entry(endpoint).fmt(f)?;
        }
        Ok(())
    }
}

// === impl Entry ===

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(endpoint) = self;
        write!(f, "{endpoint}")?;
        if endpoint.weight() != Weight::default() {
            write!(f, ";weight={}", endpoint.weight().0)?;
        }
        if endpoint.priority() != Priority::default() {
            write!(f, ";priority={}", endpoint.priority().0)?;
        }
        let Locality { region, zone, .. } = endpoint.locality();
        let names = [
            ("zone", zone.as_deref()),
            ("region", region.as_deref()),
            ("name", endpoint.server_name()),
        ];
        for (option, value) in names {
            if let Some(value) = value {
                write!(f, ";{option}={value}")?;
            }
        }
        Ok(())
    }
}

// === impl Once ===

impl Stream for Once {
    type Item = Update;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Update>> {
        // Pending without a waker: the list never changes, and the balancer has no use for an end.
        self.0.take().map_or(Poll::Pending, |update| Poll::Ready(Some(update)))
    }
}

// === impl Checker ===

impl Checker {
    /// `address` is where the endpoint stands in the text.
    fn add(&mut self, endpoint: Endpoint, address: Part<'_>) -> Result<(), ListError> {
        if endpoint.addresses().any(|address| address.port() == Some(0)) {
            return Err(address.error(ListErrorReason::PortZero));
        }
        if !self.seen.insert(endpoint.identity().clone()) {
            return Err(address.error(ListErrorReason::Duplicate));
        }
        self.endpoints.push(endpoint);
        Ok(())
    }

    fn finish(self) -> Result<StaticList, ListError> {
        if self.endpoints.is_empty() {
            return Err(Part { text: "", position: 0 }.error(ListErrorReason::EmptyList));
        }
        Ok(StaticList(self.endpoints.into()))
    }
}

// === impl Part ===

impl Part<'_> {
    fn error(self, reason: ListErrorReason) -> ListError {
        ListError { position: self.position, entry: self.text.to_owned(), reason }
    }

    fn address(self) -> Result<Address, ListError> {
        if let Some(path) = self.text.strip_prefix("unix:") {
            // A NUL would end the path early.
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Address::unix(path))
            } else {
                Err(self.error(ListErrorReason::Address))
            };
        }
        self.text.parse::<SocketAddr>().map(Address::from).map_err(|_| self.no_address())
    }

    /// Why this is no `ip:port`.
    fn no_address(self) -> ListError {
        use ListErrorReason::{Address, Brackets, Name, NoPort, Port};

        if self.text.parse::<Ipv6Addr>().is_ok() {
            return self.error(Brackets);
        }
        let (host, port) = match self.text.rsplit_once(':') {
            // The last colon of `[::1]` is no separator.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (self.text, None),
        };
        if host.parse::<Ipv6Addr>().is_ok() {
            return self.error(Brackets);
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_ip = match bracketed {
            Some(host) => is_ipv6_with_scope(host),
            None => host.parse::<Ipv4Addr>().is_ok(),
        };
        match port {
            None | Some("") if is_ip => self.error(NoPort),
            Some(_) if is_ip => self.error(Port),
            _ if is_name(host) => Part { text: host, ..self }.error(Name),
            _ => self.error(Address),
        }
    }

    fn number(self, value: &str) -> Result<u32, ListError> {
        whole_number(value).ok_or_else(|| self.error(ListErrorReason::Number))
    }
}

fn is_ipv6_with_scope(text: &str) -> bool {
    let (address, scope) = text.split_once('%').unwrap_or((text, "0"));
    address.parse::<Ipv6Addr>().is_ok() && scope.parse::<u32>().is_ok()
}

/// Whether someone may have meant this for a host's name. Digits alone are an address gone wrong.
fn is_name(text: &str) -> bool {
    text.contains(|c: char| c.is_alphabetic())
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// The endpoint with the options of its entry.
fn options<'a>(
    mut endpoint: Endpoint,
    options: impl Iterator<Item = Part<'a>>,
) -> Result<Endpoint, ListError> {
    let mut locality = Locality::default();
    let mut seen = Vec::new();
    for option in options {
        let (key, value) = option.text.split_once('=').unwrap_or((option.text, ""));
        let (key, value) = (key.trim_end(), value.trim_start());
        if !matches!(key, "weight" | "priority" | "zone" | "region" | "name") {
            return Err(Part { text: key, ..option }.error(ListErrorReason::Option));
        }
        if value.is_empty() {
            return Err(option.error(ListErrorReason::EmptyValue));
        }
        if seen.contains(&key) {
            return Err(option.error(ListErrorReason::Repeated));
        }
        seen.push(key);
        endpoint = match key {
            "weight" => endpoint.with_weight(Weight(option.number(value)?)),
            "priority" => endpoint.with_priority(Priority(option.number(value)?)),
            "name" => endpoint.with_server_name(value),
            place => {
                let part = if place == "zone" { &mut locality.zone } else { &mut locality.region };
                *part = Some(value.into());
                endpoint
            }
        };
    }
    Ok(if locality == Locality::default() { endpoint } else { endpoint.with_locality(locality) })
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::{OnEmpty, refresh, unfold::tests::counting_waker};

    #[test]
    fn takes_what_is_right_and_says_it_back() {
        for (text, back) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("  10.0.0.1:80 ,\t[2001:db8::1]:443\n", "10.0.0.1:80,[2001:db8::1]:443"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
            ("unix:/run/a b.sock", "unix:/run/a b.sock"),
            ("10.0.0.1:80;weight=1;priority=0", "10.0.0.1:80"),
            ("10.0.0.1:80;weight=0", "10.0.0.1:80;weight=0"),
            ("10.0.0.1:80;weight=4294967295", "10.0.0.1:80;weight=4294967295"),
            (
                "10.0.0.1:80 ; name = a.example; region=eu ;zone=a;priority=2; weight=07",
                "10.0.0.1:80;weight=7;priority=2;zone=a;region=eu;name=a.example",
            ),
            ("10.0.0.1:80;name=a=b", "10.0.0.1:80;name=a=b"),
            // Another server name is another endpoint.
            ("10.0.0.1:80;name=a,10.0.0.1:80;name=b", "10.0.0.1:80;name=a,10.0.0.1:80;name=b"),
        ] {
            let list = StaticList::parse(text).unwrap();
            assert_eq!(list.to_string(), back);
            assert_eq!(back.parse(), Ok(list));
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        use ListErrorReason::*;
        for (text, position, entry, reason) in [
            ("", 0, "", EmptyList),
            (" \n", 0, "", EmptyList),
            (",", 0, "", EmptyEntry),
            ("10.0.0.1:80,", 12, "", EmptyEntry),
            ("10.0.0.1:80, ,10.0.0.2:80", 13, "", EmptyEntry),
            ("10.0.0.1:80, localhost:80", 13, "localhost", Name),
            ("localhost", 0, "localhost", Name),
            ("a_b.svc.cluster.local", 0, "a_b.svc.cluster.local", Name),
            (" bücher.example:80", 1, "bücher.example", Name),
            ("10.0.0.1", 0, "10.0.0.1", NoPort),
            ("10.0.0.1:", 0, "10.0.0.1:", NoPort),
            ("10.0.0.2:1,  10.0.0.1;weight=2", 13, "10.0.0.1", NoPort),
            ("[::1]", 0, "[::1]", NoPort),
            ("[::1]:", 0, "[::1]:", NoPort),
            ("[fe80::1%2]", 0, "[fe80::1%2]", NoPort),
            ("10.0.0.1:65536", 0, "10.0.0.1:65536", Port),
            ("10.0.0.1:http", 0, "10.0.0.1:http", Port),
            ("10.0.0.1:+80", 0, "10.0.0.1:+80", Port),
            ("10.0.0.1: 80", 0, "10.0.0.1: 80", Port),
            ("[::1]:99999", 0, "[::1]:99999", Port),
            ("\u{a0}10.0.0.1:0", 2, "10.0.0.1:0", PortZero),
            ("[::1]:0", 0, "[::1]:0", PortZero),
            ("::1", 0, "::1", Brackets),
            ("fe80::1:8080", 0, "fe80::1:8080", Brackets),
            ("2001:db8::1:99999", 0, "2001:db8::1:99999", Brackets),
            ("10.0.0.300:80", 0, "10.0.0.300:80", Address),
            ("8080", 0, "8080", Address),
            (":8080", 0, ":8080", Address),
            ("http://10.0.0.1:80", 0, "http://10.0.0.1:80", Address),
            ("[::1", 0, "[::1", Address),
            ("[10.0.0.1]:80", 0, "[10.0.0.1]:80", Address),
            ("[::1]80", 0, "[::1]80", Address),
            (";weight=2", 0, "", Address),
            ("unix:run/app.sock", 0, "unix:run/app.sock", Address),
            ("unix:", 0, "unix:", Address),
            ("10.0.0.1:80, 10.0.0.1:80;weight=2", 13, "10.0.0.1:80", Duplicate),
            ("unix:/a,unix:/a", 8, "unix:/a", Duplicate),
            ("10.0.0.1:80;colour=red", 12, "colour", Option),
            ("10.0.0.1:80; Weight=2", 13, "Weight", Option),
            ("10.0.0.1:80;", 12, "", Option),
            ("10.0.0.1:80;=2", 12, "", Option),
            ("10.0.0.1:80;weight", 12, "weight", EmptyValue),
            ("10.0.0.1:80; zone= ;weight=1", 13, "zone=", EmptyValue),
            ("10.0.0.1:80;weight=-1", 12, "weight=-1", Number),
            ("10.0.0.1:80;weight=+1", 12, "weight=+1", Number),
            ("10.0.0.1:80;weight=1.5", 12, "weight=1.5", Number),
            ("10.0.0.1:80;priority=4294967296", 12, "priority=4294967296", Number),
            ("10.0.0.1:80;weight=1; weight=2", 22, "weight=2", Repeated),
        ] {
            let expected = ListError { position, entry: entry.to_owned(), reason };
            assert_eq!(StaticList::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn endpoints_are_checked_as_text_is() {
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
        let position = |endpoints: &[Endpoint]| {
            let error = StaticList::new(endpoints.to_vec()).unwrap_err();
            (error.position, error.entry, error.reason)
        };
        assert_eq!(position(&[]), (0, String::new(), ListErrorReason::EmptyList));
        assert_eq!(
            position(&[endpoint.clone().with_weight(Weight(2)), endpoint.clone()]),
            (21, "10.0.0.1:80".to_owned(), ListErrorReason::Duplicate)
        );
        assert_eq!(
            position(&[endpoint.clone(), Endpoint::new(Address::name("db", 0))]),
            (12, "db:0".to_owned(), ListErrorReason::PortZero)
        );
        let named = [endpoint.clone(), Endpoint::new(Address::name("db", 1))];
        assert_eq!(StaticList::new(named.clone()).unwrap().endpoints(), named);
    }

    /// T10, T15: a fixed list is a set, and its stream neither ends nor wakes anybody.
    #[test]
    fn says_its_set_once_and_then_nothing_for_ever() {
        let list = StaticList::parse("10.0.0.1:80,10.0.0.2:80").unwrap();
        assert_eq!(list.on_empty(), OnEmpty::Clear);
        assert_eq!(&*list.target(), "static://10.0.0.1:80,10.0.0.2:80");
        let mut stream = std::pin::pin!(list.clone().watch(refresh::channel().1));
        let update = stream.next().now_or_never().unwrap();
        assert!(matches!(update, Some(Update::Set(set)) if set.iter().eq(list.endpoints())));
        let (waker, wakes) = counting_waker();
        for _ in 0..10 {
            assert!(stream.as_mut().poll_next(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(wakes.count(), 0);
    }

    /// Texts near enough to lists to get past the first check.
    fn near_list() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            8 => "(10\\.0\\.0\\.[0-9]|\\[::[0-9a-f]\\]|\\[fe80::1%[0-9]\\]):[0-9]{1,5}",
            2 => "unix:/[a-z /.]{0,6}",
            4 => " ?; ?(weight|priority) ?= ?[0-9]{1,3}",
            4 => " ?; ?(zone|region|name) ?= ?[a-z=é ]{1,4}",
            1 => "[\\[\\]:,;= %0-9a-zé]{0,3}",
            4 => Just(" , ".to_owned()),
        ];
        proptest::collection::vec(word, 0..8).prop_map(|words| words.concat())
    }

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let address = prop_oneof![
            any::<(std::net::IpAddr, u16)>()
                .prop_map(|(ip, port)| Address::from((ip, port.max(1)))),
            "/[a-z0-9_./-]{1,9}".prop_map(Address::unix),
        ];
        let name = || proptest::option::of("[a-zé0-9=.:-]{1,5}".prop_map(Arc::<str>::from));
        (address, any::<(u32, u32)>(), name(), name(), name()).prop_map(
            |(address, (weight, priority), region, zone, name)| {
                let endpoint = Endpoint::new(address)
                    .with_weight(Weight(weight))
                    .with_priority(Priority(priority))
                    .with_locality(Locality { region, zone, ..Locality::default() });
                match name {
                    Some(name) => endpoint.with_server_name(name),
                    None => endpoint,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_a_text_can_say_comes_back(
            endpoints in proptest::collection::vec(endpoint(), 1..5),
        ) {
            // Two unix paths may be the same, and are refused as they should be.
            if let Ok(list) = StaticList::new(endpoints) {
                prop_assert_eq!(StaticList::parse(&list.to_string()), Ok(list));
            }
        }

        #[test]
        fn parsing_never_panics_and_comes_back(text in prop_oneof![near_list(), ".*"]) {
            match StaticList::parse(&text) {
                Ok(list) => prop_assert_eq!(StaticList::parse(&list.to_string()), Ok(list)),
                Err(error) => prop_assert!(text[error.position..].starts_with(&error.entry)),
            }
        }
    }
}
