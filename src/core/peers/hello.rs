//! The hello of a link: how a machine introduces itself to a peer, and how it proves its place.
//!
//! Both sides of a new link exchange a hello. [`Introduced::judge`] decides whether the other side
//! is heard. A hello is proved by something that only members know:
//! - a member whose join is in the log here: by the incarnation that its join carried;
//! - a member whose join has not arrived here: by the number of the cluster;
//! - a caller of a machine without a log: by the incarnation of the machine that is called.
//!
//! How a hello travels is the business of `codec::peer::hello`.
use crate::core::raft::{Configuration, PeerId};

/// What one side of a new link says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The sender's id.
    pub from: PeerId,
    /// The id of the intended receiver; `None`: whichever member is at that address.
    pub to: Option<PeerId>,
    /// A random number of the sender's process.
    pub process: u64,
    /// The random number of the sender's data directory.
    pub incarnation: u64,
    /// The number of the sender's cluster; `None` while the sender has no log.
    pub cluster: Option<u64>,
    /// The receiver's incarnation; `None` if the sender does not know it.
    pub receiver_incarnation: Option<u64>,
    /// The sender's name.
    pub name: Box<str>,
    /// The peer URL that the sender advertises.
    pub peer_url: Box<str>,
    /// The client URL that the sender advertises.
    pub client_url: Box<str>,
}

/// The reason why a hello is refused. It travels as a code; only `Twice` carries more, and is given
/// only to a sender that has proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloRefusal {
    /// The hello cannot be read.
    Malformed,
    /// The sender speaks another version of the protocol.
    Version,
    /// The hello proves no membership of this machine's cluster.
    Denied,
    /// This machine is not a member of a cluster now.
    NoMember,
    /// The hello is for another member.
    NotMe,
    /// The sender is this very member.
    MySelf,
    /// The member with the sender's id has another data directory.
    OtherData,
    /// Another process of the sender's member is connected.
    Twice {
        /// The peer URL that the other process advertises.
        other_url: Box<str>,
    },
    /// The sender advertises another address than the list has; the listed one is being tried.
    AddressUnproved,
    /// This machine has all the links that it allows, or the sender has used up its budget.
    Busy,
    /// The sender is of the cluster that this machine has left by going on alone.
    WentOn,
}

impl HelloRefusal {
    /// All refusals without further content, with their codes.
    const CODES: [(&'static str, HelloRefusal); 10] = [
        ("malformed", HelloRefusal::Malformed),
        ("version", HelloRefusal::Version),
        ("denied", HelloRefusal::Denied),
        ("no-member", HelloRefusal::NoMember),
        ("not-me", HelloRefusal::NotMe),
        ("myself", HelloRefusal::MySelf),
        ("other-data", HelloRefusal::OtherData),
        ("address-unproved", HelloRefusal::AddressUnproved),
        ("busy", HelloRefusal::Busy),
        ("went-on", HelloRefusal::WentOn),
    ];

    /// The code of [`HelloRefusal::Twice`].
    const TWICE: &'static str = "twice";

    /// The code that travels.
    pub fn code(&self) -> &'static str {
        let mut codes = HelloRefusal::CODES.iter();
        let found = codes.find(|(_, refusal)| refusal == self);
        found.map_or(HelloRefusal::TWICE, |(code, _)| code)
    }

    /// The URL of the other process, if the refusal carries one.
    pub fn other_url(&self) -> Option<&str> {
        match self {
            HelloRefusal::Twice { other_url } => Some(other_url),
            _ => None,
        }
    }

    /// The refusal with this code; `None` for an unknown code.
    pub fn from_code(code: &str, other_url: &str) -> Option<HelloRefusal> {
        if code == HelloRefusal::TWICE {
            return Some(HelloRefusal::Twice {
                other_url: other_url.into(),
            });
        }
        let mut codes = HelloRefusal::CODES.iter();
        let (_, refusal) = codes.find(|(known, _)| *known == code)?;
        Some(refusal.clone())
    }

    /// Whether the machine that refuses is not the member that was called.
    pub fn is_of_another(&self) -> bool {
        match self {
            HelloRefusal::Denied
            | HelloRefusal::NoMember
            | HelloRefusal::NotMe
            | HelloRefusal::MySelf
            | HelloRefusal::OtherData => true,
            HelloRefusal::Malformed
            | HelloRefusal::Version
            | HelloRefusal::Twice { .. }
            | HelloRefusal::AddressUnproved
            | HelloRefusal::Busy
            | HelloRefusal::WentOn => false,
        }
    }

    /// The sentence for the log of the machine whose hello was refused.
    pub fn text(&self) -> &'static str {
        match self {
            HelloRefusal::Malformed => "it cannot read this machine's hello",
            HelloRefusal::Version => "it speaks another version of the protocol between peers",
            HelloRefusal::Denied => "it does not know this machine as a member of its cluster",
            HelloRefusal::NoMember => "it is not a member of a cluster now",
            HelloRefusal::NotMe => "the address belongs to another member",
            HelloRefusal::MySelf => "the address is this machine's own",
            HelloRefusal::OtherData => "the member of this id has another data directory",
            HelloRefusal::Twice { .. } => "another process of this member is connected to it",
            HelloRefusal::AddressUnproved => {
                "this machine's address is not the listed one, which is tried first"
            }
            HelloRefusal::Busy => "it has all the links that it allows",
            HelloRefusal::WentOn => "it has left this cluster and went on alone",
        }
    }
}

/// This machine as its hellos show it.
#[derive(Clone, Debug, Default)]
pub struct Introduced {
    /// Its id; `None` while it is not a member.
    pub id: Option<PeerId>,
    /// The number of its cluster; `None` while it has no log.
    pub cluster: Option<u64>,
    /// The random number of its data directory.
    pub incarnation: u64,
    /// The random number of this process; never 0.
    pub process: u64,
    /// Its name.
    pub name: Box<str>,
    /// The peer URL that it advertises.
    pub peer_url: Box<str>,
    /// The client URL that it advertises.
    pub client_url: Box<str>,
}

impl Introduced {
    /// The hello to a member, or to whichever member is there. `members` is the latest
    /// configuration.
    ///
    /// # Panics
    ///
    /// If this machine is not a member.
    pub fn hello(&self, to: Option<PeerId>, members: &Configuration) -> Hello {
        let receiver = to.and_then(|id| members.get(id));
        let receiver_incarnation = receiver.map(|m| m.incarnation).filter(|i| *i != 0);
        Hello {
            from: self.id.expect("only a member has links"),
            to,
            process: self.process,
            incarnation: self.incarnation,
            cluster: self.cluster,
            receiver_incarnation,
            name: self.name.clone(),
            peer_url: self.peer_url.clone(),
            client_url: self.client_url.clone(),
        }
    }

    /// Decides whether the sender of `hello` is heard. Removed and unknown members that prove
    /// themselves are: raft answers them. The proof comes first, so that a stranger learns nothing
    /// but [`HelloRefusal::Denied`].
    ///
    /// # Errors
    ///
    /// The reason of the refusal.
    pub fn judge(&self, hello: &Hello, members: &Configuration) -> Result<(), HelloRefusal> {
        if self.id.is_none() {
            return Err(HelloRefusal::NoMember);
        }
        if !self.is_proved(hello, members) {
            let is_same_cluster = self.cluster.is_some() && hello.cluster == self.cluster;
            return Err(if is_same_cluster {
                HelloRefusal::OtherData
            } else {
                HelloRefusal::Denied
            });
        }
        if Some(hello.from) == self.id || hello.process == self.process {
            return Err(HelloRefusal::MySelf);
        }
        if hello.to.is_some() && hello.to != self.id {
            return Err(HelloRefusal::NotMe);
        }
        Ok(())
    }

    fn is_proved(&self, hello: &Hello, members: &Configuration) -> bool {
        match members.get(hello.from) {
            // Its join carried no incarnation: the first machine of that name is the member.
            Some(member) if member.incarnation == 0 => hello.name == member.name,
            Some(member) => hello.incarnation == member.incarnation,
            None if self.cluster.is_some() => hello.cluster == self.cluster,
            None => hello.receiver_incarnation == Some(self.incarnation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::peers::tests::numbered_member as member;

    fn members(ids: &[u64]) -> Configuration {
        Configuration {
            members: ids.iter().map(|id| member(*id)).collect(),
            barred: Vec::new(),
        }
    }

    fn machine(id: u64, cluster: Option<u64>) -> Introduced {
        Introduced {
            id: Some(PeerId(id)),
            cluster,
            incarnation: id * 100,
            process: id * 7,
            name: format!("n{id}").into(),
            peer_url: format!("http://n{id}:7001").into(),
            client_url: format!("http://n{id}:4001").into(),
        }
    }

    #[test]
    fn protocol_08_a_known_member_proves_itself_with_its_incarnation() {
        let list = members(&[1, 2]);
        let answering = machine(1, Some(9));
        let mut hello = machine(2, None).hello(None, &list);
        assert_eq!(answering.judge(&hello, &list), Ok(()));
        hello.incarnation = 7;
        assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::Denied));
        hello.cluster = Some(9);
        assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::OtherData));
    }

    #[test]
    fn protocol_08_a_member_whose_join_has_not_arrived_proves_itself_with_the_number_of_the_cluster()
     {
        let list = members(&[1, 2]);
        let answering = machine(1, Some(9));
        let mut hello = machine(3, Some(9)).hello(Some(PeerId(1)), &list);
        assert_eq!(answering.judge(&hello, &list), Ok(()));
        for cluster in [None, Some(8)] {
            hello.cluster = cluster;
            assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::Denied));
        }
    }

    #[test]
    fn protocol_08_a_machine_without_a_log_is_named_by_its_own_incarnation() {
        let answering = machine(3, None);
        let nothing = Configuration::default();
        let list = members(&[1, 2, 3]);
        let caller = machine(1, Some(9));
        let hello = caller.hello(Some(PeerId(3)), &list);
        assert_eq!(answering.judge(&hello, &nothing), Ok(()));
        // Without its incarnation, even the right cluster's number proves nothing to it.
        let hello = caller.hello(None, &list);
        assert_eq!(answering.judge(&hello, &nothing), Err(HelloRefusal::Denied));
    }

    #[test]
    fn protocol_08_a_stranger_learns_nothing_and_a_member_learns_the_reason() {
        let list = members(&[1, 2]);
        let answering = machine(1, Some(9));
        let mut hello = machine(2, Some(9)).hello(Some(PeerId(5)), &list);
        assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::NotMe));
        hello.from = PeerId(1);
        hello.incarnation = 100;
        assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::MySelf));
        (hello.cluster, hello.incarnation) = (None, 1);
        assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::Denied));
        let standby = Introduced {
            id: None,
            ..machine(4, None)
        };
        assert_eq!(standby.judge(&hello, &list), Err(HelloRefusal::NoMember));
    }

    #[test]
    fn a_join_without_an_incarnation_is_bound_to_the_first_machine_of_its_name() {
        let mut list = members(&[1, 2]);
        list.members[1].incarnation = 0;
        let answering = machine(1, Some(9));
        let mut hello = machine(2, None).hello(None, &list);
        assert_eq!(answering.judge(&hello, &list), Ok(()));
        hello.name = "another".into();
        assert_eq!(answering.judge(&hello, &list), Err(HelloRefusal::Denied));
    }

    #[test]
    fn codes_travel_there_and_back() {
        for (code, refusal) in HelloRefusal::CODES {
            assert_eq!(refusal.code(), code);
            assert_eq!(HelloRefusal::from_code(code, ""), Some(refusal));
        }
        let twice = HelloRefusal::Twice {
            other_url: "http://n2:7001".into(),
        };
        let url = twice.other_url().expect("it carries one");
        assert_eq!(HelloRefusal::from_code(twice.code(), url), Some(twice));
        assert_eq!(HelloRefusal::from_code("else", ""), None);
    }
}
