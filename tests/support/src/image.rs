//! A file system of its own in a file.
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in a file, mounted as long as this lives. Mounting needs root.
pub struct Image {
    file: PathBuf,
    mounted: PathBuf,
}

/// Runs a program to its end.
///
/// # Panics
///
/// If it cannot be run, or fails.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|bad| panic!("{program}: {bad}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
}

/// A path as an argument of a program.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Image {
    /// A new one of this kind and size, below `home`.
    ///
    /// # Panics
    ///
    /// If it cannot be made or mounted.
    pub fn create(kind: &str, home: &Path, mib: u64) -> Image {
        let file = home.join("image");
        let made = std::fs::File::create(&file).expect("a file");
        made.set_len(mib << 20).expect("room");
        run(&format!("mkfs.{kind}"), &["-q", &text(&file)]);
        Image::mount(file)
    }

    /// Mounts the image in a file.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn mount(file: PathBuf) -> Image {
        let mounted = file.with_extension("mounted");
        std::fs::create_dir_all(&mounted).expect("a directory");
        run("mount", &["-o", "loop", &text(&file), &text(&mounted)]);
        Image { file, mounted }
    }

    /// The file that it is in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A data directory in it.
    pub fn data_dir(&self) -> PathBuf {
        self.mounted.join("data")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let output = Command::new("umount").arg(&self.mounted).output();
        let is_done = output.is_ok_and(|output| output.status.success());
        let what = self.mounted.display();
        assert!(is_done || std::thread::panicking(), "{what} stays mounted");
    }
}
