//! The units of systemd that make a backup each day.
use std::fs;
use std::path::Path;
use std::process::Command;
use tern_support::skip::{Need, lacks};

/// The exposure of the service, as `systemd-analyze security` counts it: tenths, of 100.
const EXPOSURE_MAX: &str = "20";

#[test]
fn the_units_are_understood_and_tight() {
    if lacks(Need::Program("systemd-analyze")) {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let copy = |name: &str| {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("dist")
            .join(name);
        let text = fs::read_to_string(unit).expect("the unit");
        let path = folder.path().join(name);
        // The binary must exist. The settings for a client certificate are checked, too.
        let binary = env!("CARGO_BIN_EXE_ternctl");
        let text = text.replace("/usr/bin/ternctl", binary);
        let text = text.replace("#LoadCredential", "LoadCredential");
        let text = text.replace("#Environment", "Environment");
        fs::write(&path, text).expect("room");
        path
    };
    let (service, timer) = (copy("tern-backup.service"), copy("tern-backup.timer"));
    let verify = ["verify", "--man=no"];
    let security = ["security", "--offline=true", "--threshold", EXPOSURE_MAX];
    for (check, unit) in [
        (&verify[..], &service),
        (&verify[..], &timer),
        (&security[..], &service),
    ] {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(check).arg(unit).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{check:?}: {said}");
        assert!(!said.contains("tern-backup"), "{check:?}: {said}");
    }
}
