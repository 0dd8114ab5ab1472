//! One client that waits for each answer, in blocks of turn and counter-turn, so that a slow drift
//! of the machine falls on all alike.
use std::time::Instant;

use tidegate_benchmarks::client::{Client, ask, request};
use tidegate_model::{Input, Model};
use tokio::runtime::Runtime;

use crate::{Measured, echo::Socket, latency::Latencies};

/// Texts of a block.
const BLOCK: usize = 50;

/// Who is asked.
#[derive(Clone, Copy)]
enum Who {
    Bare,
    Socket,
    Echo,
    Gateway,
}

/// Those who are asked.
pub(crate) struct Sides<'a> {
    pub(crate) model: &'a Model,
    pub(crate) gateway: Client,
    pub(crate) echo: Client,
    pub(crate) socket: Socket,
}

/// What was seen.
pub(crate) struct Sequential {
    pub(crate) measured: Measured,
    pub(crate) socket: Latencies,
    /// Of each text, gateway less bare forward, in microseconds, sorted.
    pub(crate) added_us: Vec<f64>,
}

pub(crate) fn run(
    runtime: &Runtime,
    mut sides: Sides<'_>,
    texts: &[String],
    requests: usize,
) -> anyhow::Result<Sequential> {
    let mut seen = Sequential {
        measured: Measured::new(),
        socket: Latencies::new(),
        added_us: Vec::with_capacity(requests),
    };
    // The first block warms up.
    let blocks = requests.div_ceil(2 * BLOCK) + 1;
    for block in 0..blocks {
        let texts: Vec<&String> = texts.iter().cycle().skip(block * BLOCK).take(BLOCK).collect();
        let turn = [Who::Bare, Who::Socket, Who::Echo, Who::Gateway];
        for counter in [false, true] {
            let order: Vec<Who> =
                if counter { turn.iter().rev().copied().collect() } else { turn.to_vec() };
            let mut paired = [vec![], vec![]];
            for who in order {
                for text in &texts {
                    let began = Instant::now();
                    sides.ask(runtime, who, text)?;
                    let took = began.elapsed();
                    if block == 0 {
                        continue;
                    }
                    match who {
                        Who::Bare => {
                            seen.measured.bare.add(took);
                            paired[0].push(took);
                        }
                        Who::Socket => seen.socket.add(took),
                        Who::Echo => seen.measured.echo.add(took),
                        Who::Gateway => {
                            seen.measured.gateway.add(took);
                            paired[1].push(took);
                        }
                    }
                }
            }
            let [bare, gateway] = paired;
            let added = gateway.iter().zip(&bare).map(|(g, b)| g.as_secs_f64() - b.as_secs_f64());
            seen.added_us.extend(added.map(|seconds| seconds * 1e6));
        }
    }
    seen.added_us.sort_by(f64::total_cmp);
    Ok(seen)
}

impl Sides<'_> {
    fn ask(&mut self, runtime: &Runtime, who: Who, text: &str) -> anyhow::Result<()> {
        match who {
            Who::Bare => {
                self.model.predict(&[Input::text(text)])?;
            }
            Who::Socket => self.socket.round_trip(&request(text))?,
            Who::Echo => {
                runtime.block_on(ask(&mut self.echo, text))?;
            }
            Who::Gateway => {
                runtime.block_on(ask(&mut self.gateway, text))?;
            }
        }
        Ok(())
    }
}
