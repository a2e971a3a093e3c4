//! The contents of the disk, and the durable part of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// The unit in which content is kept and marked as not durable.
const PAGE: usize = 4096;

/// The unit that a disk writes atomically.
const SECTOR: usize = 512;

/// The root folder.
pub const ROOT: u64 = 1;

/// The unsynced data that survives a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// Some of the sectors of files, in no order, chosen by this seed; no names.
    SomeSectors(u64),
    /// Everything, as when a process dies and the machine does not.
    Everything,
}

/// The reason for which an operation on the volume fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no such file or folder.
    NotFound,
    /// The name already exists.
    Exists,
    /// It is a folder instead of a file, or the reverse.
    WrongKind,
    /// The folder is not empty.
    NotEmpty,
}

type Page = Arc<[u8; PAGE]>;

#[derive(Clone, Debug, Default)]
struct Content {
    length: u64,
    /// A missing page is zeros.
    pages: Vec<Option<Page>>,
}

/// A file: its content now, and as it would be after a power cut.
#[derive(Clone, Debug, Default)]
struct File {
    now: Content,
    durable: Content,
    /// Pages that differ, or may differ.
    dirty: BTreeSet<usize>,
}

/// A folder: its names now, and as they would be after a power cut.
#[derive(Clone, Debug, Default)]
struct Folder {
    now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

#[derive(Clone, Debug)]
enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Clone, Debug)]
struct Entry {
    node: Node,
    mode: u16,
    opened: u32,
}

/// The attributes of a file or folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Its number.
    pub ino: u64,
    /// Whether it is a folder.
    pub folder: bool,
    /// Its length.
    pub length: u64,
    /// Its permissions.
    pub mode: u16,
}

/// Files and folders in memory.
#[derive(Clone, Debug)]
pub struct Volume {
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

impl Default for Volume {
    fn default() -> Self {
        let node = Node::Folder(Folder::default());
        Self { entries: BTreeMap::from([(ROOT, Entry { node, mode: 0o755, opened: 0 })]), next: 2 }
    }
}

impl Volume {
    /// Finds a name in a folder.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, Refused> {
        let folder = self.folder(parent)?;
        self.attributes(*folder.now.get(name).ok_or(Refused::NotFound)?)
    }

    /// The attributes of a file or folder.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn attributes(&self, ino: u64) -> Result<Attributes, Refused> {
        let entry = self.entries.get(&ino).ok_or(Refused::NotFound)?;
        let (folder, length) = match &entry.node {
            Node::File(file) => (false, file.now.length),
            Node::Folder(_) => (true, 0),
        };
        Ok(Attributes { ino, folder, length, mode: entry.mode })
    }

    /// Creates a file or a folder.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `WrongKind`.
    pub fn create(
        &mut self,
        parent: u64,
        name: &OsStr,
        folder: bool,
        mode: u16,
    ) -> Result<Attributes, Refused> {
        let ino = self.next;
        let names = &mut self.folder_mut(parent)?.now;
        if names.contains_key(name) {
            return Err(Refused::Exists);
        }
        names.insert(name.to_owned(), ino);
        self.next += 1;
        let node =
            if folder { Node::Folder(Folder::default()) } else { Node::File(File::default()) };
        self.entries.insert(ino, Entry { node, mode, opened: 0 });
        self.attributes(ino)
    }

    /// Removes a name; `folder` says which kind it must be of.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`, `NotEmpty`.
    pub fn remove(&mut self, parent: u64, name: &OsStr, folder: bool) -> Result<(), Refused> {
        let found = self.lookup(parent, name)?;
        if found.folder != folder {
            return Err(Refused::WrongKind);
        }
        if folder && !self.folder(found.ino)?.now.is_empty() {
            return Err(Refused::NotEmpty);
        }
        self.folder_mut(parent)?.now.remove(name);
        Ok(())
    }

    /// Renames an entry, replacing the one that had the new name.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`, `NotEmpty`.
    pub fn rename(
        &mut self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
    ) -> Result<(), Refused> {
        let moved = self.lookup(parent, name)?;
        if let Ok(replaced) = self.lookup(new_parent, new_name) {
            if replaced.ino == moved.ino {
                return Ok(());
            }
            self.remove(new_parent, new_name, moved.folder)?;
        }
        self.folder(new_parent)?;
        self.folder_mut(parent)?.now.remove(name);
        self.folder_mut(new_parent)?.now.insert(new_name.to_owned(), moved.ino);
        Ok(())
    }

    /// The names in a folder.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`.
    pub fn list(&self, ino: u64) -> Result<Vec<(OsString, Attributes)>, Refused> {
        let names = &self.folder(ino)?.now;
        names.iter().map(|(name, &ino)| Ok((name.clone(), self.attributes(ino)?))).collect()
    }

    /// Reads up to `size` bytes.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`.
    pub fn read(&self, ino: u64, offset: u64, size: usize) -> Result<Vec<u8>, Refused> {
        let content = &self.file(ino)?.now;
        let left = usize::try_from(content.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size.min(left)];
        for (page, range, place) in pieces(offset, bytes.len()) {
            if let Some(Some(page)) = content.pages.get(page) {
                bytes[place..place + range.len()].copy_from_slice(&page[range]);
            }
        }
        Ok(bytes)
    }

    /// Writes; the file grows if necessary.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`.
    pub fn write(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        let file = self.file_mut(ino)?;
        for (page, range, place) in pieces(offset, bytes.len()) {
            if file.now.pages.len() <= page {
                file.now.pages.resize(page + 1, None);
            }
            let content = file.now.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            let length = range.len();
            Arc::make_mut(content)[range].copy_from_slice(&bytes[place..place + length]);
            file.dirty.insert(page);
        }
        let end = offset + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        file.now.length = file.now.length.max(end);
        Ok(())
    }

    /// Truncates or extends a file.
    ///
    /// # Errors
    /// `NotFound`, `WrongKind`.
    pub fn set_length(&mut self, ino: u64, length: u64) -> Result<(), Refused> {
        let file = self.file_mut(ino)?;
        if length < file.now.length {
            let kept = usize::try_from(length).unwrap_or(usize::MAX);
            let pages = kept.div_ceil(PAGE);
            let had = file.now.pages.len();
            file.now.pages.truncate(pages);
            file.dirty.extend(pages..had);
            if !kept.is_multiple_of(PAGE)
                && let Some(Some(last)) = file.now.pages.get_mut(pages - 1)
            {
                Arc::make_mut(last)[kept % PAGE..].fill(0);
                file.dirty.insert(pages - 1);
            }
        }
        file.now.length = length;
        Ok(())
    }

    /// Changes permissions.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_mode(&mut self, ino: u64, mode: u16) -> Result<(), Refused> {
        self.entries.get_mut(&ino).ok_or(Refused::NotFound)?.mode = mode;
        Ok(())
    }

    /// Makes the content of a file, or the names of a folder, durable.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn sync(&mut self, ino: u64) -> Result<(), Refused> {
        match &mut self.entries.get_mut(&ino).ok_or(Refused::NotFound)?.node {
            Node::File(file) => {
                for page in std::mem::take(&mut file.dirty) {
                    file.durable.set(page, file.now.pages.get(page).cloned().flatten());
                }
                file.durable.length = file.now.length;
            }
            Node::Folder(folder) => {
                folder.durable.clone_from(&folder.now);
                self.collect();
            }
        }
        Ok(())
    }

    /// Fails a sync: its data is no longer marked, and no later sync covers it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn fail_sync(&mut self, ino: u64) -> Result<(), Refused> {
        match &mut self.entries.get_mut(&ino).ok_or(Refused::NotFound)?.node {
            Node::File(file) => file.dirty.clear(),
            Node::Folder(_) => {}
        }
        Ok(())
    }

    /// Notes that a file was opened: it stays even without a name.
    pub fn opened(&mut self, ino: u64) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.opened += 1;
        }
    }

    /// Notes that it was closed.
    pub fn closed(&mut self, ino: u64) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.opened = entry.opened.saturating_sub(1);
        }
        self.collect();
    }

    /// Simulates a power failure and its end.
    pub fn lose_unsynced(&mut self, kept: Kept) {
        let mut random = match kept {
            Kept::Everything => return self.close_all(),
            Kept::Nothing => None,
            Kept::SomeSectors(seed) => Some(StdRng::seed_from_u64(seed)),
        };
        for entry in self.entries.values_mut() {
            entry.opened = 0;
            match &mut entry.node {
                Node::File(file) => {
                    if let Some(random) = &mut random {
                        file.keep_some(random);
                    }
                    file.now = file.durable.clone();
                    file.dirty.clear();
                }
                Node::Folder(folder) => folder.now.clone_from(&folder.durable),
            }
        }
        self.collect();
    }

    /// The current path of a file or folder; empty for the root folder and for one without a name.
    pub fn path(&self, ino: u64) -> String {
        let parent = self.entries.iter().find_map(|(&folder, entry)| match &entry.node {
            Node::Folder(names) => {
                let name = names.now.iter().find(|(_, named)| **named == ino)?.0;
                Some((folder, name.to_string_lossy()))
            }
            Node::File(_) => None,
        });
        match parent {
            Some((ROOT, name)) => name.into_owned(),
            Some((folder, name)) => format!("{}/{name}", self.path(folder)),
            None => String::new(),
        }
    }

    /// The number of bytes of files that differ from the durable ones.
    pub fn unsynced_bytes(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| match &entry.node {
                Node::File(file) => file.unsynced_bytes(),
                Node::Folder(_) => 0,
            })
            .sum()
    }

    /// Closes everything: the processes that had it open are gone.
    fn close_all(&mut self) {
        for entry in self.entries.values_mut() {
            entry.opened = 0;
        }
        self.collect();
    }

    /// Removes entries that have no name, durable or not, and are not open.
    fn collect(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for entry in self.entries.values() {
            if let Node::Folder(folder) = &entry.node {
                named.extend(folder.now.values().chain(folder.durable.values()));
            }
        }
        self.entries.retain(|ino, entry| entry.opened > 0 || named.contains(ino));
    }

    fn folder(&self, ino: u64) -> Result<&Folder, Refused> {
        match &self.entries.get(&ino).ok_or(Refused::NotFound)?.node {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Refused::WrongKind),
        }
    }

    fn folder_mut(&mut self, ino: u64) -> Result<&mut Folder, Refused> {
        match &mut self.entries.get_mut(&ino).ok_or(Refused::NotFound)?.node {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Refused::WrongKind),
        }
    }

    fn file(&self, ino: u64) -> Result<&File, Refused> {
        match &self.entries.get(&ino).ok_or(Refused::NotFound)?.node {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Refused::WrongKind),
        }
    }

    fn file_mut(&mut self, ino: u64) -> Result<&mut File, Refused> {
        match &mut self.entries.get_mut(&ino).ok_or(Refused::NotFound)?.node {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Refused::WrongKind),
        }
    }
}

impl Content {
    fn set(&mut self, place: usize, page: Option<Page>) {
        if self.pages.len() <= place {
            self.pages.resize(place + 1, None);
        }
        self.pages[place] = page;
    }

    fn page(&self, place: usize) -> [u8; PAGE] {
        self.pages.get(place).and_then(Option::as_ref).map_or([0; PAGE], |page| **page)
    }
}

impl File {
    /// Makes some of the unsynced content durable: each sector by chance, and the length.
    fn keep_some(&mut self, random: &mut StdRng) {
        for &place in &self.dirty {
            let new = self.now.page(place);
            let mut mixed = self.durable.page(place);
            for sector in (0..PAGE).step_by(SECTOR) {
                if random.random_bool(0.5) {
                    let range = sector..sector + SECTOR;
                    mixed[range.clone()].copy_from_slice(&new[range]);
                }
            }
            self.durable.set(place, Some(Arc::new(mixed)));
        }
        if self.now.length != self.durable.length && random.random_bool(0.5) {
            self.durable.length = self.now.length;
        }
        // Beyond its end a file is zeros, whenever it grows again.
        let end = usize::try_from(self.durable.length).unwrap_or(usize::MAX);
        for place in end / PAGE..self.durable.pages.len() {
            let from = end.saturating_sub(place * PAGE).min(PAGE);
            if let Some(page) = &mut self.durable.pages[place] {
                Arc::make_mut(page)[from..].fill(0);
            }
        }
    }

    fn unsynced_bytes(&self) -> u64 {
        let differing = |&place: &usize| {
            let (now, durable) = (self.now.page(place), self.durable.page(place));
            now.iter().zip(&durable).filter(|(a, b)| a != b).count()
        };
        u64::try_from(self.dirty.iter().map(differing).sum::<usize>()).unwrap_or(u64::MAX)
    }
}

/// The pages that a range of bytes touches: the page, the range in it, and the position in the
/// bytes.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>, usize)> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut place = 0;
    std::iter::from_fn(move || {
        if place >= length {
            return None;
        }
        let at = start + place;
        let within = at % PAGE;
        let count = (PAGE - within).min(length - place);
        let piece = (at / PAGE, within..within + count, place);
        place += count;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_whole_sectors_of_the_old_and_of_the_new() {
        let mut volume = Volume::default();
        let ino = volume.create(ROOT, OsStr::new("file"), false, 0o644).expect("it is new").ino;
        volume.write(ino, 0, &vec![1; 8 * PAGE]).expect("a write");
        volume.sync(ino).expect("a sync");
        volume.sync(ROOT).expect("a sync");
        volume.write(ino, 0, &vec![2; 8 * PAGE]).expect("a write");
        let mut other = volume.clone();
        volume.lose_unsynced(Kept::SomeSectors(5));
        let content = volume.read(ino, 0, 8 * PAGE).expect("it is there");
        let sectors: Vec<&[u8]> = content.chunks(SECTOR).collect();
        assert!(sectors.iter().all(|sector| sector.iter().all(|byte| byte == &sector[0])));
        assert!(sectors.iter().any(|sector| sector[0] == 1), "nothing of the old is left");
        assert!(sectors.iter().any(|sector| sector[0] == 2), "nothing of the new is there");
        other.lose_unsynced(Kept::Nothing);
        assert_eq!(other.read(ino, 0, 8 * PAGE), Ok(vec![1; 8 * PAGE]));
    }

    #[test]
    fn what_has_no_name_is_kept_while_it_is_open_or_its_name_is_durable() {
        let mut volume = Volume::default();
        let name = OsStr::new("file");
        let ino = volume.create(ROOT, name, false, 0o644).expect("it is new").ino;
        volume.opened(ino);
        volume.sync(ROOT).expect("a sync");
        volume.remove(ROOT, name, false).expect("it is there");
        volume.closed(ino);
        assert!(volume.attributes(ino).is_ok(), "a power cut brings it back");
        volume.sync(ROOT).expect("a sync");
        assert_eq!(volume.attributes(ino), Err(Refused::NotFound));
    }
}
