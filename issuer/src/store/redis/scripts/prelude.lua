-- What every script begins with. KEYS[1] meta, KEYS[2] log; ARGV[1] channel, ARGV[2] `RETENTION SP MARGIN` in seconds,
-- ARGV[3] `ISSUER` or `ISSUER SP REPLID`: the issuer's name among `issuers`, and the replication id that it takes the server
-- to have. A script looks at everything, types included, before its first write: Redis does not roll back.
local META, LOG = KEYS[1], KEYS[2]
-- In the same slot: only the last word of the name differs.
local ISSUERS = string.sub(META, 1, -#'meta' - 1) .. 'issuers'
local CHANNEL = ARGV[1]
local RETENTION, MARGIN = string.match(ARGV[2], '^(%d+) (%d+)$')
RETENTION, MARGIN = tonumber(RETENTION), tonumber(MARGIN)
local ISSUER, EXPECTED = string.match(ARGV[3], '^(%S+) ?(%S*)$')
local AHEAD_MAX, THRESHOLD_AHEAD_MAX = 5, 60

local time = redis.call('TIME')
local NOW = tonumber(time[1])
local NOW_MS = NOW * 1000 + math.floor(tonumber(time[2]) / 1000)

local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    error({err = 'WRONGTYPE ' .. kind .. ' expected, ' .. found .. ' found'})
  end
  return found ~= 'none'
end

-- The id of this server's history of writes: another one after a failover or a restart.
local function replication_id()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
end

-- CHANGED if this is not the server that the caller takes it for: what it was asked to put back has to be looked for again.
local function expect_server()
  if replication_id() ~= EXPECTED then error({err = 'CHANGED another server has taken over'}) end
end

-- The state of the partition's log; `epoch` is not set if the data set was lost, or its log does not end where it should.
local function look_at_meta()
  expect(META, 'hash')
  local newest = expect(LOG, 'stream') and redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  local row = redis.call('HMGET', META, 'v', 'epoch', 'last', 'all', 'peak', 'since', 'all_tokens', 'floor', 'settled', 'made')
  if row[1] and row[1] ~= '1' then error({err = 'BADVERSION the revocation log is of another version'}) end
  local whole = row[1] and row[2] and row[3] and (row[3] == '0-0' or (newest and newest[1] == row[3]))
  return {epoch = whole and row[2], last = row[3] or '0-0', newest = newest and newest[1] or '0-0', since = row[6] or '0',
    all = tonumber(row[4]) or 0, peak = tonumber(row[5]) or 0, all_tokens = tonumber(row[7]) or 0,
    floor = tonumber(row[8]) or 0, settled = row[9], made = tonumber(row[10])}
end

-- The same. NOEPOCH if the data set was lost: an issuer has to make a new one first. UNLISTED if this issuer is not in the
-- list of issuers: nothing may be acknowledged by one that the others would not wait for. UNSETTLED if the caller names a
-- replication id, and this is not a log of that server into which every issuer has put back what it holds.
local function load_meta()
  local meta = look_at_meta()
  if not meta.epoch then error({err = 'NOEPOCH the revocation log is missing or incomplete'}) end
  if redis.call('HEXISTS', ISSUERS, ISSUER) == 0 then error({err = 'UNLISTED this issuer is not in the list of issuers'}) end
  if EXPECTED ~= '' and (meta.settled ~= meta.epoch .. ' ' .. EXPECTED or replication_id() ~= EXPECTED) then
    error({err = 'UNSETTLED not every issuer has put back its revocations yet'})
  end
  return meta
end

-- Whole seconds as four bytes, big endian, as entries have them.
local function seconds(moment)
  return struct.pack('>I4', math.min(moment, 4294967295))
end

-- Appends an entry and tells it: position, predecessor and bytes on the shard channel.
local function append(meta, entry)
  local oldest = string.format('%.0f-0', NOW_MS - RETENTION * 1000)
  local id = redis.call('XADD', LOG, 'MINID', '~', oldest, '*', 'r', entry)
  redis.call('HSET', META, 'last', id)
  redis.call('SPUBLISH', CHANNEL, '1 ' .. meta.epoch .. ' ' .. meta.last .. ' ' .. id .. ' ' .. entry)
  meta.last = id
end

local function number_at(key)
  expect(key, 'string')
  return tonumber(redis.call('GET', key) or '0') or 0
end

-- Sessions of the user that were created at or before this moment have ended; 0 if none ever was.
local function session_mark(meta, watermark)
  return math.max(number_at(watermark), meta.all)
end

-- When a session was born, from its fields `gen`, `created` and `issued`: `iat` of its first token. The version before this
-- one kept the clock's time in `created`, which is too early where the user logged in right after an order.
local function birth(generation, created, issued)
  return tonumber(generation == '0' and issued or created) or 0
end

-- The last dead `iat` for a user: every order kills tokens, those that keep the sessions have a watermark of their own.
local function token_mark(meta, watermark, token_watermark)
  return math.max(number_at(watermark), number_at(token_watermark), meta.all, meta.all_tokens)
end

-- Never at or before a watermark, so that no token is born dead; and how many milliseconds ahead of the clock that is.
-- AHEAD if it is so far ahead that the client cannot be made to wait for it: this server's clock is behind.
local function issue_at(watermark)
  local issued = NOW
  if watermark > 0 then issued = math.max(NOW, watermark + 1) end
  if issued > NOW + AHEAD_MAX then error({err = 'AHEAD the last revocation lies in the future: the clock of Redis is behind'}) end
  return issued, math.max(0, issued * 1000 - NOW_MS)
end

-- AHEAD if a threshold is further ahead of this server's clock than any clock may be. Before the first write.
local function check_threshold(threshold)
  if threshold > NOW + THRESHOLD_AHEAD_MAX then error({err = 'AHEAD the revocation lies too far in the future: the clock of Redis is behind'}) end
end

-- Notes the newest `iat` that an issuer remembers, where this server's clock is behind it: tokens were issued up to then
-- that this data set may know nothing of, and every order must reach them.
local function raise_floor(meta, newest)
  if newest > NOW and newest > meta.floor then
    redis.call('HSET', META, 'floor', newest)
    meta.floor = newest
  end
end

-- Notes a token's `iat`: "everybody" must reach it.
local function note_issued(meta, issued)
  if issued > meta.peak then redis.call('HSET', META, 'peak', issued) end
end

-- Files a session among its user's, under the moment its record goes.
local function file_session(user, sid, kept_until)
  redis.call('ZREMRANGEBYSCORE', user, '-inf', NOW)
  redis.call('ZADD', user, kept_until, sid)
  local newest = redis.call('ZREVRANGE', user, 0, 0, 'WITHSCORES')
  redis.call('EXPIREAT', user, newest[2])
end

local BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

-- The 16 bytes whose canonical base64url this is; none for anything else.
local function packed(id)
  if #id ~= 22 then return nil end
  local bytes, held, bits = {}, 0, 0
  for i = 1, 22 do
    local value = string.find(BASE64URL, string.sub(id, i, i), 1, true)
    if not value then return nil end
    held, bits = held * 64 + value - 1, bits + 6
    if bits >= 8 then
      bits = bits - 8
      bytes[#bytes + 1] = string.char(math.floor(held / 2 ^ bits))
      held = held % 2 ^ bits
    end
  end
  if held ~= 0 then return nil end
  return table.concat(bytes)
end

-- The entry of a session; `tag` is its subject's, 6 bytes.
local function session_entry(tag, sid, expires_at)
  local id = packed(sid)
  return (id and '\18' or '\26') .. seconds(expires_at) .. tag .. (id or sid)
end

-- Ends a session whose record is there, and appends its entry. Returns the entry's position.
local function end_record(meta, key, user, sid, tag)
  local exp_max = tonumber(redis.call('HGET', key, 'exp_max') or '0') or 0
  append(meta, session_entry(tag, sid, exp_max + MARGIN))
  redis.call('DEL', key)
  redis.call('ZREM', user, sid)
  return meta.last
end
