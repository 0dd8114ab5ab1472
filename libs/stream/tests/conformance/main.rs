//! One suite for every broker that tidegate stands on: what the stream promises, tried against the
//! embedded broker and against Apache Kafka.
//!
//! A scenario is a function over a [`House`]: an address, and a broker behind it that can be killed
//! and started again. It uses the crate's public API, and plain librdkafka where a foreign client
//! is the point. Scenarios of one house run one after the other, as some of them kill it.
//!
//! `cargo test -p tidegate-stream --test conformance [PART OF A NAME]`
mod client;
mod groups;
mod house;
mod kafka;
mod offsets;
mod outages;
mod records;
mod topics;

use std::{panic::AssertUnwindSafe, process::ExitCode, time::Instant};

use house::{Embedded, House};

type Scenario = (&'static str, fn(&mut dyn House));

macro_rules! scenarios {
    ($($place:ident::$name:ident,)*) => {
        &[$((stringify!($name), |house| {
            client::runtime().block_on($place::$name(house));
        })),*]
    };
}

/// Every house is held to these.
const EVERYWHERE: &[Scenario] = scenarios![
    records::a_record_comes_back_as_it_was_sent,
    records::records_of_a_partition_keep_their_order,
    records::the_largest_message_passes_and_a_larger_one_is_refused,
    records::compressed_records_come_back,
    records::a_record_written_while_a_reader_waits_comes_at_once,
    records::a_reader_that_is_slow_holds_a_bounded_buffer,
    offsets::a_source_starts_at_the_offsets_it_is_given,
    offsets::a_window_is_read_exactly,
    offsets::an_offset_that_is_gone_is_said,
    offsets::offsets_are_found_by_time,
    topics::an_unknown_topic_is_said_and_not_created,
    topics::a_topic_is_created_by_writing_to_it,
    topics::topics_are_created_described_grown_and_deleted,
    topics::what_cannot_be_created_is_refused,
    groups::a_group_goes_on_from_what_it_committed,
    groups::two_members_share_the_partitions,
    groups::what_is_committed_while_partitions_are_taken_away_counts,
    groups::a_seek_at_assignment_is_where_reading_starts,
    groups::a_paused_partition_waits_and_comes_back,
    groups::groups_are_listed_and_deleted,
    outages::what_was_acknowledged_survives_a_kill,
    outages::a_broker_that_is_away_is_waited_for,
    outages::a_group_survives_a_kill_of_the_broker,
    outages::nothing_is_lost_or_doubled_by_kills_in_a_running_stream,
];

/// What only a stranger can show of our own broker.
const EMBEDDED_ONLY: &[Scenario] = scenarios![
    kafka::the_command_line_clients_of_kafka_work,
    topics::transactions_are_refused_at_once,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, dir, listen] = &args[..]
        && word == house::SERVE
    {
        return house::serve(dir.as_ref(), listen);
    }
    // The flags of other harnesses are not ours.
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(*part));

    let mut tally = Tally::default();
    let embedded = EVERYWHERE.iter().chain(EMBEDDED_ONLY);
    tally.run("embedded", embedded, &chosen, Embedded::build);
    tally.run("kafka", EVERYWHERE.iter(), &chosen, kafka::Kafka::build);
    tally.close()
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Tally {
    fn run<'a, H: House>(
        &mut self,
        kind: &str,
        scenarios: impl Iterator<Item = &'a Scenario>,
        chosen: &impl Fn(&str) -> bool,
        build: impl FnOnce() -> H,
    ) {
        let (mut build, mut house) = (Some(build), None);
        for (scenario, run) in scenarios {
            let name = format!("{kind}::{scenario}");
            if !chosen(&name) {
                self.skipped += 1;
                continue;
            }
            let since = Instant::now();
            // The house is built in here too: a Kafka that is not there fails the tests by name.
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
                if let Some(build) = build.take() {
                    house = Some(build());
                }
                let house =
                    house.as_mut().expect("the broker did not start: see the first failure");
                run(house);
            }));
            let seconds = since.elapsed().as_secs_f32();
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            println!("test {name} ... {verdict} ({seconds:.1} s)");
            match outcome {
                Ok(()) => self.passed += 1,
                Err(_) => {
                    self.failed.push(name);
                    // It may be down, or in a state that the next one would suffer from.
                    if let Some(house) = &mut house {
                        house.explain();
                        house.kill();
                        house.start();
                    }
                }
            }
        }
    }

    /// As libtest closes, for who reads logs.
    fn close(self) -> ExitCode {
        let Self { passed, failed, skipped } = self;
        if !failed.is_empty() {
            println!("\nfailures:\n    {}", failed.join("\n    "));
        }
        let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {skipped} \
             filtered out",
            failed.len()
        );
        if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
