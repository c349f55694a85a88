//! From what discovery says to what requests see: nodes, tiers, one snapshot.
//!
//! One driver task per balancer compares each set with the last one by identity and value, keeps
//! the nodes of endpoints that stay, groups them into tiers, has the policy build a picker for each,
//! and publishes the whole as one immutable snapshot. It dials, re-dials and drains besides.

mod apply;
pub(crate) mod build;
pub(crate) mod dials;
pub(crate) mod diff;
pub(crate) mod driver;
pub(crate) mod failback;
mod leaving;
pub(crate) mod locality;
mod make;
pub(crate) mod observer;
pub(crate) mod settings;
pub(crate) mod shared;
pub(crate) mod snapshot;
mod status;
mod subset;
mod test_bed;
pub(crate) mod tiers;
mod turns;
pub(crate) mod upkeep;

pub use self::{
    locality::LocalityPreference,
    make::MakeEndpoint,
    settings::Settings,
    status::{DiscoveryStatus, EndpointState, EndpointStatus, Status},
    subset::Subset,
    test_bed::TestBed,
};
