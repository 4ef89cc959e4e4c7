//! The hello of a link: its sender, its intended receiver, and whether it is accepted.
//!
//! It travels as one header of an HTTP upgrade, `Tern-Hello: cluster=1f; from=2; to=1; process=9c;
//! incarnation=3; name=b`, with numbers in hexadecimal. Unknown fields are skipped, so that later
//! versions may add some. [`judge`] decides whether a hello is accepted.
use crate::core::escape;
use crate::core::raft::PeerId;
use std::fmt;

/// The name and version of the protocol, in the header `Upgrade`.
pub const PROTOCOL: &str = "tern-raft/1";
/// The header with the hello.
pub const HEADER: &str = "Tern-Hello";
/// The header with the reason of a refusal.
pub const REFUSED: &str = "Tern-Refused";
/// The path of the upgrade request.
pub const PATH: &str = "/raft";

/// What one side of a new link says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The cluster's identity; 0 while the sender has no data of its cluster.
    pub cluster: u64,
    /// The sender's id; never 0.
    pub from: PeerId,
    /// The id of the intended receiver.
    pub to: PeerId,
    /// A random number of the sender's process.
    pub process: u64,
    /// The random number of the sender's data directory; 0 while it is unknown.
    pub incarnation: u64,
    /// The sender's name, for the log.
    pub name: Box<str>,
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Hello {
            cluster,
            from: PeerId(from),
            to: PeerId(to),
            process,
            incarnation,
            name,
        } = self;
        write!(
            f,
            "cluster={cluster:x}; from={from:x}; to={to:x}; process={process:x}; "
        )?;
        write!(
            f,
            "incarnation={incarnation:x}; name={}",
            escape::query(name)
        )
    }
}

impl Hello {
    /// Reads the value of the header; `None` if it is malformed.
    pub fn parse(value: &str) -> Option<Hello> {
        const NAMES: [&str; 6] = ["cluster", "from", "to", "process", "incarnation", "name"];
        let mut texts = [None; NAMES.len()];
        for field in value.split(';') {
            let (name, text) = field.trim_ascii().split_once('=')?;
            if let Some(at) = NAMES.iter().position(|n| *n == name)
                && texts[at].replace(text).is_some()
            {
                return None;
            }
        }
        let [cluster, from, to, process, incarnation, name] = texts;
        let number = |text: Option<&str>| {
            u64::from_str_radix(text.filter(|t| !t.starts_with('+'))?, 16).ok()
        };
        let hello = Hello {
            cluster: number(cluster)?,
            from: PeerId(number(from)?),
            to: PeerId(number(to)?),
            process: number(process)?,
            incarnation: number(incarnation)?,
            name: escape::decode(name?.as_bytes(), true)
                .ok()?
                .into_owned()
                .into(),
        };
        (hello.from != PeerId::NONE).then_some(hello)
    }
}

/// The reason why a hello is refused. The text is for the logs of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloRefusal {
    /// The header cannot be read.
    Malformed,
    /// `Upgrade` names another protocol or version.
    Version,
    /// This machine is not a member of a cluster now.
    NoMember,
    /// The sender belongs to another cluster.
    OtherCluster,
    /// The hello is for another member.
    NotMe,
    /// The sender claims to be this member.
    MySelf,
    /// The member with the sender's id has another data directory.
    OtherData,
    /// Another process of the sender's member has a live link.
    Twice,
    /// This machine has all the links that it allows.
    TooMany,
}

impl fmt::Display for HelloRefusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            HelloRefusal::Malformed => "the hello is malformed",
            HelloRefusal::Version => "another version of the protocol between peers",
            HelloRefusal::NoMember => "this machine is not a member of a cluster now",
            HelloRefusal::OtherCluster => "it belongs to another cluster",
            HelloRefusal::NotMe => "the address belongs to another member",
            HelloRefusal::MySelf => "it claims to be this very member",
            HelloRefusal::OtherData => "the member of that id has another data directory",
            HelloRefusal::Twice => "another process of that member is connected",
            HelloRefusal::TooMany => "too many links",
        })
    }
}

/// Decides whether the sender of `theirs` may have a link.
///
/// `mine` is the hello that this machine would send to it. `known` is the incarnation that the
/// configuration has for the sender's id; `None` if the sender is not in it. Removed and unknown
/// members are accepted: raft answers them.
///
/// # Errors
///
/// The reason of the refusal.
pub fn judge(theirs: &Hello, mine: &Hello, known: Option<u64>) -> Result<(), HelloRefusal> {
    // 0 is unknown and matches every number.
    let differ = |a: u64, b: u64| a != 0 && b != 0 && a != b;
    if mine.from == PeerId::NONE {
        return Err(HelloRefusal::NoMember);
    }
    if differ(theirs.cluster, mine.cluster) {
        return Err(HelloRefusal::OtherCluster);
    }
    if theirs.to != mine.from {
        return Err(HelloRefusal::NotMe);
    }
    if theirs.from == mine.from || theirs.process == mine.process {
        return Err(HelloRefusal::MySelf);
    }
    if differ(theirs.incarnation, known.unwrap_or(0)) {
        return Err(HelloRefusal::OtherData);
    }
    Ok(())
}
