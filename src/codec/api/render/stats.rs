//! The statistics as JSON, in 0.4's order of fields.
use super::json::{duration, float, number, raw, string, time};
use crate::codec::cluster_status::role;
use crate::core::seam::{FollowerStats, LeaderStats, Role, SelfStats};
use crate::core::store::Stats;

/// `/v2/stats/self`. Rates are left out while nothing is sent or received.
pub fn own(stats: &SelfStats, out: &mut Vec<u8>) {
    raw("{\"name\":", out);
    string(&stats.name, out);
    raw(",\"state\":\"", out);
    raw(role(stats.state), out);
    raw("\",\"startTime\":\"", out);
    time(stats.start_ns, out);
    raw("\",\"leaderInfo\":{\"leader\":", out);
    string(&stats.leader, out);
    own_tail(stats, out);
}

/// `/v2/stats/self` as etcd 2.x writes it: with its id, and with the id of the leader.
pub fn own_2x(stats: &SelfStats, out: &mut Vec<u8>) {
    raw("{\"name\":", out);
    string(&stats.name, out);
    raw(&format!(",\"id\":\"{}\",\"state\":\"", stats.id), out);
    raw(role_2x(stats.state), out);
    raw("\",\"startTime\":\"", out);
    time(stats.start_ns, out);
    raw("\",\"leaderInfo\":{\"leader\":", out);
    let leader = stats.leader_id.map(|id| id.to_string());
    string(&leader.unwrap_or_default(), out);
    own_tail(stats, out);
}

/// The fields after the leader's name or id.
fn own_tail(stats: &SelfStats, out: &mut Vec<u8>) {
    raw(",\"uptime\":\"", out);
    duration(stats.leader_uptime_ns, out);
    raw("\",\"startTime\":\"", out);
    time(stats.leader_start_ns, out);
    number(
        "\"},\"recvAppendRequestCnt\":",
        stats.recv_append_count,
        out,
    );
    rate(",\"recvPkgRate\":", stats.recv_pkg_rate, out);
    rate(",\"recvBandwidthRate\":", stats.recv_bandwidth_rate, out);
    number(",\"sendAppendRequestCnt\":", stats.send_append_count, out);
    rate(",\"sendPkgRate\":", stats.send_pkg_rate, out);
    rate(",\"sendBandwidthRate\":", stats.send_bandwidth_rate, out);
    out.push(b'}');
}

fn rate(before: &str, value: Option<f64>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        float(before, value, out);
    }
}

fn role_2x(role: Role) -> &'static str {
    match role {
        Role::Leader => "StateLeader",
        Role::Follower | Role::Standby => "StateFollower",
        Role::Candidate => "StateCandidate",
    }
}

/// `/v2/stats/leader`.
pub fn leader(stats: &LeaderStats, out: &mut Vec<u8>) {
    followers(&stats.leader, &stats.followers, |f| f.name.to_string(), out);
}

/// `/v2/stats/leader` as etcd 2.x writes it: with ids in place of names.
pub fn leader_2x(stats: &LeaderStats, out: &mut Vec<u8>) {
    let leader = stats.leader_id.to_string();
    followers(&leader, &stats.followers, |f| f.id.to_string(), out);
}

fn followers(
    leader: &str,
    followers: &[FollowerStats],
    label: fn(&FollowerStats) -> String,
    out: &mut Vec<u8>,
) {
    raw("{\"leader\":", out);
    string(leader, out);
    raw(",\"followers\":{", out);
    for (place, follower) in followers.iter().enumerate() {
        raw(if place > 0 { "," } else { "" }, out);
        string(&label(follower), out);
        float(":{\"latency\":{\"current\":", follower.current_ms, out);
        float(",\"average\":", follower.average_ms, out);
        float(",\"standardDeviation\":", follower.deviation_ms, out);
        float(",\"minimum\":", follower.minimum_ms, out);
        float(",\"maximum\":", follower.maximum_ms, out);
        number("},\"counts\":{\"fail\":", follower.fail, out);
        number(",\"success\":", follower.success, out);
        raw("}}", out);
    }
    raw("}}", out);
}

/// `/v2/stats/store`.
pub fn store(stats: &Stats, out: &mut Vec<u8>) {
    let fields = [
        ("{\"getsSuccess\":", stats.gets_success),
        (",\"getsFail\":", stats.gets_fail),
        (",\"setsSuccess\":", stats.sets_success),
        (",\"setsFail\":", stats.sets_fail),
        (",\"deleteSuccess\":", stats.delete_success),
        (",\"deleteFail\":", stats.delete_fail),
        (",\"updateSuccess\":", stats.update_success),
        (",\"updateFail\":", stats.update_fail),
        (",\"createSuccess\":", stats.create_success),
        (",\"createFail\":", stats.create_fail),
        (
            ",\"compareAndSwapSuccess\":",
            stats.compare_and_swap_success,
        ),
        (",\"compareAndSwapFail\":", stats.compare_and_swap_fail),
        (
            ",\"compareAndDeleteSuccess\":",
            stats.compare_and_delete_success,
        ),
        (",\"compareAndDeleteFail\":", stats.compare_and_delete_fail),
        (",\"expireCount\":", stats.expire_count),
        (",\"watchers\":", stats.watchers),
    ];
    for (before, value) in fields {
        number(before, value, out);
    }
    out.push(b'}');
}
