//! The links of a cluster: one for each pair and direction of dialling, and what is cut of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use super::conditions::{Conditions, Towards};
use super::proxy::{ChaosProxy, ProxyError};
use super::rng::Rng;
use crate::lock::lock;

/// The links between the members of a cluster.
#[derive(Debug)]
pub(super) struct Mesh {
    members: usize,
    /// From whom to whom, row by row; none from a member to itself.
    links: Vec<Option<ChaosProxy>>,
    cuts: Mutex<Cuts>,
}

/// Why datagrams are lost.
#[derive(Debug, Default)]
struct Cuts {
    /// Of whom to whom.
    between: BTreeSet<(usize, usize)>,
    /// Who is heard by nobody, and hears nobody.
    silent: BTreeSet<usize>,
}

impl Cuts {
    fn lose(&self, from: usize, to: usize) -> bool {
        self.between.contains(&(from, to)) || [from, to].iter().any(|it| self.silent.contains(it))
    }
}

impl Mesh {
    pub(super) fn start(addresses: &[SocketAddr], seed: u64) -> Result<Self, ProxyError> {
        let members = addresses.len();
        let mut seeds = Rng::new(seed);
        let mut link = |index: usize| {
            let seed = seeds.next();
            let (from, to) = (index / members, index % members);
            (from != to).then(|| ChaosProxy::start(addresses[to], seed)).transpose()
        };
        let links = (0..members * members).map(&mut link).collect::<Result<_, _>>()?;
        Ok(Self { members, links, cuts: Mutex::default() })
    }

    pub(super) fn link(&self, from: usize, to: usize) -> &ChaosProxy {
        assert!(from < self.members && to < self.members, "there are {} members", self.members);
        self.links[from * self.members + to].as_ref().expect("nobody has a link to itself")
    }

    pub(super) fn set_all(&self, conditions: Conditions) {
        self.links.iter().flatten().for_each(|link| link.set_both(conditions));
    }

    /// Loses everything between the two groups.
    pub(super) fn partition(&self, group: &[usize], others: &[usize]) {
        self.change(|cuts| {
            for (a, b) in group.iter().flat_map(|a| others.iter().map(|b| (*a, *b))) {
                cuts.between.extend([(a, b), (b, a)]);
            }
        });
    }

    /// Loses what `from` says to `to`, whoever of them dialled.
    pub(super) fn cut_one_way(&self, from: usize, to: usize) {
        self.change(|cuts| cuts.between.extend([(from, to)]));
    }

    /// Undoes partitions; who is silent stays so.
    pub(super) fn heal(&self) {
        self.change(|cuts| cuts.between.clear());
    }

    /// Loses everything of and to a member, or no more.
    pub(super) fn silence(&self, member: usize, silent: bool) {
        self.change(|cuts| match silent {
            true => drop(cuts.silent.insert(member)),
            false => drop(cuts.silent.remove(&member)),
        });
    }

    /// When it returns, nothing passes any more that is not to.
    fn change(&self, change: impl FnOnce(&mut Cuts)) {
        let mut cuts = lock(&self.cuts);
        change(&mut cuts);
        for (index, link) in self.links.iter().enumerate() {
            let Some(link) = link else { continue };
            let (from, to) = (index / self.members, index % self.members);
            link.cut_exactly([
                (Towards::Server, cuts.lose(from, to)),
                (Towards::Client, cuts.lose(to, from)),
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ports::free_port;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Partition(Vec<usize>, Vec<usize>),
        OneWay(usize, usize),
        Heal,
        Silence(usize, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let group = || proptest::collection::vec(0_usize..3, 0..3);
        prop_oneof![
            (group(), group()).prop_map(|(a, b)| Step::Partition(a, b)),
            (0_usize..3, 0_usize..3).prop_map(|(a, b)| Step::OneWay(a, b)),
            Just(Step::Heal),
            (0_usize..3, any::<bool>()).prop_map(|(member, silent)| Step::Silence(member, silent)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// The oracle: a matrix of who hears whom.
        #[test]
        fn each_link_loses_what_its_ends_may_not_hear(
            steps in proptest::collection::vec(step(), 0..8),
        ) {
            let mesh = Mesh::start(&[free_port(), free_port(), free_port()], 1).unwrap();
            let (mut cut, mut silent) = ([[false; 3]; 3], [false; 3]);
            for step in steps {
                match step {
                    Step::Partition(group, others) => {
                        mesh.partition(&group, &others);
                        for (a, b) in group.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
                            (cut[a][b], cut[b][a]) = (true, true);
                        }
                    }
                    Step::OneWay(a, b) => {
                        mesh.cut_one_way(a, b);
                        cut[a][b] = true;
                    }
                    Step::Heal => {
                        mesh.heal();
                        cut = [[false; 3]; 3];
                    }
                    Step::Silence(member, is) => {
                        mesh.silence(member, is);
                        silent[member] = is;
                    }
                }
                for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                    let link = mesh.link(a, b);
                    let lost = |from: usize, to: usize| cut[from][to] || silent[from] || silent[to];
                    prop_assert_eq!(link.conditions(Towards::Server).black_hole, lost(a, b));
                    prop_assert_eq!(link.conditions(Towards::Client).black_hole, lost(b, a));
                }
            }
        }
    }
}
