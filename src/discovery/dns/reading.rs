//! What a server says of a name, along its aliases.
//!
//! hickory would follow them as well, but takes the target of an SRV record for one more alias, so
//! that records behind an alias are lost to it, and aliases that lead in a circle for a name that has
//! nothing. So its messages are read here: RFC 1034 3.6.2 (aliases), RFC 2181 5.2 (the time of a set),
//! RFC 2308 2 (what "nothing" looks like), RFC 6604 (the code is that of the last name), RFC 6761
//! (names that nobody is asked for).

use std::{
    fmt,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::{
        op::{Message, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            domain::usage::{INVALID, LOCALHOST, ONION},
            rdata::CNAME,
        },
    },
};

use super::answer::Absent;

/// What a server knows.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    Records(Resolved),
    Nothing(Absent),
}

/// The records at the end of all aliases.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) records: Vec<Record>,
    /// What came along with them.
    pub(super) additionals: Vec<Record>,
    /// The least of all on the way.
    pub(super) ttl: Duration,
}

/// Why a server does not tell.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Code(ResponseCode),
    Silence,
    /// Names of other servers instead of an answer: this one does not know the zone.
    Referral,
    /// Its aliases lead in a circle, or on and on.
    Aliases,
    /// Records of names that nobody asked for.
    Unrelated,
    /// It tells that there is nothing, but is not to be believed.
    Nothing(Absent),
    Net(NetError),
}

/// A name and those that it was an alias of.
struct Walk {
    kind: RecordType,
    first: Name,
    aliases: Vec<Name>,
    ttl: Duration,
}

enum Step {
    There(Reading),
    /// The message ends with an alias: its target has to be asked for.
    Ask,
}

/// More are taken for a circle. BIND stops at as many.
const MOST_ALIASES: usize = 16;
/// How long the addresses of `localhost` are good for.
const A_DAY: Duration = Duration::from_secs(86_400);

/// What one server says of the records of `kind` of `name`; `ask` carries a question to it.
pub(super) async fn read<F>(
    name: Name,
    kind: RecordType,
    ask: impl Fn(Name) -> F,
) -> Result<Reading, Fault>
where
    F: Future<Output = Result<Message, NetError>>,
{
    let mut walk = Walk { kind, first: name, aliases: Vec::new(), ttl: Duration::MAX };
    loop {
        let name = walk.name();
        if let Some(known) = known(name, kind, walk.ttl) {
            return Ok(known);
        }
        let step = match ask(name.clone()).await {
            Ok(message) => walk.step(&message)?,
            Err(error) => Step::There(Reading::Nothing(absent(error)?)),
        };
        if let Step::There(reading) = step {
            return Ok(reading);
        }
    }
}

/// RFC 2181 8: one that is negative as a signed number is none.
pub(super) fn ttl(record: &Record) -> Duration {
    Duration::from_secs(u64::from(i32::try_from(record.ttl).unwrap_or(0).unsigned_abs()))
}

/// Of these names nobody is asked.
fn known(name: &Name, kind: RecordType, ttl: Duration) -> Option<Reading> {
    if INVALID.zone_of(name) || ONION.zone_of(name) {
        return Some(Reading::Nothing(Absent::NoName));
    }
    if !LOCALHOST.zone_of(name) {
        return None;
    }
    let address: IpAddr = match kind {
        RecordType::A => Ipv4Addr::LOCALHOST.into(),
        RecordType::AAAA => Ipv6Addr::LOCALHOST.into(),
        _ => return Some(Reading::Nothing(Absent::NoRecords)),
    };
    let records = vec![Record::from_rdata(name.clone(), 0, address.into())];
    Some(Reading::Records(Resolved { records, additionals: Vec::new(), ttl: ttl.min(A_DAY) }))
}

/// How there is nothing, if that is what a message without records says, and not that nobody knows.
fn absent(error: NetError) -> Result<Absent, Fault> {
    match error {
        NetError::Timeout => Err(Fault::Silence),
        NetError::Dns(DnsError::ResponseCode(code)) => Err(Fault::Code(code)),
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => match nothing.response_code {
            ResponseCode::NXDomain => Ok(Absent::NoName),
            ResponseCode::NoError if nothing.ns.is_some() && nothing.soa.is_none() => {
                Err(Fault::Referral)
            }
            ResponseCode::NoError => Ok(Absent::NoRecords),
            code => Err(Fault::Code(code)),
        },
        error => Err(Fault::Net(error)),
    }
}

// === impl Walk ===

impl Walk {
    /// The last name.
    fn name(&self) -> &Name {
        self.aliases.last().unwrap_or(&self.first)
    }

    fn follow(&mut self, target: &Name) -> Result<(), Fault> {
        let known = *target == self.first || self.aliases.contains(target);
        if known || self.aliases.len() == MOST_ALIASES {
            return Err(Fault::Aliases);
        }
        self.aliases.push(target.clone());
        Ok(())
    }

    /// As far as `message` leads.
    fn step(&mut self, message: &Message) -> Result<Step, Fault> {
        let code = message.metadata.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(Fault::Code(code));
        }
        let before = self.aliases.len();
        loop {
            let of_name = message.answers.iter().filter(|record| record.name == *self.name());
            let of_kind = of_name.clone().filter(|record| record.record_type() == self.kind);
            let records: Vec<Record> = of_kind.cloned().collect();
            if !records.is_empty() {
                let ttl = records.iter().map(ttl).fold(self.ttl, Duration::min);
                let additionals = message.additionals.clone();
                return Ok(Step::There(Reading::Records(Resolved { records, additionals, ttl })));
            }
            let alias = of_name.clone().find_map(|record| match &record.data {
                RData::CNAME(CNAME(target)) => Some((target, ttl(record))),
                _ => None,
            });
            let Some((target, ttl)) = alias else { break };
            self.follow(target)?;
            self.ttl = self.ttl.min(ttl);
        }
        if code == ResponseCode::NXDomain {
            return Ok(Step::There(Reading::Nothing(Absent::NoName)));
        }
        // The authority of the last name says that this is all.
        let is_denied = message.authorities.iter().any(|record| {
            record.record_type() == RecordType::SOA && record.name.zone_of(self.name())
        });
        match (is_denied, self.aliases.len() > before) {
            (true, _) => Ok(Step::There(Reading::Nothing(Absent::NoRecords))),
            (false, true) => Ok(Step::Ask),
            (false, false) => Err(Fault::Unrelated),
        }
    }
}

// === impl Fault ===

impl Fault {
    /// Whether a server said so, as against that none could be heard.
    pub(super) fn is_said(&self) -> bool {
        !matches!(self, Self::Silence | Self::Net(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => f.write_str(&format!("{code:?}").to_uppercase()),
            Self::Silence => f.write_str("no answer"),
            Self::Referral => f.write_str("a referral instead of an answer"),
            Self::Aliases => write!(f, "aliases in a circle, or more than {MOST_ALIASES},"),
            Self::Unrelated => f.write_str("records of other names"),
            Self::Nothing(Absent::NoName) => f.write_str("NXDOMAIN"),
            Self::Nothing(Absent::NoRecords) => f.write_str("NODATA"),
            Self::Net(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
