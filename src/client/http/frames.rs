//! Reads HTTP/2 frame heads as they pass, to know what the protocol's own library keeps to itself.

/// How far into a frame of RFC 9113 section 4.1 the bytes that passed reach.
pub(super) struct Frames {
    head: [u8; HEAD],
    have: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Bytes of the payload that are still to come.
    payload: usize,
    /// The payload of a GOAWAY, as far as it is fixed.
    last_words: [u8; LAST_WORDS],
    heard: usize,
    preface: Preface,
}

#[derive(PartialEq, Eq)]
enum Preface {
    Awaited,
    Passing,
    Over,
}

/// The heads of the frames that we send, to know which requests the peer can have seen: the protocol's
/// library queues a request's first frame, and forgets it if the connection ends before it is written.
pub(super) struct Sent {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of our preface or of a payload that are still to come.
    payload: usize,
    last_stream: u32,
}

/// What came to light in some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The end of the peer's preface: the SETTINGS frame that it has to begin with.
    pub(super) preface: bool,
    /// A GOAWAY frame; of several the last.
    pub(super) goaway: Option<GoAway>,
    /// DATA or HEADERS: the peer works on a request.
    pub(super) data: bool,
    /// Anything but PING.
    pub(super) life: bool,
}

/// The payload of a GOAWAY frame (RFC 9113 section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoAway {
    /// The streams above were not processed and never will be.
    pub(super) last_stream: u32,
    pub(super) code: u32,
}

/// `PRI * HTTP/2.0` and what follows it (RFC 9113 section 3.4).
const OUR_PREFACE: usize = 24;
const HEAD: usize = 9;
const LAST_WORDS: usize = 8;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            kind: SETTINGS,
            flags: 0,
            stream: 0,
            payload: 0,
            last_words: [0; LAST_WORDS],
            heard: 0,
            preface: Preface::Awaited,
        }
    }

    /// Reads on, and says of each stream that the peer ended.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut ended: impl FnMut(u32)) -> Seen {
        let mut seen = Seen::default();
        while !bytes.is_empty() {
            let (payload, rest) = bytes.split_at(self.payload.min(bytes.len()));
            if !payload.is_empty() {
                self.payload -= payload.len();
                self.listen(payload);
                self.note(&mut seen, &mut ended);
            }
            let (head, rest) = rest.split_at((HEAD - self.have).min(rest.len()));
            self.head[self.have..self.have + head.len()].copy_from_slice(head);
            self.have += head.len();
            bytes = rest;
            if self.have == HEAD {
                self.begin();
                self.note(&mut seen, &mut ended);
            }
        }
        seen
    }

    /// A head is complete.
    fn begin(&mut self) {
        let [a, b, c, kind, flags, d, e, f, g] = self.head;
        self.flags = flags;
        self.stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
        self.have = 0;
        self.heard = 0;
        self.kind = kind;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.preface = match self.preface {
            Preface::Awaited if kind == SETTINGS => Preface::Passing,
            _ => Preface::Over,
        };
    }

    fn listen(&mut self, payload: &[u8]) {
        if self.kind == GOAWAY {
            let taken = (LAST_WORDS - self.heard).min(payload.len());
            self.last_words[self.heard..self.heard + taken].copy_from_slice(&payload[..taken]);
            self.heard += taken;
        }
    }

    /// What the frame that passes says so far.
    fn note(&mut self, seen: &mut Seen, ended: &mut impl FnMut(u32)) {
        seen.life |= self.kind != PING;
        seen.data |= matches!(self.kind, DATA | HEADERS);
        let ends = match self.kind {
            DATA | HEADERS => self.flags & END_STREAM != 0,
            kind => kind == RST_STREAM,
        };
        if ends && self.payload == 0 {
            ended(self.stream);
        }
        if self.preface == Preface::Passing && self.payload == 0 {
            self.preface = Preface::Over;
            seen.preface = true;
        }
        if self.kind == GOAWAY && self.heard == LAST_WORDS {
            let [a, b, c, d, e, f, g, h] = self.last_words;
            seen.goaway = Some(GoAway {
                last_stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
                code: u32::from_be_bytes([e, f, g, h]),
            });
        }
    }
}

impl Sent {
    pub(super) fn new() -> Self {
        Self { head: [0; HEAD], have: 0, payload: OUR_PREFACE, last_stream: 0 }
    }

    /// The last stream that we have begun to send, after these bytes. Streams begin in their order.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> u32 {
        while !bytes.is_empty() {
            let payload = self.payload.min(bytes.len());
            self.payload -= payload;
            let (head, rest) =
                bytes[payload..].split_at((HEAD - self.have).min(bytes.len() - payload));
            self.head[self.have..self.have + head.len()].copy_from_slice(head);
            self.have += head.len();
            bytes = rest;
            if self.have == HEAD {
                let [a, b, c, kind, _, d, e, f, g] = self.head;
                self.have = 0;
                self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if kind == HEADERS {
                    let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
                    self.last_stream = self.last_stream.max(stream);
                }
            }
        }
        self.last_stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 0];
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let last_words = [0x80, 0, 1, 5, 0, 0, 0, 11, GOAWAY, GOAWAY];
        let settings = frame(SETTINGS, &[GOAWAY; 18]);
        let ping = frame(PING, &[GOAWAY; 8]);
        let rest = [frame(DATA, &[GOAWAY; 300]), frame(8, &[GOAWAY; 4])].concat();
        let goaway = frame(GOAWAY, &last_words);
        let bytes = [&*settings, &ping, &rest, &goaway].concat();
        for chunk in 1..bytes.len() {
            let mut frames = Frames::new();
            let seen: Vec<_> = bytes.chunks(chunk).map(|part| frames.pass(part, |_| ())).collect();
            let first = |what: fn(&Seen) -> bool| seen.iter().position(what).unwrap();
            assert_eq!(first(|seen| seen.preface), (settings.len() - 1) / chunk, "of {chunk}");
            assert_eq!(seen.iter().filter(|seen| seen.preface).count(), 1, "of {chunk}");
            let data = settings.len() + ping.len() + HEAD - 1;
            assert_eq!(first(|seen| seen.data), data / chunk, "of {chunk}");
            let said = first(|seen| seen.goaway.is_some());
            assert_eq!(said, (bytes.len() - 2 - 1) / chunk, "of {chunk}");
            let goaway = GoAway { last_stream: 0x105, code: 11 };
            assert_eq!(seen[said].goaway, Some(goaway), "of {chunk}");
        }
    }

    #[test]
    fn the_end_of_a_stream_is_seen() {
        let of = |kind, flags, stream: u8, payload: &[u8]| {
            let mut frame = frame(kind, payload);
            (frame[4], frame[8]) = (flags, stream);
            frame
        };
        let bytes = [
            frame(SETTINGS, &[]),
            of(HEADERS, 4 | END_STREAM, 1, b"head"),
            of(HEADERS, 4, 3, b"head"),
            of(DATA, 0, 3, b"data"),
            of(DATA, END_STREAM, 3, b""),
            of(RST_STREAM, 0, 5, &[0; 4]),
            // An acknowledgement, of the same bit.
            of(PING, 1, 0, &[0; 8]),
        ]
        .concat();
        for chunk in 1..bytes.len() {
            let (mut frames, mut ended) = (Frames::new(), Vec::new());
            bytes.chunks(chunk).for_each(|part| {
                frames.pass(part, |stream| ended.push(stream));
            });
            assert_eq!(ended, [1, 3, 5], "of {chunk}");
        }
    }

    /// A request counts as sent from the last byte of its first frame's head on.
    #[test]
    fn what_was_sent_is_seen_however_it_is_cut() {
        let of = |kind, stream: u8, payload: &[u8]| {
            let mut frame = frame(kind, payload);
            frame[8] = stream;
            frame
        };
        let frames = [
            of(SETTINGS, 0, &[HEADERS; 18]),
            of(HEADERS, 1, &[HEADERS; 40]),
            of(DATA, 1, &[HEADERS; 300]),
            of(HEADERS, 3, b""),
            // Trailers.
            of(HEADERS, 1, b"end"),
        ];
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frames.concat()].concat();
        let third = bytes.len() - frames[4].len() - frames[3].len() + HEAD;
        for chunk in 1..bytes.len() {
            let (mut sent, mut passed) = (Sent::new(), 0);
            for part in bytes.chunks(chunk) {
                passed += part.len();
                let first = OUR_PREFACE + frames[0].len() + HEAD;
                let expected = u32::from(passed >= first) + 2 * u32::from(passed >= third);
                assert_eq!(sent.pass(part), expected, "{passed} bytes by {chunk}");
            }
        }
    }

    #[test]
    fn a_ping_is_no_sign_of_work() {
        let mut frames = Frames::new();
        frames.pass(&frame(SETTINGS, &[]), |_| ());
        assert_eq!(frames.pass(&frame(PING, &[0; 8]), |_| ()), Seen::default());
        let window_update = frames.pass(&frame(8, &[0, 0, 0, 1]), |_| ());
        assert_eq!(window_update, Seen { life: true, ..Seen::default() });
    }

    #[test]
    fn a_peer_that_speaks_something_else_is_not_heard() {
        let seen = Frames::new().pass(b"HTTP/1.1 400 Bad Request\r\n\r\n", |_| ());
        assert!(!seen.preface && seen.goaway.is_none(), "{seen:?}");
    }
}
