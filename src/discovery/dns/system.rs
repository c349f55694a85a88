//! The resolver configuration of the system, read again when it changes.
//!
//! In a container it changes: at start-up, with a VPN, when a node-local cache is put in front. The
//! files are read before each look, which is once a second at most, and compared by what they say,
//! since a rewrite within the clock's resolution, or a symbolic link that is turned, does not show in
//! a time.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use hickory_resolver::{
    Hosts,
    config::{ResolverConfig, ResolverOpts},
    proto::rr::Name,
};

use super::{search::Search, servers::Servers};
use crate::{
    error::{BoxError, DiscoverError},
    node::Clock,
};

/// Where the configuration is, and what it said last.
pub(super) struct System {
    resolv_conf: PathBuf,
    /// Whether names of the system's hosts file come before those of DNS.
    hosts: bool,
    clock: Clock,
    last: Mutex<Option<Arc<Configured>>>,
}

/// What the system says of how to look up names.
pub(super) struct Configured {
    text: Vec<u8>,
    pub(super) servers: Arc<Servers>,
    pub(super) search: Search,
    pub(super) hosts: Arc<Hosts>,
    hosts_stamp: Option<Stamp>,
}

/// Tells one version of the hosts file, which may be large, from another.
type Stamp = (u64, Option<SystemTime>);

const HOSTS: &str = "/etc/hosts";
/// What glibc assumes where no server is named.
const LOOPBACK: &[u8] = b"\nnameserver 127.0.0.1\n";

// === impl System ===

impl System {
    pub(super) const RESOLV_CONF: &'static str = "/etc/resolv.conf";

    pub(super) fn new(resolv_conf: PathBuf, hosts: bool, clock: Clock) -> Self {
        Self { resolv_conf, hosts, clock, last: Mutex::new(None) }
    }

    /// The configuration as it is now; that of before, while the file cannot be read or understood.
    pub(super) async fn configured(self: &Arc<Self>) -> Result<Arc<Configured>, DiscoverError> {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || this.read()).await;
        read.unwrap_or_else(|gone| Err(DiscoverError::caused("reading resolv.conf", gone)))
    }

    fn read(&self) -> Result<Arc<Configured>, DiscoverError> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.read_after(last.as_deref()) {
            Ok(None) => {}
            Ok(Some(configured)) => {
                let configured = Arc::new(configured);
                tracing::info!(
                    path = %self.resolv_conf.display(),
                    nameservers = ?configured.servers,
                    search = ?configured.search,
                    "the resolver configuration is read"
                );
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Arc::clone(&configured));
                return Ok(configured);
            }
            Err(error) => {
                let path = self.resolv_conf.display();
                match &last {
                    Some(_) => tracing::debug!(%path, %error, "the configuration of before stands"),
                    None => {
                        return Err(DiscoverError::caused(
                            format!("reading {path}: {error}"),
                            error,
                        ));
                    }
                }
            }
        }
        // Without a last one there was an error, or something new.
        last.ok_or_else(|| DiscoverError::new("no resolver configuration"))
    }

    /// What differs from `last`, if anything does.
    fn read_after(&self, last: Option<&Configured>) -> Result<Option<Configured>, BoxError> {
        let text = read(&self.resolv_conf)?;
        let hosts_stamp = if self.hosts { stamp(Path::new(HOSTS)) } else { None };
        let same_text = last.filter(|last| last.text == text);
        let same_hosts = last.filter(|last| last.hosts_stamp == hosts_stamp);
        if same_text.is_some() && same_hosts.is_some() {
            return Ok(None);
        }
        let hosts = match same_hosts {
            Some(last) => Arc::clone(&last.hosts),
            None if self.hosts => Arc::new(Hosts::from_system().unwrap_or_default()),
            None => Arc::default(),
        };
        let (servers, search) = match same_text {
            Some(last) => (Arc::clone(&last.servers), last.search.clone()),
            None => self.parse(&text)?,
        };
        Ok(Some(Configured { text, servers, search, hosts, hosts_stamp }))
    }

    fn parse(&self, text: &[u8]) -> Result<(Arc<Servers>, Search), BoxError> {
        let (config, options) = parse(text)?;
        let addresses = config.name_servers().iter().flat_map(|server| {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            [SocketAddr::new(server.ip, port)]
        });
        let servers = Servers::new(addresses, &options, self.clock.clone())?;
        // glibc takes the search list or else the domain, never both.
        let domains = match config.search() {
            [] => config.domain().cloned().into_iter().collect::<Vec<Name>>(),
            search => search.to_vec(),
        };
        Ok((Arc::new(servers), Search::new(domains, options.ndots)))
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("System").field(&self.resolv_conf).finish()
    }
}

/// The text; none is an empty one, as for glibc.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}

#[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
fn parse(text: &[u8]) -> Result<(ResolverConfig, ResolverOpts), BoxError> {
    let names_server = text.split(|byte| *byte == b'\n').any(|line| {
        line.trim_ascii_start()
            .strip_prefix(b"nameserver")
            .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
    });
    let mut text = text.to_vec();
    if !names_server {
        text.extend_from_slice(LOOPBACK);
    }
    Ok(hickory_resolver::system_conf::parse_resolv_conf(text)?)
}

/// Elsewhere the file, if there is one, is not what the system goes by.
#[cfg(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))))]
fn parse(_text: &[u8]) -> Result<(ResolverConfig, ResolverOpts), BoxError> {
    Ok(hickory_resolver::system_conf::read_system_conf()?)
}

#[cfg(test)]
mod tests;
