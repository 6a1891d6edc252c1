//! Tasks of the repository itself, run as `cargo xtask NAME`.

mod codegen;
mod dependencies;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  codegen [--botocore DIR] [--check]   write the AWS wire types from botocore's models;
                                       with --check only say whether they are up to date
  dependencies                         licences and sources of all dependencies, as deny.toml wants them
  tidy                                 the rules of this repository that no compiler checks
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let result = match task.as_str() {
        "codegen" => codegen::run(&args),
        "dependencies" => dependencies::run(&args),
        "tidy" => tidy::run(&args),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
