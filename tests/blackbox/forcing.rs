//! The permanent loss of a majority: what the log recommends, what the machine that is left does,
//! and what happens when the lost ones come back.
use std::collections::BTreeSet;
use std::fs;
use tern_support::client::until;
use tern_support::copy_folder;
use tern_support::fleet::{cluster, has, listed, prepare, put, shows};
use tern_support::server::Server;

/// The number that the log of a machine without a majority recommends.
fn recommended(server: &Server) -> String {
    until("the log recommends a number", || {
        let log = server.log();
        let (_, rest) = log.split_once("-force-new-cluster=")?;
        rest.get(..16).map(str::to_string)
    })
}

fn names(server: &Server) -> BTreeSet<String> {
    listed(server).into_keys().collect()
}

#[test]
fn two_of_three_are_lost() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "1");
    for server in &servers {
        shows(server, "a", "1");
    }
    servers[1].kill();
    servers[2].kill();
    let number = recommended(&servers[0]);
    let flag = format!("-force-new-cluster={number}");
    servers[0].terminate();

    // A second voter answers: two of three are a majority.
    servers[1].run();
    servers[0].args.push(flag.clone());
    servers[0].spawn();
    assert_eq!(servers[0].ended().code(), Some(1), "{}", servers[0].log());
    servers[0].wait_for_log("the cluster is not lost");
    servers[1].kill();

    servers[0].run();
    put(&servers[..1], "b", "2");
    shows(&servers[0], "a", "1");
    assert_eq!(names(&servers[0]), BTreeSet::from(["node1".to_string()]));
    let views = servers[0].client("GET", "/v2/keys/_etcd/machines", "");
    let views = views.json()["node"]["nodes"].clone();
    assert_eq!(views.as_array().map(Vec::len), Some(1), "{views}");

    // The flag may stay.
    servers[0].kill();
    servers[0].run();
    servers[0].wait_for_log(&format!("{flag} has no effect"));
    shows(&servers[0], "b", "2");

    // The two are not lost after all: they are the old cluster.
    servers[1].spawn();
    servers[2].spawn();
    servers[1].wait();
    servers[2].wait();
    put(&servers[1..], "c", "3");
    servers[0].wait_for_log("is a member of the cluster that this machine has left");
    until("one of the two says that the first went on", || {
        let told = "has left this cluster by -force-new-cluster";
        let mut both = servers[1..].iter();
        both.any(|server| server.log().contains(told)).then_some(())
    });
    assert!(!has(&servers[0], "c", "3"));
    assert!(!has(&servers[1], "b", "2"));

    // One of them is wiped, and joins the machine that went on.
    servers[2].kill();
    let mut joining = prepare(3, &[servers[0].peer_port], &["-f"]);
    joining.run();
    shows(&joining, "b", "2");
    put(&servers[..1], "d", "4");
}

/// The disks of two of three machines are set back to older copies while the third one is down, and
/// the two go on. Their logs contradict that of the third one, which says what has happened and can
/// go on with what it holds.
#[test]
fn two_of_three_disks_are_set_back() {
    let mut servers = cluster(3, &[]);
    put(&servers, "a", "1");
    for server in &mut servers {
        shows(server, "a", "1");
        server.terminate();
        let data_dir = server.data_dir();
        copy_folder(&data_dir, &data_dir.with_extension("old"));
    }
    // Each start takes a term at least. The copies know none of them.
    for value in ["2", "3", "4", "5"] {
        for server in &mut servers {
            server.spawn();
        }
        put(&servers, "b", value);
        for server in &mut servers {
            shows(server, "b", value);
            server.terminate();
        }
    }
    for server in &mut servers[1..] {
        let data_dir = server.data_dir();
        fs::remove_dir_all(&data_dir).expect("removed");
        copy_folder(&data_dir.with_extension("old"), &data_dir);
        server.spawn();
    }
    for value in 1..20 {
        put(&servers[1..], "c", &value.to_string());
    }
    servers[0].spawn();
    servers[0].wait_for_log("were set back to older copies");
    let number = recommended(&servers[0]);

    // The two stop, and the third one goes on.
    for server in &mut servers {
        server.terminate();
    }
    servers[0].args.push(format!("-force-new-cluster={number}"));
    servers[0].run();
    put(&servers[..1], "d", "6");
    shows(&servers[0], "b", "5");
}
