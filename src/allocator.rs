//! When the heap gives memory back to the system: the thresholds of glibc's `malloc`. Another C
//! library keeps its own. Start reading at [`set_thresholds`].

/// Sets both thresholds of `malloc`. Before the first thread starts.
pub fn set_thresholds() {
    #[cfg(target_env = "gnu")]
    glibc::set_thresholds();
}

#[cfg(target_env = "gnu")]
mod glibc {
    use std::ffi::c_int;

    /// The free bytes at the end of the heap that `malloc` keeps. By default it keeps 128 KiB. A turn
    /// with a hundred requests allocates more and frees it again, so that the heap would shrink
    /// in each turn and grow in the next, with new pages: 8 % of the processor time of a PUT.
    const KEPT_BYTES: c_int = 1 << 20;
    /// The least size of a block with a mapping of its own, which the system gets back once the
    /// block is free. It is the default. `malloc` would raise it, and the other threshold, to the
    /// size of each such block that is freed, and so keep tens of megabytes after one long value.
    const MAPPED_BYTES: c_int = 128 << 10;

    /// `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of `malloc.h`.
    const TRIM_THRESHOLD: c_int = -1;
    const MMAP_THRESHOLD: c_int = -3;

    // SAFETY: the declaration is that of malloc.h; any two numbers may be given.
    unsafe extern "C" {
        safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }

    pub fn set_thresholds() {
        // 0 would say that the value is out of range: the default is as good.
        mallopt(TRIM_THRESHOLD, KEPT_BYTES);
        mallopt(MMAP_THRESHOLD, MAPPED_BYTES);
    }
}
