//! `X-Etcd-Cluster-Id`, in every answer.
use crate::recorded::{DATE_NS, settings};
use crate::shapes::context;
use tern::codec::api::{Context, Port, Routed, refusal, route};
use tern::codec::http::{Date, Limits, Parsed, Parser, ResponseMode};
use tern::core::public_id::PublicId;
use tern::core::seam::Indexes;

/// Whatever was wrong with the request: a client notices that it speaks to another cluster.
#[test]
fn each_answer_names_the_cluster() {
    let (settings, date) = (settings("", 4001), Date::new(DATE_NS));
    let id = PublicId::of_cluster(7);
    let context = Context {
        cluster_id: Some(id),
        ..context(&settings, &date, Indexes::default())
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    for input in [
        get("/nowhere"),
        get("/v2/keys/a%"),
        get("/v2//keys"),
        get("/version"),
        "nonsense\r\n\r\n".to_string(),
        "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n".to_string(),
    ] {
        let mut parser = Parser::new();
        let response = match parser.parse(input.as_bytes(), &Limits::default()) {
            Parsed::Request { request, .. } => match route(Port::Client, &request, &context) {
                Routed::Answer(response) => response,
                other => panic!("{input}: {other:?}"),
            },
            Parsed::Reject(reject) => refusal(reject, None, &context),
            other => panic!("{input}: {other:?}"),
        };
        let mut out = Vec::new();
        response.encode(ResponseMode::CLOSE, &date, &mut out);
        let text = String::from_utf8(out).expect("text");
        let header = format!("\r\nX-Etcd-Cluster-Id: {id}\r\n");
        assert_eq!(text.matches(&header).count(), 1, "{input}: {text}");
    }
}
