//! The `icecore` program: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    icecore::cli::main()
}
