//! The volume's interface to the kernel.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::trap::{self, Call, Side};
use super::volume::{Attributes, Refused};
use super::{Refuses, State, Trouble, Volume};

/// The kernel caches nothing.
const AT_ONCE: Duration = Duration::ZERO;

/// A number is never reused for another file.
const GENERATION: Generation = Generation(0);

/// A mounted volume.
pub(super) struct Mounted {
    state: Arc<State>,
}

impl Mounted {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    fn trouble(&self) -> Result<Trouble, Errno> {
        let trouble = *self.state.trouble();
        if trouble.dead { Err(Errno::EIO) } else { Ok(trouble) }
    }

    /// Checks that changes are possible.
    fn writable(&self) -> Result<(), Errno> {
        match self.trouble()?.refuses {
            Refuses::Writes => Err(Errno::EIO),
            Refuses::Space => Err(Errno::ENOSPC),
            Refuses::Nothing | Refuses::Syncs => Ok(()),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Volume) -> Result<T, Refused>) -> Result<T, Errno> {
        self.trouble()?;
        read(&self.state.volume()).map_err(errno)
    }

    fn change<T>(
        &self,
        asked: &Asked<'_>,
        change: impl FnOnce(&mut Volume) -> Result<T, Refused>,
    ) -> Result<T, Errno> {
        self.state.boundary(asked, || {
            self.writable()?;
            change(&mut self.state.volume()).map_err(errno)
        })
    }

    /// Syncs, perhaps later: only the caller waits.
    fn sync(&self, asked: Asked<'static>, reply: ReplyEmpty) {
        let slow = match self.trouble() {
            Ok(trouble) => trouble.slow,
            Err(error) => return reply.error(error),
        };
        let state = Arc::clone(&self.state);
        let sync = move || state.boundary(&asked, || state.sync_now(asked.ino));
        if slow.is_zero() {
            return finish(reply, sync());
        }
        std::thread::spawn(move || {
            #[allow(clippy::disallowed_methods, reason = "a thread of its own that is to be slow")]
            std::thread::sleep(slow);
            finish(reply, sync());
        });
    }
}

/// A call that is a boundary: its thread, its kind, and its target.
#[derive(Clone, Copy)]
struct Asked<'a> {
    thread: u32,
    call: Call,
    ino: u64,
    /// A name in the folder `ino`, or `None` for `ino` itself.
    name: Option<&'a OsStr>,
}

impl<'a> Asked<'a> {
    fn new(request: &Request, call: Call, ino: INodeNo) -> Self {
        Self { thread: request.pid(), call, ino: ino.0, name: None }
    }

    fn named(request: &Request, call: Call, parent: INodeNo, name: &'a OsStr) -> Self {
        Self { name: Some(name), ..Self::new(request, call, parent) }
    }

    fn path(&self, volume: &Volume) -> String {
        let path = volume.path(self.ino);
        match self.name {
            Some(name) if path.is_empty() => name.to_string_lossy().into_owned(),
            Some(name) => format!("{path}/{}", name.to_string_lossy()),
            None => path,
        }
    }
}

impl State {
    /// Runs a call, unless its process is to die of it. A process that is to die is killed before
    /// the call is answered, so that nobody receives the answer.
    fn boundary<T>(
        &self,
        asked: &Asked<'_>,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match self.dies_at(asked) {
            None => act(),
            Some(side) => {
                if side == Side::After {
                    // It may fail for a reason of its own; the process dies all the same.
                    let _ = act();
                }
                self.trouble().dead = true;
                trap::end(asked.thread);
                Err(Errno::EIO)
            }
        }
    }

    fn dies_at(&self, asked: &Asked<'_>) -> Option<Side> {
        let mut set = self.trap();
        let set = set.as_mut()?;
        if self.trouble().dead || !trap::is_anothers(asked.thread) {
            return None;
        }
        let path = asked.path(&self.volume());
        set.count(asked.call, &path)
    }

    fn sync_now(&self, ino: u64) -> Result<(), Errno> {
        let trouble = *self.trouble();
        if trouble.dead {
            Err(Errno::EIO)
        } else if trouble.refuses == Refuses::Syncs {
            self.volume().fail_sync(ino).map_err(errno)?;
            Err(Errno::EIO)
        } else {
            self.volume().sync(ino).map_err(errno)
        }
    }
}

fn finish(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn errno(refused: Refused) -> Errno {
    match refused {
        Refused::NotFound => Errno::ENOENT,
        Refused::Exists => Errno::EEXIST,
        Refused::WrongKind => Errno::EISDIR,
        Refused::NotEmpty => Errno::ENOTEMPTY,
    }
}

fn attr(found: Attributes) -> FileAttr {
    let then = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(found.ino),
        size: found.length,
        blocks: found.length.div_ceil(512),
        atime: then,
        mtime: then,
        ctime: then,
        crtime: then,
        kind: kind(found),
        perm: found.mode,
        nlink: if found.folder { 2 } else { 1 },
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn kind(found: Attributes) -> FileType {
    if found.folder { FileType::Directory } else { FileType::RegularFile }
}

/// The permissions that a new file or folder has.
fn permissions(mode: u32, umask: u32) -> u16 {
    u16::try_from(mode & !umask & 0o7777).unwrap_or(0o700)
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.read(|volume| volume.lookup(parent.0, name)) {
            Ok(found) => reply.entry(&AT_ONCE, &attr(found), GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.read(|volume| volume.attributes(ino.0)) {
            Ok(found) => reply.attr(&AT_ONCE, &attr(found)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = |volume: &mut Volume| {
            if let Some(size) = size {
                volume.set_length(ino.0, size)?;
            }
            if let Some(mode) = mode {
                volume.set_mode(ino.0, permissions(mode, 0))?;
            }
            volume.attributes(ino.0)
        };
        match self.change(&Asked::new(request, Call::Truncate, ino), change) {
            Ok(found) => reply.attr(&AT_ONCE, &attr(found)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = permissions(mode, umask);
        let asked = Asked::named(request, Call::CreateFolder, parent, name);
        match self.change(&asked, |volume| volume.create(parent.0, name, true, mode)) {
            Ok(found) => reply.entry(&AT_ONCE, &attr(found), GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = Asked::named(request, Call::Remove, parent, name);
        finish(reply, self.change(&asked, |volume| volume.remove(parent.0, name, false)));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = Asked::named(request, Call::Remove, parent, name);
        finish(reply, self.change(&asked, |volume| volume.remove(parent.0, name, true)));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        let asked = Asked::named(request, Call::Rename, parent, name);
        finish(reply, self.change(&asked, |volume| volume.rename(from, to)));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if let Err(error) = self.trouble() {
            return reply.error(error);
        }
        self.state.volume().opened(ino.0);
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mode = permissions(mode, umask);
        let asked = Asked::named(request, Call::Create, parent, name);
        let created = self.change(&asked, |volume| {
            let found = volume.create(parent.0, name, false, mode)?;
            volume.opened(found.ino);
            Ok(found)
        });
        match created {
            Ok(found) => {
                let direct = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&AT_ONCE, &attr(found), GENERATION, FileHandle(0), direct);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match self.read(|volume| volume.read(ino.0, offset, size)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = Asked::new(request, Call::Write, ino);
        match self.change(&asked, |volume| volume.write(ino.0, offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        finish(reply, self.trouble().map(|_| ()));
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state.volume().closed(ino.0);
        reply.ok();
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(Asked::new(request, Call::Sync, ino), reply);
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(Asked::new(request, Call::SyncFolder, ino), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.read(|volume| volume.list(ino.0)) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        let itself =
            [(".".into(), FileType::Directory, ino), ("..".into(), FileType::Directory, ino)];
        let others = names.into_iter().map(|(name, found)| (name, kind(found), INodeNo(found.ino)));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (name, kind, ino)) in (1..).zip(itself.into_iter().chain(others)).skip(skip) {
            if reply.add(ino, place, kind, &name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 24;
        let full = self.trouble().is_ok_and(|trouble| trouble.refuses == Refuses::Space);
        let free = if full { 0 } else { BLOCKS / 2 };
        reply.statfs(BLOCKS, free, free, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
