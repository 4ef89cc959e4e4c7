//! Machines that were removed for good: none is a member again with the data directory that it had,
//! and none asks to be one.
//!
//! A directory belongs to several members, one after the other: each wipe ends a membership and keeps
//! the directory. Only a directory that an operator has emptied makes a new machine. Start at
//! `Directory::on_admitted`.
use super::truth::{Checked, Truth, violation};
use tern::core::machine::StandbyInfo;

/// Most machines of a run that are removed for good: a cluster of one or two shows little.
const BARRED_MAX: usize = 2;

/// The past of a data directory.
#[derive(Default)]
pub struct Directory {
    /// The ids that it has had, in order.
    ids: Vec<u64>,
    /// The numbers that it has had before the present one.
    former_numbers: Vec<u64>,
    /// `standby_info` has said that its machine was removed for good.
    is_told: bool,
}

impl Directory {
    /// The directory becomes that of a member.
    pub fn on_admitted(&mut self, slot: usize, id: u64, truth: &Truth) -> Checked {
        let barred = self.ids.iter().find(|former| {
            let bar = truth.barred.get(former);
            bar.is_some_and(|(removed_at, _)| *removed_at < id)
        });
        if let Some(former) = barred {
            let text =
                format!("m{slot} is member {id}; as member {former} it was removed for good");
            return violation("rejoins-after-removal", text);
        }
        self.ids.push(id);
        Ok(())
    }

    /// Its log is wiped. It gets another number than `former`.
    pub fn on_wiped(&mut self, former: u64) {
        self.former_numbers.push(former);
    }

    /// `standby_info` is to be written. `incarnation` is the number of the directory. Its machine
    /// may have asked to join with a former number.
    pub fn check_standby_info(
        &self,
        slot: usize,
        info: &StandbyInfo,
        incarnation: u64,
        truth: &Truth,
    ) -> Checked {
        let numbers = self.former_numbers.iter().chain([&incarnation]);
        let mut is_barred = numbers.map(|number| self.is_barred(*number, truth));
        if info.is_barred && !is_barred.any(|is_barred| is_barred) {
            let text = format!("m{slot} was not removed for good, and does not ask to join");
            return violation("bars-without-removal", text);
        }
        Ok(())
    }

    /// `standby_info` was written. Where that fails the process ends, and the next one may not know.
    pub fn on_standby_info(&mut self, info: &StandbyInfo) {
        self.is_told |= info.is_barred;
    }

    /// Its machine asks to join.
    pub fn on_asks(&self, slot: usize) -> Checked {
        if self.is_told {
            let text = format!("m{slot} asks to join, and knows that it was removed for good");
            return violation("asks-after-removal", text);
        }
        Ok(())
    }

    /// Whether one of its members is removed for good, or its machine was told so. The machine may
    /// not know yet that it was a member: then the number of the directory tells.
    pub fn is_barred(&self, incarnation: u64, truth: &Truth) -> bool {
        let mut bars = truth.barred.iter();
        let mut is_member = |number| bars.any(|(id, bar)| self.ids.contains(id) || bar.1 == number);
        self.is_told || is_member(incarnation)
    }
}

/// Whether a further machine may be removed for good.
pub fn may_bar(truth: &Truth) -> bool {
    truth.barred.len() < BARRED_MAX
}
