//! An open loop: requests leave when they are due, whether or not earlier ones have been answered,
//! and a latency runs from when its request was due.
use std::{
    sync::{Arc, Mutex, mpsc as blocking},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_benchmarks::client::{Client, ask};
use tidegate_model::{Input, Model};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};

use crate::{Measured, latency::Latencies};

/// Clients that ask without a pause when saturation is looked for.
const CLIENTS: usize = 32;

/// A sleep ends late by about this much: the rest is waited for awake.
const SPIN: Duration = Duration::from_micros(100);

/// A Poisson stream of requests.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Of each block.
    pub(crate) seconds: f64,
    /// Blocks of each side, in turns and counter-turns.
    pub(crate) blocks: usize,
    /// Threads that run the bare forward: as many as the gateway has.
    pub(crate) workers: usize,
}

pub(crate) struct Open {
    pub(crate) measured: Measured,
    /// How late requests left.
    pub(crate) lateness: Latencies,
}

/// Requests answered in a second when many clients ask without a pause.
pub(crate) fn saturation(
    runtime: &Runtime,
    gateway: &Client,
    texts: &Arc<Vec<String>>,
    seconds: f64,
) -> anyhow::Result<f64> {
    runtime.block_on(async {
        let (began, warm) = (Instant::now(), Duration::from_secs_f64(seconds / 4.0));
        let until = warm + Duration::from_secs_f64(seconds);
        let mut clients = JoinSet::new();
        for first in 0..CLIENTS {
            let (mut client, texts) = (gateway.clone(), texts.clone());
            clients.spawn(async move {
                let mut answered = 0_u64;
                for text in texts.iter().cycle().skip(first * 31) {
                    if began.elapsed() >= until {
                        break;
                    }
                    ask(&mut client, text).await?;
                    answered += u64::from(began.elapsed() >= warm);
                }
                anyhow::Ok(answered)
            });
        }
        let mut answered = 0;
        while let Some(done) = clients.join_next().await {
            answered += done??;
        }
        Ok(answered as f64 / (began.elapsed() - warm).as_secs_f64())
    })
}

pub(crate) fn run(
    runtime: &Runtime,
    model: &Model,
    [gateway, echo]: [&Client; 2],
    texts: &Arc<Vec<String>>,
    load: Load,
) -> anyhow::Result<Open> {
    let mut seen = Open { measured: Measured::new(), lateness: Latencies::new() };
    for block in 0..load.blocks {
        let schedule = schedule(load, block as u64);
        let measured = &mut seen.measured;
        let late = &mut seen.lateness;
        // Turn and counter-turn; the same arrivals for all.
        for step in if block % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] } {
            match step {
                0 => bare(model, texts, &schedule, load.workers, &mut measured.bare)?,
                1 => runtime.block_on(asked(echo, texts, &schedule, &mut measured.echo, late))?,
                _ => runtime.block_on(asked(
                    gateway,
                    texts,
                    &schedule,
                    &mut measured.gateway,
                    late,
                ))?,
            }
        }
    }
    Ok(seen)
}

/// When requests are due, from the beginning of a block.
fn schedule(load: Load, seed: u64) -> Arc<Vec<Duration>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut at, mut all) = (0.0, vec![]);
    loop {
        at -= (1.0 - random.random::<f64>()).ln() / load.rate;
        if at > load.seconds {
            return Arc::new(all);
        }
        all.push(Duration::from_secs_f64(at));
    }
}

/// Calls `leave` with each request when it is due, on a thread of its own.
fn generate(
    schedule: &Arc<Vec<Duration>>,
    leave: impl Fn(usize, Instant) + Send + 'static,
) -> JoinHandle<()> {
    let schedule = schedule.clone();
    thread::spawn(move || {
        let began = Instant::now();
        for (i, after) in schedule.iter().enumerate() {
            let due = began + *after;
            thread::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(SPIN));
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            leave(i, due);
        }
    })
}

async fn asked(
    client: &Client,
    texts: &Arc<Vec<String>>,
    schedule: &Arc<Vec<Duration>>,
    latencies: &mut Latencies,
    lateness: &mut Latencies,
) -> anyhow::Result<()> {
    let (leave, mut left) = mpsc::unbounded_channel();
    let generator = generate(schedule, move |i, due| {
        // It fails only when the loop below has failed.
        let _ = leave.send((i, due));
    });
    let (mut requests, mut open) = (JoinSet::new(), true);
    while open || !requests.is_empty() {
        tokio::select! {
            next = left.recv(), if open => {
                let Some((i, due)) = next else { open = false; continue };
                lateness.add(due.elapsed());
                let (mut client, texts) = (client.clone(), texts.clone());
                requests.spawn(async move {
                    ask(&mut client, &texts[i % texts.len()]).await?;
                    anyhow::Ok(due.elapsed())
                });
            }
            Some(done) = requests.join_next() => latencies.add(done??),
        }
    }
    generator.join().expect("it cannot panic");
    Ok(())
}

/// The bare forward behind a bare queue.
fn bare(
    model: &Model,
    texts: &Arc<Vec<String>>,
    schedule: &Arc<Vec<Duration>>,
    workers: usize,
    latencies: &mut Latencies,
) -> anyhow::Result<()> {
    let (leave, queue) = blocking::channel::<(usize, Instant)>();
    let queue = Arc::new(Mutex::new(queue));
    let (tell, told) = blocking::channel();
    for _ in 0..workers {
        let (queue, tell, model, texts) =
            (queue.clone(), tell.clone(), model.clone(), texts.clone());
        thread::spawn(move || {
            loop {
                let next = queue.lock().expect("no holder of it panics").recv();
                let Ok((i, due)) = next else { break };
                let input = Input::text(&*texts[i % texts.len()]);
                let answered = model.predict(&[input]).map(|_| due.elapsed());
                if tell.send(answered).is_err() {
                    break;
                }
            }
        });
    }
    drop(tell);
    let generator = generate(schedule, move |i, due| {
        // It fails only when the workers have failed, which the loop below is told.
        let _ = leave.send((i, due));
    });
    for answered in told {
        latencies.add(answered?);
    }
    generator.join().expect("it cannot panic");
    Ok(())
}
