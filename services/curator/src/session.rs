//! One membership of the group: lanes come and go, records are taken, written, checkpointed.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tidegate_contracts::{Offset, Partition};
use tidegate_curation::Side;
use tidegate_ledger::{Lease, Ledger, LedgerError};
use tidegate_stream::{GroupEvent, GroupSource, Message, Record, Sink, Stream};
use tokio_util::sync::CancellationToken;

use crate::{
    CuratorConfig,
    checkpoint::Outputs,
    lane::{Lane, SIDES, Taken, name, topic},
};

/// A rebalance waits for a minute; a lane that cannot be had by then is left to the next session.
const LEASE_PATIENCE: Duration = Duration::from_secs(45);
/// How long what is away is waited for between two tries.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a broker that is away holds up a shutdown.
const GRACE: Duration = Duration::from_secs(3);
/// Bytes of messages that are collected before they are written.
const BATCH_BYTES: usize = 4 << 20;

pub(crate) struct Session<'a> {
    config: &'a CuratorConfig,
    stream: &'a Stream,
    ledger: &'a Ledger,
    holder: &'a str,
    source: GroupSource,
    sink: Sink,
    shutdown: &'a CancellationToken,
    lanes: BTreeMap<Partition, Lane>,
    outputs: Outputs,
    renewed: Instant,
}

impl<'a> Session<'a> {
    pub(crate) async fn join(
        config: &'a CuratorConfig,
        stream: &'a Stream,
        ledger: &'a Ledger,
        holder: &'a str,
        shutdown: &'a CancellationToken,
    ) -> anyhow::Result<Self> {
        let topics = stream.topics();
        let source = stream.group(&config.group, &[&topics.events, &topics.labels]).await?;
        Ok(Self {
            config,
            stream,
            ledger,
            holder,
            source,
            sink: stream.sink()?,
            shutdown,
            lanes: BTreeMap::new(),
            outputs: Outputs::default(),
            renewed: Instant::now(),
        })
    }

    /// Works until shutdown, or until something fails that a new session may heal.
    pub(crate) async fn work(&mut self) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(Duration::from_millis(self.config.checkpoint_ms));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return self.leave().await,
                event = self.source.next() => Some(event?),
                _ = tick.tick() => None,
            };
            self.keep_leases().await?;
            if let Some(event) = event {
                self.take(event).await?;
            }
            self.catch_up().await?;
            let due: Vec<Partition> =
                self.lanes.iter().filter(|(_, lane)| lane.is_due()).map(|(&p, _)| p).collect();
            self.checkpoint(&due).await?;
        }
    }

    /// Takes an event and the records that are there already; writes what they give.
    async fn take(&mut self, event: GroupEvent) -> anyhow::Result<()> {
        let mut messages = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        let mut next = Some(event);
        while let Some(event) = next.take() {
            match event {
                GroupEvent::Record(record) => {
                    for message in self.record(record)? {
                        bytes += message.value.len();
                        messages.push(message);
                    }
                    records += 1;
                    if records < self.config.batch && bytes < BATCH_BYTES {
                        next = self.source.next().now_or_never().transpose()?;
                    }
                }
                GroupEvent::Assigned(partitions) => {
                    self.write(std::mem::take(&mut messages)).await?;
                    self.assigned(&partitions).await?;
                }
                GroupEvent::Revoked(partitions) => {
                    self.write(std::mem::take(&mut messages)).await?;
                    self.close(&lanes_of(&partitions)).await?;
                }
            }
        }
        self.write(messages).await
    }

    fn record(&mut self, record: Record) -> anyhow::Result<Vec<Message>> {
        let topics = self.stream.topics();
        let side = if record.topic == topics.events { Side::Events } else { Side::Labels };
        let partition = record.partition;
        // Not ours any more: its lane was closed.
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(vec![]) };
        match lane.take(topics, side, record) {
            Taken::Messages(messages) => Ok(messages),
            Taken::SeekTo(offset) => {
                self.source.seek(topic(topics, side), partition, offset)?;
                Ok(vec![])
            }
        }
    }

    /// Writes and waits until the broker has it; remembers how far the output topics go.
    async fn write(&mut self, messages: Vec<Message>) -> anyhow::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        self.keep_leases().await?;
        let topics = self.stream.topics();
        let is_curated: Vec<bool> = messages.iter().map(|m| m.topic == topics.curated).collect();
        let away = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let written = tokio::select! {
            written = self.sink.send_all(messages) => written?,
            // The next start finds out which of them came through.
            () = away => anyhow::bail!("stopped while the broker was away"),
        };
        let mut ends = Outputs::default();
        for (is_curated, (partition, offset)) in is_curated.into_iter().zip(written) {
            let ends = if is_curated { &mut ends.curated } else { &mut ends.rejected };
            let end = ends.entry(partition).or_default();
            *end = Offset(offset.0 + 1).max(*end);
        }
        self.outputs.advance(&ends);
        Ok(())
    }

    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let mut messages = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.is_due() || lane.is_idle() {
                messages.extend(lane.catch_up(self.stream).await?);
            }
        }
        self.write(messages).await
    }

    /// Writes checkpoints, waiting for a ledger that is away, and then commits the offsets: for
    /// those who watch the group's lag, since we go by the checkpoint.
    async fn checkpoint(&mut self, partitions: &[Partition]) -> anyhow::Result<()> {
        let topics = self.stream.topics();
        let mut offsets = Vec::new();
        for partition in partitions {
            let Some(lane) = self.lanes.get_mut(partition) else { continue };
            loop {
                match lane.checkpoint(self.ledger, &self.outputs).await {
                    Ok(()) => break,
                    Err(LedgerError::Store(error)) if !self.shutdown.is_cancelled() => {
                        tracing::warn!(%error, "the ledger is away: the checkpoint waits for it");
                        pause(AGAIN, self.shutdown).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            for side in SIDES {
                offsets.push((topic(topics, side).to_owned(), *partition, lane.next(side)));
            }
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let commit = tokio::time::timeout(Duration::from_secs(2), self.source.commit(&offsets));
        match commit.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "offsets were not committed"),
            Err(_) => tracing::debug!("offsets were not committed: the broker is away"),
        }
        Ok(())
    }

    /// Opens the lanes of these partitions and says where their topics are read from.
    async fn assigned(&mut self, partitions: &[(String, Partition)]) -> anyhow::Result<()> {
        let topics = self.stream.topics();
        for partition in lanes_of(partitions) {
            if !self.lanes.contains_key(&partition) {
                let Some(lease) = self.lease(partition).await? else { return Ok(()) };
                let (lane, ends) = Lane::open(
                    self.stream,
                    self.ledger,
                    &self.config.curation,
                    partition,
                    lease,
                    Duration::from_millis(self.config.checkpoint_ms),
                )
                .await?;
                self.outputs.advance(&ends);
                self.lanes.insert(partition, lane);
            }
            let lane = &self.lanes[&partition];
            for side in SIDES {
                let topic = topic(topics, side);
                if partitions.iter().any(|(name, p)| name == topic && *p == partition) {
                    self.source.seek(topic, partition, lane.next(side))?;
                }
            }
        }
        Ok(())
    }

    /// The lane's lease, waiting for one that its holder left behind; `None` at shutdown.
    async fn lease(&self, partition: Partition) -> anyhow::Result<Option<Lease>> {
        let started = Instant::now();
        let ttl = Duration::from_secs(self.config.lease_s);
        let name = name(partition);
        let mut said = false;
        while !self.shutdown.is_cancelled() {
            match self.ledger.lease(&name, self.holder, ttl).await {
                Ok(Some(lease)) => return Ok(Some(lease)),
                Ok(None) if !said => {
                    said = true;
                    tracing::info!(lane = partition.0, "another curator still holds the lane");
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "no answer about the lease; asking again");
                    pause(5 * AGAIN, self.shutdown).await;
                }
            }
            anyhow::ensure!(
                started.elapsed() < LEASE_PATIENCE,
                "lane {partition} could not be had within {LEASE_PATIENCE:?}"
            );
            pause(AGAIN, self.shutdown).await;
        }
        Ok(None)
    }

    /// Renews the leases three times in their life.
    async fn keep_leases(&mut self) -> anyhow::Result<()> {
        let term = Duration::from_secs(self.config.lease_s);
        if self.renewed.elapsed() < term / 3 {
            return Ok(());
        }
        for lane in self.lanes.values() {
            match lane.lease.renew().await {
                Ok(()) => {}
                // It still holds: again at the next round.
                Err(LedgerError::Store(error)) if self.renewed.elapsed() < term * 2 / 3 => {
                    tracing::warn!(%error, "the ledger is away: leases are renewed when it is back");
                    pause(AGAIN, self.shutdown).await;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.renewed = Instant::now();
        Ok(())
    }

    /// Checkpoints these lanes and gives them away.
    async fn close(&mut self, partitions: &BTreeSet<Partition>) -> anyhow::Result<()> {
        let ours: Vec<Partition> = partitions.iter().copied().collect();
        self.checkpoint(&ours).await?;
        for partition in partitions {
            if let Some(lane) = self.lanes.remove(partition) {
                lane.lease.release().await;
                tracing::info!(lane = partition.0, "lane closed");
            }
        }
        Ok(())
    }

    async fn leave(&mut self) -> anyhow::Result<()> {
        let all = self.lanes.keys().copied().collect();
        self.close(&all).await
    }
}

fn lanes_of(partitions: &[(String, Partition)]) -> BTreeSet<Partition> {
    partitions.iter().map(|(_, partition)| *partition).collect()
}

pub(crate) async fn pause(time: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
