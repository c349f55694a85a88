//! A cycle of turns in which no node is ever a whole turn ahead of its share, or behind.
//!
//! The k-th turn of a node of weight `w`, of `W` in all, belongs into the slots from `(k - 1) W / w`
//! to `k W / w`, rounded outwards. Of the turns whose slots have begun, the one goes first whose
//! slots end first. That such an order keeps every turn within its slots is known of proportionate
//! fairness (Baruah, Cohen, Plaxton, Varvel: "Proportionate progress", 1996): all slots are spoken for,
//! one turn a slot, and for turns of one slot the earliest deadline first finds an order if there is one.

use std::{cmp::Reverse, collections::BinaryHeap};

/// The index of the node of each turn. The weights add up to the number of turns, and each number
/// of a node fits.
pub(super) fn in_quota(weights: &[u32]) -> Box<[u16]> {
    let cycle: u64 = weights.iter().copied().map(u64::from).sum();
    // By the slot in which a turn begins to count, and by the one before which it has to be.
    let (mut waiting, mut ready) = (BinaryHeap::new(), BinaryHeap::new());
    let mut given = vec![0_u64; weights.len()];
    for (node, _) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        waiting.push(Reverse((0, node)));
    }
    let mut turns = Vec::with_capacity(cycle as usize);
    for slot in 0..cycle {
        while let Some(&Reverse((begin, node))) = waiting.peek() {
            if begin > slot {
                break;
            }
            waiting.pop();
            let end = ((given[node] + 1) * cycle).div_ceil(u64::from(weights[node]));
            ready.push(Reverse((end, node)));
        }
        // There is one for every slot: see above.
        let Some(Reverse((_, node))) = ready.pop() else { break };
        turns.push(node as u16);
        given[node] += 1;
        let weight = u64::from(weights[node]);
        if given[node] < weight {
            waiting.push(Reverse((given[node] * cycle / weight, node)));
        }
    }
    turns.into()
}
