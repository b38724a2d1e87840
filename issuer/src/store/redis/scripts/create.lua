-- Creates a session: KEYS meta, log, session, user, watermark, token watermark; ARGV[4] sid, [5] sub, [6] access_ttl,
-- [7] idle_ttl, [8] absolute_ttl, [9] address, [10] agent, [11] how many sessions a user may have, [12] what the names of
-- session keys begin with, [13] tag of the subject. Beyond that many, those that would end first end, a few at once.
-- Returns {`iat` of its first token, by how many milliseconds that is ahead, {sid and position of each that was ended}}.
local SESSION, USER, WATERMARK, TOKEN_WATERMARK = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DISPLACED_MAX = 8
local meta = load_meta()
expect(USER, 'zset')
if expect(SESSION, 'hash') then error({err = 'EXISTS the session id is taken'}) end
local issued, ahead_ms = issue_at(token_mark(meta, WATERMARK, TOKEN_WATERMARK))
local exp_max = issued + tonumber(ARGV[6])
local idle_ends, ends = NOW + tonumber(ARGV[7]), NOW + tonumber(ARGV[8])
local kept_until = math.max(math.min(idle_ends, ends), exp_max + MARGIN)
local too_many = redis.call('ZCOUNT', USER, '(' .. NOW, '+inf') + 1 - tonumber(ARGV[11])
local displaced = {}
if too_many > 0 then
  displaced = redis.call('ZRANGEBYSCORE', USER, '(' .. NOW, '+inf', 'LIMIT', 0, math.min(too_many, DISPLACED_MAX))
end
for _, sid in ipairs(displaced) do expect(ARGV[12] .. sid, 'hash') end

local ended = {}
for _, sid in ipairs(displaced) do
  if redis.call('EXISTS', ARGV[12] .. sid) == 1 then
    ended[#ended + 1] = sid
    ended[#ended + 1] = end_record(meta, ARGV[12] .. sid, USER, sid, ARGV[13])
  else
    redis.call('ZREM', USER, sid)
  end
end
redis.call('HSET', SESSION, 'v', '1', 'sub', ARGV[5], 'gen', 0, 'created', issued, 'refreshed', NOW, 'rotated', NOW,
  'issued', issued, 'exp_max', exp_max, 'idle', idle_ends, 'ends', ends, 'addr', ARGV[9], 'agent', ARGV[10])
redis.call('EXPIREAT', SESSION, kept_until)
file_session(USER, ARGV[4], kept_until)
note_issued(meta, issued)
return {issued, ahead_ms, ended}
