//! Drawing at random by weight.

use super::{PickContext, Rng, Tier};

/// Whether no weight differs from another, also where there are fewer than two.
pub(super) fn are_equal(weights: &[u32]) -> bool {
    weights.windows(2).all(|pair| pair[0] == pair[1])
}

/// The weights of a tier, where they differ.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// Each as a multiple of the mean.
    relative: Box<[f64]>,
    /// `upto[i]` is the sum of the weights up to and with node `i`.
    upto: Box<[u64]>,
}

impl Weights {
    /// `None` where all are equal: then no draw need look at them.
    pub(super) fn of(tier: &Tier<'_>) -> Option<Self> {
        tier.is_weighted().then(|| {
            let mut sum = 0_u64;
            let upto = tier
                .weights()
                .iter()
                .map(|&weight| {
                    sum += u64::from(weight);
                    sum
                })
                .collect();
            let mean = sum as f64 / tier.weights().len() as f64;
            let relative = tier.weights().iter().map(|&weight| f64::from(weight) / mean).collect();
            Self { relative, upto }
        })
    }

    /// A node, each as likely as its share of the weights.
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.upto.last().copied().unwrap_or(0);
        let point = ((u128::from(rng.next_u64()) * u128::from(total)) >> 64) as u64;
        self.upto.partition_point(|&upto| upto <= point)
    }

    /// A node other than `first`, each as likely as its share of the other weights.
    pub(super) fn draw_other(&self, first: usize, rng: &mut Rng) -> usize {
        let total = self.upto.last().copied().unwrap_or(0);
        let before = first.checked_sub(1).map_or(0, |previous| self.upto[previous]);
        let own = self.upto[first] - before;
        let mut point = ((u128::from(rng.next_u64()) * u128::from(total - own)) >> 64) as u64;
        if point >= before {
            point += own;
        }
        self.upto.partition_point(|&upto| upto <= point)
    }

    /// One of the accepted nodes, each as likely as its share of their weights.
    pub(super) fn draw_accepted(&self, cx: &mut PickContext<'_>) -> Option<usize> {
        draw_accepted(cx, |index| self.relative[index])
    }

    /// The weight of the node at `index`.
    pub(super) fn absolute(&self, index: usize) -> f64 {
        let before = index.checked_sub(1).map_or(0, |previous| self.upto[previous]);
        (self.upto[index] - before) as f64
    }

    /// The weight of the node at `index` as a multiple of the mean.
    pub(super) fn relative(&self, index: usize) -> f64 {
        self.relative[index]
    }
}

/// One of the accepted nodes, each as likely as its share of their weights.
pub(super) fn draw_accepted(
    cx: &mut PickContext<'_>,
    weight: impl Fn(usize) -> f64,
) -> Option<usize> {
    let mut chosen = None;
    let mut total = 0.0;
    for index in 0..cx.len() {
        if cx.accepts(index) {
            // Reservoir sampling by weight (Chao 1982), with a sample of one.
            total += weight(index);
            if cx.rng().next_f64() * total < weight(index) {
                chosen = Some(index);
            }
        }
    }
    chosen
}
