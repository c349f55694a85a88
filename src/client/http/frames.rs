//! Reads HTTP/2 frame heads as they pass, to know what hyper keeps to itself.

/// How far into a frame of RFC 9113 section 4.1 the bytes that passed reach.
pub(super) struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the payload that are still to come.
    payload: usize,
    first: bool,
}

/// What came to light in some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The peer's preface: the SETTINGS frame that it has to begin with.
    pub(super) preface: bool,
    /// A GOAWAY frame, of any reason.
    pub(super) going_away: bool,
}

const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

impl Frames {
    pub(super) fn new() -> Self {
        Self { head: [0; HEAD], have: 0, payload: 0, first: true }
    }

    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                let [a, b, c, kind, ..] = self.head;
                self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                seen.preface |= self.first && kind == SETTINGS;
                seen.going_away |= kind == GOAWAY;
                self.first = false;
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, (payload >> 8) as u8, payload as u8, kind, 0, 0, 0, 0, 0];
        frame.extend(std::iter::repeat_n(GOAWAY, payload));
        frame
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let bytes = [frame(SETTINGS, 18), frame(0, 300), frame(8, 4), frame(GOAWAY, 8)].concat();
        for chunk in 1..bytes.len() {
            let mut frames = Frames::new();
            let mut going_away_at = None;
            let mut preface_at = None;
            for (index, part) in bytes.chunks(chunk).enumerate() {
                let seen = frames.pass(part);
                if seen.preface {
                    preface_at.get_or_insert(index);
                }
                if seen.going_away {
                    going_away_at.get_or_insert(index);
                }
            }
            assert_eq!(preface_at, Some((HEAD - 1) / chunk), "chunks of {chunk}");
            let goaway_head_ends = bytes.len() - 8 - 1;
            assert_eq!(going_away_at, Some(goaway_head_ends / chunk), "chunks of {chunk}");
        }
    }

    #[test]
    fn a_peer_that_speaks_something_else_is_not_heard() {
        assert_eq!(Frames::new().pass(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Seen::default());
    }
}
