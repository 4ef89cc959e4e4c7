//! The figures of this process that Linux reports in `/proc`, for `/metrics`. Start with [`figures`].
use crate::codec::api::SystemFigures;
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use std::fs;

/// Ticks a second in `/proc/self/stat`: a constant of Linux's interface (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// The figures of this process; `None` if `/proc` is not there.
pub fn figures() -> Option<SystemFigures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let open_files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let mut figures = parse(&stat, &system, page_size() as u64)?;
    // The directory that was just read is one of them.
    figures.open_files = open_files.saturating_sub(1);
    figures.files_max = getrlimit(Resource::Nofile).current;
    Some(figures)
}

/// Reads the line of `/proc/self/stat` (proc_pid_stat(5)), and the time of the boot in `/proc/stat`
/// (proc_stat(5)). The name of the program, in brackets, may contain anything.
///
/// The start of the process must be the same in each scrape: monitoring takes another one for a
/// restart. So it is not derived from the present time and the uptime, whose difference varies.
fn parse(stat: &str, system: &str, page_bytes: u64) -> Option<SystemFigures> {
    let boot = system.lines().find_map(|l| l.strip_prefix("btime "))?;
    let boot_s: f64 = boot.trim().parse().ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // The first field after the brackets is the third one of the manual page.
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some(SystemFigures {
        resident_bytes: field(24)? * page_bytes,
        virtual_bytes: field(23)?,
        start_s: boot_s + field(22)? as f64 / TICKS_A_SECOND,
        cpu_s: ticks as f64 / TICKS_A_SECOND,
        ..SystemFigures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 2 0 5 4096000 25 1 1\n";
        let system = "cpu  1 2 3\nintr 4 5\nbtime 1000\nprocesses 6\n";
        let figures = parse(stat, system, 4096).expect("a good line");
        assert_eq!(figures.start_s, 1000.05);
        assert_eq!(figures.cpu_s, 2.0);
        assert_eq!(figures.virtual_bytes, 4_096_000);
        assert_eq!(figures.resident_bytes, 25 * 4096);
        assert_eq!(parse("7 (a", system, 4096), None);
        assert_eq!(parse(stat, "cpu  1 2 3\n", 4096), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = figures().expect("Linux");
        assert!(figures.start_s > 0.0, "{figures:?}");
        assert!(figures.resident_bytes > 100_000, "{figures:?}");
        assert!(figures.open_files >= 3, "{figures:?}");
    }
}
