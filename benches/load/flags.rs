//! The flags of a benchmark, each with a value. Start with [`read_flags`].
use std::fmt::Debug;
use std::str::FromStr;

/// The flags that were given, with their values. `--bench`, which cargo adds, is dropped.
///
/// # Panics
///
/// A flag is none of `known`, or has no value.
pub fn read_flags(known: &[&str]) -> Vec<(String, String)> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut given = Vec::new();
    while let Some(flag) = args.next() {
        if !known.contains(&flag.as_str()) {
            panic!("unknown flag {flag}: expected {}", known.join(", "));
        }
        let value = args.next();
        let value = value.unwrap_or_else(|| panic!("{flag} needs a value"));
        given.push((flag, value));
    }
    given
}

/// The numbers of a list such as `3,5,9`.
///
/// # Panics
///
/// One of them is no number.
pub fn numbers<T: FromStr<Err: Debug>>(list: &str) -> Vec<T> {
    let numbers = list.split(',').map(|number| number.parse());
    numbers
        .collect::<Result<_, _>>()
        .expect("numbers with commas between them")
}
