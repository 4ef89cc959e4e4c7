//! Log lines about links. The number of lines about one fault is limited by
//! [`Episode`](super::Episode).
use super::{Hello, HelloRefusal, Peers};
use crate::core::raft::Violation;
use crate::core::timer::Now;

/// Something about links for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// The peer's name; `None` for a machine that has not proved itself.
    pub name: Option<Box<str>>,
    /// The peer's URL, or the address from which the stranger came.
    pub address: Box<str>,
    /// The event.
    pub event: LinkReportEvent,
    /// How many such lines were suppressed since the last one.
    pub suppressed: u64,
}

/// The events that are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkReportEvent {
    /// A link that this machine has dialled is open.
    Opened,
    /// No link could be made, or it has ended: for this reason. It is dialled again.
    Failed(Box<str>),
    /// The peer's hello was refused.
    Refused(HelloRefusal),
    /// The peer has sent a message that no correct peer sends. The links to it are closed.
    Violated(Violation),
    /// A member of a cluster that this machine has left has called: that cluster is not lost.
    FormerMember,
    /// The peer has left this cluster and went on alone, as a cluster of its own.
    WentOn,
}

impl Peers {
    /// The hello of a caller from `source` was refused.
    pub(super) fn report_refusal(
        &mut self,
        now: Now,
        hello: &Hello,
        source: &str,
        refusal: &HelloRefusal,
    ) {
        if *refusal == HelloRefusal::WentOn {
            return self.report_former_member(now, hello);
        }
        let is_proved = !matches!(refusal, HelloRefusal::Denied | HelloRefusal::NoMember);
        let peer = self.peers.get_mut(&hello.from).filter(|_| is_proved);
        let (name, episode) = match peer {
            Some(peer) => (Some(hello.name.clone()), &mut peer.refused),
            None => (None, &mut self.strangers),
        };
        // A caller that tries its own address, or comes at another's, finds out by itself.
        if matches!(refusal, HelloRefusal::MySelf | HelloRefusal::NotMe) {
            return;
        }
        if let Some(suppressed) = episode.is_due(now.mono_us) {
            self.reports.push(LinkReport {
                name,
                address: source.into(),
                event: LinkReportEvent::Refused(refusal.clone()),
                suppressed,
            });
        }
    }
}
