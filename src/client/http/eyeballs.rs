//! Happy eyeballs: of several addresses the first that answers, without a flood of attempts.
//!
//! The addresses alternate between families, beginning with the family of the first; an attempt begins
//! 250 ms after the one before, or as soon as that has failed; the first that comes through ends the
//! others. RFC 8305 sections 4 and 5, and gRFC A61, by which an attempt goes all the way to a connection
//! that is ready: what merely accepts wins nothing. What was tried in vain is tried last by the dials that
//! follow, so that it costs no more of them their time, and each address has its turn, however many there are.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use super::error::{ConnectError, SharedCause};
use crate::{
    endpoint::Address,
    error::BoxError,
    node::{Clock, Sleep, after},
};

/// RFC 8305 section 8, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// "Minimum Connection Attempt Delay", the recommended one.
const LEAST_DELAY: Duration = Duration::from_millis(100);

/// The addresses that a dial has tried, and those that it tries last.
pub(super) struct Trail {
    shunned: Vec<Address>,
    tried: Mutex<Tried>,
}

#[derive(Default)]
struct Tried {
    in_vain: Vec<Address>,
    came_through: Option<Address>,
    /// The last of those that did not hang, and what it said.
    failed: Option<(Address, SharedCause)>,
}

/// Of a name whose addresses change all the time no more are remembered.
const MOST_SHUNNED: usize = 64;

/// How long an attempt has to itself, where there are so many addresses and so much time for all: so that
/// the last has half of that time, if it can be.
pub(super) fn delay(addresses: usize, timeout: Duration) -> Duration {
    let gaps = u32::try_from(addresses.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
    (timeout / 2 / gaps).clamp(LEAST_DELAY, ATTEMPT_DELAY)
}

// === impl Trail ===

impl Trail {
    /// A dial that tries those last that others have `shunned`.
    pub(super) fn new(shunned: Vec<Address>) -> Self {
        Self { shunned, tried: Mutex::default() }
    }

    /// The order in which to try `addresses`.
    pub(super) fn order(
        &self,
        addresses: impl Iterator<Item = Address>,
        is_v6: impl Fn(&Address) -> bool,
    ) -> VecDeque<Address> {
        let (last, first): (Vec<_>, Vec<_>) =
            addresses.partition(|address| self.shunned.contains(address));
        let mut order = interleave(first, &is_v6);
        order.append(&mut interleave(last, &is_v6));
        order
    }

    pub(super) fn begin(&self, address: &Address) {
        self.tried().in_vain.push(address.clone());
    }

    pub(super) fn end_at(&self, address: &Address) {
        let mut tried = self.tried();
        tried.in_vain.retain(|of| of != address);
        tried.came_through = Some(address.clone());
    }

    /// Notes why an attempt failed, for an error that tells of the dial.
    pub(super) fn note(&self, address: &Address, error: BoxError) -> SharedCause {
        let cause = SharedCause::from(error);
        self.tried().failed = Some((address.clone(), Arc::clone(&cause)));
        cause
    }

    /// The last address that failed, if any did.
    pub(super) fn failed(&self) -> Option<ConnectError> {
        self.tried()
            .failed
            .as_ref()
            .map(|(address, cause)| ConnectError::failed(address, Arc::clone(cause)))
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the dial has found out.
    pub(super) fn add_to(self, shunned: &mut Vec<Address>) {
        let tried = self.tried.into_inner().unwrap_or_else(PoisonError::into_inner);
        shunned.retain(|address| tried.came_through.as_ref() != Some(address));
        for address in tried.in_vain {
            if !shunned.contains(&address) {
                shunned.push(address);
            }
        }
        if shunned.len() > MOST_SHUNNED {
            shunned.clear();
        }
    }
}

/// Puts the addresses into the order of their attempts: those for which `is_v6` answers as it does for
/// the first, and the others, in turn.
pub(super) fn interleave<A>(
    addresses: impl IntoIterator<Item = A>,
    is_v6: impl Fn(&A) -> bool,
) -> VecDeque<A> {
    let mut addresses = addresses.into_iter().peekable();
    let Some(first_is_v6) = addresses.peek().map(&is_v6) else { return VecDeque::new() };
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.partition(|address| is_v6(address) == first_is_v6);
    let mut order = VecDeque::with_capacity(one.len() + other.len());
    while !one.is_empty() || !other.is_empty() {
        order.extend(one.pop_front());
        order.extend(other.pop_front());
    }
    order
}

/// What the first attempt that comes through yields; if none does, the error of the last to fail.
pub(super) async fn race<A, T, F>(
    addresses: VecDeque<A>,
    clock: &Clock,
    delay: Duration,
    attempt: impl Fn(A) -> F,
) -> Result<T, SharedCause>
where
    F: Future<Output = Result<T, SharedCause>>,
{
    let mut race = Race { left: addresses, under_way: Vec::new(), failed: false, last: None };
    let mut next = pin!(None::<Sleep>);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(connected) = race.poll(cx) {
                return Poll::Ready(Ok(connected));
            }
            let due = mem::take(&mut race.failed)
                || match next.as_mut().as_pin_mut() {
                    Some(sleep) => sleep.poll(cx).is_ready(),
                    None => true,
                };
            if !race.under_way.is_empty() && !due {
                return Poll::Pending;
            }
            match race.left.pop_front() {
                Some(address) => {
                    race.under_way.push(Box::pin(attempt(address)));
                    next.set(Some(clock.sleep_until(after(clock.now(), delay))));
                }
                None if race.under_way.is_empty() => {
                    let none = || BoxError::from("there is no address to connect to").into();
                    return Poll::Ready(Err(race.last.take().unwrap_or_else(none)));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

struct Race<A, F> {
    left: VecDeque<A>,
    under_way: Vec<Pin<Box<F>>>,
    /// An attempt has failed since the last began.
    failed: bool,
    last: Option<SharedCause>,
}

impl<A, T, F: Future<Output = Result<T, SharedCause>>> Race<A, F> {
    /// Polls each attempt; those that failed leave, and the next need not wait for its time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let mut index = 0;
        while let Some(attempt) = self.under_way.get_mut(index) {
            match attempt.as_mut().poll(cx) {
                Poll::Ready(Ok(connected)) => return Poll::Ready(connected),
                Poll::Ready(Err(error)) => {
                    drop(self.under_way.remove(index));
                    self.failed = true;
                    self.last = Some(error);
                }
                Poll::Pending => index += 1,
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R2: the last of several has its time within the connect timeout, and RFC 8305's minimum holds.
    #[test]
    fn r2_more_addresses_have_less_time_alone() {
        for (addresses, timeout, expected) in [
            (0, 1_000, 250),
            (1, 1_000, 250),
            (2, 1_000, 250),
            (3, 1_000, 250),
            (5, 1_000, 125),
            (6, 1_000, 100),
            (50, 1_000, 100),
            (5, 20_000, 250),
            (2, 300, 150),
            (2, 50, 100),
        ] {
            let delay = delay(addresses, Duration::from_millis(timeout)).as_millis();
            assert_eq!(delay, expected, "{addresses} in {timeout} ms");
        }
    }

    /// R2: what was tried in vain comes last, what came through is forgiven, and of none but such the order
    /// is their own.
    #[test]
    fn r2_what_was_tried_in_vain_comes_last() {
        let address = |port| Address::from(([10, 0, 0, 1], port));
        let mut shunned = Vec::new();
        for (in_vain, through, order) in [
            (vec![1, 2], Some(3), [3, 1, 2]),
            (vec![], Some(3), [3, 1, 2]),
            (vec![3], Some(1), [1, 2, 3]),
            (vec![1], None, [1, 2, 3]),
            (vec![2], Some(1), [1, 2, 3]),
        ] {
            let trail = Trail::new(shunned.clone());
            in_vain.iter().for_each(|&port| trail.begin(&address(port)));
            if let Some(port) = through {
                trail.begin(&address(port));
                trail.end_at(&address(port));
            }
            trail.add_to(&mut shunned);
            let next = Trail::new(shunned.clone()).order((1..=3).map(address), |_| false);
            assert_eq!(next, order.map(address), "{in_vain:?} {through:?}");
        }
    }

    #[test]
    fn families_take_turns_and_the_first_goes_first() {
        let order = |addresses: &str| {
            interleave(addresses.chars(), char::is_ascii_uppercase).into_iter().collect::<String>()
        };
        for (given, expected) in [
            ("", ""),
            ("abc", "abc"),
            ("abAB", "aAbB"),
            ("ABab", "AaBb"),
            ("abcdA", "aAbcd"),
            ("AabcB", "AaBbc"),
        ] {
            assert_eq!(order(given), expected, "{given}");
        }
    }

    /// When each attempt began, in milliseconds, and which came through.
    async fn attempts(fates: &'static [(u64, bool)]) -> (Vec<u128>, Result<usize, String>, u128) {
        let clock = Clock::default();
        let (start, began) = (clock.now(), Mutex::new(Vec::new()));
        let millis = || clock.now().saturating_duration_since(start).as_millis();
        let raced = race((0..fates.len()).collect(), &clock, ATTEMPT_DELAY, |index| {
            began.lock().unwrap().push(millis());
            let (takes, comes_through) = fates[index];
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_millis(takes)).await;
                comes_through
                    .then_some(index)
                    .ok_or_else(|| BoxError::from(index.to_string()).into())
            }
        })
        .await;
        (began.into_inner().unwrap(), raced.map_err(|error| error.to_string()), millis())
    }

    #[tokio::test(start_paused = true)]
    async fn r2_an_address_that_hangs_costs_a_quarter_of_a_second() {
        for (fates, began, result, took) in [
            (&[(10, true), (1, true)][..], vec![0], Ok(0), 10),
            // It hangs: the next begins 250 ms later, and wins.
            (&[(90_000, true), (10, true)], vec![0, 250], Ok(1), 260),
            // It is slow, and wins after all.
            (&[(300, true), (90_000, true)], vec![0, 250], Ok(0), 300),
            // It fails: the next begins at once.
            (&[(10, false), (10, true)], vec![0, 10], Ok(1), 20),
            (&[(90_000, false), (10, false), (5, true)], vec![0, 250, 260], Ok(2), 265),
            (&[(400, false), (10, false)], vec![0, 250], Err("0".to_owned()), 400),
            (&[], vec![], Err("there is no address to connect to".to_owned()), 0),
        ] {
            assert_eq!(attempts(fates).await, (began, result, took), "{fates:?}");
        }
    }
}
