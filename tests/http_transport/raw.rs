//! An HTTP/2 peer that does nothing of itself: it says what frames come, and sends what it is given.

use crate::support::*;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;

/// The peer's end of a pipe, after both prefaces.
pub(crate) struct Raw(pub(crate) DuplexStream);

#[derive(Debug)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    pub(crate) async fn new(mut pipe: DuplexStream) -> Self {
        pipe.read_exact(&mut [0; 24]).await.unwrap();
        let mut raw = Self(pipe);
        raw.send(SETTINGS, 0, 0, &[]).await;
        raw
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The head of a response, `:status: 200`, which goes on.
    pub(crate) async fn send_head(&mut self, stream: u32) {
        self.send(HEADERS, 4, stream, &[0x88]).await;
    }

    pub(crate) async fn send_goaway(&mut self, last_stream: u32, code: u32) {
        let payload = [last_stream.to_be_bytes(), code.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    pub(crate) async fn answer(&mut self, ping: &RawFrame) {
        self.send(PING, ACK, 0, &ping.payload).await;
    }

    pub(crate) async fn frame(&mut self) -> std::io::Result<RawFrame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(RawFrame { kind, flags, stream: u32::from_be_bytes([d, e, f, g]), payload })
    }

    /// Waits until everything sent so far has been read at the other end; the DATA that came meanwhile.
    pub(crate) async fn caught_up(&mut self) -> Vec<RawFrame> {
        self.send(PING, 0, 0, b"caughtup").await;
        let mut data = Vec::new();
        loop {
            match self.frame().await.unwrap() {
                pong if pong.kind == PING && pong.flags & ACK != 0 => return data,
                frame if frame.kind == DATA => data.push(frame),
                _ => {}
            }
        }
    }

    /// The next frame of this kind that is no acknowledgement.
    pub(crate) async fn next(&mut self, kind: u8) -> RawFrame {
        loop {
            let frame = self.frame().await.unwrap();
            if frame.kind == kind && (frame.flags & ACK == 0 || !matches!(kind, SETTINGS | PING)) {
                return frame;
            }
        }
    }
}
