//! `GET /v2/cluster` shows the cluster on both ports of every machine: healthy, with a dead peer,
//! without a leader.
use serde_json::Value;
use tern::codec::cluster_status::{ClusterDocument, MemberPart};
use tern_support::client::{Conn, request, until};
use tern_support::fleet::{self, Mode, leader};
use tern_support::server::Server;

/// The documents of the client port and of the peer port. Times and figures may change in between.
fn documents(server: &Server) -> [ClusterDocument; 2] {
    let answers = [
        server.client("GET", "/v2/cluster", ""),
        server.peer("GET", "/v2/cluster", ""),
    ];
    answers.map(|answer| {
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.head.header("Content-Type"), Some("application/json"));
        assert!(answer.text().ends_with("}\n"), "{}", answer.text());
        ClusterDocument::parse(&answer.body).expect("a document")
    })
}

fn document(server: &Server) -> ClusterDocument {
    let [document, _] = documents(server);
    document
}

fn states(document: &ClusterDocument) -> Vec<(&str, &str)> {
    let members = document.cluster.members.iter();
    members
        .map(|member| (member.name.as_str(), member.state.as_str()))
        .collect()
}

fn member<'a>(document: &'a ClusterDocument, name: &str) -> &'a MemberPart {
    let mut members = document.cluster.members.iter();
    members.find(|m| m.name == name).expect("it is listed")
}

#[test]
fn every_machine_shows_the_view_of_the_leader() {
    let args = ["-cluster-active-size=3", "-cluster-sync-interval=1"];
    let mut servers = fleet::cluster(3, &args);
    let peers: Vec<u16> = servers.iter().map(|s| s.peer_port).collect();
    let mut standby = fleet::prepare(4, &peers, &[]);
    standby.spawn();
    until("the fourth is a standby", || match fleet::mode(&standby)? {
        Mode::Standby { to: Some(_) } => Some(()),
        _ => None,
    });
    servers.push(standby);
    let all = [
        ("node1", "leader"),
        ("node2", "follower"),
        ("node3", "follower"),
    ];
    for (place, server) in servers.iter().enumerate() {
        let documents = until("the view of the leader is complete", || {
            let documents = documents(server);
            let is_complete = |d: &ClusterDocument| {
                let voters = d.cluster.members.iter();
                d.view == "leader"
                    && states(d) == all
                    && voters
                        .filter(|m| m.kind.as_deref() == Some("voter"))
                        .count()
                        == 3
                    && matches!(&d.cluster.standbys[..], [one] if one.last_fetch_ms <= 3_000)
                    && d.machine.healthy
            };
            documents.iter().all(is_complete).then_some(documents)
        });
        for document in documents {
            let machine = &document.machine;
            assert_eq!(machine.name, server.name);
            let (mode, role) = match place {
                0 => ("member", "leader"),
                1 | 2 => ("member", "follower"),
                _ => ("standby", "standby"),
            };
            assert_eq!((machine.mode.as_str(), machine.role.as_str()), (mode, role));
            assert_eq!(machine.id.is_some(), place < 3);
            let own = document.cluster.members.get(place);
            assert_eq!(own.and_then(|own| own.id.clone()), machine.id);
            let standby = &document.cluster.standbys[0];
            let url = format!("http://127.0.0.1:{}", servers[3].client_port);
            assert_eq!(
                (&*standby.name, standby.client_url.as_ref()),
                ("node4", Some(&url))
            );
            let leader = document.cluster.leader.as_ref().expect("a leader");
            assert_eq!(leader.name, "node1");
            let config = document.cluster.config.as_ref().expect("a config");
            assert_eq!((config.active_size, config.sync_interval), (3, 1.0));
        }
    }
    let last = document(&servers[1]).cluster.last_index;
    assert_eq!(
        servers[0].client("PUT", "/v2/keys/a", "value=v").status(),
        201
    );
    until("all have the entry", || {
        let seen = document(&servers[2]);
        let has_all = seen.cluster.members.iter().all(|m| m.lag == Some(0));
        (seen.cluster.last_index > last && has_all).then_some(())
    });
}

#[test]
fn a_dead_peer_and_a_lost_majority_are_seen() {
    let mut servers = fleet::cluster(3, &[]);
    servers[2].kill();
    until("the dead peer is silent", || {
        let seen = document(&servers[1]);
        let dead = member(&seen, "node3");
        let is_seen = dead.state == "silent" && dead.last_contact_ms > Some(500);
        (seen.view == "leader" && is_seen).then_some(())
    });
    servers[0].kill();
    let seen = until("no leader is known", || {
        let seen = document(&servers[1]);
        (seen.cluster.leader.is_none() && !seen.machine.healthy).then_some(seen)
    });
    assert_eq!(seen.view, "own");
    let all = [
        ("node1", "unlinked"),
        ("node2", "self"),
        ("node3", "unlinked"),
    ];
    assert_eq!(states(&seen), all);
    assert_eq!(seen.machine.reason.as_deref(), Some("no leader is heard"));
    let one = member(&seen, "node1");
    assert_eq!((one.lag, one.last_contact_ms), (None, None));
    servers[0].run();
    until("there is a leader again", || {
        let seen = document(&servers[1]);
        let leads = seen.cluster.leader.is_some() && seen.view == "leader";
        (leads && seen.machine.healthy).then_some(())
    });
    leader(&[&servers[0], &servers[1]]);
}

/// Any client may send the header. At most 64 names are shown, and none that no machine can have.
#[test]
fn the_names_of_standbys_are_bounded() {
    let server = Server::start(&[]);
    let mut conn = Conn::open(server.peer_at());
    let mut fetch = |name: &str| {
        let head = [("X-Tern-Standby", name)];
        conn.send(&request("GET", "/v2/admin/machines", &head, b""));
        assert_eq!(conn.answer().status(), 200);
    };
    fetch("<b>/");
    fetch(&"n".repeat(129));
    fetch("n4 javascript:alert(1)");
    for number in 0..100 {
        fetch(&format!("<b>{number:03}"));
    }
    let answer = server.client("GET", "/v2/cluster", "");
    let json: Value = answer.json();
    let standbys = json["cluster"]["standbys"].as_array().expect("a list");
    assert_eq!(standbys.len(), 64);
    assert_eq!(standbys[0]["name"], "<b>000");
    assert_eq!(standbys[0]["clientURL"], Value::Null);
}
