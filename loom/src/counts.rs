//! What a node counts, in short: nothing.

#[derive(Default)]
pub(super) struct Counts;

impl Counts {
    pub(super) fn impossible(&self, _times: u64) {}
}
