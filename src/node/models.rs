//! Models of a node between requests, the driver and retirement.

use super::*;
use crate::sync::atomic::AtomicU32;
use loom::thread;
use tokio::sync::mpsc;

type Attended = mpsc::UnboundedReceiver<Arc<Node>>;

fn node() -> (Arc<Node>, Attended) {
    let (fleet, attended) = Fleet::new(Clock::default(), Seeds::Thread);
    (Node::new(0, &Endpoint::new(([10, 0, 0, 1], 80)), fleet), attended)
}

/// Either whoever retires a node sees the request, or the request sees that it is retired: no
/// request stays on a node that was taken for idle and closed.
#[test]
fn a_request_and_a_retirement_see_each_other() {
    loom::model(|| {
        let (node, _attended) = node();
        let request = {
            let node = node.clone();
            thread::spawn(move || {
                // As a snapshot does: counted first, looked second.
                let lease = Lease::acquire(&node, None, None).unwrap();
                if node.is_retired() {
                    lease.cancel();
                    return None;
                }
                Some(lease)
            })
        };
        let closed = node.retire();
        let lease = request.join().unwrap();
        assert!(!(closed && lease.is_some()), "a request is on a closed node");
    });
}

/// The same where a cap has the request count by another instruction.
#[test]
fn a_capped_request_and_a_retirement_see_each_other() {
    loom::model(|| {
        let (node, _attended) = node();
        let request = {
            let node = node.clone();
            thread::spawn(move || {
                let lease = Lease::acquire(&node, Some(1), None).unwrap();
                if node.is_retired() {
                    lease.cancel();
                    return None;
                }
                Some(lease)
            })
        };
        let closed = node.retire();
        let lease = request.join().unwrap();
        assert!(!(closed && lease.is_some()), "a request is on a closed node");
    });
}

/// The same where the beginning of the request is kept beside the count, and where both end at once.
#[test]
fn a_timed_request_and_a_retirement_see_each_other() {
    loom::model(|| {
        let (node, mut attended) = node();
        let request = {
            let node = node.clone();
            thread::spawn(move || {
                let timed = Some((1 << 20, LatencyModel::Average));
                let lease = Lease::acquire(&node, None, timed).unwrap();
                let retired = node.is_retired();
                match retired {
                    true => lease.cancel(),
                    false => lease.conclude(Outcome::Success.into()),
                }
                retired
            })
        };
        let closed = node.retire();
        let saw_it = request.join().unwrap();
        assert!(closed || saw_it || attended.try_recv().is_ok(), "nobody will ever let it go");
        assert_eq!(node.in_flight(), 0);
        assert_eq!(node.stats.oldest_nanos(1 << 40), 0);
    });
}

/// Either `retire` sees that the node is idle, or the last request asks the driver to look.
#[test]
fn the_last_request_of_a_retired_node_is_noticed() {
    loom::model(|| {
        let (node, mut attended) = node();
        let lease = Lease::acquire(&node, None, None).unwrap();
        let request = thread::spawn(move || drop(lease));
        let idle = node.retire();
        request.join().unwrap();
        assert!(idle || attended.try_recv().is_ok(), "nobody will ever let it go");
    });
}

/// A request that leaves while the driver begins to look is seen by that look, or asks for
/// another.
#[test]
fn a_look_misses_no_leaving_request() {
    loom::model(|| {
        let (node, mut attended) = node();
        let lease = Lease::acquire(&node, None, None).unwrap();
        assert!(!node.retire());
        node.attend();
        assert!(attended.try_recv().is_ok());
        let request = thread::spawn(move || drop(lease));
        node.attended();
        let seen_idle = node.in_flight() == 0;
        request.join().unwrap();
        assert!(seen_idle || attended.try_recv().is_ok(), "drains for ever");
    });
}

/// A wish to dial is taken once, and never lost to a look that has begun.
#[test]
fn a_look_misses_no_wish() {
    loom::model(|| {
        let (node, mut attended) = node();
        node.attend();
        assert!(attended.try_recv().is_ok());
        let request = {
            let node = node.clone();
            thread::spawn(move || node.want())
        };
        node.attended();
        let taken = node.take_wanted();
        request.join().unwrap();
        assert!(taken || (attended.try_recv().is_ok() && node.take_wanted()));
    });
}

/// However many enter at once, no more than the cap are in, and none is counted when all left.
#[test]
fn a_cap_holds_and_the_count_returns_to_zero() {
    loom::model(|| {
        let (node, _attended) = node();
        let inside = Arc::new(AtomicU32::new(0));
        let request = |node: Arc<Node>, inside: Arc<AtomicU32>| {
            move || {
                let Some(lease) = Lease::acquire(&node, Some(1), None) else { return false };
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "above the cap");
                assert_eq!(node.in_flight(), 1);
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(lease);
                true
            }
        };
        let others = [(); 2].map(|()| thread::spawn(request(node.clone(), inside.clone())));
        let mut served = request(node.clone(), inside)();
        for other in others {
            served |= other.join().unwrap();
        }
        assert!(served, "one of them had a place");
        assert_eq!(node.in_flight(), 0);
    });
}
