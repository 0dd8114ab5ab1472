//! Checkpoints are written by a thread of their own, so that training does not wait for the disk.
use std::{
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread::JoinHandle,
};

use tidegate_contracts::ArtifactHash;

use crate::{CheckpointDir, LearningError, checkpoint::Checkpoint};

type Written = Result<(u64, ArtifactHash), LearningError>;

/// The thread, fed with at most one checkpoint at a time.
pub(crate) struct Writer {
    feed: Option<SyncSender<Checkpoint>>,
    written: Receiver<Written>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(dir: CheckpointDir) -> Self {
        let (feed, checkpoints) = mpsc::sync_channel::<Checkpoint>(1);
        let (report, written) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for checkpoint in checkpoints {
                let step = checkpoint.head.position.step;
                let digest = dir.write(&checkpoint);
                if report.send(digest.map(|digest| (step, digest))).is_err() {
                    return;
                }
            }
        });
        Self { feed: Some(feed), written, thread: Some(thread) }
    }

    /// Hands over a checkpoint; one is left out while the disk is behind.
    pub(crate) fn offer(&self, checkpoint: Checkpoint) {
        let feed = self.feed.as_ref().expect("the feed is there until the end");
        if let Err(TrySendError::Full(checkpoint)) = feed.try_send(checkpoint) {
            let step = checkpoint.head.position.step;
            tracing::debug!(step, "checkpoint left out: the one before is still being written");
        }
    }

    /// Waits for the disk and hands over a checkpoint that must not be left out.
    pub(crate) fn insist(&self, checkpoint: Checkpoint) {
        let feed = self.feed.as_ref().expect("the feed is there until the end");
        feed.send(checkpoint).expect("the thread takes checkpoints while there is a feed");
    }

    /// What was written since the last call.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn done(&self) -> Result<Vec<(u64, ArtifactHash)>, LearningError> {
        self.written.try_iter().collect()
    }

    /// Waits until all is written.
    pub(crate) fn finish(mut self) -> Result<Vec<(u64, ArtifactHash)>, LearningError> {
        self.join();
        self.done()
    }

    fn join(&mut self) {
        drop(self.feed.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer reports errors and does not panic");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}
