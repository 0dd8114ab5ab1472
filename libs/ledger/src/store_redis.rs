//! The shared store: Redis 7 or newer. Each write is one Lua script, so it is all or nothing.
//!
//! Durability is that of Redis' append-only file, which is required: with `appendfsync always` an
//! acknowledged append survives a power loss, with `everysec` (Redis' default) at most the last
//! second can be lost with the machine, and nothing with the process.
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{AsyncCommands as _, Client, RedisError, Script, aio::ConnectionManager};

use crate::{Fence, Head, LedgerError, store::Store};

/// KEYS: head, log, newest token of the fence's lease. ARGV: expected, new, entry, token or ''.
const APPEND: &str = r"
local head = redis.call('GET', KEYS[1]) or ''
if head ~= ARGV[1] then return {'moved', head} end
if ARGV[4] ~= '' then
  local newest = tonumber(redis.call('GET', KEYS[3]) or '0')
  if tonumber(ARGV[4]) < newest then return {'fenced', tostring(newest)} end
end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[2])
return {'ok', ''}";

/// KEYS: lease, newest token. ARGV: holder, ttl in ms.
const ACQUIRE: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local token = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return token";

/// KEYS: lease. ARGV: token, ttl in ms (0 gives it back).
const EXTEND: &str = r"
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1";

/// KEYS: blob. ARGV: token, bytes.
const PUT: &str = r"
local newest = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
if tonumber(ARGV[1]) < newest then return newest end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'bytes', ARGV[2])
return -1";

pub(crate) struct RedisStore {
    connection: ConnectionManager,
    prefix: String,
}

impl From<RedisError> for LedgerError {
    fn from(error: RedisError) -> Self {
        Self::Store(format!("redis: {error}"))
    }
}

impl RedisStore {
    pub(crate) async fn open(url: &str, prefix: &str) -> Result<Self, LedgerError> {
        let mut connection = Client::open(url)?.get_connection_manager().await?;
        let (_, durable): (String, String) =
            redis::cmd("CONFIG").arg("GET").arg("appendonly").query_async(&mut connection).await?;
        if durable != "yes" {
            return Err(LedgerError::NotDurable);
        }
        Ok(Self { connection, prefix: prefix.to_owned() })
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    async fn extend(&self, name: &str, token: u64, ttl: u128) -> Result<bool, LedgerError> {
        let done: i64 = Script::new(EXTEND)
            .key(self.key(&format!("lease:{name}")))
            .arg(token)
            .arg(ttl.to_string())
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(done == 1)
    }
}

fn parse_head(text: &str) -> Result<Head, LedgerError> {
    if text.is_empty() {
        return Ok(Head::EMPTY);
    }
    serde_json::from_str(text)
        .map_err(|error| LedgerError::Damaged(format!("the stored head: {error}")))
}

fn head_text(head: Head) -> Result<String, LedgerError> {
    if head == Head::EMPTY { Ok(String::new()) } else { Ok(serde_json::to_string(&head)?) }
}

#[async_trait]
impl Store for RedisStore {
    async fn head(&self) -> Result<Head, LedgerError> {
        let text: Option<String> = self.connection.clone().get(self.key("head")).await?;
        parse_head(&text.unwrap_or_default())
    }

    async fn append(
        &self,
        expected: Head,
        new: Head,
        entry: Vec<u8>,
        fence: Option<Fence>,
    ) -> Result<(), LedgerError> {
        let lease = fence.as_ref().map(|fence| fence.lease.clone()).unwrap_or_default();
        let (said, detail): (String, String) = Script::new(APPEND)
            .key(self.key("head"))
            .key(self.key("log"))
            .key(self.key(&format!("token:{lease}")))
            .arg(head_text(expected)?)
            .arg(head_text(new)?)
            .arg(entry)
            .arg(fence.as_ref().map(|fence| fence.token.to_string()).unwrap_or_default())
            .invoke_async(&mut self.connection.clone())
            .await?;
        match said.as_str() {
            "ok" => Ok(()),
            "moved" => match parse_head(&detail)? {
                // Deciding again would go on for ever.
                found if found == expected => Err(LedgerError::Damaged(format!(
                    "the stored head was not written by us: `{detail}`"
                ))),
                found => Err(LedgerError::HeadMoved { expected, found }),
            },
            _ => {
                let token = fence.map_or(0, |fence| fence.token);
                Err(LedgerError::Fenced { lease, token, newest: detail.parse().unwrap_or(0) })
            }
        }
    }

    async fn read(&self, from: u64, limit: usize) -> Result<Vec<Bytes>, LedgerError> {
        // Entry 1 stands at index 0.
        let start = isize::try_from(from.max(1) - 1).unwrap_or(isize::MAX);
        let stop = start.saturating_add_unsigned(limit.max(1)) - 1;
        let rows: Vec<Vec<u8>> =
            self.connection.clone().lrange(self.key("log"), start, stop).await?;
        Ok(rows.into_iter().take(limit).map(Bytes::from).collect())
    }

    async fn acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, LedgerError> {
        let token: u64 = Script::new(ACQUIRE)
            .key(self.key(&format!("lease:{name}")))
            .key(self.key(&format!("token:{name}")))
            .arg(holder)
            .arg(ttl.as_millis().max(1).to_string())
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok((token > 0).then_some(token))
    }

    async fn renew(&self, name: &str, token: u64, ttl: Duration) -> Result<bool, LedgerError> {
        self.extend(name, token, ttl.as_millis().max(1)).await
    }

    async fn release(&self, name: &str, token: u64) -> Result<(), LedgerError> {
        self.extend(name, token, 0).await.map(|_| ())
    }

    async fn put_state(&self, name: &str, token: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let newest: i64 = Script::new(PUT)
            .key(self.key(&format!("state:{name}")))
            .arg(token)
            .arg(bytes)
            .invoke_async(&mut self.connection.clone())
            .await?;
        match u64::try_from(newest) {
            Err(_) => Ok(()),
            Ok(newest) => Err(LedgerError::Fenced { lease: name.to_owned(), token, newest }),
        }
    }

    async fn get_state(&self, name: &str) -> Result<Option<Bytes>, LedgerError> {
        let key = self.key(&format!("state:{name}"));
        let bytes: Option<Vec<u8>> = self.connection.clone().hget(key, "bytes").await?;
        Ok(bytes.map(Bytes::from))
    }
}
