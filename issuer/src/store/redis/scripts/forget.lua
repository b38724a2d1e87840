-- Says that the log may lack what was stored before now: KEYS meta, log. For a log that is older than it was before. Which
-- sessions ended since then is not known either, so all of them have to log in again.
local meta = load_meta()
redis.call('HSET', META, 'since', math.max(NOW, tonumber(meta.since) or 0), 'all', math.max(NOW, meta.all))
return NOW
