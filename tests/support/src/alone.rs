//! Tests that start many processes, or measure how long something takes, would stall one another:
//! each takes this lock and waits for the others, in whichever test binary they are. Tests without
//! the lock run beside them.
use crate::folder;
use std::fs::File;

/// Held by the test that runs alone; given back when dropped.
#[must_use]
#[derive(Debug)]
pub struct Alone {
    _file: File,
}

/// Waits until no other test holds the lock.
pub fn alone() -> Alone {
    let path = folder().join("alone.lock");
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true);
    let file = options.open(&path).expect("the lock file opens");
    file.lock().expect("the lock file can be locked");
    Alone { _file: file }
}
