//! What seeds came to, in numbers.

/// What one seed came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub elections: u64,
    pub installs: u64,
    pub snapshots: u64,
    pub changes: u64,
    pub crashes: u64,
    pub commits: u64,
    /// The part of the commits with a value of the largest length.
    pub longest: u64,
    pub answers: u64,
    /// The part of the answers that was rendered and read again.
    pub raw: u64,
    pub reads: u64,
    pub repairs: u64,
    pub losses: u64,
    pub watched: u64,
    /// The part of the watches that ended with their timeout.
    pub timed_out: u64,
    /// Answers of the lock module.
    pub locks: u64,
    pub calls: u64,
    /// How often a machine became a standby, or a standby a member.
    pub switches: u64,
    /// Second processes of members, each a whole machine.
    pub copies: u64,
    /// Members that went on alone.
    pub forced: u64,
    /// Lines are short, and no values have the largest length.
    pub is_quick: bool,
    /// From the healing until all were equal, in thousandths of an election timeout.
    pub converged_milli: u64,
    /// From the healing until the cluster had its size and all others were standbys, in
    /// milliseconds.
    pub settled_ms: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.elections += other.elections;
        self.installs += other.installs;
        self.snapshots += other.snapshots;
        self.changes += other.changes;
        self.crashes += other.crashes;
        self.commits += other.commits;
        self.longest += other.longest;
        self.answers += other.answers;
        self.raw += other.raw;
        self.reads += other.reads;
        self.repairs += other.repairs;
        self.losses += other.losses;
        self.watched += other.watched;
        self.timed_out += other.timed_out;
        self.locks += other.locks;
        self.calls += other.calls;
        self.switches += other.switches;
        self.copies += other.copies;
        self.forced += other.forced;
    }
}
