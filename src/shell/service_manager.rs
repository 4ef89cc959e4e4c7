//! Reports to the service manager that started this process: ready, the loop still turns, stopping.
//!
//! The protocol is systemd's: datagrams to the socket that `NOTIFY_SOCKET` names, see `sd_notify(3)`.
//! Without a service manager nothing is sent and there is no timer. Must not delay the loop: a
//! notification that cannot be sent is dropped. Start with `ServiceManager::new`.
use sd_notify::NotifyState;

/// The notifications of one process.
pub struct ServiceManager {
    /// The time between two reports that the loop turns, in microseconds; `None` if the manager does
    /// not watch this process.
    alive_interval_us: Option<u64>,
    /// When the next one is due, in microseconds of the monotonic clock.
    next_alive_us: u64,
}

impl ServiceManager {
    /// The service manager of this process as the environment describes it (`NOTIFY_SOCKET`,
    /// `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn new() -> ServiceManager {
        // Half of the time after which the manager ends the process, as sd_watchdog_enabled(3)
        // recommends.
        let limit = sd_notify::watchdog_enabled();
        ServiceManager {
            alive_interval_us: limit.map(|limit| (limit.as_micros() / 2).max(1) as u64),
            next_alive_us: 0,
        }
    }

    /// The machine answers on both ports.
    pub fn report_ready(&self) {
        notify(NotifyState::Ready);
    }

    /// The machine stops after the requests under way.
    pub fn report_stopping(&self) {
        notify(NotifyState::Stopping);
    }

    /// Reports that the loop turns, if that is due.
    pub fn maybe_report_alive(&mut self, now_us: u64) {
        let Some(interval_us) = self.alive_interval_us else {
            return;
        };
        if now_us >= self.next_alive_us {
            notify(NotifyState::Watchdog);
            self.next_alive_us = now_us + interval_us;
        }
    }

    /// When `maybe_report_alive` has something to do, in microseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.alive_interval_us.map(|_| self.next_alive_us)
    }
}

fn notify(state: NotifyState) {
    // Fails without a service manager, which expects nothing then.
    let _ = sd_notify::notify(&[state]);
}
