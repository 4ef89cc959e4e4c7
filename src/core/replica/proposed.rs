//! The commands that this machine proposed, kept until their entries are applied.
//!
//! An entry with the index and the term of a kept command is that command (Log Matching, thesis
//! 3.5). So it is not decoded again, and the store keeps the value that came from the client. Any
//! other entry is decoded from the log. Decoding gives an equal command, so a kept command may be
//! dropped at any time. Start with [`ProposedCommands::add`].
use crate::core::command::{Command, KeyPath};
use crate::core::raft::{Index, Term};
use crate::core::store::is_within;
use std::collections::VecDeque;

/// At most so many commands are compared with a write that fails as the key space is now. Otherwise
/// n writes that fail would cost n² comparisons.
const TOUCHED_MAX: usize = 256;

/// One command and the entry that holds it.
struct ProposedCommand {
    index: Index,
    term: Term,
    command: Command,
    /// At most how many bytes the command adds to the key space.
    growth: u64,
}

/// The commands in the order of their entries. Raft bounds the proposed entries that are not
/// committed, and with them this queue.
#[derive(Default)]
pub struct ProposedCommands {
    /// Invariant: the indexes ascend.
    queue: VecDeque<ProposedCommand>,
    /// The sum of `ProposedCommand::growth`.
    growth: u64,
}

impl ProposedCommands {
    /// The command was appended at `index` in `term`. Entries of an earlier leadership at `index`
    /// or after it were truncated, so their commands are dropped. The command adds at most `growth`
    /// bytes to the key space.
    pub fn add(&mut self, index: Index, term: Term, command: Command, growth: u64) {
        self.drop_after(index.prev());
        self.growth += growth;
        self.queue.push_back(ProposedCommand {
            index,
            term,
            command,
            growth,
        });
    }

    /// The log ends at `last`: drops the commands behind it. Their entries were truncated.
    pub fn drop_after(&mut self, last: Index) {
        while self.queue.back().is_some_and(|kept| kept.index > last)
            && let Some(dropped) = self.queue.pop_back()
        {
            self.growth -= dropped.growth;
        }
    }

    /// At most how many bytes the commands that are not applied add to the key space.
    pub fn growth(&self) -> u64 {
        self.growth
    }

    /// Whether a command that is not applied may decide whether a write to `path` succeeds: it writes
    /// or removes the path or a node above it. True if there are too many to look at.
    pub fn may_touch(&self, path: &KeyPath) -> bool {
        if self.queue.len() > TOUCHED_MAX {
            return true;
        }
        let mut others = self.queue.iter().filter_map(|other| other.command.path());
        others.any(|other| is_within(path.as_str(), other.as_str()))
    }

    /// Takes the command that was appended at `index` in `term`, if it is still kept. The others stay.
    pub fn remove(&mut self, index: Index, term: Term) -> Option<Command> {
        let found = self.queue.binary_search_by_key(&index, |kept| kept.index);
        let place = found.ok().filter(|at| self.queue[*at].term == term)?;
        let removed = self.queue.remove(place)?;
        self.growth -= removed.growth;
        Some(removed.command)
    }

    /// Takes the command of the entry at `index` if it was proposed here in `term`. Drops the
    /// commands up to `index`: they are applied, or were never committed.
    pub fn take(&mut self, index: Index, term: Term) -> Option<Command> {
        while let Some(first) = self.queue.front()
            && first.index <= index
        {
            let first = self.queue.pop_front()?;
            self.growth -= first.growth;
            if first.index == index && first.term == term {
                return Some(first.command);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::cluster_time::Stamp;

    fn sync(cluster_ns: u64) -> Command {
        let stamp = Stamp::new(cluster_ns, 0);
        Command::Sync { stamp }
    }

    #[test]
    fn a_command_is_taken_at_its_index_and_term() {
        let mut proposed = ProposedCommands::default();
        proposed.add(Index(4), Term(1), sync(4), 10);
        proposed.add(Index(5), Term(1), sync(5), 10);
        proposed.add(Index(7), Term(1), sync(7), 10);
        assert_eq!(proposed.growth(), 30);
        assert_eq!(proposed.remove(Index(4), Term(2)), None);
        assert_eq!(proposed.remove(Index(4), Term(1)), Some(sync(4)));
        assert_eq!(proposed.growth(), 20);
        assert_eq!(proposed.take(Index(3), Term(1)), None);
        assert_eq!(proposed.take(Index(5), Term(1)), Some(sync(5)));
        assert_eq!(proposed.take(Index(5), Term(1)), None);
        assert_eq!(proposed.take(Index(7), Term(2)), None);
        assert_eq!(proposed.take(Index(7), Term(1)), None);
        assert_eq!(proposed.growth(), 0);
    }

    #[test]
    fn what_was_truncated_does_not_count() {
        let mut proposed = ProposedCommands::default();
        for index in 4..8 {
            proposed.add(Index(index), Term(1), sync(index), 10);
        }
        proposed.drop_after(Index(7));
        assert_eq!(proposed.growth(), 40);
        proposed.drop_after(Index(5));
        assert_eq!(proposed.growth(), 20);
    }

    #[test]
    fn a_later_leadership_replaces_what_was_truncated() {
        let mut proposed = ProposedCommands::default();
        for index in 4..8 {
            proposed.add(Index(index), Term(1), sync(index), 10);
        }
        proposed.add(Index(5), Term(3), sync(50), 10);
        assert_eq!(proposed.growth(), 20);
        assert_eq!(proposed.take(Index(4), Term(1)), Some(sync(4)));
        assert_eq!(proposed.take(Index(5), Term(3)), Some(sync(50)));
        assert_eq!(proposed.take(Index(6), Term(1)), None);
    }
}
