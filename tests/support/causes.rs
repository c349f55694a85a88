//! What an error has among its causes, itself included.

use std::error::Error as StdError;

type Cause = dyn StdError + 'static;

pub(crate) fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |error: &&Cause| (*error).source())
}

/// The first of that type.
#[allow(dead_code, reason = "not every test uses all of it")]
pub(crate) fn caused<E: StdError + 'static>(error: &Cause) -> Option<&E> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// The text of them all.
#[allow(dead_code, reason = "not every test uses all of it")]
pub(crate) fn whole(error: &Cause) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
