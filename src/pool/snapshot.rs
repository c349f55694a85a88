//! The immutable view that requests pick from.

mod room;

use std::{fmt, sync::Arc, time::Instant};

use super::{failback::Gate, settings::Limits};
use crate::{
    endpoint::Endpoint,
    error::{Census, SharedError},
    node::{Fleet, LatencyModel, Lease, LinkState, Moment, Node, NodeId},
    policy::{Found, Pick, PickContext, Picker, Plain, Scope},
};

/// What requests see: tiers with their nodes, services and pickers, and the settings in force.
pub(crate) struct Snapshot<S, K> {
    pub(crate) tiers: Box<[TierView<S>]>,
    /// Listed, but in no tier: of weight 0.
    pub(crate) left_out: Box<[Arc<Node>]>,
    /// Known, but not of the subset: without a node.
    pub(crate) outside: Arc<[Endpoint]>,
    pub(crate) key: K,
    pub(crate) limits: Limits,
    pub(crate) scope: Scope,
    pub(crate) model: LatencyModel,
    /// Endpoints of the subset, whether in a tier or not.
    pub(crate) listed: usize,
}

/// One tier, as requests see it.
pub(crate) struct TierView<S> {
    pub(crate) nodes: Box<[Arc<Node>]>,
    pub(crate) services: Box<[S]>,
    pub(crate) picker: Arc<dyn Picker>,
    pub(crate) gate: Arc<Gate>,
    plain: Plain,
}

/// What there is for a request.
pub(crate) enum Choice<'a, S> {
    /// A place on a node, and its service.
    Take(Lease, &'a S),
    /// A node that is not connected yet was wanted, and none that is up is accepted.
    Wait,
    /// No node is accepted.
    Fail,
    /// The node was removed meanwhile: there is a newer snapshot.
    Stale,
    /// Other requests were faster each time: there was room, and there may be more.
    Raced,
}

/// Picks that may lose their place to another request before the call takes the long way.
const LOST_RACES: usize = 3;
/// The same where the picker bounds loads: that is how it keeps the bound, and each race is lost to a
/// request that got its place.
const LOST_BOUNDED_RACES: usize = 256;

// === impl Snapshot ===

impl<S, K> Snapshot<S, K> {
    /// A view of nothing, from before discovery answered.
    pub(crate) fn empty(key: K, limits: Limits) -> Self {
        Self {
            tiers: Box::default(),
            left_out: Box::default(),
            outside: Arc::default(),
            key,
            limits,
            scope: Scope::Usable,
            model: LatencyModel::None,
            listed: 0,
        }
    }

    /// A place for a request with `key` that has tried the nodes in `tried`: on the first tier that
    /// has, or may soon have, one to use.
    #[inline]
    pub(crate) fn choose(
        &self,
        fleet: &Fleet,
        key: Option<u64>,
        tried: &[NodeId],
        mut moment: Moment,
    ) -> Choice<'_, S> {
        if tried.is_empty() {
            let rng = moment.rng.clone();
            if let Some(choice) = self.choose_plainly(fleet, key, &mut moment) {
                return choice;
            }
            // The same draw once more: a node that is out of the ordinary would else be picked only where
            // two draws in a row find it, and of many nodes it would hardly ever be.
            moment.rng = rng;
        }
        self.choose_at_length(fleet, key, tried, moment)
    }

    /// What a built-in policy picks while nothing is out of the ordinary.
    ///
    /// In line with the call: a call of its own would hand its lease over in memory, for a fifth of the
    /// time of all of it.
    #[inline(always)]
    fn choose_plainly(
        &self,
        fleet: &Fleet,
        key: Option<u64>,
        moment: &mut Moment,
    ) -> Option<Choice<'_, S>> {
        let first = self.first_tier();
        let tier = self.tiers.get(first)?;
        if first + 1 < self.tiers.len() && tier.gate.is_shut() {
            return None;
        }
        let cap = self.limits.max_in_flight;
        let most = cap.unwrap_or(u32::MAX);
        let Found { index, node, seen } = tier.plain.pick(&tier.nodes, fleet, most, key, moment)?;
        let timed = match self.model {
            LatencyModel::None => None,
            model => Some((moment.nanos(fleet), model)),
        };
        let lease = Lease::acquire_seen(node, seen, cap, timed)?;
        if node.is_retired() {
            lease.cancel();
            return None;
        }
        Some(Choice::Take(lease, &tier.services[index]))
    }

    fn choose_at_length(
        &self,
        fleet: &Fleet,
        key: Option<u64>,
        tried: &[NodeId],
        mut moment: Moment,
    ) -> Choice<'_, S> {
        let (mut wait, mut passed_over) = (false, false);
        for (index, tier) in self.tiers.iter().enumerate().skip(self.first_tier()) {
            let mut cx = PickContext::new(
                &tier.nodes,
                fleet,
                key,
                tried,
                self.limits.max_in_flight,
                self.scope,
                moment,
            );
            let is_last = index + 1 == self.tiers.len();
            if !is_last && !tier.gate.is_open(&tier.nodes, || cx.nanos()) {
                passed_over = true;
                moment = cx.into_moment();
                continue;
            }
            match self.choose_in(tier, tried, &mut cx) {
                Choice::Fail => {}
                // A tier that comes up for the first time is worth the wait, one that failed is not
                // as long as the next can serve.
                Choice::Wait if self.is_failing(tier, tried) => wait = true,
                // Better the tier that is not trusted than none.
                Choice::Wait if passed_over => wait = true,
                found => return found,
            }
            if !is_last {
                tier.gate.passed_over(&tier.nodes);
            }
            moment = cx.into_moment();
        }
        if passed_over {
            if let Some(found) = self.choose_untrusted(fleet, key, tried) {
                return found;
            }
        }
        if wait { Choice::Wait } else { Choice::Fail }
    }

    /// Where a request begins: with strict priorities at the first tier, each.
    ///
    /// Spill-over would draw it here, from the shares that the health of each tier gives it.
    #[inline]
    fn first_tier(&self) -> usize {
        0
    }

    /// A place on a tier that was passed over, because no other has one.
    #[cold]
    fn choose_untrusted(
        &self,
        fleet: &Fleet,
        key: Option<u64>,
        tried: &[NodeId],
    ) -> Option<Choice<'_, S>> {
        let cap = self.limits.max_in_flight;
        self.tiers.iter().find_map(|tier| {
            let moment = fleet.moment();
            let mut cx = PickContext::new(&tier.nodes, fleet, key, tried, cap, self.scope, moment);
            let choice = self.choose_in(tier, tried, &mut cx);
            (!matches!(choice, Choice::Fail | Choice::Wait)).then_some(choice)
        })
    }

    #[inline]
    fn choose_in<'a>(
        &'a self,
        tier: &'a TierView<S>,
        tried: &[NodeId],
        cx: &mut PickContext<'_>,
    ) -> Choice<'a, S> {
        let mut lost = 0;
        loop {
            let pick = tier.picker.pick(cx);
            let index = match pick {
                Pick::Use(index) | Pick::UseBelow { index, .. } => index,
                Pick::Wait => return Choice::Wait,
                Pick::Fail => return Choice::Fail,
            };
            let Some(node) = tier.nodes.get(index) else { return Choice::Fail };
            // A picker that does not ask whether its node is accepted could go round and round.
            if !tried.is_empty() && tried.contains(&node.id()) {
                return Choice::Fail;
            }
            let (pick, index, node) = if node.link.is_up() {
                (pick, index, node)
            } else {
                let pick = connected_instead(node, &*tier.picker, self.scope, cx);
                let (Pick::Use(index) | Pick::UseBelow { index, .. }) = pick else {
                    return Choice::Wait;
                };
                let Some(node) = tier.nodes.get(index) else { return Choice::Wait };
                (pick, index, node)
            };
            let timed = match self.model {
                LatencyModel::None => None,
                model => Some((cx.nanos(), model)),
            };
            let (cap, races) = match pick {
                Pick::UseBelow { cap, .. } => {
                    let most = self.limits.max_in_flight;
                    (Some(most.map_or(cap, |most| most.min(cap))), LOST_BOUNDED_RACES)
                }
                _ => (self.limits.max_in_flight, LOST_RACES),
            };
            if let Some(mut lease) = Lease::acquire(node, cap, timed) {
                // Counted first, looked second: so either this sees that the node is retired, or
                // whoever retires it sees the request, and lets it drain.
                if node.is_retired() {
                    lease.cancel();
                    return Choice::Stale;
                }
                if let Some(place) = cx.take_counted() {
                    lease.count(place);
                }
                return Choice::Take(lease, &tier.services[index]);
            }
            lost += 1;
            if lost >= races {
                return Choice::Raced;
            }
        }
    }

    /// Whether all nodes of the tier that a request may still use failed and have not been up since.
    #[cold]
    fn is_failing(&self, tier: &TierView<S>, tried: &[NodeId]) -> bool {
        let cap = self.limits.max_in_flight;
        tier.nodes.iter().all(|node| {
            node.link.is_failing()
                || tried.contains(&node.id())
                || cap.is_some_and(|cap| node.in_flight() >= cap)
        })
    }

    /// The node that the next request without a key would be sent to, were it up.
    pub(crate) fn next(&self, fleet: &Fleet) -> Option<&Arc<Node>> {
        let cap = self.limits.max_in_flight;
        for tier in &self.tiers {
            let mut cx =
                PickContext::new(&tier.nodes, fleet, None, &[], cap, self.scope, fleet.moment());
            match tier.picker.pick(&mut cx) {
                Pick::Use(index) | Pick::UseBelow { index, .. } => return tier.nodes.get(index),
                Pick::Wait => return None,
                Pick::Fail => {}
            }
        }
        None
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.tiers.iter().flat_map(|tier| &tier.nodes)
    }

    /// Whether waiting may help a request that found nothing: some node it has not tried is idle,
    /// connecting, or dialled again before `deadline`. Where none is connecting or about to, one of the
    /// idle is wanted: not all, since they may be many more than are kept connected.
    pub(crate) fn may_serve_by(&self, fleet: &Fleet, deadline: Instant, tried: &[NodeId]) -> bool {
        let deadline = fleet.nanos(deadline);
        let (mut hope, mut connecting) = (false, false);
        let (mut idle, mut idle_seen) = (None, 0);
        let mut rng = fleet.seeds.rng();
        for node in self.nodes().filter(|node| !tried.contains(&node.id())) {
            let early = node.link.may_be_early();
            if early || node.link.is_idle() {
                idle_seen += 1;
                if rng.below(idle_seen) == 0 {
                    idle = Some(node);
                }
            }
            hope |= match node.link.failed_until() {
                Some(until) => early || until <= deadline,
                None => !node.link.is_up(),
            };
            connecting |= node.link_state() == LinkState::Connecting || node.link.is_wanted();
        }
        if let Some(node) = idle.filter(|_| !connecting) {
            node.want();
        }
        hope
    }

    /// A node whose connection failed and is not back, and why.
    pub(crate) fn failure(&self) -> Option<(Endpoint, SharedError)> {
        let mut failed = self.nodes().filter(|node| node.link.is_failing() && !node.link.is_up());
        failed.find_map(|node| Some((node.endpoint(), node.link.cause()?)))
    }

    /// Why none of the nodes can be used by a request that has tried those in `tried`.
    pub(crate) fn census(&self, tried: &[NodeId]) -> Census {
        let outside = self.outside.len();
        let known = self.listed + outside;
        let mut census = Census { known, outside, ..Census::default() };
        let mut in_tiers = 0;
        for node in self.nodes() {
            in_tiers += 1;
            if tried.contains(&node.id()) {
                census.tried += 1;
            } else if node.link.is_failed() {
                census.failed += 1;
            } else if !node.link.is_up() {
                census.unconnected += 1;
            } else if self.limits.max_in_flight.is_some() {
                // It is up and untried: only its cap kept it out, even if a place is free by now.
                census.full += 1;
            }
        }
        census.unlisted = self.listed.saturating_sub(in_tiers);
        census
    }
}

// === impl TierView ===

impl<S> TierView<S> {
    pub(crate) fn new(
        nodes: Box<[Arc<Node>]>,
        services: Box<[S]>,
        picker: Arc<dyn Picker>,
        gate: Arc<Gate>,
    ) -> Self {
        let plain = picker.plain();
        Self { nodes, services, picker, gate, plain }
    }
}

/// A node that is up, in the place of one that was picked and is not: that one is wanted.
#[cold]
fn connected_instead(
    picked: &Arc<Node>,
    picker: &dyn Picker,
    scope: Scope,
    cx: &mut PickContext<'_>,
) -> Pick {
    picked.want();
    if scope == Scope::Listed && cx.key().is_some() {
        // Its first dial; once that has failed, the picker walks past it. A request without a key
        // has no node of its own to wait for.
        return Pick::Wait;
    }
    cx.require_up();
    picker.pick(cx)
}

impl<S, K> fmt::Debug for Snapshot<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("listed", &self.listed)
            .field("tiers", &self.tiers.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
