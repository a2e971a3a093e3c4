//! A file system that keeps track of what was synced, and loses the rest when its power is cut.
//!
//! `kill -9` loses nothing that was written: the kernel keeps it. A power failure loses everything
//! that no `fsync` has covered, and only the file system can simulate that. This one lives in
//! memory ([`volume`]), is mounted through FUSE ([`Disk`]), and holds a node's data folder. It is
//! as strict as POSIX allows: a file's content is durable once the file is synced, a name once its
//! folder is. It can also be slow, full or broken, and it can end the process that uses it at any
//! call ([`trap`]).
//!
//! Nothing is cached in the kernel: attributes and names have no time to live, and files are opened
//! with direct I/O, so that lost data is not visible after a cut.

mod fuse;
pub mod trap;
pub mod volume;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};

pub use trap::{Call, Side, Sprung, Trap};
pub use volume::{Kept, Volume};

/// The calls that a disk refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Refuses {
    /// Nothing.
    #[default]
    Nothing,
    /// Writes fail with EIO.
    Writes,
    /// Syncs fail with EIO, and the data that they were to cover is lost even if a later one
    /// succeeds, as on Linux.
    Syncs,
    /// Writes fail with ENOSPC.
    Space,
}

/// The faults of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trouble {
    /// There is no power: every call fails.
    pub dead: bool,
    /// The calls that it refuses.
    pub refuses: Refuses,
    /// The additional time that each sync takes.
    pub slow: Duration,
}

/// A mounted disk. Dropping it unmounts it and forgets everything.
#[derive(Debug)]
pub struct Disk {
    state: Arc<State>,
    folder: PathBuf,
    /// Dropped before the other fields that matter: it unmounts.
    session: Option<BackgroundSession>,
}

#[derive(Debug, Default)]
struct State {
    volume: Mutex<Volume>,
    trouble: Mutex<Trouble>,
    trap: Mutex<Option<trap::Set>>,
}

impl State {
    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trap(&self) -> MutexGuard<'_, Option<trap::Set>> {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Checks that a disk can be mounted here.
    ///
    /// # Errors
    /// The missing requirement.
    pub fn possible() -> Result<(), String> {
        if !Path::new("/dev/fuse").exists() {
            return Err(String::from(
                "/dev/fuse is missing: the kernel or the container has no FUSE",
            ));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|folder| folder.join("fusermount3").is_file()) {
            Ok(())
        } else {
            Err(String::from("fusermount3 is missing: install Debian's package fuse3"))
        }
    }

    /// Mounts an empty disk on a new folder.
    ///
    /// # Errors
    /// If the folder exists already, or cannot be mounted on.
    pub fn mount(folder: &Path) -> io::Result<Self> {
        fs::create_dir(folder)?;
        let state = Arc::new(State::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("keyward-chaos".to_owned())];
        let session = fuser::spawn_mount(fuse::Mounted::new(Arc::clone(&state)), folder, &config)?;
        Ok(Self { state, folder: folder.to_owned(), session: Some(session) })
    }

    /// The folder that it is mounted on.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Cuts the power: from now on every call fails, and nothing is acknowledged any more.
    /// Processes that use the disk must be ended before [`Disk::power_on`].
    pub fn power_off(&self) {
        self.state.trouble().dead = true;
    }

    /// Restores the power with what was durable when it was cut, and with `kept` of the rest. All
    /// other faults and the trap are removed.
    pub fn power_on(&self, kept: Kept) {
        self.state.volume().lose_unsynced(kept);
        *self.state.trap() = None;
        *self.state.trouble() = Trouble::default();
    }

    /// Sets a trap: from now on calls are counted, and the process that makes the chosen one dies
    /// of it. The power is cut, and the process gets `SIGKILL` before the call is answered.
    pub fn set_trap(&self, trap: Trap) {
        *self.state.trap() = Some(trap::Set::new(trap));
    }

    /// Removes a trap.
    pub fn clear_trap(&self) {
        *self.state.trap() = None;
    }

    /// The call at which a process died of the trap, if one has.
    pub fn sprung(&self) -> Option<Sprung> {
        self.state.trap().as_ref().and_then(trap::Set::sprung).cloned()
    }

    /// Changes the faults.
    pub fn set(&self, trouble: Trouble) {
        *self.state.trouble() = trouble;
    }

    /// The number of bytes of files that are not durable now.
    pub fn unsynced_bytes(&self) -> u64 {
        self.state.volume().unsynced_bytes()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Already unmounted: nothing is left to do.
            let _ = session.umount_and_join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn mounted() -> Option<(tempfile::TempDir, Disk)> {
        if let Err(missing) = Disk::possible() {
            println!("NOT TESTED: power cuts: {missing}");
            eprintln!("NOT TESTED: power cuts: {missing}");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::mount(&folder.path().join("disk")).expect("it can be mounted");
        Some((folder, disk))
    }

    fn refusing(refuses: Refuses) -> Trouble {
        Trouble { refuses, ..Trouble::default() }
    }

    fn cut(disk: &Disk) {
        disk.power_off();
        disk.power_on(Kept::Nothing);
    }

    fn sync_folder(path: &Path) {
        File::open(path).expect("a folder opens").sync_all().expect("it can be synced");
    }

    #[test]
    fn what_was_synced_survives_a_cut_and_the_rest_does_not() {
        let Some((_folder, disk)) = mounted() else { return };
        let path = disk.folder().join("file");
        let mut file = File::create(&path).expect("a new file");
        file.write_all(b"synced").expect("a write");
        file.sync_data().expect("a sync");
        sync_folder(disk.folder());
        file.write_all(b" and not").expect("a write");
        fs::write(disk.folder().join("unnamed"), b"x").expect("a write");
        File::open(disk.folder().join("unnamed")).expect("it is there").sync_all().expect("a sync");
        assert_eq!(fs::read(&path).expect("it can be read"), b"synced and not");
        assert_eq!(disk.unsynced_bytes(), 8);
        drop(file);
        cut(&disk);
        assert_eq!(fs::read(&path).expect("it can be read"), b"synced");
        // Its content was synced and its name was not.
        assert!(!disk.folder().join("unnamed").exists());
    }

    #[test]
    fn a_name_is_durable_with_its_folder_and_not_before() {
        let Some((_folder, disk)) = mounted() else { return };
        let (old, new) = (disk.folder().join("old"), disk.folder().join("new"));
        fs::write(&old, b"content").expect("a write");
        File::open(&old).expect("it is there").sync_all().expect("a sync");
        sync_folder(disk.folder());
        fs::rename(&old, &new).expect("a rename");
        cut(&disk);
        assert!(old.exists() && !new.exists(), "the rename was not synced");
        fs::rename(&old, &new).expect("a rename");
        sync_folder(disk.folder());
        fs::remove_file(&new).expect("a removal");
        cut(&disk);
        assert_eq!(fs::read(&new).expect("the removal was not synced"), b"content");
    }

    #[test]
    fn without_power_every_call_fails() {
        let Some((_folder, disk)) = mounted() else { return };
        let path = disk.folder().join("file");
        let mut file = File::create(&path).expect("a new file");
        disk.power_off();
        assert!(file.write_all(b"x").is_err());
        assert!(file.sync_all().is_err());
        assert!(fs::read_dir(disk.folder()).is_err());
        assert!(fs::metadata(&path).is_err());
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_a_later_one() {
        let Some((_folder, disk)) = mounted() else { return };
        let path = disk.folder().join("file");
        let mut file = File::create(&path).expect("a new file");
        file.write_all(b"x").expect("a write");
        sync_folder(disk.folder());
        disk.set(refusing(Refuses::Syncs));
        assert!(file.sync_all().is_err());
        disk.set(Trouble::default());
        file.sync_all().expect("the trouble is over");
        drop(file);
        cut(&disk);
        assert!(!fs::read(&path).expect("it is there").contains(&b'x'));
    }

    #[test]
    fn a_full_disk_and_a_broken_one_refuse_writes_and_a_slow_one_takes_its_time() {
        let Some((_folder, disk)) = mounted() else { return };
        let mut file = File::create(disk.folder().join("file")).expect("a new file");
        disk.set(refusing(Refuses::Space));
        let full = file.write_all(b"x").expect_err("there is no space");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        disk.set(refusing(Refuses::Writes));
        assert!(file.write_all(b"x").is_err());
        let slow = Duration::from_millis(80);
        disk.set(Trouble { slow, ..Trouble::default() });
        let watch = crate::wait::Stopwatch::start();
        file.write_all(b"x").expect("a write");
        file.sync_all().expect("a sync");
        assert!(watch.elapsed() >= slow);
    }

    /// Runs a shell that writes two files, and returns how far it came under this trap.
    fn shell_in_trap(number: u64, side: Side) -> Option<(Sprung, Vec<String>)> {
        let (_folder, disk) = mounted()?;
        disk.set_trap(Trap { number, side, from: "" });
        // Calls of the harness itself are not counted.
        fs::create_dir(disk.folder().join("own")).expect("a folder");
        let mut shell = std::process::Command::new("sh");
        let written = shell
            .current_dir(disk.folder())
            .args(["-c", "printf 1 >a; printf 2 >b"])
            .status()
            .expect("a shell runs");
        assert_eq!(written.signal(), Some(9), "it was not killed: {written}");
        assert!(fs::metadata(disk.folder()).is_err(), "the power is still on");
        let sprung = disk.sprung().expect("it died of the trap");
        disk.power_on(Kept::Everything);
        assert_eq!(disk.sprung(), None);
        let names = fs::read_dir(disk.folder()).expect("a folder").flatten();
        let mut names: Vec<String> =
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "own");
        names.sort();
        Some((sprung, names))
    }

    #[test]
    fn a_process_dies_before_or_after_the_call_that_is_meant() {
        let expected = [
            (1, Side::Before, Call::Create, "a", vec![]),
            (1, Side::After, Call::Create, "a", vec!["a"]),
            (2, Side::Before, Call::Write, "a", vec!["a"]),
            (3, Side::Before, Call::Create, "b", vec!["a"]),
            (3, Side::After, Call::Create, "b", vec!["a", "b"]),
            (4, Side::After, Call::Write, "b", vec!["a", "b"]),
        ];
        for (number, side, call, path, left) in expected {
            let Some((sprung, names)) = shell_in_trap(number, side) else { return };
            assert_eq!(sprung, Sprung { call, path: path.to_owned() }, "{side} call {number}");
            assert_eq!(names, left, "{side} call {number}");
        }
    }

    #[test]
    fn files_behave_as_files_do() {
        let Some((_folder, disk)) = mounted() else { return };
        let folder = disk.folder().join("a/b");
        fs::create_dir_all(&folder).expect("folders");
        let path = folder.join("file");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .expect("a new file");
        file.set_len(10_000).expect("it can grow");
        file.seek(SeekFrom::Start(5_000)).expect("it can be sought");
        file.write_all(b"middle").expect("a write");
        file.seek(SeekFrom::Start(4_998)).expect("it can be sought");
        let mut around = [1; 10];
        file.read_exact(&mut around).expect("a read");
        assert_eq!(&around, b"\0\0middle\0\0");
        file.set_len(5_003).expect("it can be cut");
        file.set_len(5_006).expect("it can grow again");
        drop(file);
        let content = fs::read(&path).expect("it can be read");
        assert_eq!(&content[5_000..], b"mid\0\0\0", "what was cut must not come back");
        assert!(fs::remove_dir(&folder).is_err(), "it is not empty");
        let names: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(names.len(), 1);
        fs::remove_dir_all(disk.folder().join("a")).expect("it can be removed");
    }
}
