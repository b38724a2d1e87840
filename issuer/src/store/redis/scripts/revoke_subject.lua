-- Kills all of a user's tokens and sessions: KEYS meta, log, user, watermark; ARGV[4] head byte of the entry, [5] sub,
-- [6] what the names of session keys begin with, [7] max token lifetime, [8] how long the watermark is kept.
-- Session keys share the partition's hash tag, so the script may name them itself. The threshold reaches the latest token
-- of every session there is, also one that is ahead of the clock; killing twice does not raise it. Returns {threshold,
-- position}.
local USER, WATERMARK = KEYS[3], KEYS[4]
local meta = load_meta()
expect(USER, 'zset')
local threshold = math.max(NOW, watermark_of(meta, WATERMARK))
local sessions = redis.call('ZRANGE', USER, 0, -1)
for _, sid in ipairs(sessions) do
  if expect(ARGV[6] .. sid, 'hash') then
    threshold = math.max(threshold, tonumber(redis.call('HGET', ARGV[6] .. sid, 'issued') or '0') or 0)
  end
end

append(meta, ARGV[4] .. seconds(threshold + tonumber(ARGV[7]) + MARGIN) .. seconds(threshold) .. ARGV[5])
redis.call('HSET', META, 'peak', math.max(meta.peak, threshold))
redis.call('SET', WATERMARK, threshold, 'EXAT', threshold + tonumber(ARGV[8]))
for _, sid in ipairs(sessions) do redis.call('DEL', ARGV[6] .. sid) end
redis.call('DEL', USER)
return {threshold, meta.last}
