//! The binary `xelm`.

fn main() -> std::process::ExitCode {
    xelm_cli::main()
}
