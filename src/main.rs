fn main() -> std::process::ExitCode {
    caddis::cli::main().into()
}
