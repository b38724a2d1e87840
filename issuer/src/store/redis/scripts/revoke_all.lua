-- Kills every token of the partition: KEYS meta, log; ARGV[4] head byte of the entry, [5] max token lifetime.
-- The threshold is above every other ever set here, so that it also covers tokens issued after one of those within the
-- same second. Returns {threshold, position}.
local meta = load_meta()
local threshold = issue_at(math.max(meta.all, meta.peak))

append(meta, ARGV[4] .. seconds(threshold + tonumber(ARGV[5]) + MARGIN) .. seconds(threshold))
redis.call('HSET', META, 'all', threshold, 'peak', threshold)
return {threshold, meta.last}
