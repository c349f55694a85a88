use super::{
    super::{Clock, Lease, Seeds},
    *,
};
use crate::endpoint::Endpoint;

fn nodes<const N: usize>() -> [Arc<Node>; N] {
    let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::Thread);
    let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
    std::array::from_fn(|id| Node::new(id as u64, &endpoint, Arc::clone(&fleet)))
}

fn wait(on: &[Arc<Node>], tried: &[&Arc<Node>]) -> Turn {
    let tried: Vec<_> = tried.iter().map(|node| node.id()).collect();
    let mut turn = Turn::new(on[0].fleet());
    turn.want(Wanted::AnyBut(tried.as_slice().into()));
    for node in on.iter().filter(|node| !tried.contains(&node.id())) {
        node.mark_awaited();
    }
    turn
}

fn wait_for(node: &Arc<Node>) -> Turn {
    let mut turn = Turn::new(node.fleet());
    turn.want(Wanted::OneOf([node.id()].into()));
    node.mark_awaited();
    turn
}

/// Looks, and finds nothing.
fn look(turn: &mut Turn, is_free: bool) {
    turn.hear();
    turn.want(Wanted::AnyBut([].into()));
    turn.settle(|_| is_free);
}

fn is_told(turn: &Turn) -> bool {
    turn.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn told(turns: &[Turn]) -> Vec<bool> {
    turns.iter().map(is_told).collect()
}

fn serve(node: &Arc<Node>) {
    drop(Lease::acquire(node, None, None));
}

fn is_marked(node: &Node) -> bool {
    let left = {
        assert!(node.stats.enter(node.occupancy(), None));
        node.stats.leave()
    };
    left.is_awaited()
}

#[test]
fn each_place_is_told_to_one_in_the_order_in_which_they_came() {
    let [node] = nodes();
    serve(&node);
    let turns: Vec<_> = (0..3).map(|_| wait(&[Arc::clone(&node)], &[])).collect();
    assert_eq!(told(&turns), [false; 3]);
    serve(&node);
    assert_eq!(told(&turns), [true, false, false]);
    serve(&node);
    assert_eq!(told(&turns), [true, true, false]);
}

/// Who comes too late for a place has the next one.
#[test]
fn a_turn_is_kept_until_it_ends() {
    let [node] = nodes();
    let mut turns: Vec<_> = (0..2).map(|_| wait(&[Arc::clone(&node)], &[])).collect();
    for _ in 0..3 {
        serve(&node);
        assert_eq!(told(&turns), [true, false]);
        look(&mut turns[0], false);
        assert_eq!(told(&turns), [false; 2]);
    }
    serve(&node);
    turns[0].hear();
    turns[0].end_on(&node);
    assert_eq!(told(&turns), [false; 2], "the place was taken");
    // Its place was of no use, and it waits again.
    turns[0].want(Wanted::AnyBut([].into()));
    serve(&node);
    assert_eq!(told(&turns), [true, false]);
}

#[test]
fn a_place_is_told_to_those_who_have_not_tried_its_node() {
    let both: [_; 2] = nodes();
    let turns = [wait(&both, &[&both[0]]), wait(&both, &[]), wait(&both, &[&both[0]])];
    serve(&both[0]);
    assert_eq!(told(&turns), [false, true, false]);
    serve(&both[0]);
    assert_eq!(told(&turns), [false, true, false]);
    assert!(!is_marked(&both[0]), "nobody is left who could use it");
    assert!(is_marked(&both[1]));
    serve(&both[1]);
    assert_eq!(told(&turns), [true, true, false]);
}

#[test]
fn a_place_is_told_to_those_who_want_one_there() {
    let both: [_; 2] = nodes();
    let mut turns = [wait_for(&both[1]), wait_for(&both[0]), wait(&both, &[])];
    serve(&both[0]);
    assert_eq!(told(&turns), [false, true, false]);
    serve(&both[0]);
    assert_eq!(told(&turns), [false, true, true]);
    serve(&both[0]);
    assert!(!is_marked(&both[0]), "nobody is left who could use it");
    // It comes to want the other.
    turns[0].want(Wanted::OneOf([both[0].id()].into()));
    both[0].mark_awaited();
    serve(&both[0]);
    assert_eq!(told(&turns), [true; 3]);
}

#[test]
fn the_mark_goes_with_those_who_wait() {
    let [node] = nodes();
    let turn = wait(&[Arc::clone(&node)], &[]);
    assert!(is_marked(&node));
    drop(turn);
    serve(&node);
    assert!(!is_marked(&node));
}

#[test]
fn who_goes_passes_on_what_it_was_told() {
    let [node] = nodes();
    let mut turns: Vec<_> = (0..4).map(|_| wait(&[Arc::clone(&node)], &[])).collect();
    drop(turns.remove(0));
    serve(&node);
    drop(turns.remove(0));
    assert_eq!(told(&turns), [true, false], "dropped before it looked");
    turns[0].hear();
    drop(turns.remove(0));
    assert_eq!(told(&turns), [true], "dropped with its look");
}

#[test]
fn who_has_a_place_elsewhere_passes_on_what_it_was_told() {
    let both: [_; 2] = nodes();
    let (mut first, second) = (wait(&both, &[]), wait(&both, &[]));
    serve(&both[0]);
    first.hear();
    first.end_on(&both[1]);
    assert!(is_told(&second));
}

/// Each hears of a place that nobody can use, once, and waits on.
#[test]
fn a_word_that_is_of_no_use_ends() {
    let [node] = nodes();
    let mut turns: Vec<_> = (0..5).map(|_| wait(&[Arc::clone(&node)], &[])).collect();
    serve(&node);
    let mut looks = Vec::new();
    while let Some(at) = turns.iter().position(is_told) {
        looks.push(at);
        look(&mut turns[at], true);
    }
    assert_eq!(looks, [0, 1, 2, 3, 4]);
    for _ in 0..5 {
        serve(&node);
    }
    assert_eq!(told(&turns), [true; 5]);
}
