//! What a leader knows of one member (thesis figure 3.1: `next_index`, `match_index`), and how it
//! sends to it.
//!
//! `Probe` sends one message and waits until the logs are known to match; `Replicate` sends ahead
//! of the replies, within bounds; `Snapshot` hands over the leader's snapshot piece by piece. Start
//! reading at `Progress`.
use std::collections::VecDeque;

use super::message::{Index, PeerId, SnapshotMeta};

/// How many append entries may be on their way to one member.
const FLIGHT_MESSAGES_MAX: usize = 64;
/// How many bytes of entries may be on their way to one member: what a link and its receiver must
/// be able to hold.
const FLIGHT_BYTES_MAX: usize = 4 << 20;

/// How entries reach a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// `next` is a guess; `sent`: the guess is out, wait for its reply or the next heartbeat.
    Probe { sent: bool },
    /// `next` is right; send ahead.
    Replicate,
    /// The snapshot up to `index` is sent; `offset` is the byte the member wants next, `asked_us`
    /// when its piece was asked of the owner (0: not yet).
    Snapshot {
        index: Index,
        offset: u64,
        asked_us: u64,
    },
}

/// What there is to tell of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatReport {
    /// One that this leader sent was not answered; so many since the member was heard.
    Missed { id: PeerId, count: u64 },
    /// This leader's came so long after the one before that it was nearly given up.
    Late { id: PeerId, after_us: u64 },
}

/// An append on its way.
struct InFlight {
    last: Index,
    bytes: usize,
    sent_us: u64,
}

/// One member, as the leader sees it.
pub struct Progress {
    pub id: PeerId,
    /// Counts for majorities.
    pub voter: bool,
    /// The highest entry known to be durable there; only rises within a term.
    pub matched: Index,
    /// The next entry to send; always above `matched`.
    pub next: Index,
    pub flow: ProgressState,
    /// The highest commit index that it was sent and could use.
    pub commit_sent: Index,
    /// The last round of heartbeats that it has answered (thesis 6.4).
    pub round: u64,
    /// When it was last heard, or when this leadership began.
    pub heard_us: u64,
    /// Since when something that was sent to it has no answer; `u64::MAX`: never.
    pub asked_us: u64,
    /// Whether it has answered this leader at all.
    pub answered: bool,
    /// Heartbeats that were sent since it was heard.
    pub unanswered: u64,
    /// When the heartbeat was sent that it has not answered yet; 0: there is none.
    pub beat_us: u64,
    /// Its slowest recent sync but one, as it tells, in microseconds.
    pub sync_us: u32,
    /// The Remove that takes it out of the configuration, and until when it is still told of it.
    pub leaving: Option<(Index, u64)>,
    /// The snapshot that is sent, while `flow` says so: a newer one does not start the transfer
    /// over.
    pub sending: SnapshotMeta,
    flights: VecDeque<InFlight>,
    flight_bytes: usize,
}

impl Progress {
    pub fn new(id: PeerId, voter: bool, next: Index, now_us: u64) -> Progress {
        Progress {
            id,
            voter,
            matched: Index(0),
            next,
            flow: ProgressState::Probe { sent: false },
            commit_sent: Index(0),
            round: 0,
            heard_us: now_us,
            asked_us: now_us,
            answered: false,
            unanswered: 0,
            beat_us: 0,
            sync_us: 0,
            leaving: None,
            sending: SnapshotMeta::default(),
            flights: VecDeque::new(),
            flight_bytes: 0,
        }
    }

    /// It is there.
    pub fn hear(&mut self, now_us: u64) {
        (self.heard_us, self.asked_us, self.unanswered) = (now_us, u64::MAX, 0);
    }

    /// A heartbeat is sent: how many went unanswered before, since it was heard. Only what has had
    /// no answer two heartbeats later counts, or one turn that came late would accuse
    /// everybody.
    pub fn miss(&mut self) -> Option<u64> {
        self.unanswered += 1;
        self.unanswered.checked_sub(2).filter(|missed| *missed > 0)
    }

    /// Whether nothing more may be sent before a reply.
    pub fn is_full(&self) -> bool {
        self.flights.len() >= FLIGHT_MESSAGES_MAX || self.flight_bytes >= FLIGHT_BYTES_MAX
    }

    /// Something was sent that it answers at once.
    pub fn on_asked(&mut self, now_us: u64) {
        self.asked_us = self.asked_us.min(now_us);
    }

    pub fn become_probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.flow = ProgressState::Probe { sent: false };
        self.land_all();
    }

    pub fn become_replicate(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.flow = ProgressState::Replicate;
        self.land_all();
    }

    pub fn become_snapshot(&mut self, meta: &SnapshotMeta) {
        let (index, offset, asked_us) = (meta.index, 0, 0);
        self.sending = meta.clone();
        self.flow = ProgressState::Snapshot {
            index,
            offset,
            asked_us,
        };
        self.land_all();
    }

    /// Whether it is being sent a snapshot.
    pub fn is_in_snapshot(&self) -> bool {
        matches!(self.flow, ProgressState::Snapshot { .. })
    }

    /// A piece of the snapshot was asked of the owner.
    pub fn asked(&mut self, now_us: u64) {
        if let ProgressState::Snapshot { asked_us, .. } = &mut self.flow {
            *asked_us = now_us.max(1);
        }
    }

    /// Entries up to `last` have been sent.
    pub fn on_sent(&mut self, last: Index, bytes: usize, now_us: u64) {
        if let ProgressState::Probe { sent } = &mut self.flow {
            // `next` stays what the probe asks about: its reply names it.
            *sent = true;
            return;
        }
        let sent_us = now_us;
        self.next = last.next();
        self.flight_bytes += bytes;
        self.flights.push_back(InFlight {
            last,
            bytes,
            sent_us,
        });
    }

    /// It is durable there up to `matched`: how long the newest append that this answers took, in
    /// microseconds.
    pub fn on_matched(&mut self, matched: Index, now_us: u64) -> Option<u64> {
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        let mut took = None;
        while let Some(flight) = self.flights.front().filter(|f| f.last <= matched) {
            self.flight_bytes -= flight.bytes;
            took = Some(now_us.saturating_sub(flight.sent_us));
            self.flights.pop_front();
        }
        took
    }

    fn land_all(&mut self) {
        self.beat_us = 0;
        self.flights.clear();
        self.flight_bytes = 0;
    }
}

/// The slowest sync but one of the last 10 to 20 seconds: a process that was stopped in the midst
/// of a sync, or a disk that stalled once, says nothing of the next one, and would have a dead
/// leader waited for three times as long.
#[derive(Default)]
pub struct SlowestSync {
    window_us: u64,
    before_us: u64,
    /// The slowest of the present window, and the next.
    now_us: [u64; 2],
}

impl SlowestSync {
    const WINDOW_US: u64 = 10_000_000;
    /// A disk slower than this does not stretch timeouts any further.
    const MAX_US: u64 = 10_000_000;

    pub fn record(&mut self, now_us: u64, took_us: u64) {
        if now_us >= self.window_us.saturating_add(SlowestSync::WINDOW_US) {
            let stale = now_us >= self.window_us.saturating_add(2 * SlowestSync::WINDOW_US);
            self.before_us = if stale { 0 } else { self.now_us[1] };
            self.now_us = [0; 2];
            self.window_us = now_us;
        }
        let took_us = took_us.min(SlowestSync::MAX_US);
        let [worst_us, next_us] = self.now_us;
        self.now_us = [worst_us.max(took_us), next_us.max(took_us.min(worst_us))];
    }

    /// In microseconds.
    pub fn worst_us(&self) -> u32 {
        u32::try_from(self.before_us.max(self.now_us[1])).expect("capped above")
    }
}
