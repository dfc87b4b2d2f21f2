//! What is kept on disk. `journal` is the one commit point; `rows` writes what others read.

pub mod journal;
pub mod quarantine;
pub mod rows;
pub mod snapshot;
pub mod storage;
pub mod watermark;
