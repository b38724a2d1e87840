-- Creates a session: KEYS meta, log, session, user, watermark; ARGV[4] sid, [5] sub, [6] access_ttl, [7] idle_ttl,
-- [8] absolute_ttl, [9] address, [10] agent. Returns {`iat` of its first token, by how many milliseconds that is ahead}.
local SESSION, USER, WATERMARK = KEYS[3], KEYS[4], KEYS[5]
local meta = load_meta()
expect(USER, 'zset')
if expect(SESSION, 'hash') then error({err = 'EXISTS the session id is taken'}) end
local issued, ahead_ms = issue_at(watermark_of(meta, WATERMARK))
local exp_max = issued + tonumber(ARGV[6])
local idle_ends, ends = NOW + tonumber(ARGV[7]), NOW + tonumber(ARGV[8])
local kept_until = math.max(math.min(idle_ends, ends), exp_max + MARGIN)

redis.call('HSET', SESSION, 'v', '1', 'sub', ARGV[5], 'gen', 0, 'created', NOW, 'refreshed', NOW, 'rotated', NOW,
  'issued', issued, 'exp_max', exp_max, 'idle', idle_ends, 'ends', ends, 'addr', ARGV[9], 'agent', ARGV[10])
redis.call('EXPIREAT', SESSION, kept_until)
file_session(USER, ARGV[4], kept_until)
note_issued(meta, issued)
return {issued, ahead_ms}
