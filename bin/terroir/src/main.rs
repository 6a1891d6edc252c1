//! `terroir`: the command line, the wiring of the crates, and the supervision of the three processes. No logic.

mod account;
mod admin_api;
mod admin_client;
mod admin_hosts;
mod admin_objects;
mod admin_receipts;
mod admin_server;
mod admin_sovereignty;
mod admin_targets;
mod agent;
mod audit;
mod backup;
mod blobs;
mod cli;
mod cli_sovereignty;
mod demo;
mod doctor;
mod ec2_client;
mod guest_services;
mod host;
mod hosts;
mod image;
mod issuer;
mod join;
mod layout;
mod logs;
mod migrate;
mod object_store;
mod objects;
mod operator_key;
mod privileges;
mod process;
mod quota;
mod receipts;
mod remote_hosts;
mod server;
mod settings;
mod sovereignty;
mod state;
mod status;
mod supervisor;
mod target;
mod tls;
mod up;

use clap::Parser;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

use cli::{AgentArgs, Cli, Command, JoinArgs, ObjectsCommand};
use layout::Layout;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("terroir: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<(), String> {
    let layout = Layout::find(cli.common.data_dir.as_deref()).map_err(|error| error.to_string())?;
    log_to_standard_error(&cli.command);
    match cli.command {
        Command::Server => server::main(layout),
        Command::Agent(AgentArgs { join: None, .. }) => agent::main(layout),
        Command::GuestServices => guest_services::main(layout),
        Command::Store(command) => backup::main(&layout, &command),
        Command::Audit(command) => audit::main(&layout, &command),
        Command::Objects(ObjectsCommand::Integrity(command)) => object_store::main(&layout, &command),
        other => runtime(Threads::One)?.block_on(run(layout, other)),
    }
}

async fn run(layout: Layout, command: Command) -> Result<(), String> {
    match command {
        Command::Up(args) => up::up(layout, args).await,
        Command::Init(args) => up::init(&layout, &args),
        Command::Down(args) => up::down(layout, args).await,
        Command::Status(args) => status::run(&layout, args.json).await,
        Command::Env => account::env(&layout).await,
        Command::Doctor(args) => doctor::run(&layout, args.json),
        Command::Tls(command) => tls::run(&layout, command),
        Command::Account(command) => account::run(&layout, command).await,
        Command::Operator(command) => sovereignty::operator(&layout, command).await,
        Command::Site(command) => sovereignty::site(&layout, command).await,
        Command::Host(command) => sovereignty::host(&layout, command).await,
        Command::Receipt(args) => receipts::receipt(&layout, args).await,
        Command::Verify(args) => receipts::verify(&args),
        Command::Witness(command) => receipts::witness(&layout, command).await,
        Command::Issuer(command) => issuer::run(&layout, command).await,
        Command::Image(command) => image::run(&layout, command).await,
        Command::Objects(ObjectsCommand::Quota(command)) => quota::run(&layout, command).await,
        Command::Objects(ObjectsCommand::Target(command)) => target::run(&layout, command).await,
        Command::Objects(ObjectsCommand::Engine(args)) => target::engine(&layout, args).await,
        Command::Demo(args) => demo::run(&layout, args).await,
        Command::Agent(AgentArgs { join: Some(token), detach, settings }) => {
            join::join(&layout, &JoinArgs { token, detach, settings }).await
        }
        // Each has a runtime of its own, made after it gave up its privileges.
        Command::Server | Command::Agent(_) | Command::GuestServices => Ok(()),
        Command::Objects(ObjectsCommand::Integrity(_)) | Command::Store(_) | Command::Audit(_) => Ok(()),
    }
}

pub enum Threads {
    One,
    Many,
}

pub fn runtime(threads: Threads) -> Result<tokio::runtime::Runtime, String> {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build().map_err(|error| format!("cannot start: {error}"))
}

/// Commands for people say little; the processes log what they do. `TERROIR_LOG` overrides both.
fn log_to_standard_error(command: &Command) {
    let default = match command {
        // s3s calls every refused request an error; the access log has them already.
        Command::Server | Command::Agent(_) | Command::GuestServices | Command::Up(_) => "info,s3s=off",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("TERROIR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
