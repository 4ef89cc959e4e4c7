//! Asking a list of machines, one after the other and one question at a time.
//!
//! A survey keeps the addresses of a round, the place of the one that is asked now, and the open
//! call. Its owner, a finder or a standby, decides what an answer means and what to ask next. Start
//! with [`Survey::begin`].
use crate::core::seam::{Call, CallId, Introduction, Question};

/// The most addresses that the machines of a round may add to it. A round ends even if each of them
/// names another one.
const NAMED_MAX: usize = 16;

/// An address that a round asks, with the question that it is asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `http://host:port` of a peer port.
    pub url: Box<str>,
    /// Later questions to the same address depend on the answers.
    pub first: Question,
}

/// The state of one survey.
pub(super) struct Survey {
    /// The addresses of this machine, which is never asked.
    own_urls: [Box<str>; 2],
    /// The addresses of this round, in the order of asking, each once.
    targets: Vec<Target>,
    /// How many of them were named by machines of this round.
    named: usize,
    /// The place of the present target; `targets.len()` once all have been asked.
    place: usize,
    /// The call that waits for its reply, with its question. At most one.
    open: Option<(CallId, Question)>,
    /// The id of the last call; only rises.
    last_call: u64,
    /// Calls that were not taken yet.
    calls: Vec<Call>,
}

impl Survey {
    /// A survey of the machine `introduction`, with no targets. Its calls are numbered from
    /// `last_call` + 1 on.
    pub(super) fn new(introduction: &Introduction, last_call: u64) -> Survey {
        Survey {
            own_urls: [
                introduction.peer_url.clone(),
                introduction.client_url.clone(),
            ],
            targets: Vec::new(),
            named: 0,
            place: 0,
            open: None,
            last_call,
            calls: Vec::new(),
        }
    }

    /// Starts a round. The first of these targets is the present one.
    pub(super) fn begin(&mut self, targets: impl IntoIterator<Item = Target>) {
        self.targets.clear();
        self.named = 0;
        self.place = 0;
        for target in targets {
            self.insert(self.targets.len(), target);
        }
    }

    /// Adds a target that the present one has named, to be asked directly after it.
    pub(super) fn insert_next(&mut self, target: Target) {
        if self.named < NAMED_MAX {
            self.named += 1;
            self.insert(self.place + 1, target);
        }
    }

    /// No address is asked twice in a round, and never this machine itself.
    fn insert(&mut self, place: usize, target: Target) {
        let is_own = self.own_urls.contains(&target.url);
        let is_known = self.targets.iter().any(|known| known.url == target.url);
        if !is_own && !is_known && !target.url.is_empty() {
            self.targets.insert(place, target);
        }
    }

    /// Whether this round has no targets at all.
    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The present target; `None` once all have been asked.
    pub(super) fn target(&self) -> Option<&Target> {
        self.targets.get(self.place)
    }

    /// The address of the present target.
    ///
    /// # Panics
    ///
    /// If all targets have been asked.
    pub(super) fn url(&self) -> &str {
        &self.targets[self.place].url
    }

    /// Goes on to the next target, which is not asked yet.
    pub(super) fn advance(&mut self) {
        self.place += 1;
    }

    /// Asks the present target.
    ///
    /// # Panics
    ///
    /// If all targets have been asked.
    pub(super) fn ask(&mut self, question: Question) {
        self.ask_at(self.url().into(), question);
    }

    /// Asks an address outside of the round: the discovery service.
    pub(super) fn ask_at(&mut self, base: Box<str>, question: Question) {
        self.last_call += 1;
        let id = CallId(self.last_call);
        self.open = Some((id, question.clone()));
        self.calls.push(Call::new(id, base, question));
    }

    /// A call has ended. Returns its question if it is the open call; it is closed then. Calls of
    /// earlier searches, and of the registrar, are ignored.
    pub(super) fn on_reply(&mut self, id: CallId) -> Option<Question> {
        let (_, question) = self.open.take_if(|(open, _)| *open == id)?;
        Some(question)
    }

    /// The id of the last call that it has made.
    pub(super) fn last_call(&self) -> u64 {
        self.last_call
    }

    /// Moves the calls to make now to `out`.
    pub(super) fn take_calls(&mut self, out: &mut Vec<Call>) {
        out.append(&mut self.calls);
    }
}

/// A reason with the address that it is about. A reason that the shell gives begins with the whole
/// URL already.
pub(super) fn with_url(url: &str, why: &str) -> String {
    if why.starts_with(url) {
        return why.to_string();
    }
    format!("{url}: {why}")
}
