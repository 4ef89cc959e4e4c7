//! The commands that this machine proposed, kept until their entries are applied.
//!
//! An entry with the index and the term of a kept command is that command (Log Matching, thesis
//! 3.5). So it is not decoded again, and the store keeps the value that came from the client. Any
//! other entry is decoded from the log. Decoding gives an equal command, so a kept command may be
//! dropped at any time. Start with [`ProposedCommands::add`].
use crate::core::command::Command;
use crate::core::raft::{Index, Term};
use std::collections::VecDeque;

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
        while self.queue.back().is_some_and(|last| last.index >= index)
            && let Some(dropped) = self.queue.pop_back()
        {
            self.growth -= dropped.growth;
        }
        self.growth += growth;
        self.queue.push_back(ProposedCommand {
            index,
            term,
            command,
            growth,
        });
    }

    /// At most how many bytes the commands that are not applied add to the key space.
    pub fn growth(&self) -> u64 {
        self.growth
    }

    /// The bytes of a command's value if a command that is not applied writes the same path;
    /// otherwise 0.
    pub fn value_bytes_after_others(&self, command: &Command) -> u64 {
        let Some((path, Some(value))) = command.content() else {
            return 0;
        };
        let mut others = self
            .queue
            .iter()
            .filter_map(|other| other.command.content());
        if others.any(|(other, _)| other == path) {
            value.len() as u64
        } else {
            0
        }
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
