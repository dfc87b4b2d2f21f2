//! The outbox: alerts and who still has to be told of them, in one SQLite file.
//!
//! It is a projection of the journal with a cursor of its own, moved in the same transaction as the alerts
//! it stands for: after a crash, alerts from the cursor on are put in again under the same ids.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::schedule::{ATTEMPTS, delay_ms};
use super::sign::SigningKey;
use super::subscriber::{Filter, Subscriber};
use super::{Alert, WrongSubscriber};

#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("the outbox: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the outbox was written by a newer Caddis (format {0}); use that one")]
    Newer(i64),
    #[error(transparent)]
    Subscriber(#[from] WrongSubscriber),
    #[error("no subscriber `{0}`")]
    NoSubscriber(String),
    #[error("subscriber `{0}` is there already")]
    Taken(String),
    #[error("subscriber `{0}` is set in the configuration file; change it there")]
    Configured(String),
    #[error(
        "{found} deliveries {what}, of at most {most} (`alerts.{key}`): see to the subscriber (`caddis alerts subscribers`), then `caddis alerts resend` or `discard`, or remove it"
    )]
    Full { what: &'static str, key: &'static str, found: u64, most: u64 },
}

type Result<T> = std::result::Result<T, OutboxError>;

/// One connection: SQLite has one writer, and every call here is short.
pub struct Outbox {
    connection: Mutex<Connection>,
}

/// How a subscriber is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubscriberState {
    pub name: String,
    pub url: String,
    pub filter: Filter,
    pub paused: bool,
    /// Set in the configuration file rather than over HTTP.
    pub configured: bool,
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    pub waiting: u64,
    /// Dead letters there are now.
    pub dead: u64,
    /// Deliveries that were ever given up, those sent again later as well.
    pub given_up: u64,
    pub last_error: Option<String>,
}

/// An alert with its number, which pages count by.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAlert {
    pub number: i64,
    pub alert: Alert,
}

/// Which alerts are looked for, newest first.
#[derive(Debug, Clone, Default)]
pub struct AlertFilter {
    pub verdict: Option<String>,
    pub account: Option<String>,
    pub min_score: Option<f64>,
    /// Event times from this on and before that, milliseconds since 1970.
    pub since: Option<i64>,
    pub until: Option<i64>,
    /// Only alerts with a smaller number.
    pub before: Option<i64>,
    pub limit: u32,
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    pub subscriber: String,
    pub alert_id: String,
    pub transaction_id: String,
    pub attempts: u32,
    pub last_error: String,
}

/// A delivery to be made now.
#[derive(Debug, Clone)]
pub struct Due {
    pub number: i64,
    pub alert_id: String,
    pub body: String,
    /// Attempts made so far.
    pub attempts: u32,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// Tried again later; `retry_after_ms` is what the subscriber asked for.
    Failed {
        error: String,
        retry_after_ms: Option<i64>,
    },
}

const FORMAT: i64 = 2;
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS alerts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        transaction_id TEXT NOT NULL,
        account TEXT NOT NULL,
        event_time INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        score REAL,
        stored INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS alerts_account ON alerts (account, number);
    CREATE TABLE IF NOT EXISTS subscribers (
        name TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        secret TEXT NOT NULL,
        filter TEXT NOT NULL,
        allow_private INTEGER NOT NULL,
        configured INTEGER NOT NULL,
        paused INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        last_error TEXT,
        given_up INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE IF NOT EXISTS deliveries (
        subscriber TEXT NOT NULL REFERENCES subscribers (name) ON DELETE CASCADE,
        number INTEGER NOT NULL REFERENCES alerts (number),
        attempts INTEGER NOT NULL DEFAULT 0,
        next_attempt INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        PRIMARY KEY (subscriber, number)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (subscriber, dead, next_attempt);
    CREATE INDEX IF NOT EXISTS deliveries_number ON deliveries (number);
";

/// Format 1 did not count what was given up.
const FROM_1: &str = "
    ALTER TABLE subscribers ADD COLUMN given_up INTEGER NOT NULL DEFAULT 0;
    UPDATE subscribers SET given_up =
        (SELECT count(*) FROM deliveries WHERE deliveries.subscriber = subscribers.name AND dead = 1);
";

struct Durably<'a>(MutexGuard<'a, Connection>);

impl Deref for Durably<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Durably<'_> {
    fn drop(&mut self) {
        // Were it to fail, more would be durable than need be.
        let _ = self.0.pragma_update(None, "synchronous", "NORMAL");
    }
}

impl Outbox {
    /// Opens the outbox at `path`, which is made when it does not exist.
    ///
    /// # Errors
    /// SQLite's, or a format newer than this build's.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with(Connection::open(path)?)
    }

    /// One that is gone with the process, for tests and the demo.
    ///
    /// # Errors
    /// SQLite's.
    pub fn in_memory() -> Result<Self> {
        Self::with(Connection::open_in_memory()?)
    }

    fn with(connection: Connection) -> Result<Self> {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format > FORMAT {
            return Err(OutboxError::Newer(format));
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        // Another process may have been here first: the format is read again, inside.
        let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format == 1 {
            connection.execute_batch(FROM_1)?;
        }
        connection.execute_batch(TABLES)?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        connection.execute_batch("COMMIT")?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection for a change that must outlast a power cut once it is made. Alerts need not: cursor and
    /// alerts are taken back together, and made again from the journal; deliveries are at least once.
    fn durably(&self) -> Result<Durably<'_>> {
        let connection = self.connection();
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Durably(connection))
    }

    /// The journal entry after the last one whose alerts are in; 0 for a new outbox.
    ///
    /// # Errors
    /// SQLite's.
    pub fn cursor(&self) -> Result<u64> {
        let connection = self.connection();
        let found = connection.query_row("SELECT value FROM meta WHERE key = 'cursor'", [], |row| row.get::<_, i64>(0));
        Ok(found.optional()?.and_then(|cursor| u64::try_from(cursor).ok()).unwrap_or_default())
    }

    /// Puts alerts in for every subscriber that wants them, and moves the cursor, in one
    /// transaction. Alerts that are in already are left alone. Returns those that were new.
    ///
    /// # Errors
    /// SQLite's; then nothing was put in.
    pub fn put(&self, alerts: Vec<Alert>, cursor: u64, now_ms: i64) -> Result<Vec<StoredAlert>> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let mut stored = Vec::new();
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO alerts (id, transaction_id, account, event_time, verdict, score, stored, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            let mut deliver =
                transaction.prepare_cached("INSERT OR IGNORE INTO deliveries (subscriber, number) VALUES (?1, ?2)")?;
            let wanted = filters(&transaction)?;
            for alert in alerts {
                let score = (!alert.score.is_nan()).then_some(alert.score);
                let new = insert.execute(params![
                    alert.id,
                    alert.transaction_id,
                    alert.account,
                    alert.event_time,
                    alert.verdict,
                    score,
                    now_ms,
                    alert.body
                ])?;
                if new == 0 {
                    continue;
                }
                let number = transaction.last_insert_rowid();
                for (name, filter) in &wanted {
                    if filter.wants(&alert.verdict, alert.score) {
                        deliver.execute(params![name, number])?;
                    }
                }
                stored.push(StoredAlert { number, alert });
            }
            let cursor = i64::try_from(cursor).unwrap_or(i64::MAX);
            transaction
                .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('cursor', ?1)")?
                .execute([cursor])?;
        }
        transaction.commit()?;
        Ok(stored)
    }

    /// Whether there is room for more deliveries: fewer than `max_waiting` wait and fewer than `max_dead` were
    /// given up. What is put in at once may go beyond, by that much.
    ///
    /// # Errors
    /// [`OutboxError::Full`], or SQLite's.
    pub fn room(&self, max_waiting: u64, max_dead: u64) -> Result<()> {
        // Counting up to the limit costs as much as what waits, which is little but in trouble.
        let connection = self.connection();
        let count = |dead: bool, most: u64| -> Result<u64> {
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM subscribers s JOIN deliveries d ON d.subscriber = s.name
                 WHERE d.dead = ?1 LIMIT ?2)",
            )?;
            let found: i64 = statement.query_row(params![dead, most], |row| row.get(0))?;
            Ok(u64::try_from(found).unwrap_or_default())
        };
        for (dead, what, key, most) in
            [(false, "wait", "max_waiting", max_waiting), (true, "were given up", "max_dead", max_dead)]
        {
            let found = count(dead, most)?;
            if found >= most {
                return Err(OutboxError::Full { what, key, found, most });
            }
        }
        Ok(())
    }

    /// Alerts, newest first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn alerts(&self, filter: &AlertFilter) -> Result<Vec<StoredAlert>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT number, id, transaction_id, account, event_time, verdict, score, body FROM alerts
             WHERE (?1 IS NULL OR verdict = ?1) AND (?2 IS NULL OR account = ?2) AND (?3 IS NULL OR score >= ?3)
               AND (?4 IS NULL OR event_time >= ?4) AND (?5 IS NULL OR event_time < ?5)
               AND (?6 IS NULL OR number < ?6)
             ORDER BY number DESC LIMIT ?7",
        )?;
        let AlertFilter { verdict, account, min_score, since, until, before, limit } = filter;
        let rows = statement.query_map(params![verdict, account, min_score, since, until, before, limit], |row| {
            Ok(StoredAlert {
                number: row.get(0)?,
                alert: Alert {
                    id: row.get(1)?,
                    transaction_id: row.get(2)?,
                    account: row.get(3)?,
                    event_time: row.get(4)?,
                    verdict: row.get(5)?,
                    score: row.get::<_, Option<f64>>(6)?.unwrap_or(f64::NAN),
                    body: row.get(7)?,
                },
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Brings the subscribers of the configuration file in: new ones are added, changed ones changed, and
    /// those that the file has no more are removed with what waited for them. Returns the removed ones.
    ///
    /// # Errors
    /// SQLite's.
    pub fn configure(&self, subscribers: &[Subscriber]) -> Result<Vec<(String, u64)>> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let known: Vec<String> = names(&transaction, "SELECT name FROM subscribers WHERE configured = 1")?;
        let mut removed = Vec::new();
        for name in known.into_iter().filter(|name| !subscribers.iter().any(|s| s.name == *name)) {
            let waiting = transaction.query_row(
                "SELECT count(*) FROM deliveries WHERE subscriber = ?1 AND dead = 0",
                [&name],
                |row| row.get::<_, i64>(0),
            )?;
            transaction.execute("DELETE FROM subscribers WHERE name = ?1", [&name])?;
            removed.push((name, u64::try_from(waiting).unwrap_or_default()));
        }
        for subscriber in subscribers {
            write_subscriber(&transaction, subscriber, true)?;
        }
        transaction.commit()?;
        Ok(removed)
    }

    /// Adds a subscriber; it is sent alerts from now on.
    ///
    /// # Errors
    /// The name is taken, or SQLite's.
    pub fn add(&self, subscriber: &Subscriber) -> Result<()> {
        let connection = self.durably()?;
        let taken = connection
            .query_row("SELECT 1 FROM subscribers WHERE name = ?1", [&subscriber.name], |_| Ok(()))
            .optional()?;
        if taken.is_some() {
            return Err(OutboxError::Taken(subscriber.name.clone()));
        }
        write_subscriber(&connection, subscriber, false)
    }

    /// Removes a subscriber and what waits for it.
    ///
    /// # Errors
    /// There is none, it is the configuration's, or SQLite's.
    pub fn remove(&self, name: &str) -> Result<()> {
        let connection = self.durably()?;
        let configured = connection
            .query_row("SELECT configured FROM subscribers WHERE name = ?1", [name], |row| row.get::<_, bool>(0))
            .optional()?;
        match configured {
            None => Err(OutboxError::NoSubscriber(name.to_owned())),
            Some(true) => Err(OutboxError::Configured(name.to_owned())),
            Some(false) => {
                connection.execute("DELETE FROM subscribers WHERE name = ?1", [name])?;
                Ok(())
            }
        }
    }

    /// Stops or goes on sending to a subscriber; its alerts wait meanwhile.
    ///
    /// # Errors
    /// There is none, or SQLite's.
    pub fn pause(&self, name: &str, paused: bool) -> Result<()> {
        let changed =
            self.durably()?.execute("UPDATE subscribers SET paused = ?2 WHERE name = ?1", params![name, paused])?;
        if changed == 0 { Err(OutboxError::NoSubscriber(name.to_owned())) } else { Ok(()) }
    }

    /// Every subscriber and how it is doing.
    ///
    /// # Errors
    /// SQLite's.
    pub fn subscribers(&self) -> Result<Vec<SubscriberState>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT name, url, filter, paused, configured, delivered, failed, last_error,
                (SELECT count(*) FROM deliveries WHERE subscriber = name AND dead = 0),
                (SELECT count(*) FROM deliveries WHERE subscriber = name AND dead = 1), given_up
             FROM subscribers ORDER BY name",
        )?;
        let count = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or_default());
        let rows = statement.query_map([], |row| {
            Ok(SubscriberState {
                name: row.get(0)?,
                url: row.get(1)?,
                filter: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
                paused: row.get(3)?,
                configured: row.get(4)?,
                delivered: count(row, 5)?,
                failed: count(row, 6)?,
                last_error: row.get(7)?,
                waiting: count(row, 8)?,
                dead: count(row, 9)?,
                given_up: count(row, 10)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A subscriber as deliveries need it, and whether it is paused; `None` once it is removed.
    ///
    /// # Errors
    /// SQLite's, or what is stored cannot be used any more.
    pub fn subscriber(&self, name: &str) -> Result<Option<(Subscriber, bool)>> {
        let connection = self.connection();
        let found = connection
            .prepare_cached("SELECT url, secret, filter, allow_private, paused FROM subscribers WHERE name = ?1")?
            .query_row([name], |row| {
                let text = |at| row.get::<_, String>(at);
                Ok((text(0)?, text(1)?, text(2)?, row.get::<_, bool>(3)?, row.get::<_, bool>(4)?))
            })
            .optional()?;
        let Some((url, secret, filter, allow_private, paused)) = found else { return Ok(None) };
        let filter = serde_json::from_str(&filter).unwrap_or_default();
        Ok(Some((Subscriber::new(name, &url, &secret, filter, allow_private)?, paused)))
    }

    /// Deliveries that are due, oldest alert first, and when the next one is if there are none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn due(&self, name: &str, now_ms: i64, limit: u32) -> Result<(Vec<Due>, Option<i64>)> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT d.number, a.id, a.body, d.attempts FROM deliveries d JOIN alerts a ON a.number = d.number
             WHERE d.subscriber = ?1 AND d.dead = 0 AND d.next_attempt <= ?2 ORDER BY d.number LIMIT ?3",
        )?;
        let rows = statement.query_map(params![name, now_ms, limit], |row| {
            Ok(Due { number: row.get(0)?, alert_id: row.get(1)?, body: row.get(2)?, attempts: row.get(3)? })
        })?;
        let due: Vec<Due> = rows.collect::<rusqlite::Result<_>>()?;
        let next = if due.is_empty() {
            connection
                .prepare_cached("SELECT min(next_attempt) FROM deliveries WHERE subscriber = ?1 AND dead = 0")?
                .query_row([name], |row| row.get::<_, Option<i64>>(0))?
        } else {
            None
        };
        Ok((due, next))
    }

    /// Writes down what became of some attempts. Returns the deliveries that are given up with this: alert and
    /// last error.
    ///
    /// # Errors
    /// SQLite's; then they count as not made.
    pub fn record(&self, name: &str, outcomes: &[(Due, Outcome)], now_ms: i64) -> Result<Vec<(String, String)>> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let mut given_up = Vec::new();
        for (due, outcome) in outcomes {
            match outcome {
                Outcome::Delivered => {
                    transaction
                        .prepare_cached("DELETE FROM deliveries WHERE subscriber = ?1 AND number = ?2")?
                        .execute(params![name, due.number])?;
                    transaction
                        .prepare_cached(
                            "UPDATE subscribers SET delivered = delivered + 1, last_error = NULL WHERE name = ?1",
                        )?
                        .execute([name])?;
                }
                Outcome::Failed { error, retry_after_ms } => {
                    let attempts = due.attempts + 1;
                    let delay = delay_ms(&format!("{name} {}", due.alert_id), attempts);
                    let next = now_ms + delay.unwrap_or_default().max(retry_after_ms.unwrap_or_default());
                    let dead = delay.is_none() || attempts >= ATTEMPTS;
                    transaction
                        .prepare_cached(
                            "UPDATE deliveries SET attempts = ?3, next_attempt = ?4, dead = ?5, error = ?6
                             WHERE subscriber = ?1 AND number = ?2",
                        )?
                        .execute(params![name, due.number, attempts, next, dead, error])?;
                    transaction
                        .prepare_cached(
                            "UPDATE subscribers SET failed = failed + 1, last_error = ?2, given_up = given_up + ?3
                             WHERE name = ?1",
                        )?
                        .execute(params![name, error, dead])?;
                    if dead {
                        given_up.push((due.alert_id.clone(), error.clone()));
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(given_up)
    }

    /// Deliveries that were given up, oldest first; of one subscriber or all.
    ///
    /// # Errors
    /// SQLite's.
    pub fn dead_letters(&self, subscriber: Option<&str>) -> Result<Vec<DeadLetter>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT d.subscriber, a.id, a.transaction_id, d.attempts, d.error
             FROM deliveries d JOIN alerts a ON a.number = d.number
             WHERE d.dead = 1 AND (?1 IS NULL OR d.subscriber = ?1) ORDER BY d.number",
        )?;
        let rows = statement.query_map([subscriber], |row| {
            Ok(DeadLetter {
                subscriber: row.get(0)?,
                alert_id: row.get(1)?,
                transaction_id: row.get(2)?,
                attempts: row.get(3)?,
                last_error: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Sends dead letters again, from the first attempt; returns how many. With `waiting`, deliveries that
    /// wait for their next attempt are made now as well.
    ///
    /// # Errors
    /// SQLite's.
    pub fn resend(&self, subscriber: Option<&str>, alert_id: Option<&str>, waiting: bool) -> Result<usize> {
        Ok(self.connection().execute(
            "UPDATE deliveries SET dead = 0, attempts = 0, next_attempt = 0
             WHERE (dead = 1 OR ?3) AND (?1 IS NULL OR subscriber = ?1)
               AND (?2 IS NULL OR number = (SELECT number FROM alerts WHERE id = ?2))",
            params![subscriber, alert_id, waiting],
        )?)
    }

    /// Gives up dead letters for good: nobody is told of those alerts any more. Returns how many.
    ///
    /// # Errors
    /// SQLite's.
    pub fn discard(&self, subscriber: Option<&str>) -> Result<usize> {
        let discard = "DELETE FROM deliveries WHERE dead = 1 AND (?1 IS NULL OR subscriber = ?1)";
        Ok(self.durably()?.execute(discard, params![subscriber])?)
    }

    /// Forgets alerts stored before `before_ms` that nobody waits for. Returns how many.
    ///
    /// # Errors
    /// SQLite's.
    pub fn prune(&self, before_ms: i64) -> Result<usize> {
        Ok(self.connection().execute(
            "DELETE FROM alerts WHERE stored < ?1
             AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.number = alerts.number)",
            [before_ms],
        )?)
    }
}

fn names(connection: &Connection, query: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn filters(connection: &Connection) -> Result<Vec<(String, Filter)>> {
    let mut statement = connection.prepare_cached("SELECT name, filter FROM subscribers ORDER BY name")?;
    let rows = statement.query_map([], |row| {
        let filter = serde_json::from_str(&row.get::<_, String>(1)?).unwrap_or_default();
        Ok((row.get(0)?, filter))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn write_subscriber(connection: &Connection, subscriber: &Subscriber, configured: bool) -> Result<()> {
    let filter = serde_json::to_string(&subscriber.filter).unwrap_or_default();
    let secret: String = SigningKey::reveal(&subscriber.key);
    connection.execute(
        "INSERT INTO subscribers (name, url, secret, filter, allow_private, configured)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (name) DO UPDATE SET url = excluded.url, secret = excluded.secret,
             filter = excluded.filter, allow_private = excluded.allow_private, configured = excluded.configured",
        params![subscriber.name, subscriber.url.as_str(), secret, filter, subscriber.allow_private, configured],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Alert, AlertFilter, Filter, Outbox, Outcome, Subscriber};
    use crate::alerts::ATTEMPTS;

    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn subscriber(name: &str, verdicts: &[&str]) -> Subscriber {
        let filter = Filter { verdicts: verdicts.iter().map(|v| (*v).to_owned()).collect(), min_score: 0.0 };
        Subscriber::new(name, "https://desk.example/hook", SECRET, filter, false).expect("a subscriber")
    }

    fn alert(id: &str, verdict: &str) -> Alert {
        Alert {
            id: id.into(),
            transaction_id: format!("t-{id}"),
            account: "a1".into(),
            event_time: 5,
            verdict: verdict.into(),
            score: 0.5,
            body: "{}".into(),
        }
    }

    #[test]
    fn alerts_wait_for_those_who_want_them_and_are_put_in_once() {
        let outbox = Outbox::in_memory().expect("opens");
        outbox.add(&subscriber("all", &[])).expect("adds");
        outbox.add(&subscriber("blocks", &["block"])).expect("adds");
        let both = vec![alert("x", "review"), alert("y", "block")];
        assert_eq!(outbox.put(both.clone(), 7, 0).expect("puts").len(), 2);
        assert_eq!(outbox.put(both, 8, 0).expect("puts").len(), 0, "the same alerts again");
        assert_eq!(outbox.cursor().expect("a cursor"), 8);
        let waiting = |name| outbox.due(name, 0, 10).expect("due").0.len();
        assert_eq!((waiting("all"), waiting("blocks")), (2, 1));
        let newest = outbox.alerts(&AlertFilter { limit: 1, ..AlertFilter::default() }).expect("alerts");
        assert_eq!(newest[0].alert.id, "y");
        let older = AlertFilter { limit: 9, before: Some(newest[0].number), ..AlertFilter::default() };
        assert_eq!(outbox.alerts(&older).expect("alerts").len(), 1);
    }

    #[test]
    fn a_failed_delivery_waits_dies_and_is_sent_again_by_hand() {
        let outbox = Outbox::in_memory().expect("opens");
        outbox.add(&subscriber("desk", &[])).expect("adds");
        outbox.put(vec![alert("x", "block")], 1, 0).expect("puts");
        let mut now = 0;
        for attempt in 1..=ATTEMPTS {
            let (due, next) = outbox.due("desk", now, 10).expect("due");
            assert_eq!((due.len(), next), (1, None), "attempt {attempt}");
            let failed = Outcome::Failed { error: "503".into(), retry_after_ms: None };
            let given_up = outbox.record("desk", &[(due[0].clone(), failed)], now).expect("records");
            assert_eq!(given_up.len(), usize::from(attempt == ATTEMPTS), "attempt {attempt}");
            let (due, next) = outbox.due("desk", now, 10).expect("due");
            assert!(due.is_empty());
            now = next.unwrap_or(now);
        }
        let dead = outbox.dead_letters(None).expect("dead letters");
        assert_eq!((dead.len(), dead[0].attempts, dead[0].last_error.as_str()), (1, ATTEMPTS, "503"));
        let full = outbox.room(10, 1).expect_err("full").to_string();
        assert!(full.contains("1 deliveries were given up, of at most 1 (`alerts.max_dead`)"), "{full}");
        outbox.room(1, 2).expect("room");
        assert_eq!(outbox.resend(Some("desk"), None, false).expect("resends"), 1);
        assert!(outbox.room(1, 1).is_err(), "it waits again");
        let (due, _) = outbox.due("desk", now, 10).expect("due");
        outbox.record("desk", &[(due[0].clone(), Outcome::Delivered)], now).expect("records");
        let state = outbox.subscribers().expect("subscribers");
        assert_eq!((state[0].delivered, state[0].failed, state[0].waiting, state[0].dead), (1, 10, 0, 0));
        assert_eq!(state[0].given_up, 1, "a counter only rises");
        assert_eq!(outbox.prune(1).expect("prunes"), 1);
    }

    #[test]
    fn an_outbox_of_before_counts_its_dead_letters_as_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.db");
        let outbox = Outbox::open(&path).expect("opens");
        outbox.add(&subscriber("desk", &[])).expect("adds");
        outbox.put(vec![alert("x", "block"), alert("y", "block")], 1, 0).expect("puts");
        {
            let connection = outbox.connection();
            connection.execute_batch("ALTER TABLE subscribers DROP COLUMN given_up").expect("drops");
            connection.execute_batch("UPDATE deliveries SET dead = 1 WHERE number = 1").expect("dies");
            connection.pragma_update(None, "user_version", 1).expect("as before");
        }
        drop(outbox);
        for _ in 0..2 {
            let state = Outbox::open(&path).expect("opens").subscribers().expect("subscribers");
            assert_eq!((state[0].dead, state[0].given_up, state[0].waiting), (1, 1, 1));
        }
    }

    #[test]
    fn the_configuration_owns_its_subscribers() {
        let outbox = Outbox::in_memory().expect("opens");
        outbox.configure(&[subscriber("a", &[]), subscriber("b", &[])]).expect("configures");
        outbox.add(&subscriber("c", &[])).expect("adds");
        outbox.put(vec![alert("x", "block")], 1, 0).expect("puts");
        assert!(outbox.remove("a").expect_err("refused").to_string().contains("configuration"));
        assert_eq!(outbox.configure(&[subscriber("b", &[])]).expect("configures"), [("a".to_owned(), 1)]);
        let names: Vec<String> = outbox.subscribers().expect("lists").into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["b", "c"]);
        outbox.remove("c").expect("removes");
        outbox.pause("b", true).expect("pauses");
        assert!(outbox.subscriber("b").expect("there").expect("there").1);
        assert!(outbox.pause("z", true).is_err());
    }
}
