//! The HTTP codec under every cut of its input, under random mutations, and there and back.
use tern::http::*;

#[test]
fn smoke() {
    let input = b"PUT /v2/keys/exp?a=b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n2;x=y\r\n=1\r\n0\r\nT: x\r\n\r\nGET";
    let mut parser = Parser::new();
    match parser.parse(input, &Limits::default()) {
        Progress::Request { consumed, request } => {
            assert_eq!(&input[consumed..], b"GET");
            assert_eq!(request.body, b"value=1");
            assert_eq!(request.target(), "/v2/keys/exp?a=b");
        }
        other => panic!("{other:?}"),
    }
    let mut out = Vec::new();
    let reply = Reply {
        version: Version::Http11,
        keep_alive: true,
        head_only: false,
    };
    let f = Response::stream(200, response::JSON)
        .with("X-A", "b\r\nc")
        .encode(reply, &Date::new(0), &mut out);
    f.chunk(b"hello", &mut out);
    f.end(&mut out);
    println!("{}", String::from_utf8_lossy(&out));
}
