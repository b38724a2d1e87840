-- What every script begins with. KEYS[1] meta, KEYS[2] log; ARGV[1] channel, ARGV[2] retention in seconds,
-- ARGV[3] margin in seconds. A script looks at everything, types included, before its first write: Redis does not
-- roll back.
local META, LOG = KEYS[1], KEYS[2]
local CHANNEL, RETENTION, MARGIN = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local AHEAD_MAX = 5

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

-- The state of the partition's log; `epoch` is none if the data set was lost, or its log does not end where it should.
local function look_at_meta()
  expect(META, 'hash')
  local newest = expect(LOG, 'stream') and redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  local row = redis.call('HMGET', META, 'v', 'epoch', 'last', 'all', 'peak', 'since')
  if row[1] and row[1] ~= '1' then error({err = 'BADVERSION the revocation log is of another version'}) end
  local whole = row[1] and row[2] and row[3] and (row[3] == '0-0' or (newest and newest[1] == row[3]))
  return {epoch = whole and row[2], last = row[3] or '0-0', newest = newest and newest[1] or '0-0', since = row[6] or '0',
    all = tonumber(row[4]) or 0, peak = tonumber(row[5]) or 0}
end

-- The same; NOEPOCH if the data set was lost: an issuer has to make a new one first.
local function load_meta()
  local meta = look_at_meta()
  if not meta.epoch then error({err = 'NOEPOCH the revocation log is not there, or not whole'}) end
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

-- The last dead `iat` for a user: the user's own, or everybody's; 0 if nothing was ever killed.
local function watermark_of(meta, key)
  expect(key, 'string')
  return math.max(tonumber(redis.call('GET', key) or '0') or 0, meta.all)
end

-- Never at or before a watermark, so that no token is born dead; and how many milliseconds ahead of the clock that is.
-- AHEAD if it is so far ahead that the client cannot be made to wait for it: the clock was wrong once.
local function issue_at(watermark)
  local issued = NOW
  if watermark > 0 then issued = math.max(NOW, watermark + 1) end
  if issued > NOW + AHEAD_MAX then error({err = 'AHEAD the last dead moment lies in the future'}) end
  return issued, math.max(0, issued * 1000 - NOW_MS)
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
