//! What two machines say to each other before a link is a link: who they are, and whom they mean;
//! pure.
//!
//! It travels as one header of an HTTP upgrade, `Tern-Hello: cluster=1f; from=2; to=1; process=9c;
//! incarnation=3; name=b`, numbers in hexadecimal. Fields that are not known are passed over, so
//! that later versions may say more. Whether it is welcome is decided by `judge`.
use crate::core::escape;
use crate::core::raft::PeerId;
use std::fmt;

/// The protocol of a link, as in `Upgrade`.
pub const PROTOCOL: &str = "tern-raft/1";
/// The name of the header.
pub const HEADER: &str = "Tern-Hello";
/// The header of a refusal, which says why.
pub const REFUSED: &str = "Tern-Refused";
/// The path that is asked for.
pub const PATH: &str = "/raft";

/// Who opens a link, or answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The cluster's identity; 0 while the machine has nothing of its cluster but its id.
    pub cluster: u64,
    /// Who speaks.
    pub from: PeerId,
    /// Who is meant.
    pub to: PeerId,
    /// A random number of this process.
    pub process: u64,
    /// The data directory's; 0 while it is not known.
    pub incarnation: u64,
    /// The speaker's name, for the log.
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
    /// Reads the header's value; `None`: it is none.
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

/// Why a hello is not welcome; the text is for both logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloRefusal {
    Malformed,
    Version,
    /// This machine is in no cluster now.
    NoMember,
    OtherCluster,
    /// It was meant for another member.
    NotMe,
    /// Its sender claims to be this member.
    MySelf,
    /// The member of this id has another data directory.
    OtherData,
    /// Another process of this member has a live link.
    Twice,
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

/// Whether two machines may talk: `mine` as this one would introduce itself to the other, `known`
/// the incarnation that the configuration has for the other's id, if it is there. Removed and
/// unknown members may: raft tells them.
pub fn judge(theirs: &Hello, mine: &Hello, known: Option<u64>) -> Result<(), HelloRefusal> {
    let differ = |a: u64, b: u64| a != 0 && b != 0 && a != b;
    if mine.from == PeerId::NONE {
        Err(HelloRefusal::NoMember)
    } else if differ(theirs.cluster, mine.cluster) {
        Err(HelloRefusal::OtherCluster)
    } else if theirs.to != mine.from {
        Err(HelloRefusal::NotMe)
    } else if theirs.from == mine.from || theirs.process == mine.process {
        Err(HelloRefusal::MySelf)
    } else if differ(theirs.incarnation, known.unwrap_or(0)) {
        Err(HelloRefusal::OtherData)
    } else {
        Ok(())
    }
}
