-- Says that the log may lack what was stored before a moment: KEYS meta, log; ARGV[4] the moment, in seconds ('': now). For a
-- log that is older than it was before. Which sessions ended before it is not known either, so all of them have to log in
-- again. Returns the moment.
local meta = load_meta()
local moment = tonumber(ARGV[4]) or NOW
redis.call('HSET', META, 'since', math.max(moment, tonumber(meta.since) or 0), 'all', math.max(moment, meta.all))
return moment
