//! The configuration: flags, variables and files to settings, or what is wrong with them.
use tern::config::{Source, Start, parse};

#[test]
fn help_fits_a_terminal() {
    let args = ["-h".to_string()];
    let source = Source {
        args: &args,
        env: &|_| None,
        read: &|_| Ok(None),
        host_name: "host",
    };
    let Ok(Start::Print(help)) = parse(&source) else {
        panic!("-h prints");
    };
    println!("{help}");
    for line in help.lines() {
        assert!(line.len() <= 120, "{line}");
    }
}
