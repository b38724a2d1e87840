-- Ends a session and appends its revocation: KEYS meta, log, session, user; ARGV[4] sid, [5] head byte and [6] tail of
-- the entry, [7] the `exp` of a token that was presented, [8] max token lifetime, [9] 1 if the caller knows the log has
-- the entry. Returns {1 if the session was there, the entry's position or '' if none was appended}.
local SESSION, USER = KEYS[3], KEYS[4]
local meta = load_meta()
expect(USER, 'zset')
local seen = tonumber(ARGV[7])
if not expect(SESSION, 'hash') then
  if ARGV[9] == '1' then return {0, ''} end
  append(meta, ARGV[5] .. seconds(math.max(seen, NOW + tonumber(ARGV[8])) + MARGIN) .. ARGV[6])
  return {0, meta.last}
end
local exp_max = tonumber(redis.call('HGET', SESSION, 'exp_max') or '0') or 0

append(meta, ARGV[5] .. seconds(math.max(seen, exp_max) + MARGIN) .. ARGV[6])
redis.call('DEL', SESSION)
redis.call('ZREM', USER, ARGV[4])
return {1, meta.last}
