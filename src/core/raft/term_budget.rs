//! How far messages may raise the term of this member.
//!
//! Terms rise by one with each campaign. A faulty peer that sends larger ones would use them up, and
//! then no member could campaign any more. So each raise is paid from a budget, which refills with
//! time. A budget, and not a bound for each message: members that hear each other pay the same sum,
//! so each can follow the others however a faulty peer has raised their terms one by one.

/// The budget at the start. A member that was away for 34 years, while others campaigned
/// each millisecond, can follow them.
const BUDGET_START: u64 = 1 << 40;

/// The most that the budget holds.
const BUDGET_MAX: u64 = 1 << 46;

/// How much it gains in a microsecond: `BUDGET_START` in 10 s. A faulty peer needs a year to use the
/// terms up.
const GAIN: u64 = BUDGET_START / 10_000_000;

/// The budget of this process.
pub struct TermBudget {
    /// The rest of the budget at `at_us`; at most `BUDGET_MAX`.
    left: u64,
    /// When that was, in microseconds of the monotonic clock.
    at_us: u64,
}

impl TermBudget {
    /// A process starts.
    pub fn new(now_us: u64) -> TermBudget {
        TermBudget {
            left: BUDGET_START,
            at_us: now_us,
        }
    }

    /// By how much the term may rise now.
    pub fn left(&self, now_us: u64) -> u64 {
        let gained = GAIN.saturating_mul(now_us.saturating_sub(self.at_us));
        self.left.saturating_add(gained).min(BUDGET_MAX)
    }

    /// The term rose. A rise that is not bounded by the budget takes all of it.
    pub fn on_rise(&mut self, rise: u64, now_us: u64) {
        self.left = self.left(now_us).saturating_sub(rise);
        self.at_us = now_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_refilled() {
        let mut budget = TermBudget::new(5);
        assert_eq!(budget.left(5), BUDGET_START);
        budget.on_rise(BUDGET_START, 5);
        assert_eq!(budget.left(5), 0);
        assert_eq!(budget.left(1_000_005), GAIN * 1_000_000);
        assert_eq!(budget.left(u64::MAX), BUDGET_MAX);
    }

    #[test]
    fn a_member_that_is_behind_can_follow() {
        let mut ahead = TermBudget::new(0);
        let behind = TermBudget::new(0);
        let mut risen = 0;
        for now_us in [10, 20, 5_000_000, 9_000_000] {
            let rise = ahead.left(now_us);
            ahead.on_rise(rise, now_us);
            risen += rise;
        }
        assert!(behind.left(9_000_000) >= risen);
    }
}
