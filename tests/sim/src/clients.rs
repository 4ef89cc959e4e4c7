//! The clients of the simulated cluster: each has one request open at a time, follows redirects,
//! gives up after a while, and remembers what it was told. Their operations on registers are the
//! histories that `linear` judges. Start at `World::on_think`.
use super::cluster::{Asker, Ev, Phase, World, is_promise, slot_of};
use super::params::Params;
use super::truth::{Checked, violation};
use super::workload::{Told, Want, failed_for_good, register_of, told, value_of};
use tern::core::error::Code;
use tern::core::machine::{Answer, Op, Outcome, Ticket};
use tern::core::store::Event;
use tern_support::linear::{Act, Call, Res, Value};

/// What a client waits for.
struct Open {
    want: Want,
    ticket: u64,
    slot: usize,
    /// Register and place in its history.
    call: Option<(usize, usize)>,
    /// The highest etcd index of any answer before this request.
    told_etcd: u64,
    /// When it was last sent.
    sent_us: u64,
    /// How many entries were committed when it was last sent.
    committed: u64,
    /// How often it was sent elsewhere.
    hops: u32,
}

pub struct Client {
    /// Rises with each request.
    seq: u64,
    open: Option<Open>,
    /// Where it sends its next request.
    target: Option<usize>,
    /// The last value and index seen of each register.
    seen: Vec<(Value, u64)>,
}

impl Client {
    pub fn new(p: &Params) -> Client {
        Client {
            seq: 0,
            open: None,
            target: None,
            seen: vec![(0, 0); p.keys],
        }
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_none()
    }
}

/// How much longer a client waits between two requests while the first members come together.
const SETUP_PAUSE_US: u64 = 30_000;

/// Before so many requests in a million a client closes the connection of a watch.
const CLOSED_WATCH_PPM: u64 = 20_000;

impl World {
    pub fn new_ticket(&mut self, asker: Asker, slot: usize) -> Ticket {
        self.ticket += 1;
        self.tickets.insert(self.ticket, (asker, slot));
        Ticket(self.ticket)
    }

    fn think(&mut self, client: usize) {
        let mut after = self.rng.range(50, self.p.think_us_max);
        if self.clients[client].target.is_none() {
            after += self.rng.below(self.p.election_ms * 300);
        }
        // A voter that is alone commits as fast as clients ask. Learners behind a long line could not
        // catch up, and the setup would not end.
        if self.phase == Phase::Setup {
            after += SETUP_PAUSE_US;
        }
        self.queue.push(self.now_us + after, Ev::Think { client });
    }

    /// A client asks for something.
    pub fn on_think(&mut self, client: usize) {
        if !matches!(self.phase, Phase::Setup | Phase::Faults) || !self.clients[client].is_idle() {
            return;
        }
        if self.rng.chance(CLOSED_WATCH_PPM) {
            self.close_a_watch();
        }
        self.fresh += 1;
        let fresh = self.fresh;
        let etcd = self.told_etcd;
        let want = Want::draw(
            &mut self.rng,
            &self.p,
            &self.clients[client].seen,
            fresh,
            etcd,
        );
        let up: Vec<usize> = (0..self.hosts.len()).filter(|s| self.listens(*s)).collect();
        if up.is_empty() {
            return self.think(client);
        }
        let target = self.clients[client].target.filter(|t| self.listens(*t));
        let anywhere = matches!(
            want,
            Want::Plain { .. } | Want::List { .. } | Want::Watch { .. }
        );
        let slot = match target {
            Some(slot) if !anywhere => slot,
            _ => *self.rng.pick(&up),
        };
        let call = want.register_act().map(|(key, act)| {
            self.clock += 1;
            self.calls[key].push(Call {
                act,
                res: Res::Unknown,
                called: self.clock,
                returned: u64::MAX,
                hint: u64::MAX,
            });
            (key, self.calls[key].len() - 1)
        });
        let told_etcd = self.told_etcd;
        let open = Open {
            want,
            ticket: 0,
            slot,
            call,
            told_etcd,
            sent_us: 0,
            committed: 0,
            hops: 0,
        };
        self.ask(client, open);
    }

    fn ask(&mut self, client: usize, mut open: Open) {
        let slot = open.slot;
        if self.is_paused(slot) {
            return self.ask_paused(client, open);
        }
        open.ticket = self.new_ticket(Asker::Client(client), slot).0;
        open.committed = self.truth.committed();
        open.sent_us = self.now_us;
        let ticket = Ticket(open.ticket);
        let want = open.want.clone();
        let state = &mut self.clients[client];
        state.seq += 1;
        let seq = state.seq;
        state.open = Some(open);
        self.queue.push(
            self.now_us + self.p.client_timeout_us,
            Ev::Timeout { client, seq },
        );
        self.trace.note(slot, "ask", client as u64, ticket.0, 0);
        let epoch = self.hosts[slot].epoch;
        let raw = self.rng.chance(self.p.raw_ppm);
        let mut at_once = None;
        self.input(slot, epoch, |world, run, now| {
            let op = match raw {
                true => world.send_raw(slot, ticket, &want, &run.core, now),
                false => Ok(want.op()),
            };
            match op {
                Ok(op) => {
                    world.maybe_ask_twice(slot, ticket, &op);
                    run.core.on_request(now, ticket, op);
                }
                Err(answer) => at_once = Some(answer),
            }
        });
        if let Some(answer) = at_once {
            let done = self.on_answer(slot, answer);
            self.fail(done);
        }
    }

    /// No answer for long, or the connection broke: the outcome is unknown.
    pub fn on_timeout(&mut self, client: usize, seq: u64) {
        if self.clients[client].seq != seq || self.clients[client].is_idle() {
            return;
        }
        let open = self.clients[client].open.take().expect("it waits");
        self.tickets.remove(&open.ticket);
        self.conns.remove(&open.ticket);
        self.close(client, &open, Told::Open, 0);
        self.clients[client].target = None;
        if open.ticket != 0 && !self.watchers.contains_key(&open.ticket) {
            let ticket = Ticket(open.ticket);
            let at = (open.slot, self.hosts[open.slot].epoch);
            self.give(at, self.now_us, ticket, Box::new(Op::ClientClosed));
        }
        self.think(client);
    }

    /// A client closes the connection of a watch.
    fn close_a_watch(&mut self) {
        let open = self.watchers.iter().filter(|(_, w)| !w.has_ended());
        let open: Vec<(u64, usize)> = open.map(|(ticket, w)| (*ticket, w.slot)).collect();
        if open.is_empty() {
            return;
        }
        let (ticket, slot) = *self.rng.pick(&open);
        self.watchers.remove(&ticket);
        self.conns.remove(&ticket);
        let at = (slot, self.hosts[slot].epoch);
        self.give(at, self.now_us, Ticket(ticket), Box::new(Op::ClientClosed));
    }

    /// A process is gone, and all that waited for it knows nothing more.
    pub fn lose_tickets(&mut self, slot: usize) {
        let lost: Vec<(u64, Asker)> = self
            .tickets
            .iter()
            .filter(|t| t.1.1 == slot)
            .map(|(t, a)| (*t, a.0))
            .collect();
        for (ticket, asker) in lost {
            self.tickets.remove(&ticket);
            match asker {
                Asker::Client(client) => {
                    let seq = self.clients[client].seq;
                    let at = self.now_us + self.rng.range(100, 3_000);
                    self.queue.push(at, Ev::Timeout { client, seq });
                }
                Asker::Call(key) => self.break_call(key),
                Asker::Writer(first) => {
                    self.writes.remove(&first);
                }
                Asker::Admin | Asker::Reader { .. } => {}
            }
        }
        self.watchers.retain(|_, w| w.slot != slot);
        self.conns.retain(|_, c| c.slot != slot);
    }

    /// Writes the result of an operation on a register into its history.
    fn close(&mut self, _client: usize, open: &Open, told: Told, etcd: u64) {
        let Some((key, at)) = open.call else {
            return;
        };
        self.clock += 1;
        let call = &mut self.calls[key][at];
        match told {
            Told::Result(res) => {
                (call.res, call.returned) = (res, self.clock);
                let reads = matches!(
                    res,
                    Res::Value(_) | Res::Exists | Res::Missing | Res::Differs
                );
                call.hint = etcd * 2 + u64::from(reads);
            }
            // What never happened is taken out at the end; a mark is enough for now.
            Told::Never => (call.called, call.returned) = (u64::MAX, u64::MAX),
            Told::Open | Told::Elsewhere => {}
        }
    }

    // -- answers

    /// How many entries were committed when a client sent the linearizable read that it waits for.
    pub fn committed_at_read(&self, client: usize, ticket: u64) -> Option<u64> {
        let open = self.clients[client].open.as_ref()?;
        let is_read = matches!(open.want, Want::Key { act: Act::Get, .. });
        (is_read && open.ticket == ticket).then_some(open.committed)
    }

    /// A machine answers.
    pub fn on_answer(&mut self, slot: usize, answer: Answer) -> Checked {
        let ticket = answer.ticket.0;
        self.counts.answers += 1;
        self.trace
            .note(slot, "answer", ticket, answer.at.etcd.0, answer.at.commit.0);
        if is_promise(&answer.outcome) {
            self.check_promise(slot, &answer)?;
        }
        self.check_round(slot, &answer)?;
        let answer = self.hear(slot, answer)?;
        if is_promise(&answer.outcome) {
            self.check_promise(slot, &answer)?;
        }
        if self.watchers.contains_key(&ticket) {
            return self.on_watch_answer(slot, &answer);
        }
        match self.tickets.get(&ticket).copied() {
            None => Ok(()),
            Some((Asker::Admin | Asker::Reader { .. }, _)) => {
                self.tickets.remove(&ticket);
                Ok(())
            }
            Some((Asker::Writer(first), _)) => {
                self.tickets.remove(&ticket);
                self.on_write_answer(first, &answer.outcome);
                Ok(())
            }
            Some((Asker::Call(key), _)) => {
                self.tickets.remove(&ticket);
                self.on_call_answer(slot, key, &answer);
                Ok(())
            }
            Some((Asker::Client(client), _)) => self.on_client_answer(slot, client, &answer),
        }
    }

    /// What a positive answer promises is committed, on a majority of synced disks, when it is
    /// given.
    fn check_promise(&mut self, slot: usize, answer: &Answer) -> Checked {
        let committed = self.truth.committed();
        if answer.at.commit.0 > committed {
            let text = format!(
                "m{slot} answers at {} while {committed} entries are on a majority of disks",
                answer.at.commit.0
            );
            return violation("durable-answer", text);
        }
        let Outcome::Event(event) = &answer.outcome else {
            return Ok(());
        };
        let index = event.node.modified.0;
        let Some(told) = self.truth.model.event(index) else {
            let text = format!(
                "m{slot} answers with an event at {index}, the committed log has {}",
                self.truth.model.index()
            );
            return violation("durable-answer", text);
        };
        if told.event != *event {
            return violation(
                "answer-event",
                format!("m{slot} answers {event:?}, the model {:?}", told.event),
            );
        }
        Ok(())
    }

    fn on_client_answer(&mut self, slot: usize, client: usize, answer: &Answer) -> Checked {
        let ticket = answer.ticket.0;
        let is_open = self.clients[client]
            .open
            .as_ref()
            .is_some_and(|o| o.ticket == ticket);
        if !is_open {
            return Ok(());
        }
        if matches!(answer.outcome, Outcome::Page { last: false, .. }) {
            let epoch = self.hosts[slot].epoch;
            self.later(slot, epoch, Ticket(ticket), Op::ContinueListing);
            return Ok(());
        }
        let mut open = self.clients[client].open.take().expect("seen above");
        self.tickets.remove(&ticket);
        self.check_read(slot, &open, answer)?;
        if let Outcome::Redirect { client_url, .. } = &answer.outcome {
            open.hops += 1;
            let next = slot_of(client_url).filter(|s| self.listens(*s) && *s != slot);
            self.clients[client].target = next;
            if let Some(next) = next
                && open.hops < 4
            {
                open.slot = next;
                self.retry(client, open);
                return Ok(());
            }
            self.close(client, &open, Told::Never, 0);
            self.think(client);
            return Ok(());
        }
        if let Want::Watch {
            path,
            recursive,
            stream,
            since,
            timeout_s,
        } = open.want.clone()
        {
            let due_us = timeout_s.map(|seconds| open.sent_us + seconds * 1_000_000);
            self.begin_watch(slot, answer, (path, recursive, stream, since, due_us))?;
            self.think(client);
            return Ok(());
        }
        if let Want::Lock(lock) = &open.want {
            self.check_lock(slot, lock, answer)?;
        }
        self.learn(client, &open, answer);
        if failed_for_good(&answer.outcome) {
            self.clients[client].target = None;
        }
        self.think(client);
        Ok(())
    }

    fn learn(&mut self, client: usize, open: &Open, answer: &Answer) {
        let etcd = answer.at.etcd.0;
        if let Outcome::Event(event) = &answer.outcome {
            self.told_etcd = self.told_etcd.max(event.node.modified.0);
            self.clients[client].target = Some(open.slot);
            self.remember(client, event);
        }
        let Some((key, act)) = open.want.register_act() else {
            return;
        };
        let told = told(act, &answer.outcome);
        if let Outcome::Page { items, .. } = &answer.outcome {
            self.counts.reads += 1;
            if let Some(item) = items.first() {
                let value = item.view.value.as_deref().and_then(value_of).unwrap_or(0);
                self.clients[client].seen[key] = (value, item.view.modified.0);
            }
        }
        let at = match &answer.outcome {
            Outcome::Event(event) => event.node.modified.0,
            _ => etcd,
        };
        // A read without an answer leaves no trace.
        let told = if told == Told::Open && act == Act::Get {
            Told::Never
        } else {
            told
        };
        self.close(client, open, told, at);
    }

    fn remember(&mut self, client: usize, event: &Event) {
        let Some(key) = register_of(&event.node.key).filter(|k| *k < self.p.keys) else {
            return;
        };
        if let Some(value) = event.node.value.as_deref().and_then(value_of) {
            self.clients[client].seen[key] = (value, event.node.modified.0);
        }
    }

    /// A read shows the register as it was at the index that heads the answer; a linearizable one
    /// no older than any answer before the request.
    fn check_read(&mut self, slot: usize, open: &Open, answer: &Answer) -> Checked {
        let (key, linearizable) = match open.want {
            Want::Key {
                key, act: Act::Get, ..
            } => (key, true),
            Want::Plain { key } => (key, false),
            _ => return Ok(()),
        };
        let shown = match &answer.outcome {
            Outcome::Page { items, .. } => items.first().map(|i| i.view.clone()),
            Outcome::Failed(e) if e.code == Code::KeyNotFound => None,
            _ => return Ok(()),
        };
        let etcd = answer.at.etcd.0;
        if linearizable && etcd < open.told_etcd {
            let text = format!(
                "m{slot} reads at {etcd} what was at {} before it was asked",
                open.told_etcd
            );
            return violation("stale-read", text);
        }
        let want = self
            .truth
            .model
            .view_at(&super::workload::register(key), etcd);
        if shown != want {
            let text = format!("m{slot} shows {shown:?} of r{key} at {etcd}, the model {want:?}");
            return violation("read-at-index", text);
        }
        Ok(())
    }

    fn retry(&mut self, client: usize, open: Open) {
        // The machine's turn is still under way: the request goes out as an event of its own.
        let state = &mut self.clients[client];
        state.seq += 1;
        let told = open.slot;
        state.open = Some(open);
        let at = self.now_us + self.rng.range(50, 2_000);
        self.trace.note(told, "redirect", client as u64, 0, 0);
        self.queue.push(
            at,
            Ev::Again {
                client,
                seq: self.clients[client].seq,
            },
        );
    }

    /// A redirected request goes out.
    pub fn on_again(&mut self, client: usize, seq: u64) {
        if self.clients[client].seq != seq {
            return;
        }
        let Some(open) = self.clients[client].open.take() else {
            return;
        };
        if self.listens(open.slot) {
            self.ask(client, open);
        } else {
            self.close(client, &open, Told::Never, 0);
            self.clients[client].target = None;
            self.think(client);
        }
    }

    /// The process reads the request when its pause ends, if the client waits so long.
    fn ask_paused(&mut self, client: usize, mut open: Open) {
        let slot = open.slot;
        open.ticket = 0;
        let state = &mut self.clients[client];
        state.seq += 1;
        state.open = Some(open);
        let seq = state.seq;
        let timeout_us = self.now_us + self.p.client_timeout_us;
        self.queue.push(timeout_us, Ev::Timeout { client, seq });
        self.hosts[slot].held_up.push(Ev::Again { client, seq });
    }

    /// A request of an open ticket goes out after the present turn.
    pub fn later(&mut self, slot: usize, epoch: u64, ticket: Ticket, op: Op) {
        let time_us = self.now_us + self.rng.range(20, 1_000);
        self.give((slot, epoch), time_us, ticket, Box::new(op));
    }

    /// A process gets a request then, or when its pause ends.
    pub fn give(&mut self, (slot, epoch): (usize, u64), time_us: u64, ticket: Ticket, op: Box<Op>) {
        self.queue.push(
            time_us,
            Ev::Ask {
                slot,
                epoch,
                ticket,
                op,
            },
        );
    }
}
