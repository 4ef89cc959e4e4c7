//! The proxied requests, from the side of their clients: which calls to make, and what to write to
//! a client when a call ends or a part of the response to a watch arrives.
//!
//! A proxied watch has begun once its client has received the head: at once, or, with `timeout`, with
//! the first event. It ends without another event, as a watch of this machine's own store does, if
//! - the connection to the leader breaks,
//! - the standby learns of another leader: the former one may stand still, with its connections
//!   open,
//! - this machine becomes a member.
//!
//! The client sees the end and watches again. In the last two cases a watch that was sent and has not
//! begun is redirected to the present leader. Start with [`Clients::take_proxy_calls`].
use super::*;
use crate::codec::http::client::ResponsePart;

impl Clients {
    /// Phase 3: the calls of proxied requests that are due. The caller starts them now. A request
    /// whose client has closed the connection is dropped.
    pub fn take_proxy_calls(
        &mut self,
        machine: &mut Machine,
        now: Now,
    ) -> Vec<(CallOrigin, HttpCall)> {
        self.end_moved_watches(machine, now);
        let mut calls = Vec::new();
        for (ticket, url, mut call) in self.proxied.take_due(now, machine) {
            if wake_for_ticket(&mut self.conns, ticket).is_none() {
                self.proxied.remove(ticket);
                continue;
            }
            let is_watch = self.proxied.is_watch(ticket);
            let origin = CallOrigin::Client { ticket, is_watch };
            match url {
                Some(url) => {
                    call.url = format!("{url}{}", call.url).into();
                    calls.push((origin, call));
                }
                None => {
                    let ended = EndedCall::unstarted(origin, call, "no leader is known");
                    self.on_proxied(ticket, ended, machine, now);
                }
            }
        }
        calls
    }

    /// Phase 3: the call of the request with this ticket has ended. Holds the request for another
    /// call, or renders the outcome.
    pub fn on_proxied(
        &mut self,
        ticket: Ticket,
        ended: EndedCall,
        machine: &mut Machine,
        now: Now,
    ) {
        let result = ended.proxy_result();
        if result != ProxyResult::Answered {
            machine.on_leader_missed(now);
        }
        if let ProxyStep::SendAt(at_us) = self.proxied.on_result(now, ticket, result) {
            return self.proxied.hold(ticket, at_us, ended.into_call());
        }
        self.proxied.remove(ticket);
        let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
            return;
        };
        self.date.set(now.wall_ns);
        let context = context(&self.settings, &self.date, now, machine, machine.indexes());
        let outcome = ended.into_proxy_outcome();
        let status = conn.shape_mut().proxied_status(&outcome);
        conn.measure(status, now, self.meters.requests_mut());
        let next = conn.render(&mut self.buffers, |shape, out| {
            shape.proxied(outcome, &context, out)
        });
        follow(conn, next, ticket, machine, now);
    }

    /// Phase 3: parts of responses to watches have arrived. Returns the watches whose calls are to be
    /// paused: their clients have much to read.
    pub fn on_proxied_parts(
        &mut self,
        parts: Vec<(Ticket, ResponsePart)>,
        machine: &Machine,
        now: Now,
    ) -> Vec<Ticket> {
        self.date.set(now.wall_ns);
        let context = context(&self.settings, &self.date, now, machine, machine.indexes());
        let mut paused = Vec::new();
        for (ticket, part) in parts {
            let Some(conn) = wake_for_ticket(&mut self.conns, ticket) else {
                continue;
            };
            self.proxied.on_part(ticket);
            conn.measure(200, now, self.meters.requests_mut());
            conn.render(&mut self.buffers, |shape, out| {
                shape.proxied_part(part, &context, out);
            });
            if conn.maybe_pause() {
                paused.push(ticket);
            }
        }
        paused
    }

    /// The paused watches whose clients have read enough. The caller lets their calls go on.
    pub fn take_resumed(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.resumed)
    }

    /// If another machine leads than before, or this machine is a standby no longer: ends the
    /// watches under way, and redirects the clients of those that have not begun; some in each turn.
    fn end_moved_watches(&mut self, machine: &mut Machine, now: Now) {
        self.proxied.follow_leader(machine.standby());
        let moved = self.proxied.moved_watches();
        if moved.is_empty() {
            return;
        }
        let leader_url = match machine.standby() {
            Some(leader_url) => leader_url,
            None => machine.leader_client_url(),
        };
        let leader_url = leader_url.map(Box::from);
        for ticket in moved {
            self.cancelled.push(ticket);
            if let Some(conn) = wake_for_ticket(&mut self.conns, ticket) {
                conn.shape_mut().set_leader(leader_url.clone());
            }
            self.on_proxied(ticket, EndedCall::moved(ticket), machine, now);
        }
    }

    /// The tickets of the proxied watches that have ended here. The caller cancels their calls.
    pub fn take_cancelled(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.cancelled)
    }
}
