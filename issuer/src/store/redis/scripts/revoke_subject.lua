-- Kills all of a user's tokens, and the sessions unless they are kept: KEYS meta, log, user, watermark, token watermark;
-- ARGV[4] head byte of the entry, [5] sub, [6] what the names of session keys begin with, [7] max token lifetime, [8] how
-- long a watermark is kept, [9] the newest `iat` that the issuer remembers, [10] '1' to keep the sessions.
-- Session keys share the partition's hash tag, so the script may name them itself. The threshold reaches the latest token
-- of every session there is, also one that is ahead of the clock; killing twice does not raise it. Returns {threshold,
-- position, how many live sessions were ended}.
local USER, WATERMARK, TOKEN_WATERMARK = KEYS[3], KEYS[4], KEYS[5]
local meta, newest, keep = load_meta(), tonumber(ARGV[9]), ARGV[10] == '1'
expect(USER, 'zset')
local ended_up_to = session_mark(meta, WATERMARK)
local threshold = math.max(NOW, token_mark(meta, WATERMARK, TOKEN_WATERMARK), meta.floor, newest)
local sessions, live = redis.call('ZRANGE', USER, 0, -1), 0
for _, sid in ipairs(sessions) do
  if expect(ARGV[6] .. sid, 'hash') then
    local row = redis.call('HMGET', ARGV[6] .. sid, 'issued', 'idle', 'ends', 'created', 'gen')
    threshold = math.max(threshold, tonumber(row[1]) or 0)
    local until_when = math.min(tonumber(row[2]) or 0, tonumber(row[3]) or 0)
    if NOW < until_when and birth(row[5], row[4], row[1]) > ended_up_to then live = live + 1 end
  end
end
check_threshold(threshold)

raise_floor(meta, newest)
append(meta, ARGV[4] .. seconds(threshold + tonumber(ARGV[7]) + MARGIN) .. seconds(threshold) .. ARGV[5])
redis.call('HSET', META, 'peak', math.max(meta.peak, threshold))
redis.call('SET', keep and TOKEN_WATERMARK or WATERMARK, threshold, 'EXAT', threshold + tonumber(ARGV[8]))
if keep then return {threshold, meta.last, 0} end
for _, sid in ipairs(sessions) do redis.call('DEL', ARGV[6] .. sid) end
redis.call('DEL', USER)
return {threshold, meta.last, live}
