//! Bytes that are too many for a record: what lanes have uploaded, and what they have still to read.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;

use super::{Session, lock};

impl Session {
    /// Keeps what a lane has uploaded. An upload that was never used makes room.
    pub fn keep_upload(&self, lane: u16, number: u64, bytes: Vec<u8>) {
        lock(&self.uploads).insert(lane, (number, bytes));
    }

    /// Bytes that uploads of other lanes hold.
    pub fn uploaded_by_others(&self, lane: u16) -> u64 {
        let uploads = lock(&self.uploads);
        let others = uploads.iter().filter(|(other, _)| **other != lane);
        others.map(|(_, (_, bytes))| bytes.len() as u64).sum()
    }

    /// What a lane uploaded under this number; it is used up.
    ///
    /// # Errors
    /// `INVALID_VALUE` if there is no such upload.
    pub fn take_upload(&self, lane: u16, number: u64) -> Result<Vec<u8>, CUresult> {
        let mut uploads = lock(&self.uploads);
        match uploads.get(&lane) {
            Some((found, _)) if *found == number => {}
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
        let upload = uploads.remove(&lane);
        Ok(upload.map(|(_, bytes)| bytes).unwrap_or_default())
    }

    /// Keeps what a lane has to read.
    pub fn keep_download(&self, lane: u16, bytes: Vec<u8>) {
        self.keep_upload(lane, 0, bytes);
    }

    /// A piece of what a lane has to read.
    ///
    /// # Errors
    /// `INVALID_VALUE` if it is not there.
    pub fn download(&self, lane: u16, offset: u64, bytes: u32) -> Result<Vec<u8>, CUresult> {
        let downloads = lock(&self.uploads);
        let piece = downloads
            .get(&lane)
            .filter(|(number, _)| *number == 0)
            .and_then(|(_, all)| {
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(usize::try_from(bytes).ok()?)?;
                all.get(start..end).map(<[u8]>::to_vec)
            });
        piece.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}
