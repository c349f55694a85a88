//! A policy of one's own: prefer the endpoints of one's own zone, while they have room.
//!
//! `cargo run --release --example custom_policy`

#![allow(clippy::print_stdout, reason = "it is there to be read")]

use std::{collections::BTreeMap, error::Error, sync::Arc};

use evenkeel::{
    Balance, Endpoint,
    policy::{Pick, PickContext, Picker, Policy, Tier},
};
use tower::{ServiceExt, service_fn};

/// The nearest endpoint with room: first those of `zone`, then any; of each the least busy.
#[derive(Clone, Debug)]
struct NearestWithRoom {
    zone: &'static str,
    room: u32,
}

/// What is worked out once for each set of endpoints, so that a pick need not.
struct NearestPicker {
    near: Vec<usize>,
    room: u32,
}

impl Policy for NearestWithRoom {
    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let is_near = |index: &usize| {
            tier.nodes()[*index].endpoint().locality().zone.as_deref() == Some(self.zone)
        };
        Arc::new(NearestPicker {
            near: (0..tier.nodes().len()).filter(is_near).collect(),
            room: self.room,
        })
    }
}

impl Picker for NearestPicker {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        // `accepts` leaves out what is not connected, at its cap, or was tried by this request.
        let busy = |index: usize| cx.nodes()[index].in_flight();
        let near = self.near.iter().copied();
        let least_busy_near = near
            .filter(|&index| cx.accepts(index) && busy(index) < self.room)
            .min_by_key(|&index| busy(index));
        let least_busy =
            || (0..cx.len()).filter(|&index| cx.accepts(index)).min_by_key(|&i| busy(i));
        least_busy_near.or_else(least_busy).map_or(Pick::Fail, Pick::Use)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let target =
        "static://10.0.0.1:80;zone=a,10.0.0.2:80;zone=a,10.0.1.1:80;zone=b,10.0.1.2:80;zone=b";
    let balance = Balance::to(target)?
        .policy(NearestWithRoom { zone: "a", room: 10 })
        .complete_at_response()
        // Stands for a client: it says where the request went, after a while.
        .make(|endpoint: &Endpoint| {
            let name = endpoint.to_string();
            service_fn(move |_request: ()| {
                let name = name.clone();
                async move {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    Ok::<_, std::io::Error>(name)
                }
            })
        })?;

    for at_once in [8, 40] {
        let calls = (0..at_once).map(|_| balance.clone().oneshot(()));
        let mut served: BTreeMap<String, usize> = BTreeMap::new();
        for name in futures::future::try_join_all(calls).await? {
            *served.entry(name).or_default() += 1;
        }
        println!("{at_once} requests at once:");
        for (name, requests) in served {
            println!("  {name:<14} {requests:>3}");
        }
    }
    Ok(())
}
