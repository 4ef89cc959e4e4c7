//! When the heap gives memory back to the system: the thresholds of glibc's `malloc`, and once after
//! a start. Another C library keeps its own rules. Start reading at [`set_thresholds`].

/// Sets both thresholds of `malloc` for a process that may use `memory_bytes`.
pub fn set_thresholds(memory_bytes: u64) {
    #[cfg(target_env = "gnu")]
    glibc::set_thresholds(memory_bytes);
    #[cfg(not(target_env = "gnu"))]
    let _ = memory_bytes;
}

/// Gives all free pages of the heap back to the system, also those between blocks in use. It takes
/// milliseconds after a start with a long log, which a thread of its own has read.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    glibc::give_back();
}

#[cfg(target_env = "gnu")]
mod glibc {
    use std::ffi::c_int;

    /// The free bytes at the end of the heap that `malloc` keeps: this part of the memory, within
    /// these bounds. By default it keeps 128 KiB. A turn with a hundred requests allocates more and
    /// frees it again, so that the heap would shrink in each turn and grow in the next, with new pages:
    /// 8 % of the processor time of a PUT.
    const KEPT_PART: u64 = 64;
    const KEPT_BYTES_MIN: u64 = 1 << 20;
    const KEPT_BYTES_MAX: u64 = 16 << 20;
    /// A block of this part of the kept bytes gets a mapping of its own, which the system gets back
    /// once the block is free. A smaller one reuses pages of the heap. `malloc` would raise both
    /// thresholds to the size of each mapped block that is freed, and so keep tens of megabytes.
    const MAPPED_PART: u64 = 4;

    /// `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of `malloc.h`.
    const TRIM_THRESHOLD: c_int = -1;
    const MMAP_THRESHOLD: c_int = -3;

    // SAFETY: the declarations are those of malloc.h; any numbers may be given.
    unsafe extern "C" {
        safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
        safe fn malloc_trim(pad: usize) -> c_int;
    }

    pub fn set_thresholds(memory_bytes: u64) {
        let kept_bytes = (memory_bytes / KEPT_PART).clamp(KEPT_BYTES_MIN, KEPT_BYTES_MAX);
        // 0 would say that the value is out of range: the default is as good.
        mallopt(TRIM_THRESHOLD, kept_bytes as c_int);
        mallopt(MMAP_THRESHOLD, (kept_bytes / MAPPED_PART) as c_int);
    }

    pub fn give_back() {
        // It says whether there was something to give back.
        malloc_trim(0);
    }
}
