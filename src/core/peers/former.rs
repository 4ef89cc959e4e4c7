//! The clusters that this machine has left by going on alone (`-force-new-cluster`).
//!
//! Nothing stops the members of such a cluster from coming back. They know this machine as a
//! member, and dial it with the number of the old cluster. They are told that it went on, and both
//! sides report it. Start with [`Peers::is_of_former_cluster`].
use super::{Episode, Hello, LinkReport, LinkReportEvent, Peers};
use crate::core::timer::Now;

/// The clusters that this machine has left.
#[derive(Debug, Default)]
pub struct FormerClusters {
    /// Their numbers.
    numbers: Box<[u64]>,
    /// Lines about hellos of their members.
    told: Episode,
}

impl Peers {
    /// The numbers of the clusters that this machine has left by going on alone.
    pub fn remember_former_clusters(&mut self, clusters: &[u64]) {
        self.former_clusters.numbers = clusters.into();
    }

    /// Whether a hello is that of a member of a cluster that this machine has left.
    pub(super) fn is_of_former_cluster(&self, hello: &Hello) -> bool {
        let is_former = |cluster: u64| self.former_clusters.numbers.contains(&cluster);
        hello.cluster != self.me.cluster && hello.cluster.is_some_and(is_former)
    }

    pub(super) fn report_former_member(&mut self, now: Now, hello: &Hello) {
        if let Some(suppressed) = self.former_clusters.told.is_due(now.mono_us) {
            self.reports.push(LinkReport {
                name: Some(hello.name.clone()),
                address: hello.peer_url.clone(),
                event: LinkReportEvent::FormerMember,
                suppressed,
            });
        }
    }
}
