//! Writes to deep paths, of which one at a time is under way.
//!
//! A write to a deep path may create a thousand directories, and every later entry of the log waits
//! for them, on the leader and on its followers. So the next one starts once the last one is
//! applied, and the small writes of other connections go between. On a long line this is one such
//! write a round trip. Must not touch connections: `Clients` does. Start with
//! `DeepWrites::may_start`.
use super::slots::SlotId;
use crate::core::command::Command;
use crate::core::machine::{Machine, Op, Role, Ticket};
use crate::core::raft::Index;
use crate::core::store::depth_of;
use std::collections::VecDeque;

/// A path with more segments is deep. To create so many directories takes 50 us.
const SEGMENTS_MAX: u32 = 64;

/// The log of a machine that leads. That of another one is empty: its former proposals may never be
/// applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogProgress {
    applied: Index,
    last: Index,
}

impl LogProgress {
    /// The present one.
    pub fn of(machine: &Machine) -> LogProgress {
        let raft = machine.raft().filter(|_| machine.role() == Role::Leader);
        let progress = raft.map(|raft| LogProgress {
            applied: machine.applied(),
            last: raft.last_index(),
        });
        progress.unwrap_or_default()
    }

    /// Whether the entry at `index` is applied or not in the log any more.
    fn has_applied(self, index: Index) -> bool {
        self.applied >= index.min(self.last)
    }
}

/// The write that is under way.
struct DeepWrite {
    ticket: Ticket,
    /// The end of the log when the write had started: the write is at this index or before.
    last: Index,
}

/// The deep write that is under way, and the connections whose deep writes wait for its end.
#[derive(Default)]
pub struct DeepWrites {
    current: Option<DeepWrite>,
    /// Oldest first. Slots of connections that have ended are skipped.
    waiting: VecDeque<SlotId>,
}

impl DeepWrites {
    /// Whether a deep write may start now. If not, the connection is to wait, see `wait`.
    pub fn may_start(&self) -> bool {
        self.current.is_none()
    }

    /// A deep write has started. `log`: that of this machine.
    pub fn on_started(&mut self, ticket: Ticket, log: LogProgress) {
        let last = log.last;
        self.current = Some(DeepWrite { ticket, last });
    }

    /// A connection waits with its deep write until `take_next` returns it.
    pub fn wait(&mut self, conn: SlotId) {
        self.waiting.push_back(conn);
    }

    /// Whether no deep write is under way any more. `is_in_flight`: whether the client with this
    /// ticket waits for its answer. A client that is gone leaves its write in the log of a leader.
    pub fn may_resume(
        &mut self,
        log: LogProgress,
        mut is_in_flight: impl FnMut(Ticket) -> bool,
    ) -> bool {
        self.current
            .take_if(|write| log.has_applied(write.last) && !is_in_flight(write.ticket));
        self.may_start()
    }

    /// Takes the connection that has waited longest. It is visited in the next turn.
    pub fn take_next(&mut self) -> Option<SlotId> {
        self.waiting.pop_front()
    }
}

/// Whether this is a write to a deep path, which may create many directories.
pub fn is_deep_write(op: &Op) -> bool {
    let Op::Write(command) = op else {
        return false;
    };
    is_deep(command)
}

fn is_deep(command: &Command) -> bool {
    let path = command.content().map(|(path, _)| path);
    path.is_some_and(|path| depth_of(path.as_str()) > SEGMENTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::KeyPath;

    #[test]
    fn a_path_of_more_than_64_segments_is_deep() {
        let set = |path: &str| Command::Set {
            path: KeyPath::new(path),
            value: None,
            lease: None,
        };
        assert!(!is_deep(&set(&"/d".repeat(64))));
        assert!(is_deep(&set(&"/d".repeat(65))));
        assert!(!is_deep(&Command::Nop));
    }
    fn log(applied: u64, last: u64) -> LogProgress {
        LogProgress {
            applied: Index(applied),
            last: Index(last),
        }
    }

    #[test]
    fn the_next_one_starts_once_the_last_one_is_answered_or_applied() {
        let mut writes = DeepWrites::default();
        assert!(writes.may_start());
        writes.on_started(Ticket(1), log(4, 7));
        assert!(!writes.may_start());
        assert!(!writes.may_resume(log(7, 9), |_| true), "it is in flight");
        assert!(
            !writes.may_resume(log(6, 9), |_| false),
            "its client is gone"
        );
        assert!(writes.may_resume(log(7, 9), |_| false));
        writes.on_started(Ticket(2), log(7, 9));
        assert!(writes.may_resume(log(8, 8), |_| false), "it was replaced");
        writes.on_started(Ticket(3), log(8, 10));
        assert!(
            writes.may_resume(LogProgress::default(), |_| false),
            "another machine leads"
        );
    }
}
