//! A standby, driven by hand: its calls, and replies to them.
use super::rig::*;
use tern::codec::cluster_status::ClusterDocument;
use tern::codec::http::Method;
use tern::core::machine::*;
use tern::core::raft::{Message, PeerId, Rpc, Term};
use tern::core::timer::Now;

pub const SIZE_5S: &str = r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}"#;
pub const FULL: &str = r#"{"activeSize":3,"removeDelay":1800,"syncInterval":5}"#;
pub const INTERVAL_US: u64 = 5 * SECOND_US;

/// The members `names`, the first of which leads.
pub fn members(names: &[&str]) -> Vec<MachineInfo> {
    let info = |(place, name): (usize, &&str)| MachineInfo {
        name: (*name).into(),
        state: if place == 0 {
            Role::Leader
        } else {
            Role::Follower
        },
        client_url: format!("http://{name}:4001").into(),
        peer_url: format!("http://{name}:7001").into(),
    };
    names.iter().enumerate().map(info).collect()
}

/// The same as they are listed.
pub fn list(names: &[&str]) -> String {
    let machine = |m: &MachineInfo| {
        let state = if m.state == Role::Leader {
            "leader"
        } else {
            "follower"
        };
        serde_json::json!({"name": m.name, "state": state, "clientURL": m.client_url, "peerURL": m.peer_url})
    };
    let all: Vec<_> = members(names).iter().map(machine).collect();
    serde_json::Value::from(all).to_string()
}

/// The document of a standby that was told of the members `names`, the first of which leads.
pub fn standby_document(names: &[&str]) -> String {
    let stand = Stand::again(names);
    let outcome = stand.machine.query(stand.now, &Query::Cluster);
    let Some(Outcome::Cluster(status)) = outcome else {
        panic!("{outcome:?}");
    };
    let mut document = Vec::new();
    ClusterDocument::new(&status).write(&mut document);
    String::from_utf8(document).expect("JSON")
}

/// A standby, and the clock.
pub struct Stand {
    pub machine: Machine,
    pub effects: Outputs,
    /// The orders of the last turn.
    pub ordered: Ordered,
    pub now: Now,
    pub began_us: u64,
    pub facts: Vec<Fact>,
    pub saved: Vec<StandbyInfo>,
}

impl Stand {
    /// One that was a standby when it was stopped.
    pub fn again(names: &[&str]) -> Stand {
        Stand::of_info(StandbyInfo {
            running: true,
            cluster: members(names),
            sync_interval_ms: 5_000,
            ..StandbyInfo::default()
        })
    }

    /// One that was this standby when it was stopped.
    pub fn of_info(info: StandbyInfo) -> Stand {
        let now = Now {
            mono_us: 1_000_000,
            wall_ns: EPOCH_NS,
        };
        let search = Search {
            peers: vec!["http://spare:7001".into()],
            ..Search::default()
        };
        Stand::of(
            Machine::stand_by(
                settings(3),
                Recovered::nothing(None, 77),
                info,
                search,
                5,
                now,
            ),
            now,
        )
    }

    /// A member that learns of its removal while it runs, or at its start.
    pub fn removed(serves: bool) -> Stand {
        Stand::removed_because(serves, "that member was removed")
    }

    /// The same; the cluster confirms it with this cause.
    pub fn removed_because(serves: bool, cause: &str) -> Stand {
        let mut rig = Rig::serving(settings(1));
        let id = match rig.done(join(&settings(3), 77)) {
            Outcome::Joined(index) => PeerId(index.0),
            other => panic!("{other:?}"),
        };
        // The leader brings it what the cluster has.
        let mut cluster = Cluster {
            rigs: [(PeerId(1), rig)].into(),
            cut: Default::default(),
        };
        let now = cluster.at(PeerId(1)).now;
        cluster.rigs.insert(id, Rig::let_in(settings(3), id, now));
        cluster.pass(SECOND_US);
        let mut rig = cluster.rigs.remove(&id).expect("just put there");
        assert!(rig.machine.is_serving());
        if !serves {
            rig = rig.restart();
        }
        let mut stand = Stand::of(rig.machine, rig.now);
        let cluster = stand.machine.cluster();
        let notice = Message {
            term: Term::REMOVED,
            rpc: Rpc::Removed { cluster, id },
        };
        stand.machine.on_message(stand.now, PeerId(1), notice);
        stand.turn();
        let url = "http://127.0.0.1:7001/v2/admin/machines";
        let url = format!("{url}?cluster={cluster:x}&id={:x}", id.0);
        let call = stand.calls(Method::Get, &url);
        assert!(stand.saved.is_empty(), "a notice is not enough");
        let removed = serde_json::json!({
            "errorCode": 300, "message": "x", "cause": cause, "index": 5
        });
        let removed = removed.to_string();
        stand.tell(&call, 500, "tern/0.1.0", removed.as_bytes());
        stand.turn();
        stand
    }

    pub fn of(machine: Machine, now: Now) -> Stand {
        let began_us = now.mono_us;
        Stand {
            machine,
            effects: Outputs::default(),
            ordered: Ordered::default(),
            now,
            began_us,
            facts: Vec::new(),
            saved: Vec::new(),
        }
    }

    pub fn turn(&mut self) -> Vec<Asked> {
        self.effects.clear();
        self.machine.advance(self.now, &mut self.effects);
        self.ordered = Ordered::take(&mut self.effects);
        self.facts.append(&mut self.effects.facts);
        self.saved.extend(self.ordered.standby.take());
        if self.ordered.wipe {
            assert!(
                self.saved.last().is_some_and(|info| info.running),
                "saved before anything is wiped"
            );
            self.machine.on_wiped(self.now, 78);
        }
        self.effects.calls.iter().map(Asked::of).collect()
    }

    /// Time goes on to the next deadline; then it calls this.
    pub fn next(&mut self, method: Method, url: &str) -> Asked {
        self.pass_to_deadline();
        self.calls(method, url)
    }

    /// Time goes on to the next deadline; the calls that it makes then.
    pub fn next_calls(&mut self) -> Vec<Asked> {
        self.pass_to_deadline();
        self.turn()
    }

    fn pass_to_deadline(&mut self) {
        let due_us = next_deadline(&self.machine);
        self.now.mono_us = self.now.mono_us.max(due_us);
        self.machine.on_time(self.now);
    }

    pub fn calls(&mut self, method: Method, url: &str) -> Asked {
        let mut calls = self.turn();
        assert_eq!(calls.len(), 1, "{calls:?}");
        let call = calls.remove(0);
        assert_eq!((call.method, &*call.url), (method, url));
        call
    }

    pub fn tell(&mut self, call: &Asked, status: u16, server: &str, body: &[u8]) {
        let reply = call.reply(status, server, body);
        self.machine.on_reply(self.now, call.id, reply);
    }

    pub fn answer(&mut self, call: &Asked, body: &str) {
        self.tell(call, 200, "tern/0.1.0", body.as_bytes());
    }

    pub fn fail(&mut self, call: &Asked) {
        self.machine.on_reply(
            self.now,
            call.id,
            Reply::Failed {
                why: "nobody listens".into(),
            },
        );
    }

    /// A whole fetch from `peer`, which begins when the next deadline comes; when that was, since
    /// the beginning.
    pub fn fetch(&mut self, peer: &str, list: &str, config: &str) -> u64 {
        let call = self.next(
            Method::Get,
            &format!("http://{peer}:7001/v2/admin/machines"),
        );
        self.answer(&call, list);
        let call = self.calls(Method::Get, &format!("http://{peer}:7001/v2/admin/config"));
        self.answer(&call, config);
        self.now.mono_us - self.began_us
    }

    /// It asks `peer` to be let in.
    pub fn asks(&mut self, peer: &str) -> Asked {
        let call = self.calls(Method::Get, &format!("http://{peer}:7001/version"));
        self.answer(&call, "2");
        self.calls(Method::Put, &format!("http://{peer}:7001/join"))
    }

    pub fn rests(&mut self) {
        assert_eq!(self.turn(), []);
    }

    pub fn redirect(&mut self) -> Outcome {
        self.machine.on_request(self.now, Ticket(1), get("/a"));
        self.effects.clear();
        self.machine.advance(self.now, &mut self.effects);
        self.ordered = Ordered::take(&mut self.effects);
        self.effects.answers.remove(0).outcome
    }
}
