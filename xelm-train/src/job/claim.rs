//! Who trains a job: claims that hold between processes and between machines that share a folder.
//!
//! A claim is a file `claim.N`, which only one process can create. A job whose newest claim N is released or
//! stale is taken by creating `claim.N+1`, which again only one process can; whoever held N learns of it at
//! its next checkpoint. A claim is stale where its process on this machine is gone (the file's lock says so,
//! at once), or where another machine's has not touched it for [`STALE`].

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time between two signs of life.
const BEAT: Duration = Duration::from_secs(30);
/// Silence after which another machine's process counts as gone.
const STALE: Duration = Duration::from_secs(600);
const PREFIX: &str = "claim.";
/// Other processes may be faster as often.
const ATTEMPTS: usize = 100;

/// Who holds a claim, as its file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the machine.
    pub host: String,
    /// Identity of the running kernel; empty where it has none.
    pub machine: String,
    /// The process.
    pub pid: u32,
    /// Whether it is done with the job.
    pub released: bool,
}

impl Holder {
    fn this(released: bool) -> Holder {
        let kernel = |name: &str| {
            let text = fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
            text.map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        Holder {
            host: kernel("hostname"),
            machine: kernel("random/boot_id"),
            pid: std::process::id(),
            released,
        }
    }
}

/// This process's claim of a job; given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    number: u64,
    /// Locked for as long as the claim lasts.
    file: Arc<File>,
    done: Arc<AtomicBool>,
    beat: Option<JoinHandle<()>>,
}

impl Claim {
    /// Claims the job in `folder`.
    ///
    /// # Errors
    /// [`Error::Claimed`] where another process is at work on it; the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Claim> {
        for _ in 0..ATTEMPTS {
            let newest = newest(folder)?;
            if let Some(holder) = newest.and_then(|n| holder_at_work(&path(folder, n)).transpose())
            {
                return Err(Error::Claimed(format!(
                    "another process is training {}: {}",
                    folder.display(),
                    holder?
                )));
            }
            let number = newest.unwrap_or(0) + 1;
            if let Some(claim) = Claim::create(folder, number)? {
                return Ok(claim);
            }
        }
        Err(Error::Claimed(format!("other processes keep claiming {}", folder.display())))
    }

    /// Creates a claim unless another process was faster.
    fn create(folder: &Path, number: u64) -> Result<Option<Claim>> {
        let path = path(folder, number);
        let mut options = OpenOptions::new();
        let file = match options.read(true).write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(Error::io("create", &path)(e)),
        };
        // Filesystems without locks do without: then silence tells.
        let _ = file.try_lock();
        write(&file, &Holder::this(false)).map_err(Error::io("write", &path))?;
        // A newer claim may have come and cleared this number away between looking and creating.
        if newest(folder)? != Some(number) {
            let _ = fs::remove_file(&path);
            return Ok(None);
        }
        for older in numbers(folder)?.into_iter().filter(|&n| n < number) {
            let _ = fs::remove_file(self::path(folder, older));
        }
        let (file, done) = (Arc::new(file), Arc::new(AtomicBool::new(false)));
        let beat = {
            let (file, done) = (file.clone(), done.clone());
            thread::spawn(move || {
                let mut released = false;
                while !released {
                    thread::park_timeout(BEAT);
                    released = done.load(Ordering::Acquire);
                    // A sign of life that cannot be given now is given the next time.
                    let _ = write(&file, &Holder::this(released));
                }
            })
        };
        Ok(Some(Claim { folder: folder.to_owned(), number, file, done, beat: Some(beat) }))
    }

    /// Checks that no other process has taken the job over.
    ///
    /// # Errors
    /// One has: this one was silent for too long.
    pub fn check(&self) -> Result<()> {
        if newest(&self.folder)? == Some(self.number) {
            return Ok(());
        }
        Err(Error::Claimed(format!(
            "another process has taken over {}, since this one was silent for {} minutes",
            self.folder.display(),
            STALE.as_secs() / 60
        )))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        if let Some(beat) = self.beat.take() {
            beat.thread().unpark();
            let _ = beat.join();
        }
        let _ = self.file.unlock();
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number}"))
}

fn numbers(folder: &Path) -> Result<Vec<u64>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let number = |name: String| name.strip_prefix(PREFIX)?.parse().ok();
    Ok(entries.flatten().filter_map(|e| number(e.file_name().into_string().ok()?)).collect())
}

fn newest(folder: &Path) -> Result<Option<u64>> {
    Ok(numbers(folder)?.into_iter().max())
}

fn write(mut file: &File, holder: &Holder) -> std::io::Result<()> {
    let mut text = serde_json::to_string(holder)?;
    text.push('\n');
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    // "true" is shorter than "false".
    file.set_len(text.len() as u64)
}

/// Who holds a claim and is at work, in words.
fn holder_at_work(path: &Path) -> Result<Option<String>> {
    let gone = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => Ok(None),
        _ => Err(Error::io("read", path)(e)),
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => return gone(e),
    };
    // A file that says nothing yet is being written, or its writer died at it.
    let holder: Option<Holder> = serde_json::from_str(&text).ok();
    if holder.as_ref().is_some_and(|holder| holder.released) {
        return Ok(None);
    }
    let in_words = holder.as_ref().map_or_else(
        || "it has just been claimed".to_owned(),
        |holder| format!("process {} on {}", holder.pid, holder.host),
    );
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return gone(e),
    };
    if holder.is_some_and(|holder| holder.machine == Holder::this(false).machine) {
        match file.try_lock() {
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => return Ok(Some(in_words)),
            Err(TryLockError::Error(_)) => {}
        }
    }
    Ok((age(path, &file)? < STALE).then_some(in_words))
}

/// How long ago a file was written, by the clock of the machine that has it.
fn age(path: &Path, file: &File) -> Result<Duration> {
    let wrong = || Error::io("read", path);
    let written = file.metadata().and_then(|m| m.modified()).map_err(wrong())?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let now = tempfile::NamedTempFile::new_in(folder)
        .and_then(|mut probe| probe.write_all(b".").and_then(|()| probe.as_file().metadata()))
        .and_then(|metadata| metadata.modified())
        .map_err(Error::io("write to", folder))?;
    Ok(now.duration_since(written).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn is_claimed(result: &Result<Claim>) -> bool {
        matches!(result, Err(Error::Claimed(_)))
    }

    /// Who is at work on the job in `folder`.
    fn holder(folder: &Path) -> Option<String> {
        newest(folder).unwrap().and_then(|n| holder_at_work(&path(folder, n)).unwrap())
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Claim::take(folder.path()).unwrap();
        assert!(is_claimed(&Claim::take(folder.path())));
        assert!(holder(folder.path()).unwrap().contains("process"));
        first.check().unwrap();
        drop(first);
        assert_eq!(holder(folder.path()), None);
        let second = Claim::take(folder.path()).unwrap();
        second.check().unwrap();
        // Old claims are cleared away, the newest stays.
        assert_eq!(numbers(folder.path()).unwrap(), [2]);
        assert!(Claim::take(&folder.path().join("none")).is_err());
    }

    #[test]
    fn threads_that_all_want_a_job_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicBool::new(false), std::sync::Mutex::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        if let Ok(claim) = Claim::take(folder.path()) {
                            assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
                            thread::yield_now();
                            inside.store(false, Ordering::SeqCst);
                            *taken.lock().unwrap() += 1;
                            drop(claim);
                        }
                    }
                });
            }
        });
        assert!(*taken.lock().unwrap() > 0);
    }

    #[test]
    fn what_the_dead_held() {
        let folder = tempfile::tempdir().unwrap();
        let claim = |number: u64, holder: &Holder, age: Duration| {
            let file = File::create(path(folder.path(), number)).unwrap();
            write(&file, holder).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        // Of this machine: nobody holds the file's lock.
        claim(3, &Holder::this(false), Duration::ZERO);
        let taken = Claim::take(folder.path()).unwrap();
        assert_eq!(taken.number, 4);
        // Of another machine: silence decides, and who was silent for too long learns of it.
        let elsewhere = Holder { machine: "elsewhere".into(), ..Holder::this(false) };
        claim(5, &elsewhere, STALE / 2);
        assert!(is_claimed(&Claim::take(folder.path())));
        assert!(matches!(taken.check(), Err(Error::Claimed(_))));
        claim(5, &elsewhere, STALE * 2);
        assert_eq!(Claim::take(folder.path()).unwrap().number, 6);
        // A file that was never written to its end.
        fs::write(path(folder.path(), 7), "").unwrap();
        assert!(is_claimed(&Claim::take(folder.path())));
        let long_ago = SystemTime::now() - STALE * 2;
        File::options()
            .write(true)
            .open(path(folder.path(), 7))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        assert_eq!(Claim::take(folder.path()).unwrap().number, 8);
    }
}
