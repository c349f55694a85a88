//! Calls that wait while all places are taken, and who is told that one is free.
//!
//! Whoever waits says first what it wants, then marks the nodes that it would use, and reads their counts in
//! the same step. The mark is in the word that counts requests
//! ([`Places`](super::places::Places)): a request that leaves later finds it there and tells the room,
//! one that left before is seen. Where nobody waits, nothing is looked at.
//!
//! A place that is left is told to one: the first of those who want one there. Whoever does
//! not take it there passes the word on, in the order of turns and if the place is still free, so that
//! a word ends. A call keeps its turn: when it came too late, and when its place was of no use.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Fleet, Node, NodeId};
use crate::sync::{Mutex, MutexGuard};

/// Those of one pool who wait for a place.
#[derive(Default)]
pub(super) struct Room(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: Ticket,
    waiting: BTreeMap<Ticket, Waiter>,
    /// Which node has a place, for those who were told and have not looked yet.
    told: BTreeMap<Ticket, Arc<Node>>,
}

struct Waiter {
    wanted: Wanted,
    waker: Option<Waker>,
}

/// Where a place is of use to one who waits.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// On any node but these.
    AnyBut(Box<[NodeId]>),
    /// On one of these.
    OneOf(Box<[NodeId]>),
}

/// In the order in which they came.
type Ticket = u64;

/// The turn of one who waits, from its first wait on. Dropped with a word that it has not used, it
/// passes that on.
#[derive(Debug)]
pub(crate) struct Turn {
    room: Arc<Room>,
    ticket: Ticket,
    /// The node that it was told of, while it looks.
    heard: Option<Arc<Node>>,
}

// === impl Room ===

impl Room {
    /// A place became free on `node`, where one was awaited.
    #[cold]
    pub(super) fn left(&self, node: &Arc<Node>) {
        self.tell(node, 0);
    }

    /// Tells the first who waits for `node`, of those with this ticket or a later one.
    fn tell(&self, node: &Arc<Node>, from: Ticket) {
        let mut queue = self.queue();
        let mut waiting = queue.waiting.range(from..);
        let Some((&ticket, _)) = waiting.find(|(_, one)| one.wanted.is_on(node)) else {
            if from == 0 {
                // Under the lock: whoever comes next marks it anew.
                node.stats.unmark_awaited();
            }
            return;
        };
        let waiter = queue.waiting.remove(&ticket);
        queue.told.insert(ticket, Arc::clone(node));
        drop(queue);
        if let Some(waker) = waiter.and_then(|waiter| waiter.waker) {
            waker.wake();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

// === impl Turn ===

impl Turn {
    /// The last turn of all, for one that does not wait yet.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let room = Arc::clone(&fleet.room);
        let ticket = {
            let mut queue = room.queue();
            let ticket = queue.next;
            queue.next += 1;
            ticket
        };
        Self { room, ticket, heard: None }
    }

    /// Before a look: takes note of the place that it was told of, if it was.
    pub(crate) fn hear(&mut self) {
        if let Some(node) = self.room.queue().told.remove(&self.ticket) {
            self.heard = Some(node);
        }
    }

    /// It waits for a place that is `wanted`, and no longer for what it wanted before. Whoever was told
    /// since it [heard](Self::hear) looks again first.
    pub(crate) fn want(&mut self, wanted: Wanted) {
        let mut queue = self.room.queue();
        let waiter = Waiter { wanted, waker: None };
        let before = match queue.told.contains_key(&self.ticket) {
            true => Some(waiter),
            false => queue.waiting.insert(self.ticket, waiter),
        };
        // Not under the lock: what a waker drops may be another who waits.
        drop(queue);
        drop(before);
    }

    /// Ready once it was told, until it [hears](Self::hear).
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = Some(cx.waker().clone());
        let mut queue = self.room.queue();
        if queue.told.contains_key(&self.ticket) {
            return Poll::Ready(());
        }
        let waiter = queue.waiting.get_mut(&self.ticket);
        let before = waiter.map(|waiter| std::mem::replace(&mut waiter.waker, waker));
        drop(queue);
        drop(before);
        Poll::Pending
    }

    /// The look led to a place on `node`: it waits no longer.
    pub(crate) fn end_on(&mut self, node: &Arc<Node>) {
        self.heard.take_if(|heard| Arc::ptr_eq(heard, node));
        self.leave();
    }

    /// It waits no longer, and passes on what it was told. When it wants something again, it has the
    /// same turn.
    pub(crate) fn leave(&mut self) {
        let (waiter, told) = {
            let mut queue = self.room.queue();
            (queue.waiting.remove(&self.ticket), queue.told.remove(&self.ticket))
        };
        drop(waiter);
        for node in told.into_iter().chain(self.heard.take()) {
            self.room.tell(&node, 0);
        }
    }

    /// The look led to nothing. The place that was heard of may be of use to those behind.
    pub(crate) fn settle(&mut self, is_free: impl FnOnce(&Node) -> bool) {
        if let Some(node) = self.heard.take().filter(|node| is_free(node)) {
            self.room.tell(&node, self.ticket + 1);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

// === impl Wanted ===

impl Wanted {
    fn is_on(&self, node: &Node) -> bool {
        match self {
            Self::AnyBut(tried) => !tried.contains(&node.id()),
            Self::OneOf(nodes) => nodes.contains(&node.id()),
        }
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;

#[cfg(all(test, evenkeel_loom))]
mod models {
    use super::{
        super::{Clock, Lease, Seeds},
        *,
    };
    use crate::endpoint::Endpoint;
    use loom::thread::{self, JoinHandle};

    /// Nodes with as many requests each.
    fn busy<const N: usize>(requests: usize) -> [(Arc<Node>, Vec<Lease>); N] {
        let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::Thread);
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
        std::array::from_fn(|id| {
            let node = Node::new(id as u64, &endpoint, Arc::clone(&fleet));
            let leases = (0..requests).filter_map(|_| Lease::acquire(&node, None, None)).collect();
            (node, leases)
        })
    }

    fn leave(leases: Vec<Lease>) -> JoinHandle<()> {
        thread::spawn(move || leases.into_iter().for_each(drop))
    }

    /// One who waits while a request is in flight on each of `nodes`; nothing if it saw a place.
    fn wait(nodes: &[&Arc<Node>]) -> Option<Turn> {
        let mut turn = Turn::new(nodes[0].fleet());
        turn.want(Wanted::AnyBut([].into()));
        (!sees_a_place(nodes)).then_some(turn)
    }

    fn sees_a_place(nodes: &[&Arc<Node>]) -> bool {
        nodes.iter().filter(|node| node.mark_awaited() == 0).count() > 0
    }

    fn is_told(turn: &Turn) -> bool {
        turn.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Saw a place, or will look again.
    fn is_aware(waits: Option<&Turn>) -> bool {
        waits.is_none_or(is_told)
    }

    #[test]
    fn who_waits_sees_the_place_or_is_told_of_it() {
        loom::model(|| {
            let [(node, leases)] = busy(1);
            let request = leave(leases);
            let turn = wait(&[&node]);
            request.join().unwrap();
            assert!(is_aware(turn.as_ref()), "waits for what is there");
        });
    }

    /// The mark of one who has gone is taken away while another comes and makes its own.
    #[test]
    fn no_mark_is_taken_from_one_who_comes() {
        loom::model(|| {
            let [(node, leases)] = busy(2);
            drop(wait(&[&node]));
            let requests = leave(leases);
            let mut turn = wait(&[&node]);
            // Told of the first place, which is not enough for it, it waits on.
            if let Some(waits) = turn.as_mut().filter(|turn| is_told(turn)) {
                waits.hear();
                waits.want(Wanted::AnyBut([].into()));
                if sees_a_place(&[&node]) {
                    turn = None;
                }
            }
            requests.join().unwrap();
            assert!(is_aware(turn.as_ref()), "its mark was taken");
        });
    }

    /// One who waits for one node, and then for another, where nobody else does.
    #[test]
    fn who_comes_to_want_another_node_is_told_of_that() {
        loom::model(|| {
            let [(one, _held), (other, leases)] = busy(1);
            let mut turn = Turn::new(one.fleet());
            turn.want(Wanted::OneOf([one.id()].into()));
            assert!(!sees_a_place(&[&one]));
            // It may find the mark of one who has gone.
            assert!(!sees_a_place(&[&other]));
            let request = leave(leases);
            turn.want(Wanted::OneOf([other.id()].into()));
            let turn = (!sees_a_place(&[&other])).then_some(turn);
            request.join().unwrap();
            assert!(is_aware(turn.as_ref()), "waits for what is there");
        });
    }

    /// Two wait, and one goes while the request leaves: the other is told, or saw the place.
    #[test]
    fn who_goes_takes_no_word_along() {
        loom::model(|| {
            let [(node, leases)] = busy(1);
            let first = wait(&[&node]);
            let request = leave(leases);
            let second = wait(&[&node]);
            drop(first);
            request.join().unwrap();
            assert!(is_aware(second.as_ref()), "the first took the word along");
        });
    }

    /// Two come on two threads while the request leaves: it is never that both wait unaware.
    #[test]
    fn one_of_two_is_told() {
        loom::model(|| {
            let [(node, leases)] = busy(1);
            let other = {
                let node = Arc::clone(&node);
                thread::spawn(move || wait(&[&node]))
            };
            let request = leave(leases);
            let mine = wait(&[&node]);
            request.join().unwrap();
            let others = other.join().unwrap();
            assert!(
                is_aware(mine.as_ref()) || is_aware(others.as_ref()),
                "both wait for what is there"
            );
        });
    }

    /// Two wait for any of two nodes, which become free on two threads: both are told.
    #[test]
    fn each_of_two_nodes_is_told_of() {
        loom::model(|| {
            let [(one, leases), (two, more)] = busy(1);
            let requests = [leave(leases), leave(more)];
            let turns = [(); 2].map(|()| wait(&[&one, &two]));
            for request in requests {
                request.join().unwrap();
            }
            let aware = turns.each_ref().map(|turn| is_aware(turn.as_ref()));
            assert_eq!(aware, [true; 2], "one waits for what is there");
        });
    }
}
