//! In builds without the feature `testing`: nothing is planted, and nobody looks.

use std::time::Duration;

use super::Failpoint;
use crate::identity::CertHash;
use crate::session::flow_fault::Planted;

#[inline(always)]
pub(crate) async fn in_actor(_point: Failpoint, _node: impl FnOnce() -> CertHash) {}

#[inline(always)]
pub(crate) fn in_callback(_point: Failpoint, _node: impl FnOnce() -> CertHash) {}

#[inline(always)]
pub(crate) fn send_fails(_node: impl FnOnce() -> CertHash) -> bool {
    false
}

#[inline(always)]
pub(crate) fn no_memory(_node: impl FnOnce() -> CertHash) -> bool {
    false
}

#[inline(always)]
pub(crate) fn complete_is_late(_node: impl FnOnce() -> CertHash) -> Option<Duration> {
    None
}

#[inline(always)]
pub(crate) fn flow_fault() -> Planted {
    Planted::default()
}
