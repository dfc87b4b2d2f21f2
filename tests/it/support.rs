//! A running Caddis, a subscriber and a client, for tests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::runtime::Runtime;

/// A webhook secret for tests.
pub const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Runs the binary in a folder.
pub fn caddis(folder: &Path, arguments: &[&str]) -> Output {
    command().args(arguments).current_dir(folder).output().expect("runs")
}

/// The binary, without what the environment says to the tests themselves.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caddis"));
    for ours in ["CADDIS_SIM_SEEDS", "CADDIS_SIM_FIRST", "CADDIS_KILLS", "CADDIS_KILL_SEED", "CADDIS_DAMAGES"] {
        command.env_remove(ours);
    }
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Payments of ten days with enough fraud for some alerts.
pub fn simulate(folder: &Path) -> Vec<String> {
    let made = caddis(
        folder,
        &[
            "simulate",
            "--accounts",
            "500",
            "--terminals",
            "1000",
            "--days",
            "10",
            "--seed",
            "3",
            "--out",
            "payments.ndjson",
        ],
    );
    assert!(made.status.success(), "{}", text(&made.stderr));
    let payments = std::fs::read_to_string(folder.join("payments.ndjson")).expect("payments");
    payments.lines().map(str::to_owned).collect()
}

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// `caddis run` as a process of its own, on a port of the system's choice.
pub struct Service {
    child: Child,
    pub url: String,
    log: Option<std::thread::JoinHandle<String>>,
    client: reqwest::Client,
}

impl Service {
    /// Starts it in `folder` with `configuration`, to which the address and the log's format are added.
    pub fn start(folder: &Path, configuration: &str) -> Self {
        Self::start_with(folder, configuration, &[])
    }

    pub fn start_with(folder: &Path, configuration: &str, arguments: &[&str]) -> Self {
        std::fs::write(folder.join("caddis.toml"), configuration).expect("writes");
        let mut child = command()
            .arg("run")
            .args(arguments)
            .current_dir(folder)
            .env("CADDIS_HTTP__LISTEN", "127.0.0.1:0")
            .env("CADDIS_LOG__FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let (sender, receiver) = channel();
        let lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
        let log = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || follow_log(lines.map_while(Result::ok), &sender))
            .expect("a thread");
        let url = match receiver.recv_timeout(Duration::from_secs(60)) {
            Ok(address) => format!("http://{address}"),
            Err(_) => {
                let _ = child.kill();
                panic!("not ready: {}", log.join().expect("the log"));
            }
        };
        Self { child, url, log: Some(log), client: reqwest::Client::new() }
    }

    /// A request with the answer's status and JSON (null where there is none).
    pub fn ask(&self, method: &str, path: &str, kind: &str, body: impl Into<String>) -> (u16, Value) {
        self.ask_with(method, path, &[("content-type", kind)], body)
    }

    pub fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        runtime().block_on(async {
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.bytes().await.expect("a body");
            (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
        })
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, "application/json", "")
    }

    pub fn post(&self, path: &str, body: impl Into<String>) -> (u16, Value) {
        self.ask("POST", path, "application/json", body)
    }

    pub fn post_lines(&self, path: &str, lines: &[String]) -> (u16, Value) {
        self.ask("POST", path, "application/x-ndjson", lines.join("\n"))
    }

    /// A text answer, such as the metrics.
    pub fn text(&self, path: &str) -> String {
        let request = self.client.get(format!("{}{path}", self.url));
        runtime().block_on(async { request.send().await.expect("an answer").text().await.expect("text") })
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.text("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse().expect("a number")
    }

    /// Asks it to stop as an operator does, and gives its exit code and log.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.wait()
    }

    /// Kills it while others still talk to it.
    pub fn die(&self) {
        self.signal("KILL");
    }

    /// The value of a metric with its labels.
    pub fn metric_of(&self, name: &str) -> f64 {
        self.metric(&format!("{name} "))
    }

    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        let _ = self.wait();
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(done.expect("kill runs").success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("ends");
        let log = self.log.take().expect("the log").join().expect("the log");
        (status.code(), log)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow_log(lines: impl Iterator<Item = String>, ready: &Sender<String>) -> String {
    let mut log = String::new();
    for line in lines {
        let entry: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        if entry["fields"]["message"] == "ready" {
            let _ = ready.send(entry["fields"]["address"].as_str().unwrap_or_default().to_owned());
        }
        log.push_str(&line);
        log.push('\n');
    }
    log
}

/// A subscriber that checks each signature with the specification's own library.
pub struct Subscriber {
    pub url: String,
    arrived: Receiver<Value>,
    hook: Arc<Hook>,
}

struct Hook {
    sender: Mutex<Sender<Value>>,
    failing: AtomicBool,
}

impl Subscriber {
    pub fn open() -> Self {
        let (sender, arrived) = channel();
        let hook = Arc::new(Hook { sender: Mutex::new(sender), failing: AtomicBool::new(false) });
        let router = axum::Router::new().route("/hook", post(take)).with_state(Arc::clone(&hook));
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        runtime().spawn(async move { axum::serve(listener, router).await });
        Self { url, arrived, hook }
    }

    /// As `[[subscribers]]` of a configuration.
    pub fn configuration(&self, name: &str) -> String {
        format!(
            "[[subscribers]]\nname = \"{name}\"\nurl = \"{}\"\nsecret = \"{SECRET}\"\nallow_private = true\n",
            self.url
        )
    }

    /// Answers are failures from now on, or no more.
    pub fn fail(&self, failing: bool) {
        self.hook.failing.store(failing, Ordering::SeqCst);
    }

    /// The next message; it takes at most half a minute.
    pub fn next(&self) -> Value {
        self.arrived.recv_timeout(Duration::from_secs(30)).expect("a message")
    }

    /// Messages that are there already.
    pub fn waiting(&self) -> Vec<Value> {
        self.arrived.try_iter().collect()
    }
}

async fn take(State(hook): State<Arc<Hook>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let secret = standardwebhooks::Webhook::new(SECRET).expect("a secret");
    if secret.verify(&body, &headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    if hook.failing.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let mut message: Value = serde_json::from_slice(&body).expect("JSON");
    message["webhook_id"] = headers["webhook-id"].to_str().expect("text").into();
    let _ = hook.sender.lock().unwrap_or_else(PoisonError::into_inner).send(message);
    StatusCode::NO_CONTENT
}
