//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused (a gate, a role),
//! 4 not reachable, 5 a check found something wrong.
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::json;
use tidegate_contracts::JobKind;
use tidegate_ledger::Holder;

use crate::{
    config::Config, demo, generate, infer, offline, operate, output::Format, outside, produce, run,
    selftest, suite, train,
};

/// Continual learning as a service: events in on Kafka, a gated champion out on gRPC.
#[derive(Parser)]
#[command(version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command. Precedence: defaults, file, environment (`TIDEGATE_...`), flags.
#[derive(Args, Default)]
pub(crate) struct Global {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "TIDEGATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything durable lives.
    #[arg(long, global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// gRPC address, inference and control; `:0` picks a free port.
    #[arg(long, global = true, value_parser = address)]
    pub(crate) grpc: Option<SocketAddr>,
    /// HTTP address, REST, dashboard and metrics; `:0` picks a free port.
    #[arg(long, global = true, value_parser = address)]
    pub(crate) http: Option<SocketAddr>,
    /// Address of the embedded broker; `:0` picks a free port.
    #[arg(long, global = true, value_parser = address)]
    pub(crate) kafka_listen: Option<SocketAddr>,
    /// Kafka brokers to use in place of the embedded one (`host:port,...`).
    #[arg(long, global = true)]
    pub(crate) kafka: Option<String>,
    /// Redis to keep the ledger in, in place of the embedded file (`redis://...`).
    #[arg(long, global = true)]
    pub(crate) redis: Option<String>,
    /// gRPC endpoint that operator and client commands call; found in the data directory when
    /// absent.
    #[arg(long, global = true, env = "TIDEGATE_ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// Bearer token for a service that asks for one.
    #[arg(long, global = true, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// PEM file of the authority that signed a service's certificate; the service's own
    /// certificate, as configured, when absent.
    #[arg(long, global = true, env = "TIDEGATE_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Tables for people, JSON for machines.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `:0` and `:9000` stand for loopback.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("127.0.0.1{text}") } else { text.to_owned() };
    full.parse().map_err(|_| format!("`{text}` is not an address like 127.0.0.1:8001 or :0"))
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run every service in this process, with the embedded defaults.
    Up,
    /// Run the curator alone.
    Curate,
    /// Run the trainer alone; or train from a file, or say what that would take.
    Train(train::TrainArgs),
    /// Run the evaluator alone.
    Evaluate,
    /// Run the controller alone: schedule, policy, control API, dashboard.
    Control,
    /// Run the gateway alone: inference.
    Serve,
    /// Replay real e-mail day by day through the whole of it, and report.
    Demo(demo::DemoArgs),
    /// Publish events (and labels) from JSON lines.
    Produce(produce::ProduceArgs),
    /// Ask the gateway.
    Infer(infer::InferArgs),
    /// Write text by a generation that learnt next tokens, from its folder.
    Generate(generate::GenerateArgs),
    /// What serves now, what is under judgement, what runs.
    Status,
    /// Training jobs.
    Jobs {
        #[command(subcommand)]
        command: Option<JobsCommand>,
    },
    /// Generations: the models, by the hash of their manifest.
    Generations {
        /// Show this one whole: an id, a prefix, `champion` or `candidate`.
        id: Option<String>,
        /// Print its model card (Markdown) in place of its fields.
        #[arg(long, requires = "id")]
        card: bool,
    },
    /// How candidates were tried on live requests before they were promoted, newest first.
    Stages,
    /// What the evaluator found.
    Verdicts {
        /// Show this one whole: an id or a prefix.
        id: Option<String>,
    },
    /// Say yes to a candidate under its verdict.
    Approve(operate::Approval),
    /// Say yes to a blocked candidate, waiving the checks that block it. Two people are needed.
    Override {
        #[command(flatten)]
        approval: operate::Approval,
        /// A check that is waived; once for each that blocks.
        #[arg(long = "waive", required = true)]
        waives: Vec<String>,
    },
    /// Say no to a candidate.
    Reject(operate::Decision),
    /// Take an approval back before it has taken effect.
    Withdraw(operate::Decision),
    /// Make a candidate the champion that has passed its gate.
    Promote(operate::Decision),
    /// Make an earlier champion the champion again.
    Rollback {
        /// The generation; the one before the present champion when absent.
        generation: Option<String>,
        /// Why; on record.
        #[arg(long)]
        reason: String,
        /// Who, where the service knows no tokens.
        #[arg(long, env = "USER", default_value = "local")]
        actor: String,
    },
    /// Producers: set one aside, so that nobody learns from its records, or let it count again.
    Quarantine {
        #[command(subcommand)]
        command: QuarantineCommand,
    },
    /// The record of what happened.
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// The gate itself.
    Gate {
        #[command(subcommand)]
        command: GateCommand,
    },
    /// Keys of verdicts, approvals and promotions.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Evaluation suites.
    Suite {
        #[command(subcommand)]
        command: suite::SuiteCommand,
    },
    /// Training recipes.
    Recipe {
        #[command(subcommand)]
        command: RecipeCommand,
    },
    /// Configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Shell completion on standard output.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
pub(crate) enum JobsCommand {
    /// All jobs, newest first.
    List,
    /// Append a request for a job; the controller turns it into one.
    Request {
        /// hot_update, cold_start or transfer.
        kind: JobKind,
        /// Of a transfer: the domain to learn; all there are when absent.
        #[arg(long)]
        domain: Option<String>,
        /// Of a transfer: the generation to start from, of this ledger or (by its whole id) of
        /// another model in the same store; the champion when absent.
        #[arg(long)]
        from: Option<String>,
        /// Why; on record.
        #[arg(long, default_value = "requested by an operator")]
        reason: String,
        /// Who, where the service knows no tokens.
        #[arg(long, env = "USER", default_value = "local")]
        actor: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check every entry, signature and approval from the first to the last, and every verdict and
    /// file they name. Works on a running service and on its files at rest.
    Verify {
        /// Also compare with what was kept outside: a file of lines, each a record of the decisions
        /// topic or a checkpoint, `{"size": ..., "root": ...}`.
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// Print the proof that an entry is among those that a signed checkpoint covers, as JSON.
    Prove {
        /// Its sequence number.
        #[arg(required_unless_present = "check")]
        entry: Option<u64>,
        /// Check a proof from this file instead. Needs the controller's public key, and no ledger.
        #[arg(long, value_name = "FILE", conflicts_with = "entry")]
        check: Option<PathBuf>,
    },
    /// Print entries, oldest first.
    Show {
        /// From this sequence number.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// At most this many.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
}

#[derive(Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Nobody learns from this producer's records from now on, and none of them judges.
    Producer(operate::OfProducer),
    /// This producer's records count again.
    Release(operate::OfProducer),
    /// Who is set aside, and who was.
    List,
}

#[derive(Subcommand)]
pub(crate) enum GateCommand {
    /// Try the gate: train a model, make bad twins of it, and see which of them it stops.
    Selftest(selftest::SelftestArgs),
}

#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// Make key pairs, `<name>.key` and `<name>.pub`, where there are none.
    Make {
        /// evaluator, controller or operator:<name>.
        #[arg(required = true)]
        holders: Vec<Holder>,
        /// Their folder.
        #[arg(long, default_value = "keys")]
        dir: PathBuf,
    },
    /// Whose signatures are believed by the configuration.
    List,
}

#[derive(Subcommand)]
pub(crate) enum RecipeCommand {
    /// Print the recipe in force, as TOML.
    Show,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective configuration, secrets hidden.
    Show,
}

impl Global {
    /// What was given on the command line, as a sparse tree over [`Config`].
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let store =
            self.redis.as_ref().map(|url| json!({ "redis": { "url": url, "prefix": "tidegate" } }));
        let flags = json!({
            "data_dir": self.data_dir,
            "listen": { "grpc": self.grpc, "http": self.http },
            "stream": {
                "brokers": self.kafka,
                "embedded": { "listen": self.kafka_listen },
            },
            "ledger": { "store": store },
        });
        let config: Config = tidegate_contracts::config::load(self.config.as_deref(), &flags)?;
        config.validate().context("configuration")?;
        Ok(config)
    }
}

pub(crate) async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Up => run::run(&global, run::Services::ALL).await,
        Command::Curate => run::run(&global, run::Services::CURATOR).await,
        Command::Train(args) if args.is_service() => {
            run::run(&global, run::Services::TRAINER).await
        }
        Command::Train(args) => train::run(&global, args).await,
        Command::Evaluate => run::run(&global, run::Services::EVALUATOR).await,
        Command::Control => run::run(&global, run::Services::CONTROLLER).await,
        Command::Serve => run::run(&global, run::Services::GATEWAY).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Produce(args) => produce::run(&global, &args).await,
        Command::Infer(args) => infer::run(&global, args).await,
        Command::Generate(args) => generate::run(&global, args).await,
        Command::Ledger { command: LedgerCommand::Verify { against } } => {
            outside::verify(&global, against.as_deref()).await
        }
        Command::Ledger { command: LedgerCommand::Prove { entry, check } } => {
            outside::prove(&global, entry, check.as_deref()).await
        }
        Command::Gate { command: GateCommand::Selftest(args) } => {
            selftest::run(&global, args).await
        }
        Command::Keys { command: KeysCommand::Make { holders, dir } } => {
            offline::keys_make(&holders, &dir)
        }
        Command::Keys { command: KeysCommand::List } => offline::keys_list(&global),
        Command::Suite { command } => suite::run(&global, command).await,
        Command::Recipe { command: RecipeCommand::Show } => offline::recipe_show(&global),
        Command::Config { command: ConfigCommand::Show } => offline::config_show(&global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        other => operate::run(&global, other).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_port_stands_for_loopback() {
        assert_eq!(address(":0"), Ok("127.0.0.1:0".parse().unwrap()));
        assert!(address("nowhere").unwrap_err().contains("nowhere"));
    }
}
