//! The errors that a client sees: one table of code, status and message.

/// The failure of a request: a row of the table and a cause. Clients get it as
/// `{"errorCode":N,"message":…,"cause":…,"index":N}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The row of the table.
    pub code: Code,
    /// The subject: a path, a pair of compared values, the name of a parameter. May be empty.
    pub cause: Box<str>,
}

/// The cause of an error 300 if a write may have been committed or not.
pub const OUTCOME_UNKNOWN: &str = "outcome unknown";
/// The cause of an error 300 if another entry was committed in the place of a write.
pub const NOT_COMMITTED: &str = "not committed";
/// The cause of an error 300 if the sender of the request expects another cluster.
pub const OTHER_CLUSTER: &str = "another cluster";
/// The cause when the disks of a majority have no room.
pub const DISK_FULL: &str = "disk full";
/// The cause of an error 300 if the member that asks was removed.
pub const WAS_REMOVED: &str = "that member was removed";
/// The cause of an error 300 if the member that asks was removed for good.
pub const WAS_BARRED: &str = "that member was removed for good";
/// The cause of an error 300 if the member that asks has acknowledged entries that its log lacks.
pub const HAS_LOST_ENTRIES: &str = "that member has lost entries that it acknowledged";

impl Error {
    /// An error with its cause.
    pub fn new(code: Code, cause: impl Into<Box<str>>) -> Error {
        Error {
            code,
            cause: cause.into(),
        }
    }
}

macro_rules! codes {
    ($($name:ident = $code:literal, $status:literal, $message:literal;)*) => {
        /// The errors of the interface. The number is the `errorCode`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $message] $name = $code,)*
        }

        impl Code {
            /// Every row.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The `message` field.
            pub fn message(self) -> &'static str {
                match self { $(Code::$name => $message,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }
        }
    };
}

codes! {
    KeyNotFound = 100, 404, "Key not found";
    CompareFailed = 101, 412, "Compare failed";
    NotAFile = 102, 403, "Not a file";
    NoMorePeer = 103, 400, "Reached the max number of peers in the cluster";
    NotADirectory = 104, 400, "Not a directory";
    KeyExists = 105, 412, "Key already exists";
    Keyword = 106, 400, "The prefix of given key is a keyword in etcd";
    RootReadOnly = 107, 400, "Root is read only";
    DirectoryNotEmpty = 108, 403, "Directory not empty";
    PeerAddressExists = 109, 400, "Peer address has existed";
    RemovedForGood = 111, 403, "Machine was removed for good";
    ValueRequired = 200, 400, "Value is Required in POST form";
    PrevValueRequired = 201, 400, "PrevValue is Required in POST form";
    TtlNaN = 202, 400, "The given TTL in POST form is not a number";
    IndexNaN = 203, 400, "The given index in POST form is not a number";
    ValueOrTtlRequired = 204, 400, "Value or TTL is required in POST form";
    TimeoutNaN = 205, 400, "The given timeout in POST form is not a number";
    NameRequired = 206, 400, "Name is required in POST form";
    IndexOrValueRequired = 207, 400, "Index or value is required";
    IndexValueMutex = 208, 400, "Index and value cannot both be specified";
    InvalidField = 209, 400, "Invalid field";
    InvalidForm = 210, 400, "Invalid POST form";
    RefreshValue = 211, 400, "Value provided on refresh";
    RefreshTtlRequired = 212, 400, "A TTL must be provided on refresh";
    RaftInternal = 300, 500, "Raft Internal Error";
    LeaderElect = 301, 500, "During Leader Election";
    WatcherCleared = 400, 400, "watcher is cleared due to etcd recovery";
    EventIndexCleared = 401, 400, "The event in requested index is outdated and cleared";
    StandbyInternal = 402, 400, "Standby Internal Error";
    InvalidActiveSize = 403, 400, "Invalid active size";
    InvalidRemoveDelay = 404, 400, "Standby remove delay";
    ClientInternal = 500, 400, "Client Internal Error";
}
