//! Marks: a test names the branch that it covers.
//!
//! `mark!("name")` stands in a branch that is easily missed, `covers!("name")` in a test, which fails if
//! the branch was not taken on its thread. Of neither is anything in a build that is not for tests, nor
//! does a dependency bring it along (`cov-mark` would be one of every user, and switched on in benchmarks).
//! `tests/marks.rs` looks that each mark is covered.

/// The branch with this name is taken.
macro_rules! mark {
    ($name:literal) => {
        #[cfg(test)]
        $crate::marks::taken::count($name);
    };
}

/// The test takes the branch with this name, from here to the end of the block.
#[cfg(test)]
macro_rules! covers {
    ($name:literal) => {
        let _covers = $crate::marks::taken::Covers::begin($name);
    };
}

#[cfg(test)]
pub(crate) use covers;
pub(crate) use mark;

#[cfg(test)]
pub(crate) mod taken {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        /// How often each branch was taken on this thread.
        static TAKEN: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    pub(crate) fn count(name: &'static str) {
        TAKEN.with_borrow_mut(|taken| *taken.entry(name).or_default() += 1);
    }

    fn so_far(name: &str) -> u64 {
        TAKEN.with_borrow(|taken| taken.get(name).copied().unwrap_or(0))
    }

    /// Fails where it ends if the branch was not taken meanwhile.
    pub(crate) struct Covers {
        name: &'static str,
        before: u64,
    }

    impl Covers {
        pub(crate) fn begin(name: &'static str) -> Self {
            Self { name, before: so_far(name) }
        }
    }

    impl Drop for Covers {
        fn drop(&mut self) {
            let taken = so_far(self.name) > self.before;
            assert!(taken || std::thread::panicking(), "{:?} was not covered", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::taken::Covers;

    fn is_even(number: u32) -> bool {
        if number.is_multiple_of(2) {
            return true;
        }
        mark!("a number that is odd");
        false
    }

    #[test]
    fn a_branch_that_is_taken_is_covered() {
        covers!("a number that is odd");
        assert!(!is_even(3));
    }

    #[test]
    #[should_panic = "\"a number that is odd\" was not covered"]
    fn a_branch_that_is_not_taken_meanwhile_fails_the_test() {
        assert!(!is_even(3));
        let covers = Covers::begin("a number that is odd");
        assert!(is_even(2));
        drop(covers);
    }
}
