//! The bytes of a simulated file. Pages that were never written take no memory, and clones share
//! theirs. Start at [`Content::write`].
use std::rc::Rc;

const PAGE: usize = 4096;

#[derive(Clone, Debug, Default)]
pub struct Content {
    /// `None`: all zeros. As many as the length needs.
    pages: Vec<Option<Rc<[u8; PAGE]>>>,
    length: u64,
}

impl Content {
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Cuts the content, or fills it up with zeros.
    pub fn set_length(&mut self, length: u64) {
        let rest = length as usize % PAGE;
        self.pages.resize((length as usize).div_ceil(PAGE), None);
        // What stands behind the end must be zero if the file grows again.
        if length < self.length
            && rest > 0
            && let Some(Some(last)) = self.pages.last_mut()
        {
            Rc::make_mut(last)[rest..].fill(0);
        }
        self.length = length;
    }

    /// Reads until `into` is full or the content ends. Returns how many bytes were read.
    pub fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let left = self.length.saturating_sub(at) as usize;
        let count = left.min(into.len());
        let mut done = 0;
        while done < count {
            let from = at as usize + done;
            let within = from % PAGE;
            let to = count.min(done + PAGE - within);
            let part = &mut into[done..to];
            match &self.pages[from / PAGE] {
                Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
                None => part.fill(0),
            }
            done = to;
        }
        count
    }

    /// Writes, and grows if that is needed.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        if end > self.length {
            self.set_length(end);
        }
        let mut done = 0;
        while done < bytes.len() {
            let from = at as usize + done;
            let within = from % PAGE;
            let to = bytes.len().min(done + PAGE - within);
            let part = &bytes[done..to];
            let page = self.pages[from / PAGE].get_or_insert_with(|| Rc::new([0; PAGE]));
            Rc::make_mut(page)[within..within + part.len()].copy_from_slice(part);
            done = to;
        }
    }
}
