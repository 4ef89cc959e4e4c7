//! `/mod/dashboard/`: the cluster as a page for a browser.
//!
//! The page shows the document of `/v2/cluster` without scripts. Its script keeps it up to date,
//! draws the load, and browses keys. Every text chosen by a machine or a client is escaped. The
//! page's `Content-Security-Policy` lets the browser load and run only files of this server. Start
//! with [`page`].
use super::Routed;
use super::exchange::{Exchange, Handled};
use super::render::AnswerKind;
use super::render::redirect::HTML;
use crate::codec::cluster_status::{ClusterDocument, MemberPart, StandbyPart};
use crate::codec::http::Response;
use crate::core::seam::{Op, Query};
use std::fmt::Write;

/// The page, with a placeholder in braces for each part that depends on the cluster.
const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/page.css");
const SCRIPT: &str = include_str!("dashboard/page.js");

/// The headers of the page besides the usual ones. Nothing may be loaded from elsewhere, no script
/// or style stands in the page itself, and no other page may show this one in a frame.
pub(super) const HEADERS: [(&str, &str); 4] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
];

/// `/mod/dashboard`
pub fn moved(_: &Exchange) -> Handled {
    let text = "<a href=\"/mod/dashboard/\">Found</a>.\n\n";
    let response = Response::new(302, HTML, text).with("Location", "/mod/dashboard/");
    Ok(Routed::Answer(response))
}

/// `/mod/dashboard/` and the files of the page.
pub fn dashboard(exchange: &Exchange) -> Handled {
    let (content_type, text) = match exchange.rest {
        "" => {
            let kind = AnswerKind::Cluster {
                asks_leader: !exchange.request.from_tern,
                own: None,
                is_page: true,
            };
            return exchange.to_machine(Op::Query(Query::Cluster), kind);
        }
        "page.css" => ("text/css; charset=utf-8", STYLE),
        "page.js" => ("text/javascript; charset=utf-8", SCRIPT),
        _ => return exchange.not_found(),
    };
    let response = Response::new(200, content_type, text);
    let with = |response: Response, (name, value): (&'static str, &str)| response.with(name, value);
    Ok(Routed::Answer(HEADERS.into_iter().fold(response, with)))
}

/// The page that shows a document.
pub(super) fn page(document: &ClusterDocument) -> String {
    let (summary, tone) = summary(document);
    let filled = [
        ("{title}", escaped(&document.machine.name)),
        ("{name}", escaped(&document.machine.name)),
        ("{tone}", tone.into()),
        ("{summary}", escaped(&summary)),
        ("{view}", view(document).into()),
        ("{members}", members(document)),
        ("{standbys}", standbys(document)),
        ("{facts}", facts(document)),
        ("{version}", escaped(&document.machine.version)),
    ];
    let mut out = String::with_capacity(2 * PAGE.len());
    let mut rest = PAGE;
    // Each placeholder stands once, in this order. The texts put in are not searched for
    // placeholders: a machine's name may look like one.
    for (place, text) in filled {
        let (before, after) = rest.split_once(place).expect("the page has this place");
        out.push_str(before);
        out.push_str(&text);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The state of the cluster in a sentence, and the colour of the sentence.
fn summary(document: &ClusterDocument) -> (String, &'static str) {
    let machine = &document.machine;
    let cluster = &document.cluster;
    if let Some(reason) = &machine.reason {
        return (format!("Not healthy: {reason}"), "bad");
    }
    let Some(leader) = &cluster.leader else {
        return ("No leader".into(), "bad");
    };
    let troubled = |member: &&MemberPart| tone(&member.state) != "good";
    let count = cluster.members.iter().filter(troubled).count();
    let machines = match cluster.members.len() {
        1 => "1 machine".into(),
        all => format!("{all} machines"),
    };
    match count {
        0 => (format!("{} leads {machines}", leader.name), "good"),
        _ => {
            let text = format!(
                "{} leads; {count} of {machines} need attention",
                leader.name
            );
            (text, "warn")
        }
    }
}

fn view(document: &ClusterDocument) -> &'static str {
    match (&*document.view, &*document.machine.mode) {
        ("leader", _) => "As the leader sees it.",
        (_, "standby") => "As this standby was last told: the leader did not answer.",
        _ => "As this machine sees it: no leader has answered. Lag and last contact are not known.",
    }
}

/// How a state is coloured.
fn tone(state: &str) -> &'static str {
    match state {
        "leader" | "follower" | "self" | "linked" | "listed" => "good",
        "snapshot" | "added" | "full" => "warn",
        _ => "bad",
    }
}

/// A state in words.
fn words(state: &str) -> &str {
    match state {
        "follower" => "follows",
        "leader" => "leads",
        "snapshot" => "is sent a snapshot",
        "full" => "disk full",
        "silent" => "does not answer",
        "added" => "not started yet",
        "self" => "this machine",
        "linked" => "connected",
        "unlinked" => "not connected",
        other => other,
    }
}

fn members(document: &ClusterDocument) -> String {
    let mut out = String::new();
    for member in &document.cluster.members {
        let leads = if member.state == "leader" {
            " data-leader"
        } else {
            ""
        };
        let name = match &*member.name {
            "" => "(no name yet)".into(),
            name => escaped(name),
        };
        let number = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
        let contact = member.last_contact_ms.map_or("-".into(), duration);
        // Writing to a `String` does not fail.
        let _ = writeln!(
            out,
            "<tr{leads}><th scope=\"row\" data-label=\"Name\">{name}</th>\
             <td data-label=\"Role\">{}</td>\
             <td data-label=\"State\"><span class=\"state {}\">{}</span></td>\
             <td data-label=\"Lag (entries)\" class=\"number\">{}</td>\
             <td data-label=\"Last contact\" class=\"number\">{contact}</td>\
             <td data-label=\"Client URL\">{}</td></tr>",
            escaped(member.kind.as_deref().unwrap_or("-")),
            tone(&member.state),
            escaped(words(&member.state)),
            number(member.lag),
            link(&member.client_url),
        );
    }
    if out.is_empty() {
        out.push_str("<tr><td colspan=\"6\" class=\"none\">none is known</td></tr>\n");
    }
    out
}

fn standbys(document: &ClusterDocument) -> String {
    let mut out = String::new();
    for standby in &document.cluster.standbys {
        let StandbyPart {
            name,
            client_url,
            last_fetch_ms,
        } = standby;
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\" data-label=\"Name\">{}</th>\
             <td data-label=\"Last fetch\" class=\"number\">{}</td>\
             <td data-label=\"Client URL\">{}</td></tr>",
            escaped(name),
            duration(*last_fetch_ms),
            link(client_url.as_deref().unwrap_or_default()),
        );
    }
    if out.is_empty() {
        out.push_str("<tr><td colspan=\"3\" class=\"none\">none is known</td></tr>\n");
    }
    out
}

/// The rest of the document, as terms with their values.
fn facts(document: &ClusterDocument) -> String {
    let machine = &document.machine;
    let cluster = &document.cluster;
    let mut out = String::new();
    let mut fact = |term: &str, value: Option<String>| {
        let value = value.unwrap_or("-".into());
        let _ = writeln!(
            out,
            "<div><dt>{term}</dt><dd>{}</dd></div>",
            escaped(&value)
        );
    };
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    fact(
        "This machine",
        Some(format!("{}, {}", machine.mode, machine.role)),
    );
    fact("Term", number(machine.term.or(cluster.term)));
    fact("Committed here", number(machine.committed_index));
    fact("Applied here", number(machine.applied_index));
    let config = cluster.config.as_ref();
    fact("Active size", config.map(|c| c.active_size.to_string()));
    fact(
        "Removal delay",
        config.map(|c| format!("{} s", c.remove_delay)),
    );
    fact(
        "Sync interval",
        config.map(|c| format!("{} s", c.sync_interval)),
    );
    fact("Cluster id", cluster.id.clone());
    out
}

/// A link to the dashboard of the machine at a client URL. A text that is no URL is shown without a
/// link.
fn link(url: &str) -> String {
    let text = escaped(url);
    if crate::core::identity::is_url(url) {
        return format!("<a href=\"{text}/mod/dashboard/\">{text}</a>");
    }
    if text.is_empty() { "-".into() } else { text }
}

fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        _ => format!("{} min", ms / 60_000),
    }
}

/// A text for HTML, outside of tags or in a quoted attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{
        "machine":{"name":"<b>n1</b>{members}","version":"1","mode":"member","role":"leader",
            "id":null,"clientURL":"http://a:1","peerURL":"http://a:2","healthy":true,"reason":null,
            "term":2,"lastIndex":9,"durableIndex":9,"committedIndex":9,"appliedIndex":9},
        "view":"leader",
        "cluster":{"id":"x","leader":{"name":"n1","id":null,"clientURL":"http://a:1","peerURL":""},
            "config":{"activeSize":9,"removeDelay":1800,"syncInterval":5},
            "term":2,"lastIndex":9,"committedIndex":9,
            "members":[
                {"name":"n1","id":null,"clientURL":"http://a:1","peerURL":"","kind":"voter",
                 "state":"leader","matchIndex":9,"lag":0,"lastContactMs":0},
                {"name":"<script>alert(1)</script>","id":null,"clientURL":"javascript:alert(1)",
                 "peerURL":"","kind":"voter","state":"silent","matchIndex":1,"lag":8,
                 "lastContactMs":130000}],
            "standbys":[{"name":"\"&'","clientURL":null,"lastFetchMs":1500}]}}"#;

    #[test]
    fn what_machines_choose_is_shown_as_text() {
        let document = ClusterDocument::parse(DOCUMENT.as_bytes()).expect("a document");
        let page = page(&document);
        assert_eq!(
            page.matches("<script").count(),
            1,
            "that of the page itself"
        );
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(!page.contains("href=\"javascript:"), "no link");
        assert!(
            page.contains("&lt;b&gt;n1&lt;/b&gt;{members}"),
            "no place of the page"
        );
        assert!(page.contains("&#34;&amp;&#39;"));
        for text in [
            "does not answer",
            "2 min",
            "1.5 s",
            "1 of 2 machines need attention",
        ] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn the_page_is_small_and_complete() {
        let bytes = PAGE.len() + STYLE.len() + SCRIPT.len();
        assert!(bytes <= 60_000, "{bytes} bytes");
        for text in [PAGE, STYLE, SCRIPT] {
            assert!(
                !text.contains("//cdn") && !text.contains("https://"),
                "from elsewhere"
            );
        }
        assert!(!SCRIPT.contains("innerHTML"), "values are set as text");
    }
}
