//! A new cluster: snapshot zero, which holds the founder's own join.
use super::Machine;
use crate::core::raft::{Configuration, Index, Member, PeerId, SnapshotMeta, Term};
use crate::core::random::splitmix64;
use crate::core::replica::registry;
use crate::core::seam::{Founding, Settings};
use crate::core::store::{Action, HistoryLimits, SnapshotStep, Store};

/// The term of snapshot zero. A machine that has a later one was a member of a cluster.
pub const FOUNDING_TERM: Term = Term(1);

/// The size of a chunk, in bytes. Snapshot zero fits into one.
const CHUNK_BYTES: usize = 1 << 20;

impl Machine {
    /// The first state of a new cluster whose only member is this machine. `seed` must come from
    /// the system's random source: the cluster's identity is drawn from it.
    pub fn bootstrap(settings: &Settings, incarnation: u64, seed: u64) -> Founding {
        let store = Store::new(HistoryLimits {
            events: settings.history_events,
            bytes: settings.memory.history_bytes,
        });
        Machine::bootstrap_with(settings, store, incarnation, seed)
    }

    /// [`Machine::bootstrap`] with a key space that comes from elsewhere, in which no view of a
    /// machine is left.
    pub fn bootstrap_with(
        settings: &Settings,
        mut store: Store,
        incarnation: u64,
        seed: u64,
    ) -> Founding {
        let founder = Member {
            id: PeerId(1),
            name: settings.name.clone(),
            peer_url: settings.peer_url.clone(),
            client_url: settings.client_url.clone(),
            incarnation,
            voter: true,
            added_as: None,
        };
        let path = registry::machine_path(&settings.name);
        let value = registry::machine_value(&founder);
        store.set_view(Action::Create, &path, Some(&value));
        Founding {
            id: founder.id,
            term: FOUNDING_TERM,
            meta: SnapshotMeta {
                cluster: cluster_number(seed),
                index: Index(1),
                term: FOUNDING_TERM,
                configuration: Configuration {
                    members: vec![founder],
                    barred: Vec::new(),
                },
            },
            chunks: snapshot_of(&mut store),
        }
    }
}

/// The number of a new cluster; 0 stands for an unknown one.
pub(super) fn cluster_number(seed: u64) -> u64 {
    splitmix64(seed).max(1)
}

/// The whole content of a key space that is not in use, as a snapshot in chunks.
pub(super) fn snapshot_of(store: &mut Store) -> Vec<Vec<u8>> {
    store.snapshot_begin();
    let mut chunks = Vec::new();
    loop {
        let mut chunk = Vec::new();
        let step = store.snapshot_chunk(CHUNK_BYTES, &mut chunk);
        chunks.push(chunk);
        match step {
            SnapshotStep::More => {}
            SnapshotStep::Done => return chunks,
            SnapshotStep::GivenUp => unreachable!("nothing changes, so nothing is kept for it"),
        }
    }
}
