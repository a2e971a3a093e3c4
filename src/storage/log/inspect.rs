//! Reads a log without opening it: nothing is repaired, and damage is part of the report.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::frame::{RECORD_HEADER, Record};
use super::manifest::{Manifest, SegmentMeta};
use super::recovery::{self, Scan};
use super::vote;
use crate::storage::disk::Disk;
use crate::storage::inspect::Part;
use crate::storage::{LogEntry, LogId, Vote};

/// The contents of the log's files.
#[derive(Clone, Debug, Serialize)]
pub struct LogReport {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last commit hint.
    pub committed: Option<LogId>,
    /// The files, oldest first.
    pub segments: Vec<SegmentReport>,
    /// The entries that are in the log, in order: without purged and truncated ones.
    pub entries: Vec<EntryReport>,
}

/// The contents of one segment file.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentReport {
    /// The file, relative to the data folder.
    pub file: String,
    /// The length it was created with.
    pub bytes: u64,
    /// The number of frames that can be read.
    pub frames: u64,
    /// The offset at which they end.
    pub end: u64,
    /// Whether the last frame is the mark of a clean end.
    pub closed: bool,
    /// The damage, and its place: the log does not open.
    pub damage: Option<String>,
    /// The torn tail that a crash left: it is cut when the log is opened.
    pub torn: Option<String>,
}

/// An entry and its place.
#[derive(Clone, Debug, Serialize)]
pub struct EntryReport {
    /// Its id.
    pub id: LogId,
    /// The length of its payload.
    pub bytes: usize,
    /// The file.
    pub file: String,
    /// The offset of its record in the file.
    pub offset: u64,
    /// The payload as text.
    pub payload: String,
}

/// The vote, if one was ever saved.
pub(in crate::storage) fn vote(disk: &dyn Disk) -> Part<Option<Vote>> {
    match vote::read(disk) {
        Ok(None) => Part::Absent,
        Ok(Some(read)) => Part::Found(read.vote()),
        Err(error) => Part::damaged(&error),
    }
}

/// The log, as far as its manifest can be read.
pub(in crate::storage) fn log(
    disk: &dyn Disk,
    describe: &dyn Fn(&LogEntry) -> String,
) -> Part<LogReport> {
    let manifest = match Manifest::load(disk) {
        Ok(None) => return Part::Absent,
        Ok(Some(manifest)) => manifest,
        Err(error) => return Part::damaged(&error),
    };
    let mut report = LogReport {
        purged: manifest.purged,
        committed: manifest.committed,
        segments: Vec::new(),
        entries: Vec::new(),
    };
    let mut entries = BTreeMap::new();
    for (number, meta) in manifest.segments.iter().enumerate() {
        let next = manifest.segments.get(number + 1);
        let segment = report.segment(disk, meta, next, &mut entries, describe);
        report.segments.push(segment);
    }
    let retained = |index: &u64| manifest.purged.is_none_or(|purged| *index > purged.index);
    report.entries =
        entries.into_iter().filter(|(index, _)| retained(index)).map(|(_, entry)| entry).collect();
    Part::Found(report)
}

impl LogReport {
    fn segment(
        &mut self,
        disk: &dyn Disk,
        meta: &SegmentMeta,
        next: Option<&SegmentMeta>,
        entries: &mut BTreeMap<u64, EntryReport>,
        describe: &dyn Fn(&LogEntry) -> String,
    ) -> SegmentReport {
        let mut report = SegmentReport {
            file: meta.path(),
            bytes: meta.bytes,
            frames: 0,
            end: 0,
            closed: false,
            damage: None,
            torn: None,
        };
        let bytes = match recovery::load(disk, meta) {
            Ok((_, bytes)) => bytes,
            Err(error) => {
                report.damage = Some(error.to_string());
                return report;
            }
        };
        let mut scan = Scan::new(meta, &bytes);
        loop {
            let frame = match scan.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    report.damage = Some(error.to_string());
                    break;
                }
            };
            report.frames += 1;
            report.closed = frame.records.iter().all(|found| found.record == Record::Mark);
            self.committed = frame.header.committed.or(self.committed);
            for found in frame.records {
                let payload = &bytes[found.payload.clone()];
                let offset = (found.payload.start - RECORD_HEADER) as u64;
                note(entries, found.record, payload, (&report.file, offset), describe);
            }
        }
        report.end = scan.offset as u64;
        if report.damage.is_none() {
            judge_end(&mut report, &scan, next);
        }
        report
    }
}

fn note(
    entries: &mut BTreeMap<u64, EntryReport>,
    record: Record,
    payload: &[u8],
    (file, offset): (&str, u64),
    describe: &dyn Fn(&LogEntry) -> String,
) {
    match record {
        Record::Mark => {}
        Record::Truncate(after) => {
            entries.split_off(&after.map_or(0, |after| after.index + 1));
        }
        Record::Entry(id) => {
            let entry = LogEntry { id, payload: Bytes::copy_from_slice(payload) };
            let described = describe(&entry);
            let report = EntryReport {
                id,
                bytes: payload.len(),
                file: file.to_owned(),
                offset,
                payload: described,
            };
            entries.insert(id.index, report);
        }
    }
}

/// Judges the place where the frames end.
fn judge_end(report: &mut SegmentReport, scan: &Scan<'_>, next: Option<&SegmentMeta>) {
    let end = scan.offset;
    if let Some(next) = next {
        if (scan.sequence, scan.chain) != (next.first_sequence, next.chain) {
            let why =
                format!("no valid frame at byte {end}, but the log goes on in {}", next.path());
            report.damage = Some(why);
        }
    } else if let Some(later) = scan.later_frame() {
        report.damage =
            Some(format!("no valid frame at byte {end}, but a later one at byte {later}"));
    } else if !scan.ends_blank() {
        report.torn = Some(format!("an incomplete batch at byte {end}, never acknowledged"));
    }
}
