//! Who is told of alerts, and of which.

use serde::{Deserialize, Serialize};
use url::Url;

use super::egress::check_host;
use super::sign::SigningKey;

/// Somebody who is sent alerts.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub name: String,
    pub url: Url,
    pub key: SigningKey,
    pub filter: Filter,
    /// Whether it may live at an address that is not on the public internet.
    pub allow_private: bool,
}

/// Which alerts a subscriber wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Empty is all.
    pub verdicts: Vec<String>,
    /// Alerts that rules alone raised have no score and always pass.
    pub min_score: f64,
}

impl Default for Filter {
    fn default() -> Self {
        Self { verdicts: Vec::new(), min_score: 0.0 }
    }
}

impl Filter {
    #[must_use]
    pub fn wants(&self, verdict: &str, score: f64) -> bool {
        let verdict = self.verdicts.is_empty() || self.verdicts.iter().any(|wanted| wanted == verdict);
        verdict && (score.is_nan() || score >= self.min_score)
    }
}

/// All that is wrong with a subscriber: of which key, and in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subscriber `{name}`: {}", self.whats().join("; "))]
pub struct WrongSubscriber {
    pub name: String,
    pub wrong: Vec<(&'static str, String)>,
}

impl WrongSubscriber {
    fn whats(&self) -> Vec<&str> {
        self.wrong.iter().map(|(_, what)| what.as_str()).collect()
    }
}

impl Subscriber {
    /// # Errors
    /// Name, URL, secret or filter cannot be used.
    pub fn new(
        name: &str,
        url: &str,
        secret: &str,
        filter: Filter,
        allow_private: bool,
    ) -> Result<Self, WrongSubscriber> {
        let mut wrong = Vec::new();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            wrong.push(("name", "a name has 1 to 64 letters, digits, `-`, `_` or `.`".to_owned()));
        }
        let url = usable(url, allow_private).map_err(|what| wrong.push(("url", what)));
        let key = SigningKey::parse(secret).map_err(|what| wrong.push(("secret", what)));
        if let Some(odd) = filter.verdicts.iter().find(|verdict| !matches!(verdict.as_str(), "review" | "block")) {
            wrong.push(("verdicts", format!("`{odd}` is not \"review\" or \"block\"")));
        }
        if !(0.0..=1.0).contains(&filter.min_score) {
            wrong.push(("min_score", format!("min_score {} is not from 0 to 1", filter.min_score)));
        }
        match (url, key) {
            (Ok(url), Ok(key)) if wrong.is_empty() => {
                Ok(Self { name: name.to_owned(), url, key, filter, allow_private })
            }
            _ => Err(WrongSubscriber { name: name.to_owned(), wrong }),
        }
    }
}

/// A URL that alerts may be sent to.
fn usable(url: &str, allow_private: bool) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|error| format!("`{url}` is no URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(format!("{}:// is not http:// or https://", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a password in the URL would end up in logs; requests are signed instead".into());
    }
    if !allow_private {
        check_host(&url)?;
        if url.scheme() != "https" {
            return Err(
                "a public subscriber needs https://: alerts name accounts (`allow_private = true` is for one in \
                        your own network)"
                    .into(),
            );
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::{Filter, Subscriber};

    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        let new = |name, url, private| Subscriber::new(name, url, SECRET, Filter::default(), private);
        assert!(new("desk", "https://desk.example/hook", false).is_ok());
        assert!(new("desk", "http://127.0.0.1:9/hook", true).is_ok());
        for (name, url, said) in [
            ("", "https://desk.example", "1 to 64"),
            ("desk", "desk.example", "no URL"),
            ("desk", "ftp://desk.example", "not http://"),
            ("desk", "http://desk.example", "needs https://"),
            ("desk", "https://127.0.0.1", "no public address"),
            ("desk", "https://u:p@desk.example", "a password"),
        ] {
            let error = new(name, url, false).expect_err("wrong").to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn filters_choose_by_verdict_and_score() {
        let filter = Filter { verdicts: vec!["block".into()], min_score: 0.5 };
        assert!(filter.wants("block", 0.5) && filter.wants("block", f64::NAN));
        assert!(!filter.wants("review", 0.9) && !filter.wants("block", 0.4));
    }
}
