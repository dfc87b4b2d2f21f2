# Shortcuts; everything here is plain cargo underneath.

# Everything CI checks, as CI does.
check:
    .ci/run

format:
    cargo fmt --check

lint:
    cargo clippy --all-targets -- -D warnings

test *args:
    cargo test {{args}}

documentation:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Licences, sources and advisories of what we depend on; needs cargo-deny.
dependencies:
    cargo deny check

# All benchmarks, or those of one stage: just bench features
bench *args:
    cargo bench {{ if args == "" { "" } else { "--bench " + args } }}

# The seeded simulation under so many seeds; CADDIS_SIM_FIRST says from which on.
sim seeds="1000":
    CADDIS_SIM_SEEDS={{seeds}} cargo test --release --test it simulation -- --nocapture

demo *args:
    cargo run --release -- demo {{args}}

# Makes the shipped model again, in some minutes. The same code gives the same bytes.
baseline:
    mkdir -p target/baseline
    cargo run --release -- simulate --accounts 5000 --terminals 10000 --days 84 --seed 1 --out target/baseline/payments.ndjson --labels target/baseline/labels.ndjson
    cargo run --release -- train --in target/baseline/payments.ndjson --labels target/baseline/labels.ndjson --registry models --name baseline --alert-budget 150 --block-precision 0.99 --promote
