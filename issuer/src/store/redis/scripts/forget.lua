-- Says that the log may lack what was stored before now: KEYS meta, log. For a log that is older than it was before.
local meta = load_meta()
redis.call('HSET', META, 'since', math.max(NOW, tonumber(meta.since) or 0))
return NOW
