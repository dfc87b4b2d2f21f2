# Shortcuts; everything here is plain cargo underneath.

# Everything CI checks.
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
    cargo test

test *args:
    cargo test {{args}}

# All benchmarks, or those of one stage: just bench features
bench *args:
    cargo bench {{ if args == "" { "" } else { "--bench " + args } }}

demo *args:
    cargo run --release -- demo {{args}}
