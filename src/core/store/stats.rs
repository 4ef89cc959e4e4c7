//! The counters of the key space. Those of writes are the same on all machines and travel with a
//! snapshot; those of reads and watchers are this machine's own.

/// The counters of `/v2/stats/store`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub gets_success: u64,
    pub gets_fail: u64,
    pub sets_success: u64,
    pub sets_fail: u64,
    pub delete_success: u64,
    pub delete_fail: u64,
    pub update_success: u64,
    pub update_fail: u64,
    pub create_success: u64,
    pub create_fail: u64,
    pub compare_and_swap_success: u64,
    pub compare_and_swap_fail: u64,
    pub compare_and_delete_success: u64,
    pub compare_and_delete_fail: u64,
    pub expire_count: u64,
    pub watchers: u64,
}

impl Stats {
    /// Counts an operation that went well or did not.
    pub(super) fn count(&mut self, action: Counted, success: bool) {
        let (good, bad) = match action {
            Counted::Get => (&mut self.gets_success, &mut self.gets_fail),
            Counted::Set => (&mut self.sets_success, &mut self.sets_fail),
            Counted::Delete => (&mut self.delete_success, &mut self.delete_fail),
            Counted::Update => (&mut self.update_success, &mut self.update_fail),
            Counted::Create => (&mut self.create_success, &mut self.create_fail),
            Counted::CompareAndSwap => (
                &mut self.compare_and_swap_success,
                &mut self.compare_and_swap_fail,
            ),
            Counted::CompareAndDelete => (
                &mut self.compare_and_delete_success,
                &mut self.compare_and_delete_fail,
            ),
        };
        *(if success { good } else { bad }) += 1;
    }

    /// Those that are the same on all machines, in the order in which snapshots hold them.
    pub(super) fn replicated(&mut self) -> [&mut u64; 13] {
        [
            &mut self.sets_success,
            &mut self.sets_fail,
            &mut self.delete_success,
            &mut self.delete_fail,
            &mut self.update_success,
            &mut self.update_fail,
            &mut self.create_success,
            &mut self.create_fail,
            &mut self.compare_and_swap_success,
            &mut self.compare_and_swap_fail,
            &mut self.compare_and_delete_success,
            &mut self.compare_and_delete_fail,
            &mut self.expire_count,
        ]
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Get,
    Set,
    Delete,
    Update,
    Create,
    CompareAndSwap,
    CompareAndDelete,
}
