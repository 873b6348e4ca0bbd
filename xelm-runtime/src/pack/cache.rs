//! The experts of a set that a device keeps open, and those that it keeps at all.

use super::{Error, Lock, Result, SetFolder};
use crate::mmap::ExpertFile;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;
use std::vec::Vec;

/// Opens the experts of a set when they are first asked for, and keeps those that were used last open
/// within a budget of mapped bytes. Any number of threads may use it.
///
/// An expert that someone holds stays mapped whatever the budget says. As long as the rest suffices to
/// keep it, all that is mapped does not exceed the budget; what the cache alone keeps never does.
#[derive(Debug)]
pub struct PackCache {
    folder: SetFolder,
    budget: u64,
    slots: Mutex<Slots>,
}

/// One slot for each expert.
#[derive(Debug)]
struct Slots {
    slots: Vec<Slot>,
    /// Counts the uses.
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    path: PathBuf,
    /// The mapped file, as long as anyone holds it.
    file: Weak<ExpertFile>,
    /// The cache's own hold on it.
    kept: Option<Arc<ExpertFile>>,
    /// Bytes mapped when `file` was opened.
    size: u64,
    /// When it was last asked for.
    used: u64,
}

impl PackCache {
    /// A cache of the set in `folder` that keeps at most `budget` bytes of mapped files open.
    ///
    /// # Errors
    /// `set.gguf` cannot be read or breaks a rule.
    pub fn open(folder: &Path, budget: u64) -> Result<Self> {
        let folder = SetFolder::open(folder)?;
        let slots = folder
            .set()?
            .entries()
            .map(|entry| Slot {
                path: folder.path().join(entry.file),
                file: Weak::new(),
                kept: None,
                size: 0,
                used: 0,
            })
            .collect();
        Ok(PackCache { folder, budget, slots: Mutex::new(Slots { slots, clock: 0 }) })
    }

    /// The folder: the set, and which experts are present.
    pub fn folder(&self) -> &SetFolder {
        &self.folder
    }

    /// Expert `index`, mapped now if it is not already.
    ///
    /// # Errors
    /// The set has no such expert; its file is absent, cannot be read, or breaks a rule.
    pub fn expert(&self, index: usize) -> Result<Arc<ExpertFile>> {
        let path = {
            let mut slots = self.slots();
            if let Some(file) = slots.hit(index) {
                slots.shrink(self.budget);
                return Ok(file);
            }
            let missing = || Error::Refused(std::format!("the set has no expert number {index}"));
            slots.slots.get(index).ok_or_else(missing)?.path.clone()
        };
        // Opened without the lock, so that others need not wait.
        let file = Arc::new(ExpertFile::open(&path).map_err(Error::at(&path))?);
        mark_used(&path);
        let mut slots = self.slots();
        // Another thread may have been faster.
        let file = slots.hit(index).unwrap_or_else(|| slots.insert(index, file));
        slots.shrink(self.budget);
        Ok(file)
    }

    /// Bytes that are mapped now, by the cache or by those who hold experts of it.
    pub fn mapped_bytes(&self) -> u64 {
        self.slots().mapped_bytes()
    }

    /// Deletes expert files, those first that were not used for the longest time, until those that are
    /// left have at most `budget` bytes together; never one that someone holds or that `keep` lists.
    /// Returns the experts whose files were deleted. What this cache never opened counts as older than
    /// what it did; among those, a file's time of access decides, which opening sets.
    ///
    /// # Errors
    /// A file cannot be deleted, or the folder not locked.
    pub fn trim(&self, budget: u64, keep: &[usize]) -> Result<Vec<usize>> {
        let _lock = Lock::new(self.folder.path())?;
        let mut slots = self.slots();
        let mut present: Vec<(u64, SystemTime, usize, u64)> = Vec::new();
        for (index, slot) in slots.slots.iter().enumerate() {
            let Ok(metadata) = fs::metadata(&slot.path) else { continue };
            let accessed = metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH);
            present.push((slot.used, accessed, index, metadata.len()));
        }
        present.sort_unstable();
        let mut total: u64 = present.iter().map(|(.., size)| size).sum();
        let mut deleted = Vec::new();
        for (.., index, size) in present {
            if total <= budget {
                break;
            }
            let Some(slot) = slots.slots.get_mut(index) else { continue };
            if slot.is_held() || keep.contains(&index) {
                continue;
            }
            slot.kept = None;
            fs::remove_file(&slot.path).map_err(Error::at(&slot.path))?;
            total -= size;
            deleted.push(index);
        }
        Ok(deleted)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// The expert, if it is mapped; it counts as used.
    fn hit(&mut self, index: usize) -> Option<Arc<ExpertFile>> {
        let slot = self.slots.get_mut(index)?;
        let file = slot.file.upgrade()?;
        self.clock += 1;
        slot.used = self.clock;
        slot.kept = Some(Arc::clone(&file));
        Some(file)
    }

    fn insert(&mut self, index: usize, file: Arc<ExpertFile>) -> Arc<ExpertFile> {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.file = Arc::downgrade(&file);
            slot.size = file.mapped_bytes() as u64;
        }
        self.hit(index).unwrap_or(file)
    }

    /// Lets go of experts, the least recently used first: of those that nobody else holds while more
    /// than the budget is mapped, then of others while the cache itself keeps more, so that they close
    /// when their last holder is done.
    fn shrink(&mut self, budget: u64) {
        while self.mapped_bytes() > budget && self.let_go(|slot| !slot.is_held()) {}
        while self.kept_bytes() > budget && self.let_go(|_| true) {}
    }

    fn let_go(&mut self, of: impl Fn(&Slot) -> bool) -> bool {
        let kept = self.slots.iter_mut().filter(|slot| slot.kept.is_some() && of(slot));
        kept.min_by_key(|slot| slot.used).is_some_and(|slot| slot.kept.take().is_some())
    }

    fn mapped_bytes(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.file.strong_count() > 0).map(|slot| slot.size).sum()
    }

    fn kept_bytes(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.kept.is_some()).map(|slot| slot.size).sum()
    }
}

impl Slot {
    /// Whether anyone but the cache holds the file.
    fn is_held(&self) -> bool {
        self.file.strong_count() > usize::from(self.kept.is_some())
    }
}

/// Sets a file's time of access, which most systems no longer keep by themselves.
fn mark_used(path: &Path) {
    let times = FileTimes::new().set_accessed(SystemTime::now());
    // A file that cannot be marked, such as one that belongs to another user, counts as older.
    let _ = File::open(path).and_then(|file| file.set_times(times));
}
