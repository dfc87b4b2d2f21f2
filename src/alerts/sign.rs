//! Signatures after the Standard Webhooks specification (standardwebhooks.com, version 1.0.0): HMAC-SHA256
//! over `id.timestamp.body`, in base64, after `v1,`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A subscriber's key: `whsec_` and base64 of 24 to 64 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// # Errors
    /// Not `whsec_` and base64, or too short or long for the specification.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "`whsec_` followed by base64 of 24 to 64 random bytes (`caddis alerts new-secret` makes one)";
        let bytes = text.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
        let bytes = bytes.filter(|bytes| (24..=64).contains(&bytes.len()));
        bytes.map(Self).ok_or_else(|| format!("a webhook secret is {expected}"))
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(bytes.to_vec())
    }

    /// As a subscriber is told it, once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(signing key)")
    }
}

/// The `webhook-signature` header. `timestamp` is seconds since 1970.
#[must_use]
pub fn sign(key: &SigningKey, id: &str, timestamp: i64, body: &[u8]) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("a key of any length");
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{SigningKey, sign};

    #[test]
    fn the_specifications_own_library_accepts_the_signature() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let body = br#"{"type":"transaction.alert"}"#;
        let now = standardwebhooks_now();
        let signature = sign(&key, "alert_1", now, body);
        let webhook = standardwebhooks::Webhook::new(&key.reveal()).expect("a key");
        let mut headers = axum::http::HeaderMap::new();
        headers.insert("webhook-id", "alert_1".parse().expect("a header"));
        headers.insert("webhook-timestamp", now.to_string().parse().expect("a header"));
        headers.insert("webhook-signature", signature.parse().expect("a header"));
        webhook.verify(body, &headers).expect("a true signature");
        webhook.verify(b"another body", &headers).expect_err("a false one");
        assert_eq!(signature, webhook.sign("alert_1", now, body).expect("signs"));
    }

    fn standardwebhooks_now() -> i64 {
        crate::clock::now_ms() / 1_000
    }

    #[test]
    fn weak_secrets_are_refused() {
        for weak in ["", "whsec_", "whsec_c2hvcnQ=", "hunter2", "whsec_!!!"] {
            assert!(SigningKey::parse(weak).is_err(), "{weak}");
        }
        let key = SigningKey::from_bytes(&[1; 32]);
        assert_eq!(SigningKey::parse(&key.reveal()), Ok(key));
    }
}
