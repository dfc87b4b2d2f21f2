//! One connection, one request at a time, on a thread of its own: a thread can sleep to within some 60 µs
//! where an async timer has a millisecond.

use std::io;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub host: String,
    pub port: u16,
    pub path: String,
    pub key: Option<String>,
    pub content_type: &'static str,
}

pub(super) struct Client {
    target: Target,
    runtime: Runtime,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// The status and the body of an answer.
pub(super) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Client {
    pub fn new(target: Target) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { target, runtime, sender: None })
    }

    /// Sends a body and waits for the answer; connects first where need be.
    pub fn post(&mut self, body: Bytes) -> Result<Answer, String> {
        let answer = self.runtime.block_on(post(&self.target, &mut self.sender, body));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    pub fn connect(&mut self) -> Result<(), String> {
        let connected = self.runtime.block_on(connect(&self.target))?;
        self.sender = Some(connected);
        Ok(())
    }
}

async fn connect(target: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
    let at = || format!("{}:{}", target.host, target.port);
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|e| format!("{}: {e}", at()))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // Its end is seen by the next request.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn post(target: &Target, sender: &mut Option<SendRequest<Full<Bytes>>>, body: Bytes) -> Result<Answer, String> {
    let open = match sender.take() {
        Some(mut open) => open.ready().await.is_ok().then_some(open),
        None => None,
    };
    let open = match open {
        Some(open) => open,
        None => connect(target).await?,
    };
    let connected = sender.insert(open);
    let mut request = hyper::Request::post(&target.path)
        .header(HOST, format!("{}:{}", target.host, target.port))
        .header(CONTENT_TYPE, target.content_type);
    if let Some(key) = &target.key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
    let answer = connected.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(Answer { status, body })
}
