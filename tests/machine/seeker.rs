//! A machine that looks for its cluster, driven by hand: its calls, and replies to them.
use super::rig::*;
use tern::codec::http::Method;
use tern::core::machine::*;
use tern::core::timer::Now;

pub const PEERS: [&str; 2] = ["http://a:7001", "http://b:7001"];
pub const LIST: &str =
    r#"[{"name":"a","state":"leader","clientURL":"http://a:4001","peerURL":"http://a:7001"}]"#;
pub const SIZE: &str = r#"{"activeSize":9,"removeDelay":1800,"syncInterval":5}"#;
pub const SERVICE: &str = "http://d/v2/keys/c";

/// A machine that looks for its cluster, and the clock.
pub struct Seeker {
    pub machine: Machine,
    pub effects: Outputs,
    /// The orders of the last turn.
    pub ordered: Ordered,
    pub now: Now,
    /// All calls so far.
    pub asked: Vec<Asked>,
}

pub fn search(peers: &[&str], attempts_max: u32) -> Search {
    Search {
        known: Vec::new(),
        discovery: None,
        peers: peers.iter().map(|p| (*p).into()).collect(),
        attempts_max,
        pause_ms: Some(1_000),
    }
}

impl Seeker {
    pub fn new(peers: &[&str], attempts_max: u32) -> Seeker {
        Seeker::with(search(peers, attempts_max))
    }

    /// One with a discovery service.
    pub fn discovering(peers: &[&str]) -> Seeker {
        Seeker::with(Search {
            discovery: Some(SERVICE.into()),
            ..search(peers, 2)
        })
    }

    pub fn with(search: Search) -> Seeker {
        let now = Now {
            mono_us: 1_000_000,
            wall_ns: EPOCH_NS,
        };
        let nothing = Recovered::nothing(None, 77);
        let machine = Machine::find(settings(3), nothing, search, 5);
        Seeker {
            machine,
            effects: Outputs::default(),
            ordered: Ordered::default(),
            now,
            asked: Vec::new(),
        }
    }

    /// Lets everything that is due happen; the call that it makes then, if any.
    pub fn call(&mut self) -> Option<Asked> {
        if next_deadline(&self.machine) <= self.now.mono_us {
            self.machine.on_time(self.now);
        }
        self.effects.clear();
        self.machine.advance(self.now, &mut self.effects);
        self.ordered = Ordered::take(&mut self.effects);
        assert!(self.effects.calls.len() <= 1, "one at a time");
        let asked = Asked::of(&self.effects.calls.pop()?);
        self.asked.push(asked.clone());
        Some(asked)
    }

    /// The call it makes is this one.
    pub fn asks(&mut self, method: Method, url: &str) -> Asked {
        let call = self.call().expect("a call");
        assert_eq!((call.method, &*call.url), (method, url));
        call
    }

    pub fn gets(&mut self, url: &str) -> CallId {
        let call = self.asks(Method::Get, url);
        assert!(call.body.is_empty());
        call.id
    }

    pub fn tell(&mut self, id: CallId, reply: Reply) {
        self.machine.on_reply(self.now, id, reply);
    }

    pub fn answer(&mut self, id: CallId, status: u16, body: &str) {
        self.respond(id, status, "tern/0.1.0", body.as_bytes());
    }

    /// A call gets this response; one that was never made gets it as the last one.
    pub fn respond(&mut self, id: CallId, status: u16, server: &str, body: &[u8]) {
        let asked = self.asked.iter().find(|a| a.id == id).or(self.asked.last());
        let reply = asked.expect("a call").reply(status, server, body);
        self.tell(id, reply);
    }

    pub fn fail(&mut self, id: CallId) {
        let why = "nobody listens".into();
        self.tell(id, Reply::Failed { why });
    }

    /// What it ends with.
    pub fn failed(&mut self) -> String {
        assert_eq!(self.call(), None);
        let text = self.ordered.failed.take();
        assert_eq!(self.machine.next_deadline(), None);
        text.expect("it has ended").into()
    }

    /// Past version, machines and config of the first peer.
    pub fn reach_the_join(&mut self) -> CallId {
        let id = self.gets("http://a:7001/version");
        self.answer(id, 200, "2");
        let id = self.gets("http://a:7001/v2/admin/machines");
        self.answer(id, 200, LIST);
        let id = self.gets("http://a:7001/v2/admin/config");
        self.answer(id, 200, SIZE);
        let call = self.asks(Method::Put, "http://a:7001/join");
        let body: serde_json::Value = serde_json::from_slice(&call.body).expect("JSON");
        let wanted = serde_json::json!({
            "minVersion": 2, "maxVersion": 2, "name": "node3", "incarnation": 77,
            "raftURL": "http://127.0.0.1:7003", "etcdURL": "http://127.0.0.1:4003",
        });
        assert_eq!(body, wanted);
        assert_eq!(call.content_type, "application/json");
        call.id
    }
}
