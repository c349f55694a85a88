//! What could be done by one who knows: the server of the least expected delay.
//!
//! Greedy, request by request, from the true number of requests at each server and its true speed
//! of the moment; not from the work of each request, which no server knows either. That it is an
//! optimum is not proven: a policy can be a little better by chance.

use evenkeel::policy::Rng;

use crate::server::{Mode, Server, WORKERS};

/// Of the `listed` servers that serve, the one that will answer first in the mean; equals are
/// decided by chance. `sent` counts what is at each server or under way to it.
pub(crate) fn pick(
    servers: &[Server],
    sent: &[u32],
    listed: &[bool],
    rng: &mut Rng,
) -> Option<usize> {
    let mut best = None;
    let mut least = f64::INFINITY;
    let mut equals = 0;
    for (index, server) in servers.iter().enumerate() {
        if !listed[index] || server.mode != Mode::Serving {
            continue;
        }
        let before = (sent[index] + 1).saturating_sub(WORKERS as u32);
        let delay = (1.0 + f64::from(before) / WORKERS as f64) / server.speed();
        if delay > least || delay.is_infinite() {
            continue;
        }
        equals = if delay < least { 1 } else { equals + 1 };
        least = delay;
        if rng.below(equals) == 0 {
            best = Some(index);
        }
    }
    best
}
